//! Ethernet frames of a guest, to the whole simulated network.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lava_net::fuzzing::frames(bytes));
