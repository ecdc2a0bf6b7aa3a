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
use super::limits::{Group, Limits};
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
    /// Its control group, or why it has none.
    group: Result<Group, String>,
}

/// What to start, and how.
pub(crate) struct Start<'a> {
    pub qemu: &'a Qemu,
    pub arguments: &'a [String],
    pub cage: &'a Cage,
    pub limits: Limits,
    /// What its control group is called.
    pub name: &'a str,
    /// Gets the first 16 MiB of the guest's console.
    pub console: &'a Path,
    /// Gets the first MiB of what QEMU complains.
    pub log: &'a Path,
}

impl Process {
    /// Starts it. `note` is told its number and its control group before it begins.
    pub fn spawn(
        start: &Start<'_>,
        note: impl FnOnce(Pid, Option<&Path>) -> Result<(), io::Error>,
    ) -> Result<Self, QemuError> {
        let create = |path: &Path| {
            File::create(path).map_err(|source| QemuError::Io { what: "cannot create", path: path.to_owned(), source })
        };
        let (console, log) = (create(start.console)?, create(start.log)?);
        let (mut child, report, go) = launch(start)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let tail = Arc::new(Mutex::new(Vec::new()));
        let mut process = Self { child, qemu: None, tail: Arc::clone(&tail), readers: Vec::new() };
        process.read("qemu-console", out, console, CONSOLE_LIMIT, None)?;
        process.read("qemu-stderr", err, log, LOG_LIMIT, Some(tail))?;
        let (pid, fd) = process.begun(report)?;
        let group = start.limits.apply(pid, start.name);
        let running = process.qemu.insert(Running { pid, fd, group: Err(String::new()) });
        running.group = group?;
        let noted = note(pid, running.group.as_ref().ok().map(|group| group.path.as_path()));
        noted.map_err(|source| QemuError::Io {
            what: "cannot write down process",
            path: pid.to_string().into(),
            source,
        })?;
        go_on(go)?;
        Ok(process)
    }

    /// Why no control group bounds it.
    pub fn unbounded(&self) -> Option<&str> {
        self.qemu.as_ref()?.group.as_ref().err().map(String::as_str)
    }

    /// Waits until `bwrap` has started QEMU's process, which is held.
    fn begun(&mut self, report: OwnedFd) -> Result<(Pid, OwnedFd), QemuError> {
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
        Ok((pid, fd))
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
        // utime and stime.
        let ticks = stat_field(self.qemu.as_ref()?.pid, 14)? + stat_field(self.qemu.as_ref()?.pid, 15)?;
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
                pidfd_gone(&qemu.fd, None);
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

/// Waits until a process is gone, at most so long; whether it is.
pub(crate) fn pidfd_gone(fd: &OwnedFd, limit: Option<Duration>) -> bool {
    let limit = limit.and_then(|limit| limit.try_into().ok());
    let mut gone = [PollFd::new(fd, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut gone, limit.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return ready.is_ok_and(|ready| ready > 0),
        }
    }
}

/// When a process was started, ticks since the host's boot.
pub(crate) fn start_time(pid: Pid) -> Option<u64> {
    stat_field(pid, 22)
}

/// A field of `/proc/PID/stat` by its number in proc_pid_stat(5), from the third on.
fn stat_field(pid: Pid, number: usize) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second, the name, may hold blanks and ends with the last `)`.
    stat.rsplit_once(')')?.1.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// Starts `bwrap`: the process, what it reports through, and what lets QEMU go on.
fn launch(start: &Start<'_>) -> Result<(Child, OwnedFd, OwnedFd), QemuError> {
    /// A process that another thread starts meanwhile would inherit the pipes' ends too.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let failed = |error: Errno| QemuError::Io { what: "no pipe to", path: BWRAP.into(), source: error.into() };
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed);
    let ((report, reporting), (held, go)) = (pipe()?, pipe()?);
    let further = ["--info-fd", &reporting.as_raw_fd().to_string(), "--block-fd", &held.as_raw_fd().to_string()];
    let mut command = start.cage.command(&start.qemu.path, &further.map(str::to_owned))?;
    // A group of its own: a Ctrl-C at the terminal is for the supervisor, which ends the session in order.
    command.args(start.arguments).process_group(0);
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

/// Reads to the end, so that nobody waits for us; keeps what the limit allows.
pub(crate) fn copy(mut from: impl Read, mut to: impl Write, mut limit: u64, tail: Option<Arc<Mutex<Vec<u8>>>>) {
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
        let user = choose_user().expect("a user");
        let start = Start {
            qemu: &qemu,
            arguments: &arguments,
            cage: &Cage::new(user.as_ref().map(|user| user.id)),
            limits: Limits { memory_mib: 128, vcpus: 1 },
            name: &format!("lava-test-{}", folder.path().file_name().expect("name").display()),
            console: &console,
            log: &log,
        };
        (Process::spawn(&start, |_, _| Ok(())).expect("spawn"), folder)
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
    fn it_is_limited_before_it_begins() {
        let (mut process, folder) = shell("echo $(ulimit -c) $(ulimit -n) $(ulimit -f)");
        assert!(
            process.wait(Duration::from_secs(20)).is_some_and(|status| status.success()),
            "{}",
            process.complaint()
        );
        assert_eq!(process.complaint(), "");
        let told = std::fs::read_to_string(folder.path().join("console")).expect("console");
        // The shell tells file sizes in blocks of 512 bytes.
        assert_eq!(told.trim(), format!("0 1024 {}", (128 + 64) * 2048));
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
