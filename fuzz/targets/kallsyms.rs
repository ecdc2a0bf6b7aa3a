//! A kernel file whose kallsyms tables are damaged: no panic, and what is found can be looked up.
#![no_main]

use std::sync::OnceLock;

use lava_guest::fake::kernel::{self, Tables};
use lava_guest::kallsyms::Symbols;
use libfuzzer_sys::fuzz_target;

static KERNELS: OnceLock<[Vec<u8>; 3]> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let kernels = KERNELS.get_or_init(|| {
        [Tables::Before64, Tables::Since64, Tables::Since615].map(|order| kernel::elf(order, false))
    });
    let Some((&which, patches)) = data.split_first() else { return };
    let mut elf = kernels[usize::from(which) % 3].clone();
    for patch in patches.chunks_exact(6) {
        let at = u32::from_le_bytes([patch[0], patch[1], patch[2], 0]) as usize % elf.len();
        for (byte, &new) in elf[at..].iter_mut().zip(&patch[3..]) {
            *byte = new;
        }
    }
    if let Ok(symbols) = Symbols::from_elf(&elf) {
        for (address, _, name) in symbols.iter().take(64) {
            let _ = (symbols.address(name), symbols.lookup(address));
        }
    }
    let _ = Symbols::from_elf(data);
});
