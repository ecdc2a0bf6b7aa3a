//! `lava ctl`: answers an attack by hand, from another terminal, while `lava run` runs.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use lava_evidence::Session;
use lava_microvisor::machine::control::{self, Command};

use crate::{places, show};

/// Reads a command's name, for clap.
pub fn command() -> impl TypedValueParser<Value = Command> {
    PossibleValuesParser::new(Command::ALL.map(Command::name))
        .try_map(|name| Command::named(&name).ok_or("there is no such command"))
}

/// Asks, and prints what is replied.
pub fn ask(session: &str, command: Command, out: Option<&Path>) -> Result<()> {
    let text = send(&show::find(session, out)?, command)??;
    // Words of QEMU are among it.
    println!("{}", text.replace(|c: char| c.is_control() && c != '\n', " ").trim_end());
    Ok(())
}

/// Asks. The outer error is that nobody answers, the inner one the session's refusal.
pub fn send(session: &Session, command: Command) -> Result<Result<String>> {
    let id = &session.manifest().session;
    let answer = control::ask(&places::runtime(id), command)
        .with_context(|| format!("session {id} does not answer: only one that runs can be asked"))?;
    Ok(answer.map_err(|why| anyhow!("session {id}: {why}")))
}
