//! The binary form of an event, used between the tap and the microvisor.
//!
//! One version byte, then the borsh encoding: a fixed layout without self-description, quick to write in a vCPU's
//! thread. The reader treats it as hostile: lengths are bounded by the frame that carries them, and what is left over is
//! an error.

use borsh::BorshDeserialize;

use crate::Event;

/// Version of the encoding. Raised with every change of [`Event`] or anything in it.
pub const VERSION: u8 = 1;

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

/// Appends the encoded event to `out`.
pub fn encode(event: &Event, out: &mut Vec<u8>) {
    out.push(VERSION);
    // Writing to a Vec does not fail, and no type in Event has a failing serialisation.
    let _ = borsh::to_writer(out, event);
}

/// Decodes one frame.
///
/// # Errors
/// If the frame was not written by [`encode`] of this version.
pub fn decode(frame: &[u8]) -> Result<Event, DecodeError> {
    if frame.len() > MAX_LEN {
        return Err(DecodeError::TooLong(frame.len()));
    }
    match frame.split_first() {
        None => Err(DecodeError::Empty),
        Some((&VERSION, body)) => Ok(Event::try_from_slice(body)?),
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
            kind: Kind::ProcessFork {
                child: ProcessRef { pid: 12, tid: 12, start_ns: 100, comm: GuestText::from("sh") },
                thread: false,
            },
        }
    }

    #[test]
    fn round_trip() {
        let mut bytes = Vec::new();
        encode(&sample(), &mut bytes);
        assert_eq!(decode(&bytes).unwrap(), sample());
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
            encode(&sample(), &mut bytes);
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = decode(&bytes);
        }
    }
}
