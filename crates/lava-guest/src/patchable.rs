//! Where a kernel patches its own code while it runs: jump labels, static calls, function entries for ftrace.
//!
//! The tables are in the kernel's file: `__jump_table` and `.static_call_sites` hold offsets relative to themselves
//! (`struct jump_entry`, include/linux/jump_label.h; `struct static_call_site`, include/linux/static_call_types.h; 6.1 to 6.12),
//! `__mcount_loc` link addresses (include/asm-generic/vmlinux.lds.h).
//!
//! Limits: the kernel image's own tables; a module's are in its memory, see [`relative`]. At most [`MAX`] places of each kind.

use crate::elf::Elf;
use crate::kallsyms::Symbols;

/// How many places of one kind are kept; Debian's 6.12 has 63,000 function entries.
const MAX: usize = 1 << 20;
/// `sizeof(struct jump_entry)`: code and target (relative, 4 bytes each), key (8 bytes).
pub const JUMP_ENTRY: u64 = 16;
/// `sizeof(struct static_call_site)`: address and key (relative, 4 bytes each).
pub const STATIC_CALL_SITE: u64 = 8;
/// Where ftrace's own entry code calls the tracer of the moment (arch/x86/kernel/ftrace_64.S).
const FTRACE: &[&str] = &["ftrace_call", "ftrace_regs_call", "ftrace_graph_call"];
/// What stands behind the one instruction of a static call's trampoline (`tramp_ud`, arch/x86/kernel/static_call.c).
pub const TRAMPOLINE: [u8; 3] = [0x0f, 0xb9, 0xcc];
/// The longest instruction that is patched at a jump label or a function's entry.
pub const LONGEST: u64 = 5;

/// The places, as link addresses in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sites {
    /// Jump labels and static calls.
    pub labels: Vec<u64>,
    /// Function entries that ftrace can redirect.
    pub entries: Vec<u64>,
}

impl Sites {
    /// Reads them out of a kernel's ELF file. What the kernel does not have, or its file does not hold, is left out.
    pub fn from_elf(elf: &[u8], symbols: &Symbols) -> Self {
        let Ok(elf) = Elf::parse(elf) else { return Self::default() };
        let table = |start: &str, stop: &str| {
            let (start, stop) = (symbols.address(start)?, symbols.address(stop)?);
            let length = usize::try_from(stop.checked_sub(start)?).ok()?;
            Some((start, elf.at(start)?.get(..length)?))
        };
        let (none, mut sites) = ((0, &[][..]), Self::default());
        let (base, bytes) = table("__start___jump_table", "__stop___jump_table").unwrap_or(none);
        sites.labels.extend(all_relative(base, bytes, JUMP_ENTRY));
        let (base, bytes) = table("__start_static_call_sites", "__stop_static_call_sites").unwrap_or(none);
        sites.labels.extend(all_relative(base, bytes, STATIC_CALL_SITE));
        sites.labels.extend(FTRACE.iter().flat_map(|name| symbols.all(name)));
        let (_, bytes) = table("__start_mcount_loc", "__stop_mcount_loc").unwrap_or(none);
        let entries = bytes.chunks_exact(8).take(MAX).filter_map(|entry| entry.try_into().ok().map(u64::from_le_bytes));
        sites.entries.extend(entries.filter(|&entry| entry != 0));
        sites.labels.sort_unstable();
        sites.entries.sort_unstable();
        sites
    }

    /// The jump label or static call whose instruction holds all of `length` bytes at link address `address`.
    pub fn label(&self, address: u64, length: u64) -> Option<u64> {
        holding(&self.labels, address, length)
    }

    /// As [`Sites::label`], for function entries.
    pub fn entry(&self, address: u64, length: u64) -> Option<u64> {
        holding(&self.entries, address, length)
    }
}

/// Whether `length` bytes that begin at `code[at]` lie in the instruction of a static call's trampoline. `code` must reach
/// [`LONGEST`] bytes before `at`, as far as memory does, and 8 behind it.
pub fn in_trampoline(code: &[u8], at: usize, length: usize) -> bool {
    let instruction = LONGEST as usize;
    (0..instruction).any(|into| {
        let start = at.checked_sub(into);
        let behind = start.and_then(|start| code.get(start + instruction..start + instruction + TRAMPOLINE.len()));
        into + length <= instruction && behind == Some(&TRAMPOLINE[..])
    })
}

fn holding(sites: &[u64], address: u64, length: u64) -> Option<u64> {
    let site = *sites[..sites.partition_point(|&site| site <= address)].last()?;
    (address.checked_add(length)? <= site.checked_add(LONGEST)?).then_some(site)
}

/// The place that a table's entry at `address`, which begins with `offset`, speaks of.
pub fn relative(address: u64, offset: u32) -> u64 {
    address.wrapping_add(i64::from(offset as i32) as u64)
}

fn all_relative(base: u64, bytes: &[u8], size: u64) -> impl Iterator<Item = u64> {
    let entries = (0..MAX as u64).zip(bytes.chunks_exact(size as usize));
    entries.filter_map(move |(number, entry)| {
        let offset = u32::from_le_bytes(*entry.first_chunk::<4>()?);
        Some(relative(base.wrapping_add(number * size), offset))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let base = 0xffff_ffff_8200_0000;
        let mut bytes = vec![0; 32];
        bytes[..4].copy_from_slice(&(-0x1000i32).to_le_bytes());
        bytes[16..20].copy_from_slice(&0x20i32.to_le_bytes());
        let found: Vec<u64> = all_relative(base, &bytes, JUMP_ENTRY).collect();
        assert_eq!(found, [base - 0x1000, base + 0x30]);
    }

    #[test]
    fn trampolines() {
        let mut code = [0xcc; 24];
        code[13..16].copy_from_slice(&TRAMPOLINE);
        assert!(in_trampoline(&code, 8, 5) && in_trampoline(&code, 9, 4) && in_trampoline(&code, 12, 1));
        assert!(!in_trampoline(&code, 9, 5) && !in_trampoline(&code, 13, 1) && !in_trampoline(&code, 7, 1));
        assert!(!in_trampoline(&code, 23, 1) && !in_trampoline(&[], 0, 1));
    }

    #[test]
    fn places() {
        let sites = Sites { labels: vec![100, 200], entries: vec![] };
        assert_eq!(sites.label(100, 5), Some(100));
        assert_eq!(sites.label(101, 4), Some(100));
        assert_eq!(sites.label(101, 5), None);
        assert_eq!(sites.label(99, 1), None);
        assert_eq!(sites.label(u64::MAX, 5), None);
        assert_eq!(sites.entry(100, 1), None);
    }
}
