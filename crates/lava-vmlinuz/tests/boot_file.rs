//! Every compressor that a kernel can be packed with, and every damage.

use std::io::Write;

use lava_vmlinuz::{ImageError, kernel_elf};

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

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

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
