//! The control socket of a running session, seen from both ends: what may be asked, how it is written, and who asks.
//!
//! One line of JSON is one request, one line the reply. The socket lies in the supervisor's folder beside the session's
//! runtime folder. The microvisor listens there (`lava-microvisor/src/machine/control.rs`); `lava ctl` and the console ask.
//!
//! *Limits:* a request is answered within [`PATIENCE`] or not at all, and the client waits no longer than that; a memory dump may take minutes.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lava_event::{Action, SessionId};
use serde::{Deserialize, Serialize};

/// A request's most bytes, line end included.
pub const REQUEST: u64 = 4096;
/// A reply's most bytes: registers of 16 vCPUs are some 64 KiB.
pub const REPLY: u64 = 1 << 20;
/// For either end to write its line, or to take the other's.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// For a guest's memory to be written, with some for what is done before it.
const DUMP: Duration = Duration::from_secs(330);

/// What may be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Whether it runs.
    Status,
    /// Stop the vCPUs and the task's clock.
    Pause,
    /// Let both go on.
    Resume,
    /// End the session in order.
    Stop,
    /// End it at once, without the guest's shutdown.
    Discard,
    /// The vCPUs' registers.
    Registers,
    /// The screen's picture: replied is the SHA-256 of an artifact of the session.
    Screen,
    /// The guest's memory, into the session's folder: replied is the file's name and size.
    Dump,
    /// Kill one process of the guest, with all its threads.
    Kill {
        /// Its number, as events tell it.
        pid: u32,
    },
    /// The questions that wait for an analyst: [`Question`]s, as a JSON list.
    Questions,
    /// The analyst's answer to one of them.
    Decide {
        /// The event that waits.
        seq: u64,
        /// What happens.
        action: Action,
    },
}

/// An event that does not happen before an analyst has answered, or has had their time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Question {
    /// The event.
    pub seq: u64,
    /// The policy.
    pub policy: String,
    /// The rule that asks.
    pub rule: Option<String>,
    /// Its reason.
    pub reason: Option<String>,
    /// What happens if nobody answers.
    pub otherwise: Action,
    /// When that is, session time in ns.
    pub deadline_ns: u64,
}

impl Command {
    /// Those that are a word.
    pub const WORDS: [Self; 9] = [
        Self::Status,
        Self::Pause,
        Self::Resume,
        Self::Stop,
        Self::Discard,
        Self::Registers,
        Self::Screen,
        Self::Dump,
        Self::Questions,
    ];

    /// The one that is this word.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::WORDS.into_iter().find(|command| command.name() == name)
    }

    /// As in requests and in `vm.response`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop => "stop",
            Self::Discard => "discard",
            Self::Registers => "registers",
            Self::Screen => "screen",
            Self::Dump => "dump",
            Self::Questions => "questions",
            Self::Kill { .. } => "kill",
            Self::Decide { .. } => "decide",
        }
    }
}

/// What is replied: what came of it, or why nothing did.
pub type Answer = Result<String, String>;

/// A reply as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// What came of it.
    Done(String),
    /// Why nothing did.
    Error(String),
}

impl From<Answer> for Line {
    fn from(answer: Answer) -> Self {
        match answer {
            Ok(text) => Self::Done(text),
            Err(why) => Self::Error(why),
        }
    }
}

/// Where running sessions have their memory and sockets.
pub const RUNTIME: &str = "/dev/shm";
/// What the name of a supervisor's folder ends with.
pub const SUFFIX: &str = "-control";

/// The folder of a running session's memory and sockets.
#[must_use]
pub fn runtime(session: &SessionId) -> PathBuf {
    Path::new(RUNTIME).join(format!("lava-{session}"))
}

/// The supervisor's folder with the socket, beside the runtime folder.
#[must_use]
pub fn folder(runtime_dir: &Path) -> PathBuf {
    let mut name = runtime_dir.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

/// Asks a running session; `runtime_dir` is its runtime folder.
///
/// # Errors
/// If nobody listens there, or what comes back is no reply. The inner error is the session's refusal.
pub fn ask(runtime_dir: &Path, command: Command) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(folder(runtime_dir).join("socket"))?;
    stream.set_read_timeout(Some(if command == Command::Dump { DUMP } else { PATIENCE }))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{}\n", serde_json::to_string(&command)?).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(REPLY)).read_line(&mut line)?;
    Ok(match serde_json::from_str(&line)? {
        Line::Done(text) => Ok(text),
        Line::Error(why) => Err(why),
    })
}
