//! Prints what a boot file says of itself, and how long each step takes: `guest_kernel VMLINUZ..`.

use lava_guest::{btf::Types, kallsyms::Symbols, kernel::Kernel, layout::Layout};
use lava_vmlinuz::kernel_elf;
use std::time::Instant;

fn timed<T>(what: &str, step: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = step();
    println!("  {what}: {:?}", start.elapsed());
    value
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args().skip(1) {
        println!("{path}");
        let vmlinuz = std::fs::read(&path)?;
        let elf = timed("unpack", || kernel_elf(&vmlinuz))?;
        timed("symbols", || Symbols::from_elf(&elf))?;
        timed("types", || Types::from_elf(&elf))?;
        let kernel = timed("all of it", || Kernel::from_elf(&elf))?;
        timed("layout", || Layout::resolve(&kernel.types, &kernel.symbols))?;
        println!("  {}\n  {} symbols, {} types", kernel.banner, kernel.symbols.len(), kernel.types.len());
    }
    Ok(())
}
