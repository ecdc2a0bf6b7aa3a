//! `lava ctl`: answers an attack by hand, from another terminal, while `lava run` runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::builder::PossibleValuesParser;
use lava_control::{Button, Command, TYPED};
use lava_event::Action;
use lava_evidence::Session;

use crate::show;

/// The commands that have arguments, and these.
const WITH_ARGUMENTS: [(&str, &str); 5] = [
    ("decide", "SEQ allow|deny|remediate"),
    ("kill", "PID"),
    ("type", "TEXT"),
    ("key", "KEYS"),
    ("click", "X Y [left|middle|right]"),
];

/// What is asked of which session.
#[derive(clap::Args)]
pub struct Ctl {
    /// A session's folder, its id, or `latest`.
    session: String,
    /// pause and resume: the guest and the task's clock; stop: end in order; discard: end at once, the evidence is closed as
    /// usual; registers: of every vCPU; screen: keep its picture; dump: keep the guest's memory as
    /// memory-N.elf in the session's folder; snapshot: keep the micro-VM as it is, for `lava run --from SESSION` to go on from; status: running or paused; questions: what waits for an answer; decide SEQ allow|deny|remediate:
    /// answer it; kill PID: one process of the guest; and where the guest has a screen: type TEXT, key KEYS (ret, ctrl-c: QEMU's names),
    /// click X Y [left|middle|right] (a place of `lava screen`'s picture).
    #[arg(value_parser = words())]
    command: String,
    /// What the command needs.
    arguments: Vec<String>,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn words() -> PossibleValuesParser {
    let words = Command::WORDS.iter().map(Command::name);
    words.chain(WITH_ARGUMENTS.map(|(name, _)| name)).collect::<Vec<_>>().into()
}

/// The command of these words; none if they make no sense.
fn command(name: &str, arguments: &[&str]) -> Option<Command> {
    Some(match (name, arguments) {
        (_, []) => Command::named(name)?,
        ("decide", [seq, action]) => {
            let all = [Action::Allow, Action::Deny, Action::Remediate];
            let action = all.into_iter().find(|known| known.to_string() == *action)?;
            Command::Decide { seq: seq.parse().ok()?, action }
        }
        ("kill", [pid]) => Command::Kill { pid: pid.parse().ok()? },
        ("type", [text]) => Command::Type { text: (*text).to_owned() },
        ("key", [keys]) => Command::Key { keys: (*keys).to_owned() },
        ("click", [x, y, rest @ ..]) => {
            let button = match rest {
                [] => Button::default(),
                [name] => Button::ALL.into_iter().find(|button| button.name() == *name)?,
                _ => return None,
            };
            Command::Click { x: x.parse().ok()?, y: y.parse().ok()?, button }
        }
        _ => return None,
    })
}

impl Ctl {
    /// Asks, and prints what is replied.
    pub fn run(&self) -> Result<()> {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let command = command(&self.command, &arguments).with_context(|| {
            let wanted = WITH_ARGUMENTS.iter().find(|(name, _)| *name == self.command);
            let (given, wanted) = (arguments.join(" "), wanted.map_or("", |(_, arguments)| arguments));
            format!("`{0} {given}` can't be understood: it is `lava ctl SESSION {0} {wanted}`", self.command)
        })?;
        let session = show::find(&self.session, self.out.as_deref())?;
        if let Command::Type { text } = &command {
            return type_all(&session, text);
        }
        let text = send(&session, command.clone())??;
        if command == Command::Questions {
            return questions(&text, session.dir());
        }
        // Words of QEMU are among it.
        println!("{}", text.replace(|c: char| c.is_control() && c != '\n', " ").trim_end());
        Ok(())
    }
}

/// Types a text of any length, piece by piece.
fn type_all(session: &Session, text: &str) -> Result<()> {
    let characters: Vec<char> = text.chars().collect();
    for piece in characters.chunks(TYPED) {
        send(session, Command::Type { text: piece.iter().collect() })??;
    }
    println!("typed");
    Ok(())
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
