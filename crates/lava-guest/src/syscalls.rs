//! The kernel's system calls: names and parameters by number, from the kernel's own file.
//!
//! Which function serves a number stands in `sys_call_table`; what its parameters are called and are, in the descriptions
//! that the kernel keeps for tracing (`struct syscall_metadata`, include/trace/syscall.h; `CONFIG_FTRACE_SYSCALLS`). The numbers of
//! i386 have no table in newer kernels; they are fixed for good and stand in `data/syscalls.txt`.
//!
//! Limits: a call that the kernel does not describe (compat calls of i386, a few without parameters' names) has none, and its
//! registers are shown as they are.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::btf::Types;
use crate::elf::Elf;
use crate::kallsyms::Symbols;

/// More than any kernel has.
const MAX_CALLS: usize = 1024;
/// A system call takes at most six.
const MAX_PARAMETERS: usize = 6;
/// Longest name or type that is read, bytes.
const MAX_NAME: usize = 64;

/// Functions that are called otherwise than their system call (arch/x86/entry/syscalls/syscall_64.tbl).
const PUBLIC: &[(&str, &str)] = &[
    ("newstat", "stat"),
    ("newfstat", "fstat"),
    ("newlstat", "lstat"),
    ("newuname", "uname"),
    ("sendfile64", "sendfile"),
    ("umount", "umount2"),
];

/// What a parameter points to, as far as it can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing that is shown.
    None,
    /// A NUL-terminated string that the kernel reads.
    Text,
    /// As many bytes that the kernel reads as the next parameter says.
    Bytes,
}

/// One parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the kernel's source.
    pub name: &'static str,
    /// What it points to.
    pub content: Content,
}

/// One system call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Call {
    /// Its name, as programs call it.
    pub name: &'static str,
    /// Its parameters; None if the kernel does not say.
    pub parameters: Option<Vec<Parameter>>,
}

/// How the kernel was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Abi {
    /// `syscall` of a 64-bit program.
    X64,
    /// The same with `__X32_SYSCALL_BIT`.
    X32,
    /// `int 0x80`, `sysenter`, or `syscall` of a 32-bit program.
    I386,
}

impl Abi {
    /// As in `api.call`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::X32 => "x32",
            Self::I386 => "i386",
        }
    }
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Syscalls(HashMap<(Abi, u32), Call>);

impl Syscalls {
    /// Reads them from a kernel's ELF file.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn read(elf: &[u8], symbols: &Symbols, types: &Types) -> Result<Self, String> {
        let elf = Elf::parse(elf).map_err(|error| error.to_string())?;
        let described = metadata(&elf, symbols, types)?;
        let mut calls = HashMap::new();
        let call = |function: &str| {
            let public = PUBLIC.iter().find(|(inner, _)| *inner == function);
            let name = public.map_or_else(|| kept(function), |&(_, public)| public);
            Call { name, parameters: described.get(function).cloned() }
        };
        let functions: HashMap<u64, &str> = symbols
            .iter()
            .filter_map(|(address, _, name)| Some((address, name.strip_prefix("__x64_sys_")?)))
            .filter(|(_, name)| !name.is_empty())
            .collect();
        let table = symbols.address("sys_call_table").ok_or("the kernel has no symbol sys_call_table")?;
        let bytes = elf.at(table).ok_or("sys_call_table is not in the kernel's file")?;
        for (number, entry) in (0u32..).zip(bytes.chunks_exact(8)).take(MAX_CALLS) {
            let address = entry.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
            let Some(function) = functions.get(&address) else { break };
            if *function != "ni_syscall" {
                calls.insert((Abi::X64, number), call(function));
                calls.insert((Abi::X32, number), call(function));
            }
        }
        for (abi, number, name) in fixed() {
            let inner = PUBLIC.iter().find(|(_, public)| *public == name && abi == Abi::X32);
            let parameters = described.get(inner.map_or(name, |(inner, _)| inner)).cloned();
            calls.insert((abi, number), Call { name, parameters });
        }
        Ok(Self(calls))
    }

    /// The call of that number.
    #[must_use]
    pub fn get(&self, abi: Abi, number: u32) -> Option<&Call> {
        self.0.get(&(abi, number))
    }

    /// How many there are, of all ABIs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if none was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The numbers that never change.
fn fixed() -> impl Iterator<Item = (Abi, u32, &'static str)> {
    include_str!("../data/syscalls.txt").lines().filter_map(|line| {
        let mut words = line.split(' ');
        let abi = match words.next()? {
            "i386" => Abi::I386,
            "x32" => Abi::X32,
            _ => return None,
        };
        Some((abi, words.next()?.parse().ok()?, words.next()?))
    })
}

/// Parameters by the name of the function without `sys_`.
fn metadata(elf: &Elf<'_>, symbols: &Symbols, types: &Types) -> Result<HashMap<String, Vec<Parameter>>, String> {
    let offset = |member: &str| types.offset("syscall_metadata", member).map_err(|error| error.to_string());
    let (name, count) = (offset("name")?, offset("nb_args")?);
    let (types_at, names_at) = (offset("types")?, offset("args")?);
    let bounds = symbols.address("__start_syscalls_metadata").zip(symbols.address("__stop_syscalls_metadata"));
    let (start, stop) = bounds.ok_or("the kernel does not describe its system calls (CONFIG_FTRACE_SYSCALLS)")?;
    let word = |address: u64| -> Option<u64> { Some(u64::from_le_bytes(*elf.at(address)?.first_chunk()?)) };
    let text = |address: u64| -> Option<String> {
        let bytes = elf.at(address)?;
        let bytes = bytes.get(..MAX_NAME).unwrap_or(bytes).split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    let one = |at: u64| -> Option<(String, Vec<Parameter>)> {
        let called = text(word(at.wrapping_add(name))?)?.strip_prefix("sys_")?.to_owned();
        let count = (word(at.wrapping_add(count))? & 0xffff_ffff).min(MAX_PARAMETERS as u64);
        let list = |base: u64| -> Option<Vec<String>> {
            let base = if count == 0 { 0 } else { word(at.wrapping_add(base))? };
            (0..count).map(|index| text(word(base.wrapping_add(index * 8))?)).collect()
        };
        Some((called, parameters(&list(types_at)?, &list(names_at)?)))
    };
    let places = (start..stop).step_by(8).take(MAX_CALLS);
    Ok(places.filter_map(|place| one(word(place)?)).collect())
}

/// Puts types and names together.
fn parameters(types: &[String], names: &[String]) -> Vec<Parameter> {
    let lengths: Vec<bool> = names.iter().map(|name| matches!(name.as_str(), "count" | "len" | "size")).collect();
    let content = |index: usize| match types.get(index).map(String::as_str) {
        Some("const char *") if lengths.get(index + 1) == Some(&true) => Content::Bytes,
        Some("const char *") => Content::Text,
        _ => Content::None,
    };
    names.iter().enumerate().map(|(index, name)| Parameter { name: kept(name), content: content(index) }).collect()
}

/// The name, for as long as the process lives, once: every call that is traced names it. They come out of the kernel's file, which is not the
/// guest's to change, and are bounded as that is read.
fn kept(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let name: &'static str = Box::leak(name.into());
    names.insert(name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_never_change() {
        let of = |abi, number| fixed().find(|&(a, n, _)| (a, n) == (abi, number)).map(|(_, _, name)| name);
        assert_eq!(of(Abi::I386, 4), Some("write"));
        assert_eq!(of(Abi::I386, 11), Some("execve"));
        assert_eq!(of(Abi::X32, 520), Some("execve"));
        assert_eq!(of(Abi::X32, 1), None);
    }

    #[test]
    fn what_is_text() {
        let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let write = parameters(&own(&["unsigned int", "const char *", "size_t"]), &own(&["fd", "buf", "count"]));
        assert_eq!(write[1].content, Content::Bytes);
        let open = parameters(&own(&["int", "const char *", "int"]), &own(&["dfd", "filename", "flags"]));
        assert_eq!(open[1].content, Content::Text);
        let read = parameters(&own(&["unsigned int", "char *", "size_t"]), &own(&["fd", "buf", "count"]));
        assert_eq!(read[1].content, Content::None);
    }

    #[test]
    fn junk() {
        let types = Types::parse(&crate::fake::kernel::btf()).unwrap();
        assert!(Syscalls::read(b"junk", &Symbols::from_list([]), &types).is_err());
        let elf = crate::fake::kernel::elf(crate::fake::kernel::Tables::Since64, true);
        assert!(Syscalls::read(&elf, &Symbols::from_list([]), &types).is_err());
    }
}
