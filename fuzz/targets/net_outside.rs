//! Ethernet frames of a guest and of the real network, by turns, to what stands between them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lava_net::fuzzing::outside(bytes));
