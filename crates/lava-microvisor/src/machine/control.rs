//! The control socket of a running session: what an analyst at another terminal may ask of it.
//!
//! One line of JSON is one request, one line the reply. The socket lies in the supervisor's folder (`owner.rs`), because the runtime
//! folder belongs to QEMU's user, who could put another socket in its place.
//!
//! QEMU's cage does not hold that folder.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use serde::{Deserialize, Serialize};

use super::life::Happening;
use super::owner;

/// A request's most bytes, line end included.
const REQUEST: u64 = 4096;
/// A reply's most bytes: registers of 16 vCPUs are some 64 KiB.
const REPLY: u64 = 1 << 20;
/// Connections at a time.
const CONNECTIONS: usize = 4;
/// For a client to write its line, or take its reply.
const PATIENCE: Duration = Duration::from_secs(10);

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
}

impl Command {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Status, Self::Pause, Self::Resume, Self::Stop, Self::Discard, Self::Registers, Self::Screen, Self::Dump];

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.name() == name)
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
        }
    }
}

/// What is replied: what came of it, or why nothing did.
pub(super) type Answer = Result<String, String>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Done(String),
    Error(String),
}

fn socket(runtime_dir: &Path) -> PathBuf {
    owner::folder(runtime_dir).join("socket")
}

/// Asks a running session; `runtime_dir` is its runtime folder.
///
/// # Errors
/// If nobody listens there, or what comes back is no reply. The inner error is the session's refusal.
pub fn ask(runtime_dir: &Path, command: Command) -> io::Result<Result<String, String>> {
    let mut stream = UnixStream::connect(socket(runtime_dir))?;
    stream.write_all(format!("{}\n", serde_json::to_string(&command)?).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(REPLY)).read_line(&mut line)?;
    Ok(match serde_json::from_str(&line)? {
        Line::Done(text) => Ok(text),
        Line::Error(why) => Err(why),
    })
}

/// Listens until it is dropped.
pub(super) struct Control {
    socket: PathBuf,
    over: Arc<AtomicBool>,
}

impl Control {
    pub(super) fn start(runtime_dir: &Path, tell: Sender<Happening>) -> io::Result<Self> {
        let control = Self { socket: socket(runtime_dir), over: Arc::default() };
        let listener = UnixListener::bind(&control.socket)?;
        let over = Arc::clone(&control.over);
        let listen = move || {
            let open = Arc::new(AtomicUsize::new(0));
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
                    open.fetch_sub(1, Ordering::SeqCst);
                    continue;
                }
                let (tell, served) = (tell.clone(), Arc::clone(&open));
                let serve = move || {
                    // A client that hangs up gets no more.
                    let _ = serve(&stream, &tell);
                    served.fetch_sub(1, Ordering::SeqCst);
                };
                if std::thread::Builder::new().name("control".into()).spawn(serve).is_err() {
                    open.fetch_sub(1, Ordering::SeqCst);
                }
            }
        };
        std::thread::Builder::new().name("control".into()).spawn(listen)?;
        Ok(control)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the listener. What fails here is gone already.
        let _ = UnixStream::connect(&self.socket);
        let _ = fs::remove_file(&self.socket);
    }
}

fn serve(stream: &UnixStream, tell: &Sender<Happening>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut from = BufReader::new(stream);
    let mut to = stream;
    let mut line = Vec::new();
    loop {
        line.clear();
        if from.by_ref().take(REQUEST).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n');
        let answer = match serde_json::from_slice::<Command>(&line) {
            _ if !whole => Err(format!("a request is one line of at most {REQUEST} bytes")),
            Err(error) => Err(format!("no request: {error}")),
            Ok(command) => {
                let (reply, answer) = bounded(1);
                let told = tell.send(Happening::Command(command, reply)).is_ok();
                let answer = if told { answer.recv().ok() } else { None };
                answer.unwrap_or_else(|| Err("the session is over".to_owned()))
            }
        };
        let reply = match answer {
            Ok(text) => Line::Done(text),
            Err(why) => Line::Error(why),
        };
        to.write_all(format!("{}\n", serde_json::to_string(&reply)?).as_bytes())?;
        if !whole {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes back for these bytes, from a session that does everything it is asked.
    fn check(request: &[u8], expect: &str) {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let (tell, happened) = bounded(4);
        let server = std::thread::spawn(move || serve(&theirs, &tell));
        let session = std::thread::spawn(move || {
            for happening in happened {
                let Happening::Command(command, reply) = happening else { continue };
                let _ = reply.send(Ok(command.name().to_owned()));
            }
        });
        (&ours).write_all(request).expect("write");
        ours.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let mut got = String::new();
        // A line that is too long is not read to its end, which the kernel reports as a reset after the reply.
        let _ = (&ours).read_to_string(&mut got);
        assert!(got.contains(expect), "{got}");
        let _ = server.join().expect("server");
        session.join().expect("session");
    }

    #[test]
    fn requests_are_carried_out_and_nonsense_is_refused() {
        check(b"{\"command\":\"pause\"}\n", "{\"done\":\"pause\"}\n");
        check(b"{\"command\":\"fly\"}\n{\"command\":\"status\"}\n", "{\"done\":\"status\"}\n");
        check(b"{\"command\":\"fly\"}\n", "unknown variant");
        check(b"\xff\xfe[[[[\n", "no request");
        check(b"{\"command\":\"pause\"}", "at most 4096 bytes");
        check(&[b'a'; 4096], "at most 4096 bytes");
    }

    #[test]
    fn a_socket_goes_with_its_session() {
        let place = tempfile::tempdir().expect("folder");
        let runtime = place.path().join("r");
        let owner = owner::Owner::new(&runtime, &[]).expect("owner");
        let (tell, happened) = bounded(4);
        let control = Control::start(&runtime, tell).expect("control");
        drop(happened);
        assert_eq!(ask(&runtime, Command::Stop).expect("reply"), Err("the session is over".to_owned()));
        drop(control);
        assert!(ask(&runtime, Command::Stop).is_err());
        drop(owner);
        assert!(!owner::is_running(&runtime));
    }
}
