//! Every symbol of the kernel, out of the tables the kernel carries for its own use.
//!
//! `scripts/kallsyms.c` writes into `.rodata` a compressed table of all symbols: names packed with 256 tokens,
//! addresses as offsets from a base. A stripped kernel has no symbol that says where, so `locate` finds the tables by
//! what must be true of them; here they are decoded into [`Symbols`].
//!
//! Addresses are link addresses: add the KASLR slide (run-time LSTAR minus `entry_SYSCALL_64`) to have them in a guest.
//! Per-CPU symbols of kernels before 6.15 are offsets into the per-CPU area, small numbers.
//!
//! Limits: kernels from 4.20 with `CONFIG_KALLSYMS` and base-relative offsets (always so on x86-64 since 6.11, the default
//! before); modules' symbols are not in it.

mod locate;

use crate::elf::{Elf, NotElf};
use locate::Tables;

/// Why no symbols came out of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SymbolError {
    /// The file is not an ELF file.
    #[error(transparent)]
    NotElf(#[from] NotElf),
    /// No table of tokens, or none whose names decode.
    #[error("no kallsyms tables in this kernel (it was built without CONFIG_KALLSYMS?)")]
    NoTables,
    /// Names were found, but no table of offsets that fits them.
    #[error("kallsyms names found, but no address table that fits them (a layout of a kernel unknown to us)")]
    NoAddresses,
}

/// The symbols of one kernel, in order of address.
#[derive(Clone)]
pub struct Symbols {
    entries: Vec<Entry>,
    /// Every name, one after the other.
    names: String,
    /// Indices into `entries`, in order of name, then of address.
    by_name: Vec<u32>,
    /// First symbol that is a kernel address and not an offset into the per-CPU area.
    first_kernel: usize,
    /// Where the kernel image ends: nothing at or above it belongs to the last symbol.
    end: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    name_start: u32,
    name_len: u16,
    kind: u8,
}

/// All names together, in bytes; a real kernel has 5 MiB of them. Names that expand further are left out.
const MAX_NAMES: usize = 256 << 20;
/// The lower bound of kernel addresses, with 4- and with 5-level paging (Documentation/arch/x86/x86_64/mm.rst).
const KERNEL_HALF: u64 = 0xff00_0000_0000_0000;

impl Symbols {
    /// Finds and decodes the tables in a kernel's ELF file, which needs no symbols of its own.
    ///
    /// # Errors
    /// See [`SymbolError`].
    pub fn from_elf(elf: &[u8]) -> Result<Symbols, SymbolError> {
        let elf = Elf::parse(elf)?;
        let mut error = SymbolError::NoTables;
        let rodata = elf.section(".rodata");
        for bytes in rodata.into_iter().chain(elf.segments().map(|(_, bytes)| bytes)) {
            match locate::tables(bytes) {
                Ok(tables) => return Ok(Symbols::decode(&tables)),
                Err(SymbolError::NoTables) => {}
                Err(e) => error = e,
            }
        }
        Err(error)
    }

    fn decode(tables: &Tables<'_>) -> Symbols {
        let mut names = String::new();
        let mut entries = Vec::with_capacity(tables.count);
        let mut name = Vec::new();
        for (address, packed) in tables.addresses().zip(tables.packed_names()) {
            if names.len() > MAX_NAMES {
                break;
            }
            name.clear();
            tables.tokens.expand(packed, &mut name);
            let Some((&kind, text)) = name.split_first() else { continue };
            let name_start = names.len() as u32;
            // Kernel identifiers are ASCII; whatever is not is a damaged table, shown but never trusted.
            names.extend(text.iter().map(|&b| if b.is_ascii_graphic() { char::from(b) } else { '?' }));
            entries.push(Entry { address, name_start, name_len: (names.len() - name_start as usize) as u16, kind });
        }
        Symbols::index(entries, names)
    }

    fn index(mut entries: Vec<Entry>, names: String) -> Symbols {
        entries.sort_by_key(|e| e.address);
        let text = |i: u32| {
            let e = entries[i as usize];
            &names.as_bytes()[e.name_start as usize..][..usize::from(e.name_len)]
        };
        let mut by_name: Vec<u32> = (0..entries.len() as u32).collect();
        by_name.sort_unstable_by(|&a, &b| text(a).cmp(text(b)).then(a.cmp(&b)));
        let first_kernel = entries.partition_point(|e| e.address < KERNEL_HALF);
        let mut symbols = Symbols { entries, names, by_name, first_kernel, end: u64::MAX };
        symbols.end = symbols.address("_end").unwrap_or(u64::MAX);
        symbols
    }

    /// The symbols given, for a guest made by hand: (address, type, name). Names are cut at 1024 bytes.
    pub fn from_list<'a>(list: impl IntoIterator<Item = (u64, char, &'a str)>) -> Symbols {
        let mut names = String::new();
        let mut entries = Vec::new();
        for (address, kind, name) in list {
            let name_start = names.len() as u32;
            names.extend(name.chars().filter(char::is_ascii_graphic).take(1024));
            let name_len = (names.len() - name_start as usize) as u16;
            entries.push(Entry { address, name_start, name_len, kind: u8::try_from(kind).unwrap_or(b'?') });
        }
        Symbols::index(entries, names)
    }

    /// The link address of `name`; the lowest, where static functions of several files bear it.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.all(name).next()
    }

    /// Every link address `name` has, ascending.
    pub fn all(&self, name: &str) -> impl Iterator<Item = u64> {
        let start = self.by_name.partition_point(|&i| self.name(i as usize) < name);
        let rest = &self.by_name[start..];
        let len = rest.partition_point(|&i| self.name(i as usize) == name);
        rest[..len].iter().map(|&i| self.entries[i as usize].address)
    }

    /// The nearest symbol at or below the link address `addr`, and how far above it `addr` lies, in bytes.
    ///
    /// Of several symbols at one address the first of the kernel's own table. None below the kernel and past `_end`.
    pub fn lookup(&self, addr: u64) -> Option<(&str, u64)> {
        if addr >= self.end {
            return None;
        }
        let kernel = &self.entries[self.first_kernel..];
        let address = kernel[..kernel.partition_point(|e| e.address <= addr)].last()?.address;
        let first = kernel.partition_point(|e| e.address < address);
        Some((self.name(self.first_kernel + first), addr - address))
    }

    /// How many symbols there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True of a kernel without a single symbol.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every symbol in order of address: link address, type (as `nm` prints it), name.
    pub fn iter(&self) -> impl Iterator<Item = (u64, char, &str)> {
        self.entries.iter().enumerate().map(|(i, e)| (e.address, char::from(e.kind), self.name(i)))
    }

    fn name(&self, index: usize) -> &str {
        let e = self.entries[index];
        &self.names[e.name_start as usize..][..usize::from(e.name_len)]
    }
}

impl std::fmt::Debug for Symbols {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Symbols").field("len", &self.len()).finish_non_exhaustive()
    }
}
