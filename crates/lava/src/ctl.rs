//! `lava ctl`: answers an attack by hand, from another terminal, while `lava run` runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::builder::PossibleValuesParser;
use lava_control::Command;
use lava_event::Action;
use lava_evidence::Session;

use crate::show;

/// The commands that have arguments.
const DECIDE: &str = "decide";
const KILL: &str = "kill";

/// What is asked of which session.
#[derive(clap::Args)]
pub struct Ctl {
    /// A session's folder, its id, or `latest`.
    session: String,
    /// pause and resume: the guest and the task's clock; stop: end in order; discard: end at once, the evidence is closed as
    /// usual; registers: of every vCPU; screen: keep its picture; dump: keep the guest's memory as
    /// memory-N.elf in the session's folder; status: running or paused; questions: what waits for an answer; decide SEQ ACTION: answer it; kill PID: one process of the guest.
    #[arg(value_parser = words())]
    command: String,
    /// decide: the event that waits; kill: the process.
    #[arg(value_name = "SEQ|PID", required_if_eq_any([("command", DECIDE), ("command", KILL)]))]
    number: Option<u64>,
    /// decide: allow, deny or remediate.
    #[arg(required_if_eq("command", DECIDE), value_parser = action)]
    action: Option<Action>,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn words() -> PossibleValuesParser {
    Command::WORDS.map(Command::name).into_iter().chain([DECIDE, KILL]).collect::<Vec<_>>().into()
}

fn action(text: &str) -> Result<Action, String> {
    let all = [Action::Allow, Action::Deny, Action::Remediate];
    all.into_iter().find(|action| action.to_string() == text).ok_or_else(|| "allow, deny or remediate".to_owned())
}

impl Ctl {
    /// Asks, and prints what is replied.
    pub fn run(&self) -> Result<()> {
        let command = match (Command::named(&self.command), self.number, self.action) {
            (Some(command), None, None) => command,
            (None, Some(seq), Some(action)) if self.command == DECIDE => Command::Decide { seq, action },
            (None, Some(pid), None) if self.command == KILL => {
                Command::Kill { pid: u32::try_from(pid).context("no process has such a number")? }
            }
            _ => bail!("only `{DECIDE}` has an event and an action, and `{KILL}` a process"),
        };
        let session = show::find(&self.session, self.out.as_deref())?;
        let text = send(&session, command)??;
        if command == Command::Questions {
            return questions(&text, session.dir());
        }
        // Words of QEMU are among it.
        println!("{}", text.replace(|c: char| c.is_control() && c != '\n', " ").trim_end());
        Ok(())
    }
}

/// Prints the questions that wait, each with its event.
fn questions(list: &str, dir: &Path) -> Result<()> {
    let questions: Vec<lava_control::Question> = serde_json::from_str(list).context("the session's reply")?;
    if questions.is_empty() {
        println!("nothing waits for an answer");
    }
    for question in questions {
        let event = lava_evidence::Follow::from_seq(&dir.join("events.jsonl"), question.seq)?.read()?;
        if let Some(event) = event {
            println!("{}", show::line(&event));
        }
        let until = question.deadline_ns as f64 / 1e9;
        println!("        rule {} of {}", question.rule.as_deref().unwrap_or("-"), question.policy);
        println!("        if nobody answers until second {until:.1}: {}", question.otherwise);
    }
    Ok(())
}

/// Asks. The outer error is that nobody answers, the inner one the session's refusal.
pub fn send(session: &Session, command: Command) -> Result<Result<String>> {
    let id = &session.manifest().session;
    let answer = lava_control::ask(&lava_control::runtime(id), command)
        .with_context(|| format!("session {id} does not answer: only one that runs can be asked"))?;
    Ok(answer.map_err(|why| anyhow!("session {id}: {why}")))
}
