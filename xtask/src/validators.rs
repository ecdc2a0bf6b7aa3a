//! The validators that the tests of exports and memory dumps use: Python packages in an environment of their own.
//!
//! It lies in the user's cache, named by the hash of its list of packages (`requirements.txt`, pinned): another list, another
//! environment. Nothing is installed into the system's Python.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lava_image::ImageStore;

use crate::shell;

const REQUIREMENTS: &str = "crates/lava-export/tests/requirements.txt";

/// Makes the environment, unless it is there; its Python.
pub fn run() -> Result<PathBuf> {
    let list = shell::root().join(REQUIREMENTS);
    let sum = shell::output(shell::command("sha256sum", [&list]))?;
    let name = format!("validators-{}", sum.get(..16).context("sha256sum said nothing")?);
    let cache =
        ImageStore::user_cache().context("neither XDG_CACHE_HOME nor HOME is set: nowhere to keep the validators")?;
    let folder = cache.join("lava").join(name);
    let (python, whole) = (folder.join("bin/python"), folder.join("whole"));
    if !whole.is_file() {
        make(&folder, &python, &list)?;
        std::fs::write(&whole, "").with_context(|| format!("cannot write {}", whole.display()))?;
    }
    Ok(python)
}

fn make(folder: &Path, python: &Path, list: &Path) -> Result<()> {
    let mut venv = shell::command("python3", ["-m", "venv", "--clear"]);
    venv.arg(folder);
    shell::run("make an environment for the exports' validators", venv)?;
    let mut pip = std::process::Command::new(python);
    pip.args(["-m", "pip", "install", "-q", "--disable-pip-version-check", "-r"]).arg(list);
    shell::run("install the exports' validators from PyPI", pip)
}
