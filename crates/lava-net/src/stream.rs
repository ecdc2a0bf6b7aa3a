//! QEMU's framing: a 4-byte big-endian length, then the frame.

/// The longest frame that QEMU sends, bytes (`NET_BUFSIZE`, include/net/net.h of QEMU 10: 4096 + 65536).
pub const MAX_FRAME: usize = 4096 + 65536;
const PREFIX: usize = 4;

/// One step of reading.
#[derive(PartialEq, Eq, Debug)]
pub enum Read<'a> {
    /// A frame, possibly empty.
    Frame(&'a [u8]),
    /// The stream is not QEMU's or out of step: the next frame claims `claimed` bytes. Nothing behind it can be trusted;
    /// `head` is what has come of it.
    Broken { claimed: u32, head: &'a [u8] },
    /// More bytes are needed.
    More,
}

/// Cuts a byte stream into frames. Holds at most one frame and what one read brought.
#[derive(Default, Debug)]
pub struct Deframer {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were handed out.
    taken: usize,
}

impl Deframer {
    /// Adds what was read from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame. Call it until it says [`Read::More`], and not again after [`Read::Broken`].
    pub fn next(&mut self) -> Read<'_> {
        let rest = &self.buffer[self.taken..];
        let Some((prefix, body)) = rest.split_first_chunk::<PREFIX>() else { return Read::More };
        let claimed = u32::from_be_bytes(*prefix);
        let length = usize::try_from(claimed).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Read::Broken { claimed, head: &body[..body.len().min(MAX_FRAME)] };
        }
        let Some(frame) = body.get(..length) else { return Read::More };
        self.taken += PREFIX + length;
        Read::Frame(frame)
    }

    /// What is left of a frame when the stream ends: its claimed length and the bytes that came. `None` between frames.
    pub fn remainder(&self) -> Option<(u32, &[u8])> {
        let (prefix, body) = self.buffer[self.taken..].split_first_chunk::<PREFIX>()?;
        Some((u32::from_be_bytes(*prefix), &body[..body.len().min(MAX_FRAME)]))
    }
}
