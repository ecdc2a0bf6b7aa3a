//! Where the kallsyms tables lie, found by what must be true of them.
//!
//! The 256 tokens hold every character that occurs in a name, at its own index: the digits make one sure pattern,
//! `0\0 1\0 .. 9\0`. The table of indices right behind confirms it. Before the tokens lie a count, the packed names, and
//! markers, the offset of every 256th name: the count is the one whose names end exactly where the markers that fit
//! them begin. Nothing depends on a kernel version:
//! - before 6.4: offsets, relative base, count, names, markers, (6.2: order of names), tokens, token index
//! - from 6.4: count, names, markers, tokens, token index, offsets, relative base, order of names
//!
//! Source: `write_src` in scripts/kallsyms.c, Linux 6.1, 6.3, 6.4, 6.12.

use super::{KERNEL_HALF, SymbolError};
use memchr::memmem;

/// Every table starts on such a boundary (`ALGN` in scripts/kallsyms.c).
const ALIGN: usize = 8;
/// How far before the tokens the count is looked for, in bytes: a kernel of 150,000 symbols needs 2 MiB.
const REACH: usize = 64 << 20;
/// Counts that are believed.
const COUNT: std::ops::RangeInclusive<usize> = 1_000..=8_000_000;
/// How many names are looked at in all before a file is given up: one made to have many false starts ends here.
const BUDGET: usize = 16_000_000;
/// A name's longest expansion (`KSYM_NAME_LEN` is 512), type character included.
const MAX_NAME: usize = 1024;

/// The tables of one kernel, borrowed from its file.
pub(super) struct Tables<'a> {
    pub(super) count: usize,
    pub(super) tokens: Tokens<'a>,
    names: &'a [u8],
    offsets: &'a [u8],
    base: u64,
    /// `CONFIG_KALLSYMS_ABSOLUTE_PERCPU`: positive offsets are absolute, negative ones count down from the base.
    absolute_percpu: bool,
}

/// The 256 byte strings names are packed with.
pub(super) struct Tokens<'a>(Vec<&'a [u8]>);

impl Tokens<'_> {
    /// Appends what `packed` stands for, at most [`MAX_NAME`] bytes.
    pub(super) fn expand(&self, packed: &[u8], out: &mut Vec<u8>) {
        for &token in packed {
            let text = self.0[usize::from(token)];
            if out.len() + text.len() > MAX_NAME {
                return;
            }
            out.extend_from_slice(text);
        }
    }

    /// Whether `packed` begins with a letter `nm` uses for a symbol type.
    fn plausible(&self, packed: &[u8]) -> bool {
        let first = packed.first().and_then(|&token| self.0[usize::from(token)].first());
        packed.len() <= MAX_NAME && first.is_some_and(|c| b"AaBbCcDdGgNnRrSsTtUuVvWwi".contains(c))
    }
}

impl<'a> Tables<'a> {
    pub(super) fn addresses(&self) -> impl Iterator<Item = u64> {
        let (base, absolute_percpu) = (self.base, self.absolute_percpu);
        le32s(self.offsets).map(move |offset| address(offset, base, absolute_percpu))
    }

    pub(super) fn packed_names(&self) -> impl Iterator<Item = &'a [u8]> {
        Names(self.names)
    }
}

/// `kallsyms_sym_address` of kernel/kallsyms.c, Linux 6.1 and 6.12.
fn address(offset: u32, base: u64, absolute_percpu: bool) -> u64 {
    match offset as i32 {
        signed if absolute_percpu && signed >= 0 => u64::from(offset),
        signed if absolute_percpu => base.wrapping_sub(1).wrapping_sub(signed as i64 as u64),
        _ => base.wrapping_add(u64::from(offset)),
    }
}

/// Packed names, one after the other: a length (two bytes, 7 bits each, if it does not fit one; since 6.1), the tokens.
struct Names<'a>(&'a [u8]);

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&low, mut rest) = self.0.split_first()?;
        let mut length = usize::from(low);
        if low & 0x80 != 0 {
            let (&high, after) = rest.split_first()?;
            length = (length & 0x7f) | usize::from(high) << 7;
            rest = after;
        }
        let (name, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(name)
    }
}

/// Finds all tables in `bytes`, which begin on a boundary of 8.
pub(super) fn tables(bytes: &[u8]) -> Result<Tables<'_>, SymbolError> {
    let mut error = SymbolError::NoTables;
    let mut budget = BUDGET;
    for digits in memmem::find_iter(bytes, b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00").take(8) {
        let Some((tokens, start, end)) = tokens(bytes, digits) else { continue };
        let Some((count_at, count, names)) = names(bytes, start, &tokens, &mut budget) else {
            continue;
        };
        let before = offsets_before(bytes, count_at, count);
        let Some((offsets, base)) = before.or_else(|| offsets_after(bytes, end, count)) else {
            error = SymbolError::NoAddresses;
            continue;
        };
        // The first relative symbol, the base itself, is stored as -1 if offsets count down, as 0 if they count up.
        let negative = le32s(offsets).filter(|&o| (o as i32) < 0).count();
        return Ok(Tables { count, tokens, names, offsets, base, absolute_percpu: negative > count / 2 });
    }
    Err(error)
}

/// The tokens around the digits at `digits`, where their table starts, and where the table of their indices ends.
fn tokens(bytes: &[u8], digits: usize) -> Option<(Tokens<'_>, usize, usize)> {
    // From token '0' on the lengths are known; the index table says how far before it token 0 starts.
    let mut at = digits;
    let mut lengths = Vec::with_capacity(256);
    for _ in usize::from(b'0')..256 {
        let length = memchr::memchr(0, bytes.get(at..at.checked_add(MAX_NAME)?.min(bytes.len()))?)?;
        lengths.push(length);
        at += length + 1;
    }
    (at..at + 2 * ALIGN).find_map(|index_at| {
        let index: Vec<usize> = bytes
            .get(index_at..index_at.checked_add(512)?)?
            .chunks_exact(2)
            .map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])))
            .collect();
        let start = digits.checked_sub(index[usize::from(b'0')])?;
        let mut tokens = Vec::with_capacity(256);
        for (i, &offset) in index.iter().enumerate() {
            let end = index.get(i + 1).copied().unwrap_or(at - start);
            let (text, nul) = bytes
                .get(start.checked_add(offset)?..start.checked_add(end)?)?
                .split_at_checked(end.checked_sub(offset)?.checked_sub(1)?)?;
            if nul != [0] || text.contains(&0) {
                return None;
            }
            tokens.push(text);
        }
        let fits = index[0] == 0 && tokens[usize::from(b'0')..].iter().map(|t| t.len()).eq(lengths.iter().copied());
        fits.then_some((Tokens(tokens), start, index_at + 512))
    })
}

/// Where the count of symbols lies, the count, and the packed names: the nearest before `tokens_at` that fit.
fn names<'a>(
    bytes: &'a [u8],
    tokens_at: usize,
    tokens: &Tokens<'_>,
    budget: &mut usize,
) -> Option<(usize, usize, &'a [u8])> {
    let aligned = tokens_at / ALIGN;
    let lowest = aligned.saturating_sub(REACH / ALIGN);
    (lowest..aligned).rev().map(|word| word * ALIGN).find_map(|at| {
        let count = le32(bytes, at)? as usize;
        // Each name takes two bytes at least: its length and one token.
        if !COUNT.contains(&count) || count * 2 > tokens_at - at || le32(bytes, at + 4)? != 0 {
            return None;
        }
        let names = names_at(bytes.get(..tokens_at)?, at + ALIGN, count, tokens, budget)?;
        Some((at, count, names))
    })
}

/// `count` names that begin at `start`, if every one is plausible and the markers behind them say the same.
fn names_at<'a>(
    bytes: &'a [u8],
    start: usize,
    count: usize,
    tokens: &Tokens<'_>,
    budget: &mut usize,
) -> Option<&'a [u8]> {
    let mut names = Names(bytes.get(start..)?);
    let mut markers = Vec::new();
    for i in 0..count {
        *budget = budget.checked_sub(1)?;
        if i % 256 == 0 {
            markers.push((bytes.len() - start - names.0.len()) as u32);
        }
        if !names.next().is_some_and(|name| tokens.plausible(name)) {
            return None;
        }
    }
    let end = bytes.len() - names.0.len();
    let markers_at = end.next_multiple_of(ALIGN);
    let stored = bytes.get(markers_at..markers_at + markers.len() * 4)?;
    le32s(stored).eq(markers).then(|| &bytes[start..end])
}

/// Kernels before 6.4: the offsets and the base right before the count.
fn offsets_before(bytes: &[u8], count_at: usize, count: usize) -> Option<(&[u8], u64)> {
    let base_at = count_at.checked_sub(8)?;
    let at = base_at.checked_sub(count * 4)? / ALIGN * ALIGN;
    checked_offsets(bytes, at, base_at, count)
}

/// Kernels from 6.4: the offsets and the base right behind the token index.
fn offsets_after(bytes: &[u8], index_end: usize, count: usize) -> Option<(&[u8], u64)> {
    let at = index_end.next_multiple_of(ALIGN);
    checked_offsets(bytes, at, (at + count * 4).next_multiple_of(ALIGN), count)
}

/// The table at `at`, if the base is a kernel address and the addresses ascend as the kernel's own search needs.
fn checked_offsets(bytes: &[u8], at: usize, base_at: usize, count: usize) -> Option<(&[u8], u64)> {
    let base = bytes.get(base_at..base_at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)?;
    let offsets = bytes.get(at..at.checked_add(count * 4)?)?;
    let relative = |o: &u32| (*o as i32) < 0;
    let down = le32s(offsets).filter(relative).is_sorted_by(|a, b| a >= b);
    let up = le32s(offsets).filter(|o| !relative(o)).is_sorted();
    (base >= KERNEL_HALF && down && up).then_some((offsets, base))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn le32s(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}
