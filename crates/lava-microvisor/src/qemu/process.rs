//! QEMU's process: in a cage, and never without its supervisor.
//!
//! `setpriv` (util-linux) starts it: with `--pdeathsig KILL` the kernel kills QEMU when the thread that started it is
//! gone, however that came about; with `--no-new-privs`; and, if LAVA runs as root, as an unprivileged user without
//! groups and capabilities, demoted *before* QEMU's first instruction. (`-run-with user=` dies under `-sandbox`.)
//!
//! *Invariant:* the thread that calls [`Process::spawn`] outlives the process; dropping [`Process`] kills it.
//!
//! Files of ours that QEMU reads (tap, kernel) may lie where its user has no way to: it inherits them as descriptors and
//! opens `/proc/self/fd/N`, which asks for the file's own permission only.
//!
//! No two sessions that run at the same time share a user: each holds the lock of a file of its user's number.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Qemu, QemuError};
use crate::lock;

/// User ids nobody else has: systemd leaves 60578..61183 unused (`docs/UIDS-GIDS.md`).
const USERS: std::ops::Range<u32> = 60600..61100;
const CONSOLE_LIMIT: u64 = 16 << 20;
const LOG_LIMIT: u64 = 1 << 20;
const TAIL: usize = 2048;

/// Where the users' lock files lie; only root may write there.
const LOCKS: &str = "/run/lava-users";

/// The unprivileged user a QEMU runs as. It is ours alone as long as this lives; if we are killed, the kernel gives it back.
pub(crate) struct User {
    pub id: u32,
    _lock: File,
}

/// The user QEMU is to run as: `None` is our own, if that is unprivileged already.
pub(crate) fn choose_user() -> Result<Option<User>, QemuError> {
    if rustix::process::geteuid().is_root() { take_user(Path::new(LOCKS)).map(Some) } else { Ok(None) }
}

/// The first user whose lock nobody holds. The files stay: to remove one could give two sessions a lock of the same name.
fn take_user(folder: &Path) -> Result<User, QemuError> {
    let failed = |path: &Path, source| QemuError::Io { what: "cannot lock", path: path.to_owned(), source };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| failed(folder, source))?;
    for id in USERS {
        let path = folder.join(id.to_string());
        let lock = File::options().create(true).append(true).open(&path).map_err(|source| failed(&path, source))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(User { id, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(failed(&path, error.into())),
        }
    }
    Err(failed(folder, io::Error::other("every user of the pool is taken: too many sessions at once")))
}

/// A file that QEMU inherits.
pub(crate) struct Inherited {
    _file: File,
    /// Its path for QEMU.
    pub path: PathBuf,
}

impl Inherited {
    pub fn open(path: &Path, user: Option<u32>) -> Result<Self, QemuError> {
        let failed = |source| QemuError::Io { what: "cannot open", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if user.is_some() && file.metadata().map_err(failed)?.permissions().mode() & 0o004 == 0 {
            return Err(QemuError::Unreadable { path: path.to_owned() });
        }
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).map_err(|error| failed(error.into()))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(Self { _file: file, path })
    }
}

/// The running QEMU.
pub(crate) struct Process {
    child: Child,
    tail: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts it. `console` gets the first 16 MiB of the guest's console, `log` the first MiB of what QEMU complains.
    pub fn spawn(
        qemu: &Qemu,
        arguments: &[String],
        user: Option<u32>,
        console: &Path,
        log: &Path,
    ) -> Result<Self, QemuError> {
        let create = |path: &Path| {
            File::create(path).map_err(|source| QemuError::Io { what: "cannot create", path: path.to_owned(), source })
        };
        let (console, log) = (create(console)?, create(log)?);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--no-new-privs"]);
        if let Some(user) = user {
            let user = user.to_string();
            command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
            command.args(["--inh-caps=-all", "--bounding-set=-all"]);
        }
        command.arg("--").arg(&qemu.path).args(arguments);
        // A group of its own: a Ctrl-C at the terminal is for the supervisor, which ends the session in order.
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| QemuError::Io {
            what: "cannot start (package util-linux)",
            path: "setpriv".into(),
            source,
        })?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let tail = Arc::new(Mutex::new(Vec::new()));
        let mut process = Self { child, tail: Arc::clone(&tail), readers: Vec::new() };
        process.read("qemu-console", out, console, CONSOLE_LIMIT, None)?;
        process.read("qemu-stderr", err, log, LOG_LIMIT, Some(tail))?;
        Ok(process)
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
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
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
        // It fails only if the process is gone already.
        let _ = self.child.kill();
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
        if self.status().is_none() {
            self.kill();
        }
    }
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

    fn shell(script: &str) -> (Process, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("folder");
        let qemu = Qemu { path: "/bin/sh".into(), version: OLDEST };
        let arguments = ["-c".to_owned(), script.to_owned()];
        let (console, log) = (folder.path().join("console"), folder.path().join("log"));
        let user = choose_user().expect("a user").map(|user| user.id);
        (Process::spawn(&qemu, &arguments, user, &console, &log).expect("spawn"), folder)
    }

    #[test]
    fn it_runs_unprivileged_and_its_words_are_kept() {
        let (mut process, folder) = shell("id -u; echo oops >&2; exit 3");
        assert_eq!(process.wait(Duration::from_secs(20)).and_then(|status| status.code()), Some(3));
        assert_eq!(process.complaint(), "oops");
        let user = std::fs::read_to_string(folder.path().join("console")).expect("console");
        assert_ne!(user.trim(), "0");
    }

    #[test]
    fn a_user_is_one_sessions_alone_until_it_is_given_back() {
        let folder = tempfile::tempdir().expect("folder");
        let take = || take_user(folder.path()).expect("a user");
        let (first, second) = (take(), take());
        assert_ne!(first.id, second.id);
        let given_back = first.id;
        drop(first);
        assert_eq!(take().id, given_back);
        let _all: Vec<User> = USERS.skip(1).map(|_| take()).collect();
        assert!(take_user(folder.path()).is_err(), "the pool is used up");
        drop(second);
    }

    #[test]
    fn dropping_kills() {
        let (process, _folder) = shell("exec sleep 1000");
        let id = process.child.id();
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }
}
