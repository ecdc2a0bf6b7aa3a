//! Events as JSON (sessions that come from elsewhere): an error, or an event whose JSON means the same.
#![no_main]

use lava_event::Event;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(event) = serde_json::from_slice::<Event>(data) else { return };
    let json = serde_json::to_vec(&event).expect("every event has a JSON form");
    assert_eq!(serde_json::from_slice::<Event>(&json).expect("what was written is read"), event);
});
