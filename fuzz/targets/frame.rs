//! Frames of the event codec: an error, or something that is encoded to a frame that means the same.
#![no_main]

use lava_event::codec::{Frame, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Most inputs would end at the version.
    let versioned = [&[lava_event::codec::VERSION], data].concat();
    for bytes in [data, &versioned] {
        let Ok(frame) = decode(bytes) else { continue };
        let mut again = Vec::new();
        encode(&frame, &mut again);
        if again.len() <= lava_event::codec::MAX_LEN {
            assert_eq!(decode(&again).expect("what was encoded is decoded"), frame);
        }
        if let Frame::Event(event) | Frame::Ask(event) = frame {
            let _ = serde_json::to_vec(&event).expect("every event has a JSON form");
        }
    }
});
