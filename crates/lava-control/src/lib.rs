//! The control socket of a running session, seen from both ends: what may be asked, how it is written, and who asks.
//!
//! One line of JSON is one request, one line the reply. The socket lies in the supervisor's folder beside the session's
//! runtime folder. The microvisor listens there (`lava-microvisor/src/machine/control.rs`); `lava ctl` and the console ask.
//!
//! *Limits:* a request is answered within [`PATIENCE`] or not at all, and the client waits no longer than that; a memory dump or a snapshot may take minutes.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lava_event::{Action, SessionId};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

/// A request's most bytes, line end included.
pub const REQUEST: u64 = 4096;
/// A reply's most bytes: registers of 16 vCPUs are some 64 KiB.
pub const REPLY: u64 = 1 << 20;
/// For either end to write its line, or to take the other's.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// For a guest's memory to be written, with some for what is done before it.
const DUMP: Duration = Duration::from_secs(330);

/// Characters that are typed at a time: the guest is given some 50 ms for each.
pub const TYPED: usize = 100;

/// What may be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
    /// Keep the micro-VM as it is now, in the session's folder, for sessions to go on from: replied is where, and its size.
    Snapshot,
    /// Kill one process of the guest, with all its threads.
    Kill {
        /// Its number, as events tell it.
        pid: u32,
    },
    /// Type on the guest's keyboard, which is a US one.
    Type {
        /// What: ASCII that can be printed, tabs and line ends; at most [`TYPED`] characters.
        text: String,
    },
    /// Press keys together and let them go.
    Key {
        /// QEMU's names (qapi/ui.json, `QKeyCode`) with `-` between: `ret`, `ctrl-alt-delete`.
        keys: String,
    },
    /// Press and let go a button of the guest's pointer.
    Click {
        /// Where: the column in the screen's picture, from 0 at the left.
        x: u32,
        /// The row, from 0 at the top.
        y: u32,
        /// Which.
        #[serde(default)]
        button: Button,
    },
    /// A live view of the screen: [`watch`] asks for it.
    Watch,
    /// Tell in the log that the analyst takes keyboard and pointer in such a view, or gives them back.
    Control {
        /// Takes.
        taken: bool,
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

/// A button of the pointer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Button {
    /// The first.
    #[default]
    Left,
    /// The second.
    Middle,
    /// The third.
    Right,
}

impl Button {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Left, Self::Middle, Self::Right];

    /// As in requests, and QEMU's name for it (qapi/ui.json, `InputButton`).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Middle => "middle",
            Self::Right => "right",
        }
    }
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
    pub const WORDS: [Self; 10] = [
        Self::Status,
        Self::Pause,
        Self::Resume,
        Self::Stop,
        Self::Discard,
        Self::Registers,
        Self::Screen,
        Self::Dump,
        Self::Snapshot,
        Self::Questions,
    ];

    /// The one that is this word.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::WORDS.into_iter().find(|command| command.name() == name)
    }

    /// As in requests and in `vm.response`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop => "stop",
            Self::Discard => "discard",
            Self::Registers => "registers",
            Self::Screen => "screen",
            Self::Dump => "dump",
            Self::Snapshot => "snapshot",
            Self::Questions => "questions",
            Self::Type { .. } => "type",
            Self::Key { .. } => "key",
            Self::Click { .. } => "click",
            Self::Watch => "watch",
            Self::Control { .. } => "control",
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
    let limit = if matches!(command, Command::Dump | Command::Snapshot) { DUMP } else { PATIENCE };
    let mut stream = send(runtime_dir, &command, limit)?;
    let mut line = String::new();
    BufReader::new((&mut stream).take(REPLY)).read_line(&mut line)?;
    answer(&line)
}

/// Asks a running session for a live view of its screen: a socket at whose other end QEMU speaks RFB 3.8 (RFC 6143) without
/// authentication. What comes out of it is hostile, and what goes into it moves the guest's keyboard and pointer.
///
/// # Errors
/// As [`ask`].
pub fn watch(runtime_dir: &Path) -> io::Result<Result<UnixStream, String>> {
    let mut stream = send(runtime_dir, &Command::Watch, PATIENCE)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut first = [0; 1];
    let got = rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut first)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let view = beside.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    let mut line = String::from_utf8_lossy(first.get(..got.bytes).unwrap_or_default()).into_owned();
    BufReader::new((&mut stream).take(REPLY)).read_line(&mut line)?;
    match (answer(&line)?, view) {
        (Err(why), _) => Ok(Err(why)),
        (Ok(_), Some(view)) => Ok(Ok(view.into())),
        (Ok(_), None) => Err(io::Error::new(io::ErrorKind::InvalidData, "the reply holds no socket")),
    }
}

/// Sends a reply's line, with an open file beside it.
///
/// # Errors
/// If nobody takes it.
pub fn hand_over(stream: &UnixStream, line: &str, file: &OwnedFd) -> io::Result<()> {
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    beside.push(SendAncillaryMessage::ScmRights(&files));
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(line.as_bytes())], &mut beside, SendFlags::NOSIGNAL)?;
    // The file went along with the first byte.
    let mut to = stream;
    to.write_all(line.as_bytes().get(sent..).unwrap_or_default())
}

fn send(runtime_dir: &Path, command: &Command, limit: Duration) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(folder(runtime_dir).join("socket"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{}\n", serde_json::to_string(command)?).as_bytes())?;
    Ok(stream)
}

fn answer(line: &str) -> io::Result<Answer> {
    Ok(match serde_json::from_str(line)? {
        Line::Done(text) => Ok(text),
        Line::Error(why) => Err(why),
    })
}
