//! From a kernel's file to symbols and types, on made-up kernels: every order of tables, every damage.

use lava_guest::fake::kernel::{self as fake, Btf, Tables};
use lava_guest::kallsyms::Symbols;
use lava_guest::kernel::{Kernel, KernelError};
use lava_guest::layout::{Layout, LayoutError};

fn check_symbols(order: Tables) {
    let kernel = Kernel::from_elf(&fake::elf(order, true)).unwrap();
    assert_eq!(kernel.release, "6.99.0-fake");
    assert_eq!(kernel.banner, "Linux version 6.99.0-fake (lava@fake) #1 SMP");
    let s = &kernel.symbols;
    let made = fake::symbols();
    assert_eq!(s.len(), made.len() + usize::from(order != Tables::Since615));
    for (address, kind, name) in &made {
        assert!(s.all(name).any(|a| a == *address), "{name}");
        assert!(s.iter().any(|e| e == (*address, *kind, name.as_str())), "{name}");
    }
    let text = s.address("_text").unwrap();
    assert_eq!(s.all("filler_7").collect::<Vec<_>>(), [text + 0x700, text + 1407 * 0x100]);
    assert_eq!(s.all("no such symbol").count(), 0);
    assert_eq!(s.lookup(text), Some(("_text", 0)));
    assert_eq!(s.lookup(text + 0x41), Some(("entry_SYSCALL_64", 1)));
    assert_eq!(s.lookup(text - 1), None);
    assert_eq!(s.lookup(0x1_fbc4), None);
    assert_eq!(s.lookup(s.address("_end").unwrap()), None);
    assert_eq!(s.lookup(u64::MAX), None);
    let current = s.address("current_task");
    assert_eq!(current, (order != Tables::Since615).then_some(0x1_fbc0));
    match Layout::resolve(&kernel.types, s) {
        Ok(layout) => assert_eq!(layout.current_task_pointer(0x1000, 0x20_0000), 0x1000 + 0x1_fbc0),
        Err(e) => assert_eq!((order, e), (Tables::Since615, LayoutError::NoCurrentTask)),
    }
}

#[test]
fn symbols_before_6_4() {
    check_symbols(Tables::Before64);
}

#[test]
fn symbols_since_6_4() {
    check_symbols(Tables::Since64);
}

#[test]
fn symbols_since_6_15() {
    check_symbols(Tables::Since615);
}

#[test]
fn a_per_cpu_symbol_that_is_a_kernel_address_slides() {
    let types = lava_guest::btf::Types::parse(&fake::btf()).unwrap();
    let symbols = Symbols::from_list([(0xffff_ffff_8280_0000, 'D', "current_task")]);
    let layout = Layout::resolve(&types, &symbols).unwrap();
    assert!(layout.current_task_slides);
    // GS base of a CPU whose area lies below the kernel: the sum wraps around.
    assert_eq!(layout.current_task_pointer(0xffff_8881_0000_0000, 0x100_0000), 0xffff_8880_8380_0000);
}

#[test]
fn what_is_missing_is_named() {
    let text = |elf: &[u8]| Kernel::from_elf(elf).unwrap_err().to_string();
    assert!(text(&fake::elf(Tables::Since64, false)).contains("CONFIG_DEBUG_INFO_BTF"));
    let mut blind = fake::elf(Tables::Since64, true);
    let digits = memchr::memmem::find(&blind, b"0\x001\x002\x00").unwrap();
    blind[digits + 1] = b'x';
    assert!(text(&blind).contains("CONFIG_KALLSYMS"));
    let mut banner = fake::elf(Tables::Since64, true);
    let at = memchr::memmem::find(&banner, b"Linux version").unwrap();
    banner[at] = b'M';
    assert_eq!(Kernel::from_elf(&banner).unwrap_err(), KernelError::NoBanner);
    let mut btf = Btf::default();
    btf.strukt("task_struct", 8, &[]);
    let types = lava_guest::btf::Types::parse(&btf.finish()).unwrap();
    let symbols = Symbols::from_list([(0x10, 'A', "current_task")]);
    let missing = Layout::resolve(&types, &symbols).unwrap_err().to_string();
    assert!(missing.contains("task_struct.pid"), "{missing}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    /// A damaged kernel file gives a kernel or an error.
    #[test]
    fn damaged_files(changes in proptest::collection::vec((0usize..1 << 20, 0u8..), 1..24), order in 0..3usize) {
        let order = [Tables::Before64, Tables::Since64, Tables::Since615][order];
        let mut elf = fake::elf(order, true);
        let length = elf.len();
        for (at, value) in changes {
            elf[at % length] = value;
        }
        if let Ok(kernel) = Kernel::from_elf(&elf) {
            kernel.symbols.iter().for_each(|(address, _, name)| {
                kernel.symbols.lookup(address);
                kernel.symbols.address(name);
            });
            let _ = Layout::resolve(&kernel.types, &kernel.symbols);
        }
    }
}
