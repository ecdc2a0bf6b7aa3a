//! QEMU's process: in its cage, and never without its supervisor.
//!
//! `bwrap` is our child, QEMU is `bwrap`'s, and the first process of its namespace. It is held before its first instruction until
//! we know its number and hold its pidfd.
//!
//! *Invariant:* the thread that calls [`Process::spawn`] outlives the process; dropping [`Process`] kills it, and returns when it is
//! gone.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, FdFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::Value;

use super::cage::{self, BWRAP, Cage};
use super::{Qemu, QemuError};
use crate::lock;

const CONSOLE_LIMIT: u64 = 16 << 20;
const LOG_LIMIT: u64 = 1 << 20;
const TAIL: usize = 2048;

/// Longest report of `bwrap` on what it made, bytes.
const REPORT: u64 = 4096;

/// The running QEMU.
pub(crate) struct Process {
    /// `bwrap`, which ends with QEMU and with its exit code.
    child: Child,
    qemu: Option<Running>,
    tail: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

/// QEMU itself.
struct Running {
    pid: Pid,
    fd: OwnedFd,
}

impl Process {
    /// Starts it. `console` gets the first 16 MiB of the guest's console, `log` the first MiB of what QEMU complains.
    pub fn spawn(
        qemu: &Qemu,
        arguments: &[String],
        cage: &Cage,
        console: &Path,
        log: &Path,
    ) -> Result<Self, QemuError> {
        let create = |path: &Path| {
            File::create(path).map_err(|source| QemuError::Io { what: "cannot create", path: path.to_owned(), source })
        };
        let (console, log) = (create(console)?, create(log)?);
        let (mut child, report, go) = start(qemu, arguments, cage)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let tail = Arc::new(Mutex::new(Vec::new()));
        let mut process = Self { child, qemu: None, tail: Arc::clone(&tail), readers: Vec::new() };
        process.read("qemu-console", out, console, CONSOLE_LIMIT, None)?;
        process.read("qemu-stderr", err, log, LOG_LIMIT, Some(tail))?;
        process.qemu = Some(process.begun(report)?);
        go_on(go)?;
        Ok(process)
    }

    /// Waits until `bwrap` has started QEMU's process, which is held.
    fn begun(&mut self, report: OwnedFd) -> Result<Running, QemuError> {
        let mut text = Vec::new();
        // What can't be read tells nothing, and the process is looked at.
        let _ = File::from(report).take(REPORT).read_to_end(&mut text);
        let pid = serde_json::from_slice::<Value>(&text).ok().and_then(|report| {
            let pid = report.get("child-pid")?.as_i64()?;
            Pid::from_raw(i32::try_from(pid).ok()?)
        });
        // `bwrap` reports before it has made everything; what it fails at later, QEMU's end tells.
        let Some(pid) = pid else {
            self.kill();
            return Err(cage::cannot(&self.complaint()));
        };
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        let fd = fd.map_err(|error| QemuError::Io {
            what: "cannot watch process",
            path: pid.to_string().into(),
            source: error.into(),
        })?;
        Ok(Running { pid, fd })
    }

    fn read(
        &mut self,
        name: &str,
        from: Option<impl Read + Send + 'static>,
        to: File,
        limit: u64,
        tail: Option<Arc<Mutex<Vec<u8>>>>,
    ) -> Result<(), QemuError> {
        let Some(from) = from else { return Ok(()) };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || copy(from, to, limit, tail));
        let thread = thread.map_err(|source| QemuError::Io { what: "no thread for", path: name.into(), source })?;
        self.readers.push(thread);
        Ok(())
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Processor time it has used, all threads together; None if the host does not tell.
    pub fn cpu_time(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.qemu.as_ref()?.pid)).ok()?;
        // proc(5): utime and stime are the 14th and 15th field; the second, the name, may hold blanks and ends with the last `)`.
        let mut rest = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let ticks: u64 = rest.next()?.parse::<u64>().ok()? + rest.next()?.parse::<u64>().ok()?;
        Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// Waits for its end, at most so long.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.status() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) -> Option<ExitStatus> {
        match &self.qemu {
            Some(qemu) => {
                // It fails only if the process is gone already.
                let _ = rustix::process::pidfd_send_signal(&qemu.fd, Signal::KILL);
                let mut gone = [PollFd::new(&qemu.fd, PollFlags::IN)];
                while rustix::event::poll(&mut gone, None) == Err(Errno::INTR) {}
                // `bwrap` takes QEMU's exit code, and ends.
            }
            None => drop(self.child.kill()),
        }
        self.child.wait().ok()
    }

    /// The end of what it complained, once it is gone.
    pub fn complaint(&mut self) -> String {
        if self.status().is_some() {
            for reader in self.readers.drain(..) {
                let _ = reader.join();
            }
        }
        String::from_utf8_lossy(&lock(&self.tail)).trim().chars().filter(|c| !c.is_control() || *c == '\n').collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Even if `bwrap` is gone: QEMU goes after it, not before.
        self.kill();
    }
}

/// How a process of the cage ended. `bwrap` tells a signal as a shell does: 128 and its number.
pub(crate) fn how(status: ExitStatus) -> String {
    match status.code() {
        Some(code @ 129..=192) => format!("killed by signal {}", code - 128),
        _ => status.to_string(),
    }
}

/// Starts `bwrap`: the process, what it reports through, and what lets QEMU go on.
fn start(qemu: &Qemu, arguments: &[String], cage: &Cage) -> Result<(Child, OwnedFd, OwnedFd), QemuError> {
    /// A process that another thread starts meanwhile would inherit the pipes' ends too.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let failed = |error: Errno| QemuError::Io { what: "no pipe to", path: BWRAP.into(), source: error.into() };
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed);
    let ((report, reporting), (held, go)) = (pipe()?, pipe()?);
    let further = ["--info-fd", &reporting.as_raw_fd().to_string(), "--block-fd", &held.as_raw_fd().to_string()];
    let mut command = cage.command(&qemu.path, &further.map(str::to_owned))?;
    // A group of its own: a Ctrl-C at the terminal is for the supervisor, which ends the session in order.
    command.args(arguments).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let _turn = lock(&ONE_AT_A_TIME);
    for end in [&reporting, &held] {
        rustix::io::fcntl_setfd(end, FdFlags::empty()).map_err(failed)?;
    }
    let child = command.spawn().map_err(cage::not_started)?;
    Ok((child, report, go))
}

/// Lets QEMU's process begin.
fn go_on(go: OwnedFd) -> Result<(), QemuError> {
    let written = File::from(go).write_all(b".");
    written.map_err(|source| QemuError::Io { what: "cannot let QEMU go on in", path: BWRAP.into(), source })
}

/// Reads to the end, so that QEMU never waits for us; keeps what the limit allows.
fn copy(mut from: impl Read, mut to: File, mut limit: u64, tail: Option<Arc<Mutex<Vec<u8>>>>) {
    let mut buffer = [0; 4096];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let bytes = &buffer[..count];
        let kept = limit.min(count as u64);
        // A full file system costs the rest of the console, not the session.
        limit = if to.write_all(&bytes[..kept as usize]).is_ok() { limit - kept } else { 0 };
        if let Some(tail) = &tail {
            let mut tail = lock(tail);
            tail.extend(bytes);
            let excess = tail.len().saturating_sub(TAIL);
            tail.drain(..excess);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::OLDEST;
    use crate::qemu::users::choose_user;

    fn shell(script: &str) -> (Process, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("folder");
        let qemu = Qemu { path: "/bin/sh".into(), version: OLDEST };
        let arguments = ["-c".to_owned(), script.to_owned()];
        let (console, log) = (folder.path().join("console"), folder.path().join("log"));
        let user = choose_user().expect("a user").map(|user| user.id);
        (Process::spawn(&qemu, &arguments, &Cage::new(user), &console, &log).expect("spawn"), folder)
    }

    #[test]
    fn it_runs_unprivileged_and_its_words_are_kept() {
        let status = r#"while read -r name value _; do case $name in Uid:|Cap*) echo "$name $value";; esac; done"#;
        let (mut process, folder) = shell(&format!("{status} </proc/self/status; echo oops >&2; exit 3"));
        assert_eq!(process.wait(Duration::from_secs(20)).and_then(|status| status.code()), Some(3));
        assert_eq!(process.complaint(), "oops");
        let told = std::fs::read_to_string(folder.path().join("console")).expect("console");
        let told: Vec<_> = told.lines().filter_map(|line| line.split_once(' ')).collect();
        assert_eq!(told.len(), 6, "{told:?}");
        for (name, value) in told {
            assert_eq!(value.trim_start_matches('0').is_empty(), name != "Uid:", "{name} {value}");
        }
    }

    #[test]
    fn dropping_kills() {
        let (process, _folder) = shell("while :; do :; done");
        let pid = process.qemu.as_ref().expect("QEMU").pid;
        assert!(process.cpu_time().is_some());
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_signal_is_told_as_one() {
        let (mut process, _folder) = shell("while :; do :; done");
        let pid = process.qemu.as_ref().expect("QEMU").pid;
        rustix::process::kill_process(pid, Signal::KILL).expect("kill");
        let status = process.wait(Duration::from_secs(60)).expect("it ends");
        assert_eq!(how(status), "killed by signal 9");
    }
}
