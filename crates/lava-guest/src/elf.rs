//! The few questions we ask of a kernel's ELF file, answered with the `object` crate.
//!
//! Limits: 64-bit little-endian only. Debian strips symbols but keeps section headers, so sections are found by name.

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSection, ObjectSegment};

/// How many segments are looked at; a kernel has five.
const MAX_SEGMENTS: usize = 16;

/// A parsed ELF file that borrows its bytes.
pub(crate) struct Elf<'a>(ElfFile64<'a, LittleEndian>);

/// The bytes are not a 64-bit little-endian ELF file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a 64-bit little-endian ELF file: {0}")]
pub struct NotElf(String);

impl<'a> Elf<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, NotElf> {
        ElfFile64::parse(bytes).map(Elf).map_err(|e| NotElf(e.to_string()))
    }

    /// The bytes of the first section so named.
    pub(crate) fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.0.section_by_name(name)?.data().ok()
    }

    /// Link address and bytes of the first section so named.
    pub(crate) fn section_at(&self, name: &str) -> Option<(u64, &'a [u8])> {
        let section = self.0.section_by_name(name)?;
        Some((section.address(), section.data().ok()?))
    }

    /// Link address and file bytes of each loadable segment.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (u64, &'a [u8])> {
        self.0.segments().take(MAX_SEGMENTS).filter_map(|s| Some((s.address(), s.data().ok()?)))
    }

    /// What the file holds from link address `address` to the end of that segment.
    pub(crate) fn at(&self, address: u64) -> Option<&'a [u8]> {
        self.segments().find_map(|(start, bytes)| {
            let skip = usize::try_from(address.checked_sub(start)?).ok()?;
            bytes.get(skip..).filter(|rest| !rest.is_empty())
        })
    }
}
