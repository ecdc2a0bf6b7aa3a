//! `lava export`: a session in a format that other tools read.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use lava_export::{Exported, Format, Scope};

use crate::show;

/// Options of `lava export`.
#[derive(clap::Args)]
pub struct Export {
    /// A session's folder, its id, or `latest`.
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
        let exported = match &self.out {
            Some(path) => whole(path, write)?,
            None => {
                let mut out = BufWriter::new(std::io::stdout().lock());
                let exported = write(&mut out)?;
                out.flush()?;
                exported
            }
        };
        if exported.left_out > 0 {
            eprintln!("lava: {} mentions of things did not fit and are only in the event log", exported.left_out);
        }
        if exported.unreadable > 0 {
            bail!("{} line(s) of the log could not be read: `lava verify` tells more", exported.unreadable);
        }
        Ok(())
    }
}

/// Writes beside the file, then gives it its name. For its owner only: it tells of malware, and of a host.
fn whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<Exported>) -> Result<Exported> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let made: std::io::Result<File> =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
    let mut out = BufWriter::new(made.with_context(|| format!("cannot create {}", part.display()))?);
    let written = write(&mut out).and_then(|exported| {
        out.flush()?;
        std::fs::rename(&part, path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(exported)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&part); // The error is told; that half a file stays changes nothing.
    }
    written
}
