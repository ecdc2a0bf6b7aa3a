//! Answers DNS queries: with REFUSED (RFC 1035 section 4.1.1, RCODE 5), so that resolvers give up at once, or, in a
//! simulated network, every name's A record with a made-up address. Reads what a real resolver answered.
//!
//! Limits: the question is repeated only if there is exactly one and it is well-formed, as glibc wants it. Only class IN and
//! opcode QUERY get an answer other than REFUSED; no EDNS; [`CAPACITY`] names, what comes behind them is refused.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use lava_event::{Kind, NetEndpoint, Protocol};
use smoltcp::wire::{DnsFlags, DnsPacket, DnsQuestion, DnsRecord, DnsRecordData};

const HEADER: usize = 12;
const REFUSED: u8 = 5;
const NAME_ERROR: u8 = 3;
const RESPONSE: u8 = 0x80;
/// Opcode and "recursion desired" come back as they were asked.
const KEPT: u8 = 0x79;
/// Longest name, bytes (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 255;

const RECURSION_AVAILABLE: u8 = 0x80;
const A: u16 = 1;
const IN: u16 = 1;
/// Seconds that a name may be remembered by the guest.
const TTL: u32 = 300;
/// Names that are given an address in one session: with at most 254 bytes each they take some 8 MiB.
pub const CAPACITY: usize = 16_384;
/// The addresses are in 198.18.0.0/15, kept for tests of networks and routed nowhere (RFC 2544, RFC 6890).
const POOL: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// What was asked, and what the guest is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Labels joined by dots, lower case.
    pub name: Vec<u8>,
    /// The record's type.
    pub qtype: u16,
    /// The address of the answer, for an A record.
    pub address: Option<Ipv4Addr>,
}

/// The names of a session and their addresses: a name keeps its address, and no address has two names.
#[derive(Default, Debug)]
pub struct Names(HashMap<Vec<u8>, Ipv4Addr>);

impl Asked {
    /// The event.
    pub fn told(self, protocol: Protocol, origin: NetEndpoint, frame: u64) -> Kind {
        let addresses = self.address.into_iter().map(Into::into).collect();
        self.answered(protocol, addresses, origin, frame)
    }

    /// The event of an answer that is not ours.
    pub fn answered(self, protocol: Protocol, addresses: Vec<IpAddr>, origin: NetEndpoint, frame: u64) -> Kind {
        Kind::NetDns { protocol, origin, question: self.name.into(), qtype: self.qtype, addresses, frame }
    }
}

impl Names {
    /// The answer to a query that can be answered, and what was asked; `None`: refuse it.
    pub fn answer(&mut self, query: &[u8]) -> Option<(Vec<u8>, Asked)> {
        let header = query.get(..HEADER)?;
        // A query with opcode 0, not truncated, with one question.
        if header[2] & !1 != 0 || header[4..6] != [0, 1] {
            return None;
        }
        let question = question(&query[HEADER..])?;
        let (name, fixed) = question.split_at_checked(question.len().checked_sub(4)?)?;
        let (qtype, class) = (u16::from_be_bytes([fixed[0], fixed[1]]), u16::from_be_bytes([fixed[2], fixed[3]]));
        if class != IN {
            return None;
        }
        let name = dotted(name);
        let address = if qtype == A { Some(self.address(&name)?) } else { None };
        let mut answer = vec![header[0], header[1], RESPONSE | header[2] & KEPT, RECURSION_AVAILABLE];
        answer.extend([0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
        answer.extend(question);
        if let Some(address) = address {
            answer.extend([0xc0, 12]); // The name, which stands behind the header (section 4.1.4).
            answer.extend([A.to_be_bytes(), IN.to_be_bytes()].concat());
            answer.extend(TTL.to_be_bytes());
            answer.extend([0, 4]);
            answer.extend(address.octets());
        }
        Some((answer, Asked { name, qtype, address }))
    }

    fn address(&mut self, name: &[u8]) -> Option<Ipv4Addr> {
        if let Some(address) = self.0.get(name) {
            return Some(*address);
        }
        if self.0.len() >= CAPACITY {
            return None;
        }
        let number = u32::try_from(self.0.len()).ok()? + 1;
        let address = Ipv4Addr::from_bits(POOL.to_bits() + number);
        self.0.insert(name.to_vec(), address);
        Some(address)
    }
}

/// The labels of a well-formed name.
fn labels(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&length, behind) = rest.split_first().filter(|(length, _)| **length > 0)?;
        let (label, behind) = behind.split_at(usize::from(length).min(behind.len()));
        rest = behind;
        Some(label)
    })
}

/// A well-formed name as it is written: for people, and as a key.
fn dotted(name: &[u8]) -> Vec<u8> {
    labels(name).map(<[u8]>::to_ascii_lowercase).collect::<Vec<_>>().join(&b'.')
}

/// Addresses of an answer that are told.
const MOST_ADDRESSES: usize = 64;

/// The number of a resolver's reply, and the addresses in its answer, whoever's they are: a name may be another's alias (RFC 1035
/// section 3.3.1). `None`: it is none, or makes no sense.
pub fn heard(message: &[u8]) -> Option<(u16, Vec<IpAddr>)> {
    let packet = DnsPacket::new_checked(message).ok()?;
    if !packet.flags().contains(DnsFlags::RESPONSE) {
        return None;
    }
    let mut rest = packet.payload();
    for _ in 0..packet.question_count() {
        rest = DnsQuestion::parse(rest).ok()?.0;
    }
    let mut addresses = Vec::new();
    for _ in 0..packet.answer_record_count() {
        let Ok((behind, record)) = DnsRecord::parse(rest) else { break };
        rest = behind;
        let address: IpAddr = match record.data {
            DnsRecordData::A(address) => address.into(),
            DnsRecordData::Aaaa(address) => address.into(),
            _ => continue,
        };
        if addresses.len() < MOST_ADDRESSES && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Some((packet.transaction_id(), addresses))
}

/// True if a query is for a name as hosts have (RFC 1123 section 2.1, and the underscore of services): nothing in it can be taken for
/// another name, or for a part of one, by who reads it with dots.
pub fn is_plain(query: &[u8]) -> bool {
    let Some(question) = query.get(HEADER..).and_then(question) else { return false };
    let plain = |label: &[u8]| label.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    labels(question).count() > 0 && labels(question).all(plain)
}

/// REFUSED, to a message on port 53; `None` if it is no query.
pub fn refuse(query: &[u8]) -> Option<Vec<u8>> {
    without_answer(query, REFUSED)
}

/// NXDOMAIN, likewise (RFC 1035 section 4.1.1, RCODE 3).
pub fn nonexistent(query: &[u8]) -> Option<Vec<u8>> {
    without_answer(query, NAME_ERROR)
}

fn without_answer(query: &[u8], code: u8) -> Option<Vec<u8>> {
    let header = query.get(..HEADER)?;
    if header[2] & RESPONSE != 0 {
        return None;
    }
    let mut answer = vec![header[0], header[1], RESPONSE | header[2] & KEPT, code];
    let question = if header[4..6] == [0, 1] { question(&query[HEADER..]) } else { None };
    answer.extend([0, u8::from(question.is_some()), 0, 0, 0, 0, 0, 0]);
    answer.extend(question.unwrap_or_default());
    Some(answer)
}

/// Name without compression, type and class.
fn question(body: &[u8]) -> Option<&[u8]> {
    let mut end = 0;
    loop {
        match *body.get(end)? {
            0 => break,
            label @ 1..=63 => end += 1 + usize::from(label),
            _ => return None,
        }
        if end >= LONGEST_NAME {
            return None;
        }
    }
    body.get(..end + 5)
}
