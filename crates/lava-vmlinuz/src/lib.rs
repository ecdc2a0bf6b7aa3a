//! From the boot file (`vmlinuz`, a bzImage) to the kernel's ELF file.
//!
//! The boot protocol says where the compressed payload lies (Documentation/arch/x86/boot.rst, Linux 6.12, "The
//! real-mode kernel header", `payload_offset`, protocol 2.08 and later). The payload is the ELF file `vmlinux`, stripped,
//! packed with one of the kernel's compressors. Its last four bytes are its unpacked length: gzip's own trailer, or what the
//! build appends (`size_append`, scripts/Makefile.lib). What unpacks to another length is refused. After the ELF file the unpacked
//! bytes may hold relocations: ELF readers ignore them.
//!
//! Done in the supervisor, once per template: no decompressor is in QEMU's process.
//!
//! *Invariant:* no I/O; nothing here panics, loops or allocates without bound on what it reads.
//!
//! Limits: at most [`MAX_ELF`] bytes come out; arm64's EFI zboot images are not read.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod lzop;

use std::io::Read;

/// The longest kernel that is unpacked, in bytes.
pub const MAX_ELF: usize = 512 << 20;
/// Memory an xz or lzma dictionary may take, in KiB. The kernel's own build uses at most 128 MiB (`xz_wrap.sh`).
const MAX_DICTIONARY_KIB: u32 = 256 << 10;
/// Bytes each block of a legacy LZ4 frame unpacks to at most (lib/decompress_unlz4.c, `LZ4_DEFAULT_UNCOMPRESSED_CHUNK_SIZE`).
const LZ4_BLOCK: usize = 8 << 20;
const ELF_MAGIC: &[u8] = b"\x7fELF";
const LZ4_MAGIC: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
const LZOP_MAGIC: &[u8] = b"\x89LZO\0\r\n\x1a\n";

/// Why no kernel came out of a boot file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Neither a bzImage nor an ELF file.
    #[error("not a Linux x86 boot image: no `HdrS` header, and not an ELF file either")]
    NotABootImage,
    /// The boot protocol is older than 2.08 and does not say where the payload lies.
    #[error("boot protocol {}.{:02} is too old: it does not say where the kernel lies (2.08 does)", .0 >> 8, .0 & 0xff)]
    OldProtocol(u16),
    /// The header places the payload outside the file.
    #[error("the boot header places the kernel outside the file (cut off?)")]
    Truncated,
    /// The payload is packed with something we do not know.
    #[error("the kernel is packed with something unknown (it begins {0:02x?})")]
    UnknownCompression([u8; 6]),
    /// The payload did not unpack.
    #[error("the kernel did not unpack as {format}: {reason}")]
    Corrupt {
        /// The compression format, as the kernel's configuration names it.
        format: &'static str,
        /// The decompressor's own words.
        reason: String,
    },
    /// The payload unpacks to more than [`MAX_ELF`] bytes.
    #[error("the kernel unpacks to more than {MAX_ELF} bytes")]
    TooLong,
    /// What came out is not an ELF file.
    #[error("what was unpacked is not an ELF file")]
    NotElf,
}

/// The kernel's ELF file out of `vmlinuz`: a bzImage, or an ELF file already (returned as it is).
///
/// # Errors
/// See [`ImageError`]; nothing is returned of a payload that unpacks only in part.
pub fn kernel_elf(vmlinuz: &[u8]) -> Result<Vec<u8>, ImageError> {
    if vmlinuz.starts_with(ELF_MAGIC) {
        return if vmlinuz.len() > MAX_ELF { Err(ImageError::TooLong) } else { Ok(vmlinuz.to_vec()) };
    }
    let packed = payload(vmlinuz)?;
    let length = packed.len().checked_sub(4).and_then(|at| u32_at(packed, at)).unwrap_or(0) as usize;
    let (format, elf) = unpack(packed, length.min(MAX_ELF))?;
    if length > MAX_ELF {
        return Err(ImageError::TooLong);
    }
    if elf.len() != length {
        return Err(corrupt(format, format!("{} bytes came out, {length} went in", elf.len())));
    }
    if elf.starts_with(ELF_MAGIC) { Ok(elf) } else { Err(ImageError::NotElf) }
}

/// The compressed payload a bzImage's setup header points to.
fn payload(image: &[u8]) -> Result<&[u8], ImageError> {
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err(ImageError::NotABootImage);
    }
    let version = image.get(0x206..0x208).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
    if version < 0x208 {
        return Err(ImageError::OldProtocol(version));
    }
    let sectors = match image.get(0x1f1) {
        Some(&0) | None => 4,
        Some(&n) => usize::from(n),
    };
    let offset = u32_at(image, 0x248).ok_or(ImageError::Truncated)? as usize;
    let length = u32_at(image, 0x24c).ok_or(ImageError::Truncated)? as usize;
    let start = (sectors + 1) * 512 + offset;
    image.get(start..start.saturating_add(length)).ok_or(ImageError::Truncated)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

/// The format's name and what `packed` holds: at most one byte more than `length`.
fn unpack(packed: &[u8], length: usize) -> Result<(&'static str, Vec<u8>), ImageError> {
    let (format, unpacked) = match packed {
        [0x1f, 0x8b, ..] => ("gzip", drain("gzip", flate2::bufread::GzDecoder::new(packed), length)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            ("xz", drain("xz", lzma_rust2::XzReader::new_mem_limit(packed, false, MAX_DICTIONARY_KIB), length))
        }
        [0x5d, 0, 0, ..] => ("lzma", unlzma(packed, length)),
        [b'B', b'Z', b'h', ..] => ("bzip2", drain("bzip2", bzip2::bufread::BzDecoder::new(packed), length)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", unzstd(packed, length)),
        _ if packed.starts_with(LZ4_MAGIC) => ("lz4", unlz4(&packed[LZ4_MAGIC.len()..], length)),
        _ if packed.starts_with(LZOP_MAGIC) => ("lzo", lzop::unpack(packed, length)),
        _ => {
            let mut head = [0; 6];
            head.iter_mut().zip(packed).for_each(|(to, from)| *to = *from);
            return Err(ImageError::UnknownCompression(head));
        }
    };
    Ok((format, unpacked?))
}

fn corrupt(format: &'static str, reason: impl ToString) -> ImageError {
    ImageError::Corrupt { format, reason: reason.to_string() }
}

/// Reads a decompressor to its end, or until it gives more than `length` bytes.
fn drain(format: &'static str, reader: impl Read, length: usize) -> Result<Vec<u8>, ImageError> {
    let mut out = Vec::new();
    reader.take(length as u64 + 1).read_to_end(&mut out).map_err(|e| corrupt(format, e))?;
    Ok(out)
}

fn unlzma(packed: &[u8], length: usize) -> Result<Vec<u8>, ImageError> {
    let reader = lzma_rust2::LzmaReader::new_mem_limit(packed, MAX_DICTIONARY_KIB, None);
    drain("lzma", reader.map_err(|e| corrupt("lzma", e))?, length)
}

/// `zstd -22 --ultra`, as the kernel's build packs, asks for a window of 128 MiB.
fn unzstd(packed: &[u8], length: usize) -> Result<Vec<u8>, ImageError> {
    const MAX_WINDOW: u64 = 128 << 20;
    let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(packed, MAX_WINDOW);
    drain("zstd", decoder.map_err(|e| corrupt("zstd", e))?, length)
}

/// The legacy LZ4 frame, without its magic: blocks of (length, bytes), each unpacking to [`LZ4_BLOCK`] bytes at most.
fn unlz4(mut rest: &[u8], length: usize) -> Result<Vec<u8>, ImageError> {
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while let Some(packed) = u32_at(rest, 0) {
        let body = &rest[4..];
        // The appended length at the very end is the only thing that may not be a block.
        if body.is_empty() {
            break;
        }
        if rest.starts_with(LZ4_MAGIC) {
            rest = body;
            continue;
        }
        let (packed, after) =
            body.split_at_checked(packed as usize).ok_or_else(|| corrupt("lz4", "a block reaches past the end"))?;
        let n = lz4_flex::block::decompress_into(packed, &mut block).map_err(|e| corrupt("lz4", e))?;
        if out.len() + n > length {
            return Err(corrupt("lz4", "more comes out than went in"));
        }
        out.extend_from_slice(&block[..n]);
        rest = after;
    }
    Ok(out)
}
