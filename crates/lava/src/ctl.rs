//! `lava ctl`: answers an attack by hand, from another terminal, while `lava run` runs.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use lava_microvisor::machine::control::{self, Command};

use crate::{places, show};

/// What to do with a running session.
#[derive(Clone, Copy, clap::Subcommand)]
pub enum Ask {
    /// Say whether it runs or is paused.
    Status,
    /// Stop the guest and the task's clock.
    Pause,
    /// Let a paused guest go on.
    Resume,
    /// End the session in order; `lava run` then ends with its usual exit code.
    Stop,
    /// End the micro-VM at once, without the guest's shutdown; the evidence is closed as usual.
    Discard,
    /// Print the registers of every vCPU.
    Registers,
}

/// Asks, and prints what is replied.
pub fn ask(session: &str, ask: Ask, out: Option<&Path>) -> Result<()> {
    let session = show::find(session, out)?;
    let id = &session.manifest().session;
    let command = match ask {
        Ask::Status => Command::Status,
        Ask::Pause => Command::Pause,
        Ask::Resume => Command::Resume,
        Ask::Stop => Command::Stop,
        Ask::Discard => Command::Discard,
        Ask::Registers => Command::Registers,
    };
    let answer = control::ask(&places::runtime(id), command)
        .with_context(|| format!("session {id} does not answer: only one that runs can be asked"))?;
    let text = answer.map_err(|why| anyhow!("session {id}: {why}"))?;
    // Words of QEMU are among it.
    println!("{}", text.replace(|c: char| c.is_control() && c != '\n', " ").trim_end());
    Ok(())
}
