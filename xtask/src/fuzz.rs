//! `cargo xtask fuzz`: every target of fuzz/, for some seconds each.
//!
//! The targets are built with the stable toolchain: libFuzzer needs LLVM's coverage instrumentation, which is an ordinary code
//! generation option; only sanitizers would need more, and the readers have no unsafe code (the ring's mapping aside).

use std::path::Path;

use anyhow::{Context, Result};

use crate::shell;

/// What LLVM adds for libFuzzer: the flags that cargo-fuzz uses, without a sanitizer.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";
/// One input may take this long, seconds: what takes longer hangs.
const TIMEOUT: u32 = 20;
const MEMORY_MIB: u32 = 1024;

/// Builds the targets, and runs each for `seconds`. What it finds is kept in `target/fuzz/NAME/`.
pub fn run(seconds: u64) -> Result<()> {
    let target = shell::target().join("fuzz");
    let platform = "x86_64-unknown-linux-gnu";
    let manifest = shell::root().join("fuzz/Cargo.toml");
    let mut build =
        shell::command("cargo", ["build", "--release", "--locked", "--target", platform, "--manifest-path"]);
    build.arg(&manifest).env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
    shell::run("build the fuzz targets", build)?;
    for name in targets()? {
        let corpus = target.join("corpus").join(&name);
        std::fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
        let program = target.join(platform).join("release").join(&name);
        let mut fuzz = shell::command(&program.to_string_lossy(), [format!("-max_total_time={seconds}")]);
        fuzz.arg(format!("-timeout={TIMEOUT}")).arg(format!("-rss_limit_mb={MEMORY_MIB}")).arg("-verbosity=0");
        fuzz.arg(format!("-artifact_prefix={}/{name}-", target.display())).arg(&corpus);
        let seeds = shell::root().join("fuzz/seeds").join(&name);
        if Path::new(&seeds).is_dir() {
            fuzz.arg(&seeds);
        }
        shell::run(&format!("fuzz {name} for {seconds} s"), fuzz)?;
    }
    Ok(())
}

/// The targets' names: the files in fuzz/targets.
fn targets() -> Result<Vec<String>> {
    let folder = shell::root().join("fuzz/targets");
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let name = |entry: std::fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = entries.filter_map(|entry| name(entry.ok()?)).collect();
    names.sort();
    Ok(names)
}
