//! A small synchronous QMP client (QEMU, `docs/interop/qmp-spec.rst`).
//!
//! One thread reads: answers go to the command that waits, events to a function of the caller's. QEMU may have been taken
//! over by its guest, so a line is at most 1 MiB and what makes no sense ends the conversation.

use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};

const LINE_LIMIT: u64 = 1 << 20;
/// To write a guest's memory to a file, or to read it: 2 GiB take 15 s on an idle machine.
const DUMP: Duration = Duration::from_secs(300);

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket failed.
    #[error("QMP socket: {0}")]
    Socket(#[from] std::io::Error),
    /// No greeting or no answer in time.
    #[error("QEMU did not answer {command} within {limit:?}")]
    Timeout {
        /// What was asked.
        command: String,
        /// How long was waited.
        limit: Duration,
    },
    /// QEMU is gone, or spoke nonsense.
    #[error("QEMU hung up while {command} was waiting")]
    Closed {
        /// What was asked.
        command: String,
    },
    /// QEMU said no.
    #[error("QEMU refused {command}: {why}")]
    Refused {
        /// What was asked.
        command: String,
        /// Its reason.
        why: String,
    },
}

/// What QEMU tells unasked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QmpEvent {
    /// The machine is going down.
    Shutdown {
        /// True if the guest wanted it.
        guest: bool,
    },
    /// The machine was reset.
    Reset {
        /// True if the guest wanted it.
        guest: bool,
        /// QEMU's word for why (`guest-reset`, `host-qmp-system-reset`).
        reason: String,
    },
    /// A disk request failed; a denied write does that.
    BlockIoError,
    /// The guest's kernel panicked.
    GuestPanicked,
    /// Anything else.
    Other(String),
    /// QEMU hung up: always the last.
    Closed,
}

/// A conversation with one QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    answers: Receiver<Value>,
    limit: Duration,
}

impl Qmp {
    /// Connects, waiting up to `limit` for the socket to appear, and takes up the conversation.
    ///
    /// # Errors
    /// [`QmpError`] if nobody greets in time. `gone` may end the wait early: QEMU has died.
    pub fn connect(
        path: &Path,
        limit: Duration,
        gone: &mut dyn FnMut() -> bool,
        events: impl Fn(QmpEvent) + Send + 'static,
    ) -> Result<Self, QmpError> {
        Self::over(dial(path, limit, gone)?, limit, events)
    }

    /// Takes up the conversation over a connected socket.
    ///
    /// # Errors
    /// [`QmpError`] if nobody greets in time.
    pub fn over(
        stream: UnixStream,
        limit: Duration,
        events: impl Fn(QmpEvent) + Send + 'static,
    ) -> Result<Self, QmpError> {
        stream.set_write_timeout(Some(limit))?;
        let (answer, answers) = bounded(4);
        let from = stream.try_clone()?;
        std::thread::Builder::new().name("qmp".into()).spawn(move || read(from, &answer, &events))?;
        let mut qmp = Self { stream, answers, limit };
        qmp.answer("greeting")?;
        qmp.execute("qmp_capabilities", None)?;
        Ok(qmp)
    }

    /// Carries out one command and returns its `return` value.
    ///
    /// # Errors
    /// [`QmpError`]; after a timeout the conversation cannot be trusted any more.
    pub fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        let mut request = json!({ "execute": command });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        let mut line = request.to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes())?;
        self.returned(command)
    }

    /// The `return` value of the command that was sent.
    fn returned(&self, command: &str) -> Result<Value, QmpError> {
        let mut answer = self.answer(command)?;
        if let Some(error) = answer.get("error") {
            let why =
                error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").chars().take(300).collect();
            return Err(QmpError::Refused { command: command.to_owned(), why });
        }
        Ok(answer.get_mut("return").map(Value::take).unwrap_or_default())
    }

    fn answer(&self, command: &str) -> Result<Value, QmpError> {
        use crossbeam_channel::RecvTimeoutError::{Disconnected, Timeout};
        self.answers.recv_timeout(self.limit).map_err(|error| match error {
            Timeout => QmpError::Timeout { command: command.to_owned(), limit: self.limit },
            Disconnected => QmpError::Closed { command: command.to_owned() },
        })
    }

    /// Ends QEMU.
    ///
    /// # Errors
    /// As [`Qmp::execute`], and so the others.
    pub fn quit(&mut self) -> Result<(), QmpError> {
        self.execute("quit", None).map(drop)
    }

    /// The reset button.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn system_reset(&mut self) -> Result<(), QmpError> {
        self.execute("system_reset", None).map(drop)
    }

    /// The power button: the guest may shut down in order.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn system_powerdown(&mut self) -> Result<(), QmpError> {
        self.execute("system_powerdown", None).map(drop)
    }

    /// Stops the vCPUs.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn stop(&mut self) -> Result<(), QmpError> {
        self.execute("stop", None).map(drop)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn cont(&mut self) -> Result<(), QmpError> {
        self.execute("cont", None).map(drop)
    }

    /// The registers of every vCPU, as QEMU prints them.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn registers(&mut self) -> Result<String, QmpError> {
        let line = json!({ "command-line": "info registers -a" });
        let told = self.execute("human-monitor-command", Some(line))?;
        Ok(told.as_str().unwrap_or_default().to_owned())
    }

    /// Writes the screen's picture to `file`, as PNG.
    ///
    /// # Errors
    /// As [`Qmp::execute`]; a machine without a screen is refused.
    pub fn screendump(&mut self, file: &Path) -> Result<(), QmpError> {
        let arguments = json!({ "filename": file.display().to_string(), "format": "png" });
        self.execute("screendump", Some(arguments)).map(drop)
    }

    /// Writes the guest's memory to `file` as an ELF core; the machine should be stopped.
    ///
    /// # Errors
    /// As [`Qmp::execute`], or if QEMU could not write it.
    pub fn dump(&mut self, file: BorrowedFd<'_>) -> Result<(), QmpError> {
        let command = "dump-guest-memory";
        self.hand_over("dump", file)?;
        let arguments = json!({ "paging": false, "protocol": "fd:dump", "detach": true });
        self.execute(command, Some(arguments))?;
        self.completed(command, "query-dump", DUMP)
    }

    /// Writes memory and devices' state of the stopped machine to `file` (mapped-ram: pages at their places, sparse). It can go on afterwards.
    ///
    /// # Errors
    /// As [`Qmp::execute`], or if QEMU could not write it. One that has not run since the last time is refused.
    pub fn save_whole(&mut self, file: BorrowedFd<'_>) -> Result<(), QmpError> {
        // Nothing else wants the bandwidth: 0 is without a bound.
        self.execute("migrate-set-parameters", Some(json!({ "max-bandwidth": 0 })))?;
        self.whole("migrate", file)
    }

    /// Reads what [`Qmp::save_whole`] wrote into a machine that was started to wait for it. It does not run yet.
    ///
    /// # Errors
    /// As [`Qmp::execute`], or if QEMU could not read it.
    pub fn restore_whole(&mut self, file: BorrowedFd<'_>) -> Result<(), QmpError> {
        self.whole("migrate-incoming", file)
    }

    fn whole(&mut self, command: &str, file: BorrowedFd<'_>) -> Result<(), QmpError> {
        /// What QEMU calls the file among those that it was given.
        const SET: u32 = 1;
        self.capabilities(&[("x-ignore-shared", false), ("mapped-ram", true)])?;
        self.send_with_file("add-fd", json!({ "fdset-id": SET }), file)?;
        let done = self
            .execute(command, Some(json!({ "uri": format!("file:/dev/fdset/{SET}") })))
            .and_then(|_| self.completed(command, "query-migrate", DUMP));
        // QEMU closes its own; one that it has let go of already is no set any more.
        let closed = self.execute("remove-fd", Some(json!({ "fdset-id": SET })));
        done.and(match closed {
            Err(QmpError::Refused { .. }) => Ok(()),
            closed => closed.map(drop),
        })
    }

    /// Makes the other end of `socket` a viewer of the screen, who speaks RFB and need not prove who they are.
    ///
    /// # Errors
    /// As [`Qmp::execute`]; a machine without a screen is refused.
    pub fn add_viewer(&mut self, socket: BorrowedFd<'_>) -> Result<(), QmpError> {
        self.hand_over("view", socket)?;
        let arguments = json!({ "protocol": "vnc", "fdname": "view", "skipauth": true });
        self.execute("add_client", Some(arguments)).map(drop)
    }

    /// Gives QEMU an open file under a name.
    fn hand_over(&mut self, name: &str, file: BorrowedFd<'_>) -> Result<(), QmpError> {
        self.send_with_file("getfd", json!({ "fdname": name }), file)
    }

    /// Carries out a command that takes an open file.
    fn send_with_file(&mut self, command: &str, arguments: Value, file: BorrowedFd<'_>) -> Result<(), QmpError> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        let files = [file];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        beside.push(SendAncillaryMessage::ScmRights(&files));
        let text = [IoSlice::new(line.as_bytes())];
        let sent = rustix::net::sendmsg(&self.stream, &text, &mut beside, SendFlags::NOSIGNAL)
            .map_err(|error| QmpError::Socket(error.into()))?;
        // The file went along with the first byte.
        self.stream.write_all(line.as_bytes().get(sent..).unwrap_or_default())?;
        self.returned(command).map(drop)
    }

    /// Stops the machine and writes the state of its devices to `file`; memory that is a shared file is not written.
    ///
    /// # Errors
    /// As [`Qmp::execute`], or if QEMU could not write it.
    pub fn save(&mut self, file: &Path) -> Result<(), QmpError> {
        self.stop()?;
        self.ignore_shared()?;
        self.execute("migrate", Some(json!({ "uri": uri(file) })))?;
        self.migrated("migrate")
    }

    /// Reads what [`Qmp::save`] wrote into a machine that was started to wait for it, and lets it run.
    ///
    /// # Errors
    /// As [`Qmp::execute`], or if QEMU could not read it.
    pub fn restore(&mut self, file: &Path) -> Result<(), QmpError> {
        self.ignore_shared()?;
        self.execute("migrate-incoming", Some(json!({ "uri": uri(file) })))?;
        self.migrated("migrate-incoming")?;
        self.cont()
    }

    fn ignore_shared(&mut self) -> Result<(), QmpError> {
        self.capabilities(&[("x-ignore-shared", true)])
    }

    fn capabilities(&mut self, wanted: &[(&str, bool)]) -> Result<(), QmpError> {
        let wanted: Vec<Value> =
            wanted.iter().map(|(name, state)| json!({ "capability": name, "state": state })).collect();
        self.execute("migrate-set-capabilities", Some(json!({ "capabilities": wanted }))).map(drop)
    }

    fn migrated(&mut self, command: &str) -> Result<(), QmpError> {
        self.completed(command, "query-migrate", self.limit)
    }

    /// Waits until `query` says that what `command` began is done.
    fn completed(&mut self, command: &str, query: &str, limit: Duration) -> Result<(), QmpError> {
        let deadline = Instant::now() + limit;
        loop {
            let told = self.execute(query, None)?;
            match told.get("status").and_then(Value::as_str) {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let why = told.get("error-desc").and_then(Value::as_str).unwrap_or("no reason given");
                    let why = why.chars().take(300).collect();
                    return Err(QmpError::Refused { command: command.to_owned(), why });
                }
                _ if Instant::now() >= deadline => {
                    return Err(QmpError::Timeout { command: command.to_owned(), limit });
                }
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// `running`, `paused`, `shutdown`...
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn query_status(&mut self) -> Result<String, QmpError> {
        let status = self.execute("query-status", None)?;
        Ok(status.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        // Ends the reading thread; QEMU may have hung up already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// QEMU's address for a file.
fn uri(file: &Path) -> String {
    format!("file:{}", file.display())
}

/// Connects to a socket that QEMU is about to make.
pub(crate) fn dial(path: &Path, limit: Duration, gone: &mut dyn FnMut() -> bool) -> std::io::Result<UnixStream> {
    let deadline = Instant::now() + limit;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline || gone() => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn read(stream: UnixStream, answers: &Sender<Value>, events: &dyn Fn(QmpEvent)) {
    let mut from = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = from.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) || line.last() != Some(&b'\n') {
            break;
        }
        let Ok(value) = serde_json::from_slice::<Value>(&line) else { break };
        if let Some(name) = value.get("event").and_then(Value::as_str) {
            events(event(name, value.get("data").unwrap_or(&Value::Null)));
        } else if answers.try_send(value).is_err() {
            // Answers nobody asked for are not QEMU's.
            break;
        }
    }
    events(QmpEvent::Closed);
}

fn event(name: &str, data: &Value) -> QmpEvent {
    let guest = data.get("guest").and_then(Value::as_bool).unwrap_or(false);
    let reason = || data.get("reason").and_then(Value::as_str).unwrap_or_default().chars().take(64).collect();
    match name {
        "SHUTDOWN" => QmpEvent::Shutdown { guest },
        "RESET" => QmpEvent::Reset { guest, reason: reason() },
        "BLOCK_IO_ERROR" => QmpEvent::BlockIoError,
        "GUEST_PANICKED" => QmpEvent::GuestPanicked,
        other => QmpEvent::Other(other.chars().take(64).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    /// A QEMU that greets and gives these answers, one to each line it reads.
    fn check(answers: &'static [&'static str]) -> (Result<Qmp, QmpError>, Receiver<QmpEvent>) {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        std::thread::spawn(move || {
            let mut to = theirs.try_clone().expect("clone");
            let mut lines = BufReader::new(theirs).lines();
            to.write_all(b"{\"QMP\":{}}\n").expect("greeting");
            for answer in answers {
                let _ = lines.next();
                let _ = to.write_all(answer.as_bytes());
            }
            let _ = lines.next();
        });
        let (send, events) = crossbeam_channel::unbounded();
        (Qmp::over(ours, LIMIT, move |event| drop(send.send(event))), events)
    }

    #[test]
    fn commands_are_answered_and_events_told() {
        let (qmp, events) = check(&[
            "{\"return\":{}}\n",
            "{\"event\":\"RESET\",\"data\":{\"guest\":true,\"reason\":\"guest-reset\"}}\n{\"return\":{\"status\":\"running\"}}\n",
            "{\"error\":{\"class\":\"GenericError\",\"desc\":\"not now\"}}\n",
        ]);
        let mut qmp = qmp.expect("conversation");
        assert_eq!(qmp.query_status().expect("status"), "running");
        assert!(matches!(qmp.stop(), Err(QmpError::Refused { why, .. }) if why == "not now"));
        assert_eq!(events.recv(), Ok(QmpEvent::Reset { guest: true, reason: "guest-reset".into() }));
    }

    #[test]
    fn silence_and_nonsense_are_errors() {
        assert!(matches!(check(&[""]).0, Err(QmpError::Timeout { .. })));
        let (qmp, events) = check(&["nonsense\n"]);
        assert!(matches!(qmp, Err(QmpError::Closed { .. })));
        assert_eq!(events.recv(), Ok(QmpEvent::Closed));
    }
}
