//! `cargo xtask demo`: the seed's attack, end to end.

use anyhow::{Result, bail};

use crate::{build, shell};

/// `lava run`'s exit code for a threat.
pub const THREAT: i32 = 3;

/// Sets up, builds and plays the drive-by.
pub fn run() -> Result<()> {
    let (programs, _) = build::ready()?;
    let scenarios = build::scenarios()?;
    eprintln!("xtask: playing the drive-by download; every other policy: lava run --policy protect|remediate ...");
    let lava = programs.join("lava");
    let mut command = shell::command(&lava.to_string_lossy(), ["run"]);
    command.arg(scenarios.join("applet.jar"));
    command.args(["--profile", "scenarios/drive-by/profile.toml", "--policy", "observe", "--reboot", "--disk"]);
    command.arg(scenarios.join("scenario.img"));
    let status = command.status()?;
    match status.code() {
        Some(THREAT) => Ok(()),
        _ => bail!(
            "the demo ended with {status}; a threat found is exit code {THREAT}. `{} doctor` may tell more",
            lava.display()
        ),
    }
}
