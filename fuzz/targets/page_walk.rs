//! Page tables of any content: every walk ends, and what it finds lies in the page it says.
#![no_main]

use lava_guest::memory::{Physical, Unreadable, Virtual};
use lava_guest::paging::AddressSpace;
use libfuzzer_sys::fuzz_target;

/// RAM that is the input, over and over up to 64 KiB: tables refer to tables that exist.
struct Ram<'a>(&'a [u8]);

impl Physical for Ram<'_> {
    fn read(&self, gpa: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        for (at, byte) in (gpa..).zip(buf) {
            let known = if at < 1 << 16 { self.0.get(at as usize % self.0.len().max(1)) } else { None };
            *byte = *known.ok_or(Unreadable { address: at })?;
        }
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((head, ram)) = data.split_first_chunk::<17>() else { return };
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
    let (ram, address) = (Ram(ram), word(8));
    let space = AddressSpace::new(&ram, word(0), head[16] & 1 == 1);
    if let Ok(found) = space.translate(address) {
        assert_eq!(found.gpa % found.page_size, address % found.page_size);
    }
    let _ = space.read(address, &mut [0; 5000]);
    assert!(space.read_cstr(address, 300).bytes.len() <= 300);
    assert!(space.read_vec(address, word(0), 9000).len() <= 9000);
});
