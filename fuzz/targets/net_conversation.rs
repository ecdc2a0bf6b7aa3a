//! What a guest says over one connection of the simulated network.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lava_net::fuzzing::conversation(bytes));
