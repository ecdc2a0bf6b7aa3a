//! `lava symbols`: a guest kernel's symbols and types, for tools that read its memory.

use std::path::PathBuf;

use anyhow::{Context, Result};
use lava_guest::kernel::Kernel;

use crate::{output, places, prepare};

/// Options of `lava symbols`.
#[derive(clap::Args)]
pub struct Options {
    /// As Volatility 3 reads them, with the types; without it one symbol a line, as in System.map.
    #[arg(long)]
    isf: bool,
    /// The guest's kernel.
    #[arg(long, default_value = "6.1", value_name = "6.1|6.12")]
    kernel: String,
    /// The guest image whose kernel it is.
    #[arg(long, default_value = places::ORDINARY, value_name = "NAME")]
    image: String,
    /// Another kernel: its boot file (vmlinuz) or its ELF file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "image"])]
    vmlinuz: Option<PathBuf>,
    /// The file to write, instead of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Options {
    /// Writes them.
    pub fn run(&self) -> Result<()> {
        let (elf, of) = match &self.vmlinuz {
            Some(path) => (prepare::unpack(path)?, path.display().to_string()),
            None => {
                let guest = prepare::guest_of(&self.image, &self.kernel)?;
                (guest.kernel_elf()?, guest.vmlinuz.display().to_string())
            }
        };
        let kernel = Kernel::from_elf(&elf).with_context(|| of)?;
        drop(elf);
        output::write(self.out.as_deref(), |out| match self.isf {
            true => Ok(lava_export::isf(&kernel, out)?),
            false => {
                Ok(kernel.symbols.iter().try_for_each(|(at, kind, name)| writeln!(out, "{at:016x} {kind} {name}"))?)
            }
        })
    }
}
