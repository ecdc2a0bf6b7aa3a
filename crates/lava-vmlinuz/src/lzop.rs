//! The lzop container (lib/decompress_unlzo.c, Linux 6.12): a header, then blocks with their lengths and checksums.
//!
//! Limits: checksums are not verified; the payload's own length is.

use super::{ImageError, corrupt};

/// The longest block, in bytes: lzop's own limit.
const MAX_BLOCK: usize = 64 << 20;
/// The container's version from which the header has three fields more.
const NEW_HEADER: u16 = 0x940;
/// Flags: a filter field in the header; checksums (Adler, CRC) of unpacked and of packed blocks.
const FILTER: u32 = 0x800;
const UNPACKED_SUMS: [u32; 2] = [0x1, 0x100];
const PACKED_SUMS: [u32; 2] = [0x2, 0x200];

pub(super) fn unpack(packed: &[u8], total: usize) -> Result<Vec<u8>, ImageError> {
    let cut = || corrupt("lzo", "cut off");
    let (mut at, flags) = header(packed).ok_or_else(cut)?;
    let sums = |which: [u32; 2]| 4 * which.iter().filter(|&flag| flags & flag != 0).count();
    let mut out = Vec::new();
    loop {
        let plain = be32(packed, at).ok_or_else(cut)? as usize;
        if plain == 0 {
            return Ok(out);
        }
        let length = be32(packed, at + 4).ok_or_else(cut)? as usize;
        if plain > MAX_BLOCK || length > plain {
            return Err(corrupt("lzo", "a block has an impossible length"));
        }
        at += 8 + sums(UNPACKED_SUMS) + if length < plain { sums(PACKED_SUMS) } else { 0 };
        let block = packed.get(at..at + length).ok_or_else(cut)?;
        let done = out.len();
        if done + plain > total {
            return Err(corrupt("lzo", "more comes out than went in"));
        }
        if length == plain {
            out.extend_from_slice(block);
        } else {
            out.resize(done + plain, 0);
            let unpacked = lzokay::decompress::decompress(block, &mut out[done..]);
            if unpacked.map_err(|e| corrupt("lzo", format!("{e:?}")))? != plain {
                return Err(corrupt("lzo", "a block is shorter than it says"));
            }
        }
        at += length;
    }
}

/// Where the first block begins, and the flags.
///
/// magic 9, version 2, library 2, \[needed 2\], method 1, \[level 1\], flags 4, \[filter 4\], mode 4, time 4, \[time 4\], name
/// length 1, name, checksum 4: in brackets what not every header has.
fn header(packed: &[u8]) -> Option<(usize, u32)> {
    let version = u16::from_be_bytes(packed.get(9..11)?.try_into().ok()?);
    let new = |bytes: usize| if version >= NEW_HEADER { bytes } else { 0 };
    let flags_at = 9 + 2 + 2 + new(2) + 1 + new(1);
    let flags = be32(packed, flags_at)?;
    let filter = if flags & FILTER != 0 { 4 } else { 0 };
    let name_at = flags_at + 4 + filter + 4 + 4 + new(4);
    Some((name_at + 1 + usize::from(*packed.get(name_at)?) + 4, flags))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_be_bytes)
}
