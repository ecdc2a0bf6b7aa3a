//! `cargo xtask test`: everything the tests need, then all of them.

use anyhow::{Context, Result};

use crate::{build, deps, fuzz, setup, shell, validators, web};

/// Seconds per fuzz target: enough to see that it works and that nothing obvious breaks.
const FUZZ: u64 = 5;

/// Runs every check and test.
pub fn run() -> Result<()> {
    setup::run()?;
    let mut format = shell::command("cargo", ["fmt", "--all", "--check"]);
    // A minimal toolchain has no rustfmt and no clippy: then these two checks can't be made, and that is said.
    if crate::shell::output(shell::command("cargo", ["fmt", "--version"])).is_ok() {
        format.stdin(std::process::Stdio::null());
        shell::run("rustfmt", format)?;
    } else {
        eprintln!("xtask: rustfmt is not installed: formatting NOT checked (rustup component add rustfmt)");
    }
    deps::run()?;
    if crate::shell::output(shell::command("cargo", ["clippy", "--version"])).is_ok() {
        let lint = ["clippy", "--release", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
        shell::run("clippy", shell::command("cargo", lint))?;
    } else {
        eprintln!("xtask: clippy is not installed: lints NOT checked (rustup component add clippy)");
    }
    web::check()?;
    fuzz::run(FUZZ)?;
    let programs = build::lava_with_tests()?;
    let image = build::image()?;
    let scenarios = build::scenarios()?;
    build::watcher(&image)?;
    let kernels: Vec<String> = ["6.1", "6.12"]
        .iter()
        .map(|kernel| image.vmlinuz(kernel).map(|path| path.display().to_string()).context("a kernel is missing"))
        .collect::<Result<_>>()?;
    let mut inert = shell::command("sh", ["scenarios/drive-by/test.sh"]);
    inert.arg(&scenarios);
    shell::run("the scenario's pieces refuse to act outside a micro-VM", inert)?;
    web::test(&programs, &scenarios)?;
    let python = validators::run()?;
    let mut tests = shell::command("cargo", ["test", "--release", "--locked", "--workspace", "--no-fail-fast"]);
    tests
        .env("LAVA_TEST_KERNELS", kernels.join(":"))
        .env("LAVA_TEST_PROGRAMS", &programs)
        .env("LAVA_TEST_SCENARIOS", &scenarios)
        .env("LAVA_TEST_VALIDATORS", &python)
        .env("INSTA_UPDATE", "no");
    shell::run("tests", tests)
}
