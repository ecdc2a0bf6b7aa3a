//! Running commands, and the repository's places.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The repository's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// A command in the repository's root.
pub fn command<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// Runs it, with its output shown; an error if it fails. What took longer than two seconds is told.
pub fn run(what: &str, mut command: Command) -> Result<()> {
    eprintln!("xtask: {what}");
    let begin = Instant::now();
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| format!("{what}: cannot start {shown}"))?;
    if !status.success() {
        bail!("{what} failed ({status}): {shown}");
    }
    if begin.elapsed() > Duration::from_secs(2) {
        eprintln!("xtask: {what}: done in {:.0} s", begin.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Runs it; its output, or an error with it.
pub fn output(mut command: Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
