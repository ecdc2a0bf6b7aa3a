//! `lava export`: a session in a format that other tools read.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use lava_export::{Format, Scope};

use crate::{output, show};

/// Options of `lava export`.
#[derive(clap::Args)]
pub struct Export {
    /// A session's folder, its id, its bundle, or `latest`.
    session: String,
    /// The format.
    #[arg(long, value_parser = format())]
    format: Format,
    /// Every event of the guest, or the whole graph; without it, what the task did and what findings rest on.
    #[arg(long)]
    all: bool,
    /// The file to write, instead of standard output. It is there when it is whole, or not at all.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    sessions: Option<PathBuf>,
}

/// Reads a format's name, for clap.
fn format() -> impl TypedValueParser<Value = Format> {
    let values = Format::ALL.iter().map(|format| PossibleValue::new(format.name()).help(format.about()));
    PossibleValuesParser::new(values).try_map(|name| Format::named(&name).ok_or("there is no such format"))
}

impl Export {
    /// Writes it, and says what it could not.
    pub fn run(&self) -> Result<()> {
        let session = show::find(&self.session, self.sessions.as_deref())?;
        let scope = if self.all { Scope::All } else { Scope::Task };
        let write = |out: &mut dyn Write| Ok(lava_export::export(&session, self.format, scope, out)?);
        let exported = output::write(self.out.as_deref(), write)?;
        if exported.left_out > 0 {
            eprintln!("lava: {} mentions of things did not fit and are only in the event log", exported.left_out);
        }
        if exported.unreadable > 0 {
            bail!("{} line(s) of the log could not be read: `lava verify` tells more", exported.unreadable);
        }
        Ok(())
    }
}
