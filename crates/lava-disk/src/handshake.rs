//! Fixed newstyle negotiation: one export, the empty name.
//!
//! Source: NBD protocol specification, section "Handshake phase". Structured replies, TLS, meta contexts and everything
//! newer are declined with `NBD_REP_ERR_UNSUP`, upon which every client goes on without.

use std::io::{Read, Write};

use crate::protocol::{
    BLOCK_SIZES, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, INFO_BLOCK_SIZE, INFO_EXPORT, MAGIC, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, TRANSMISSION_FLAGS, WireError, option, reply,
};

/// A name may have 4096 bytes; an INFO or GO adds a list of 16-bit numbers.
const OPTION_LEN: u32 = 16 << 10;
/// How many options a client may send. QEMU sends three.
const OPTIONS: usize = 64;

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    Transmission,
    /// The client said goodbye.
    End,
}

/// Negotiates about a disk of `size` bytes.
pub(crate) fn negotiate(
    client: &mut (impl Read + ?Sized),
    to: &mut (impl Write + ?Sized),
    size: u64,
) -> Result<Next, WireError> {
    let mut hello = Vec::with_capacity(18);
    hello.extend(MAGIC.to_be_bytes());
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend((FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    to.write_all(&hello)?;

    let flags = read_u32(client)?;
    if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
        return Err(WireError::ClientFlags(flags));
    }
    for _ in 0..OPTIONS {
        let mut magic = [0; 8];
        client.read_exact(&mut magic)?;
        let magic = u64::from_be_bytes(magic);
        if magic != OPTION_MAGIC {
            return Err(WireError::OptionMagic(magic));
        }
        let kind = read_u32(client)?;
        let len = read_u32(client)?;
        if len > OPTION_LEN {
            return Err(WireError::OptionLength(len));
        }
        let mut data = vec![0; len as usize];
        client.read_exact(&mut data)?;
        let zeroes = flags & u32::from(FLAG_NO_ZEROES) == 0;
        if let Some(next) = answer(to, kind, &data, size, zeroes)? {
            return Ok(next);
        }
    }
    Err(WireError::Options)
}

fn answer(
    to: &mut (impl Write + ?Sized),
    kind: u32,
    data: &[u8],
    size: u64,
    zeroes: bool,
) -> Result<Option<Next>, WireError> {
    match kind {
        option::EXPORT_NAME => {
            if !data.is_empty() {
                return Err(WireError::Export);
            }
            let mut message = [&size.to_be_bytes()[..], &TRANSMISSION_FLAGS.to_be_bytes()].concat();
            message.resize(if zeroes { 134 } else { 10 }, 0);
            to.write_all(&message)?;
            Ok(Some(Next::Transmission))
        }
        option::ABORT => {
            // The client may be gone already: that it does not hear the answer is no error.
            let _ = option_reply(to, kind, reply::ACK, &[]);
            Ok(Some(Next::End))
        }
        option::LIST if data.is_empty() => {
            option_reply(to, kind, reply::SERVER, &[0; 4])?;
            option_reply(to, kind, reply::ACK, &[])?;
            Ok(None)
        }
        option::INFO | option::GO => {
            let refusal = match export_asked_for(data) {
                None => Some(reply::ERR_INVALID),
                Some([]) => None,
                Some(_) => Some(reply::ERR_UNKNOWN),
            };
            if let Some(refusal) = refusal {
                option_reply(to, kind, refusal, &[])?;
                return Ok(None);
            }
            let export = [&INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &TRANSMISSION_FLAGS.to_be_bytes()];
            option_reply(to, kind, reply::INFO, &export.concat())?;
            let [least, best, most] = BLOCK_SIZES.map(u32::to_be_bytes);
            option_reply(to, kind, reply::INFO, &[&INFO_BLOCK_SIZE.to_be_bytes()[..], &least, &best, &most].concat())?;
            option_reply(to, kind, reply::ACK, &[])?;
            Ok((kind == option::GO).then_some(Next::Transmission))
        }
        option::LIST => option_reply(to, kind, reply::ERR_INVALID, &[]).map(|()| None),
        _ => option_reply(to, kind, reply::ERR_UNSUP, &[]).map(|()| None),
    }
}

/// The name in an INFO or GO: length, name, number of information requests, the requests.
fn export_asked_for(data: &[u8]) -> Option<&[u8]> {
    let (len, rest) = data.split_first_chunk::<4>()?;
    let (name, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    let (count, rest) = rest.split_first_chunk::<2>()?;
    (rest.len() == usize::from(u16::from_be_bytes(*count)) * 2).then_some(name)
}

fn option_reply(to: &mut (impl Write + ?Sized), kind: u32, reply: u32, data: &[u8]) -> Result<(), WireError> {
    let mut message = Vec::with_capacity(20 + data.len());
    message.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    message.extend(kind.to_be_bytes());
    message.extend(reply.to_be_bytes());
    message.extend((data.len() as u32).to_be_bytes());
    message.extend(data);
    Ok(to.write_all(&message)?)
}

fn read_u32(client: &mut (impl Read + ?Sized)) -> Result<u32, WireError> {
    let mut bytes = [0; 4];
    client.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}
