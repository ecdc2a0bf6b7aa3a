//! `cargo xtask web`: the console's page, from web/ into web/dist, where `lava-console` embeds it from. A LAVA that is built without it
//! says so in the browser.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::shell;

/// What the page is made of, below web/. Everything else there is for tests and development.
const SOURCES: &[&str] = &["src", "public", "index.html", "package-lock.json", "svelte.config.js", "vite.config.ts"];

/// Builds the page, unless it is newer than what it is made of.
pub fn build() -> Result<()> {
    let web = folder();
    if let Ok(built) = changed(&web.join("dist/index.html")) {
        let newest = SOURCES.iter().map(|name| newest(&web.join(name))).collect::<Result<Vec<_>>>()?;
        if newest.into_iter().all(|source| source <= built) {
            return Ok(());
        }
    }
    packages()?;
    shell::run("build the console's page", npm(["run", "build"]))
}

/// Type checks and lints.
pub fn check() -> Result<()> {
    packages()?;
    shell::run("check the console's page", npm(["run", "check"]))
}

/// The page in a browser: against a stand-in, against this `lava serve`, and while real micro-VMs play these scenarios.
pub fn test(programs: &Path, scenarios: &Path) -> Result<()> {
    build()?;
    packages()?;
    let mut tests = npm(["test"]);
    tests
        .env("LAVA_PROGRAM", programs.join("lava"))
        .env("LAVA_SCENARIOS", scenarios)
        .env("LAVA_SHARE", shell::root())
        .env_remove("LAVA_SESSIONS");
    shell::run("the console's page in a browser", tests)
}

/// Measures the page in a browser: lines of JSON, each with a figure's name and its value. What takes long to make is kept in `kept`.
pub fn bench(programs: &Path, kept: &Path) -> Result<String> {
    build()?;
    packages()?;
    std::fs::create_dir_all(kept).with_context(|| kept.display().to_string())?;
    let mut bench = npm(["test", "--", "bench"]);
    bench.env("LAVA_PROGRAM", programs.join("lava")).env("LAVA_SHARE", shell::root()).env("LAVA_BENCH", kept);
    shell::output(bench)
}

fn folder() -> PathBuf {
    shell::root().join("web")
}

/// Exactly the packages of package-lock.json, unless they are there. No package's own scripts are run.
fn packages() -> Result<()> {
    let (lock, installed) = (folder().join("package-lock.json"), folder().join("node_modules/.package-lock.json"));
    if changed(&installed).is_ok_and(|there| changed(&lock).is_ok_and(|wanted| wanted <= there)) {
        return Ok(());
    }
    shell::run("fetch what the page is made of", npm(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))
}

fn npm<const N: usize>(arguments: [&str; N]) -> std::process::Command {
    let mut command = shell::command("npm", arguments);
    command.current_dir(folder()).stdin(std::process::Stdio::null());
    command
}

fn changed(file: &Path) -> Result<SystemTime> {
    let about = || file.display().to_string();
    std::fs::metadata(file).with_context(about)?.modified().with_context(about)
}

/// When a file, or any file of a folder, was changed last.
fn newest(path: &Path) -> Result<SystemTime> {
    let own = changed(path)?;
    if !path.is_dir() {
        return Ok(own);
    }
    let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
    entries.map(|entry| newest(&entry?.path())).try_fold(own, |latest, each| Ok(latest.max(each?)))
}
