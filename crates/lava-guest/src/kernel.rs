//! One kernel: what its ELF file says of itself (lava-vmlinuz gets that out of a boot file).
//!
//! Limits: as [`crate::kallsyms`] and [`crate::btf`]. The file (some 60 MiB) is not kept.

use crate::btf::{TypeError, Types};
use crate::elf::Elf;
use crate::kallsyms::{SymbolError, Symbols};

/// Why a kernel cannot be used for introspection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// No symbols: a kernel built without `CONFIG_KALLSYMS`, or a damaged file.
    #[error("cannot read the kernel's symbols: {0}")]
    Symbols(#[from] SymbolError),
    /// No types: a kernel built without `CONFIG_DEBUG_INFO_BTF`, or a damaged file.
    #[error("cannot read the kernel's types: {0}")]
    Types(#[from] TypeError),
    /// `linux_banner` is missing, or there is no `Linux version` where it should be.
    #[error("the kernel's banner is not where its symbol says: symbols and file do not belong together")]
    NoBanner,
}

/// A kernel's symbols and types, and which kernel it is.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Link addresses by name: see [`Symbols`].
    pub symbols: Symbols,
    /// Struct layouts and function prototypes: see [`Types`].
    pub types: Types,
    /// `Linux version 6.1.0-... (builder) (compiler) #1 SMP ...`, without the line end.
    pub banner: String,
    /// The release as `uname -r` prints it: the banner's third word.
    pub release: String,
}

impl Kernel {
    /// Reads a kernel's unpacked ELF file.
    ///
    /// # Errors
    /// See [`KernelError`]; its text names the kernel option that is missing.
    pub fn from_elf(elf: &[u8]) -> Result<Kernel, KernelError> {
        let symbols = Symbols::from_elf(elf)?;
        let types = Types::from_elf(elf)?;
        let banner = banner(elf, &symbols).ok_or(KernelError::NoBanner)?;
        let release = banner.split(' ').nth(2).ok_or(KernelError::NoBanner)?.to_owned();
        Ok(Kernel { symbols, types, banner, release })
    }
}

/// `linux_banner` (init/version.c, Linux 6.1; init/version-timestamp.c, Linux 6.12).
fn banner(elf: &[u8], symbols: &Symbols) -> Option<String> {
    const MAX_BANNER: usize = 512;
    let bytes = Elf::parse(elf).ok()?.at(symbols.address("linux_banner")?)?;
    let bytes = &bytes[..bytes.len().min(MAX_BANNER)];
    let line = bytes.split(|&b| b == b'\n' || b == 0).next()?;
    let text = String::from_utf8_lossy(line);
    text.starts_with("Linux version ").then(|| text.into_owned())
}
