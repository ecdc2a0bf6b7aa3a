//! The binary form of an event, used between the tap and the microvisor.
//!
//! One version byte, then the borsh encoding: a fixed layout without self-description, quick to write in a vCPU's
//! thread. The reader treats it as hostile: lengths are bounded by the frame that carries them, and what is left over is
//! an error.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::Event;

/// Version of the encoding. Raised with every change of [`Event`] or anything in it.
pub const VERSION: u8 = 3;

/// Longest encoded event, bytes. Producers cut text so that they stay below it.
pub const MAX_LEN: usize = 256 * 1024;

/// Why a frame is no event.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Nothing in it.
    #[error("empty event frame")]
    Empty,
    /// Written by another version of LAVA.
    #[error(
        "event encoded as version {0}, this LAVA reads version {VERSION}: the tap and the supervisor must be of one build"
    )]
    Version(u8),
    /// Longer than any event.
    #[error("event frame of {0} bytes is longer than {MAX_LEN}")]
    TooLong(usize),
    /// Not an event.
    #[error("malformed event frame: {0}")]
    Malformed(#[from] std::io::Error),
}

/// What the tap says in one frame.
#[derive(Clone, PartialEq, Debug, BorshSerialize, BorshDeserialize)]
#[allow(clippy::large_enum_variant)] // Short-lived, and nearly always the large one.
pub enum Frame {
    /// Something was seen.
    Event(Event),
    /// Something was seen that waits for an answer; the question's number is the frame's.
    Ask(Event),
    /// What became of the last answer on this ring, in a sentence.
    Settled(String),
    /// A piece of content, which the next `file.content` event of this ring speaks of.
    Content(Vec<u8>),
}

/// Appends the encoded frame to `out`.
pub fn encode(frame: &Frame, out: &mut Vec<u8>) {
    out.push(VERSION);
    // Writing to a Vec does not fail, and no type in Frame has a failing serialisation.
    let _ = borsh::to_writer(out, frame);
}

/// Decodes one frame.
///
/// # Errors
/// If the frame was not written by [`encode`] of this version.
pub fn decode(frame: &[u8]) -> Result<Frame, DecodeError> {
    if frame.len() > MAX_LEN {
        return Err(DecodeError::TooLong(frame.len()));
    }
    match frame.split_first() {
        None => Err(DecodeError::Empty),
        Some((&VERSION, body)) => Ok(Frame::try_from_slice(body)?),
        Some((&other, _)) => Err(DecodeError::Version(other)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{GuestText, Kind, Process, ProcessRef, Source};

    fn sample() -> Event {
        Event {
            seq: 7,
            time_ns: 42,
            source: Source::Tap,
            vcpu: Some(1),
            process: Some(Process {
                pid: 10,
                tid: 11,
                start_ns: 99,
                ppid: 1,
                uid: 1000,
                comm: GuestText::from("sh"),
                exe: GuestText::from("/bin/dash"),
            }),
            registers: None,
            backtrace: None,
            kind: Kind::ProcessFork {
                child: ProcessRef { pid: 12, tid: 12, start_ns: 100, comm: GuestText::from("sh") },
                thread: false,
                flags: 0,
            },
        }
    }

    #[test]
    fn round_trip() {
        let mut bytes = Vec::new();
        let frame = Frame::Ask(sample());
        encode(&frame, &mut bytes);
        assert_eq!(decode(&bytes).unwrap(), frame);
    }

    #[test]
    fn json_names_are_the_contract() {
        let json = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["kind"], "process.fork");
        assert_eq!(json["process"]["pid"], 10);
        assert_eq!(json["child"]["start_ns"], 100);
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), sample());
    }

    proptest! {
        #[test]
        fn hostile_frames_are_errors_or_events(frame: Vec<u8>) {
            let _ = decode(&frame);
        }

        #[test]
        fn flipped_frames_do_not_panic(at in 0usize..80, value: u8) {
            let mut bytes = Vec::new();
            encode(&Frame::Event(sample()), &mut bytes);
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = decode(&bytes);
        }
    }
}
