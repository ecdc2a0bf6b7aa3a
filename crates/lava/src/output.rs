//! What a command writes for other programs: to a file or to standard output.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Has it written to the file, which is there when it is whole or not at all, or else to standard output.
pub fn write<T>(path: Option<&Path>, write: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let Some(path) = path else {
        let mut out = BufWriter::new(std::io::stdout().lock());
        let done = write(&mut out)?;
        out.flush()?;
        return Ok(done);
    };
    whole(path, write)
}

/// Writes beside the file, then gives it its name. For its owner only: it tells of malware, and of a host.
fn whole<T>(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let made: std::io::Result<File> =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
    let mut out = BufWriter::new(made.with_context(|| format!("cannot create {}", part.display()))?);
    let written = write(&mut out).and_then(|done| {
        out.flush()?;
        std::fs::rename(&part, path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(done)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&part); // The error is told; that half a file stays changes nothing.
    }
    written
}
