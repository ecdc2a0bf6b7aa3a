//! From a boot file to symbols and types, on made-up kernels: every compressor, every order of tables, every damage.

use lava_guest::fake::kernel::{self as fake, Btf, Tables};
use lava_guest::image::{ImageError, kernel_elf};
use lava_guest::kallsyms::Symbols;
use lava_guest::kernel::{Kernel, KernelError};
use lava_guest::layout::{Layout, LayoutError};
use std::io::Write;

/// What the fixtures in tests/data hold: `call`s, so that xz's x86 filter changes something.
fn plain() -> Vec<u8> {
    let calls = (0..2000u32).flat_map(|i| [&[0xe8], ((i * 37) & 0xffff).to_le_bytes().as_slice()].concat());
    b"\x7fELF".iter().copied().chain(calls).collect()
}

/// A bzImage of boot protocol 2.15 around a packed kernel.
fn boot_image(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 2 * 512 + 100];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&100u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend(payload);
    image
}

/// The build appends the unpacked length to every format but gzip.
fn with_length(mut packed: Vec<u8>) -> Vec<u8> {
    packed.extend((plain().len() as u32).to_le_bytes());
    packed
}

#[track_caller]
fn unpacks(payload: &[u8]) {
    let image = boot_image(payload);
    assert!(kernel_elf(&image).unwrap() == plain(), "unpacked to something else");
    // Cut anywhere it is an error, and never a part of a kernel; also where the header knows of the cut.
    for cut in (0..payload.len()).step_by(61) {
        assert!(kernel_elf(&image[..image.len() - payload.len() + cut]).is_err(), "file cut at {cut}");
        assert!(kernel_elf(&boot_image(&payload[..cut])).is_err(), "payload cut at {cut}");
    }
}

#[test]
fn gzip() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&plain()).unwrap();
    unpacks(&encoder.finish().unwrap());
}

#[test]
fn bzip2() {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    encoder.write_all(&plain()).unwrap();
    unpacks(&with_length(encoder.finish().unwrap()));
}

#[test]
fn zstd() {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    unpacks(&with_length(ruzstd::encoding::compress_to_vec(plain().as_slice(), level)));
}

/// As the kernel's own zstd -22 --ultra does: a window of 128 MiB.
#[test]
fn zstd_with_the_widest_window() {
    let plain = plain();
    let mut packed = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3];
    packed.extend(&((plain.len() as u32) << 3 | 1).to_le_bytes()[..3]);
    packed.extend(&plain);
    unpacks(&with_length(packed));
}

#[test]
fn lz4_legacy() {
    let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
    for block in plain().chunks(4000) {
        let block = lz4_flex::block::compress(block);
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    }
    unpacks(&with_length(packed));
}

/// Packed by liblzma with x86 filter, LZMA2 and CRC32, as scripts/xz_wrap.sh asks for.
#[test]
fn xz_with_x86_filter() {
    unpacks(include_bytes!("data/payload.xz"));
}

#[test]
fn lzma() {
    unpacks(include_bytes!("data/payload.lzma"));
}

/// Packed by lzop 1.04 with `-9`.
#[test]
fn lzo() {
    unpacks(include_bytes!("data/payload.lzo"));
}

#[test]
fn what_is_no_kernel() {
    assert_eq!(kernel_elf(b""), Err(ImageError::NotABootImage));
    assert_eq!(kernel_elf(&[0; 4096]), Err(ImageError::NotABootImage));
    assert_eq!(kernel_elf(&boot_image(b"secret!")), Err(ImageError::UnknownCompression(*b"secret")));
    let mut old = boot_image(b"");
    old[0x206..0x208].copy_from_slice(&0x207u16.to_le_bytes());
    assert_eq!(kernel_elf(&old), Err(ImageError::OldProtocol(0x207)));
    let mut outside = boot_image(b"");
    outside[0x248..0x250].fill(0xff);
    assert_eq!(kernel_elf(&outside), Err(ImageError::Truncated));
    assert_eq!(kernel_elf(b"\x7fELF and so on").unwrap(), b"\x7fELF and so on");
}

fn check_symbols(order: Tables) {
    let kernel = Kernel::from_vmlinuz(&fake::elf(order, true)).unwrap();
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
    let text = |elf: &[u8]| Kernel::from_vmlinuz(elf).unwrap_err().to_string();
    assert!(text(&fake::elf(Tables::Since64, false)).contains("CONFIG_DEBUG_INFO_BTF"));
    let mut blind = fake::elf(Tables::Since64, true);
    let digits = memchr::memmem::find(&blind, b"0\x001\x002\x00").unwrap();
    blind[digits + 1] = b'x';
    assert!(text(&blind).contains("CONFIG_KALLSYMS"));
    let mut banner = fake::elf(Tables::Since64, true);
    let at = memchr::memmem::find(&banner, b"Linux version").unwrap();
    banner[at] = b'M';
    assert_eq!(Kernel::from_vmlinuz(&banner).unwrap_err(), KernelError::NoBanner);
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
        if let Ok(kernel) = Kernel::from_vmlinuz(&elf) {
            kernel.symbols.iter().for_each(|(address, _, name)| {
                kernel.symbols.lookup(address);
                kernel.symbols.address(name);
            });
            let _ = Layout::resolve(&kernel.types, &kernel.symbols);
        }
    }

    /// A damaged boot image gives a kernel or an error.
    #[test]
    fn damaged_images(changes in proptest::collection::vec((0usize..1 << 20, 0u8..), 1..8), format in 0..3usize) {
        let fixtures: [&[u8]; 3] =
            [include_bytes!("data/payload.xz"), include_bytes!("data/payload.lzma"), include_bytes!("data/payload.lzo")];
        let mut image = boot_image(fixtures[format]);
        let header = image.len() - fixtures[format].len();
        for (at, value) in changes {
            // Keep the magic, damage the rest.
            let at = header + 10 + at % (fixtures[format].len() - 10);
            image[at] = value;
        }
        let _ = kernel_elf(&image);
    }
}
