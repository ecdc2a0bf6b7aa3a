//! Programs of the host's that read what a guest made, in a cage like QEMU's.
//!
//! Such a program parses hostile bytes as QEMU does, and gets no more: its own file, the system's libraries, one folder, no network, no other
//! process; an unprivileged user of its own if we are root. `prlimit` (util-linux) bounds its processor time, memory and files.
//!
//! *Invariant:* it does not outlive [`CagedTools::run`].

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::QemuError;
use super::cage::{self, Cage};
use super::users::{User, choose_user};

/// Bounds (util-linux).
const PRLIMIT: &str = "/usr/bin/prlimit";
/// Goes into the folder (coreutils): `bwrap` can't, as it may not enter another user's.
const ENV: &str = "/usr/bin/env";
/// Seconds of processor time, bytes of memory, open files.
const PROCESSOR: u64 = 300;
const MEMORY: u64 = 4 << 30;
const OPEN_FILES: u64 = 64;
/// From start to end.
const PATIENCE: Duration = Duration::from_secs(600);
/// What is kept of what it says, bytes of either stream.
const SAID: u64 = 64 << 10;

/// Runs programs in one folder, which is theirs as long as this lives.
pub struct CagedTools {
    folder: PathBuf,
    user: Option<User>,
    largest: u64,
}

impl CagedTools {
    /// For a folder that exists; files written there may have `largest` bytes.
    ///
    /// # Errors
    /// If there is no user to run them as.
    pub fn new(folder: &Path, largest: u64) -> Result<Self, QemuError> {
        Ok(Self { folder: folder.to_owned(), user: choose_user()?, largest })
    }

    /// Runs a program to its end, in the folder, with `input` on its standard input. Returns its exit code, and the beginning of what it said
    /// on either stream.
    ///
    /// # Errors
    /// If it is not there, the cage can't be made, it was killed or takes too long.
    pub fn run(&self, program: &Path, arguments: &[String], input: &[u8]) -> Result<(i32, String), QemuError> {
        if let Some(user) = &self.user {
            let failed = |source| QemuError::Io { what: "cannot give away", path: self.folder.clone(), source };
            give(&self.folder, user.id).map_err(failed)?;
        }
        let failed = |source| QemuError::Io { what: "cannot run", path: program.to_owned(), source };
        let mut child = self.start(program, arguments).map_err(|error| match error {
            Failed::Cage(error) => error,
            Failed::Start(source) => cage::not_started(source),
        })?;
        let readers = [reader(child.stdout.take()), reader(child.stderr.take())];
        let writer = child.stdin.take().map(|mut to| {
            let input = input.to_owned();
            // A program that ends early takes no more.
            std::thread::spawn(move || drop(to.write_all(&input)))
        });
        let ended = wait(&mut child);
        let said: Vec<String> = readers.into_iter().map(|reader| reader.join().unwrap_or_default()).collect();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
        let said = said.join("\n");
        match ended.map_err(failed)?.and_then(|status| status.code()) {
            // bwrap(1) has no code of its own for what it can't do: it says so.
            Some(_) if said.trim_start().starts_with("bwrap: ") => Err(cage::cannot(&said)),
            Some(code) => Ok((code, said)),
            None => Err(failed(io::Error::other(format!(
                "it was killed: more than {PROCESSOR} s of processor time, {} MiB of memory, or {} s",
                MEMORY >> 20,
                PATIENCE.as_secs()
            )))),
        }
    }

    fn start(&self, program: &Path, arguments: &[String]) -> Result<Child, Failed> {
        let mut cage = Cage::new(self.user.as_ref().map(|user| user.id));
        cage.give(&self.folder);
        for program in [program, ENV.as_ref()] {
            cage.program(program).map_err(Failed::Cage)?;
        }
        let mut command = cage.command(PRLIMIT.as_ref(), &[]).map_err(Failed::Cage)?;
        let (processor, memory, open) = (PROCESSOR, MEMORY, OPEN_FILES);
        command.args([format!("--cpu={processor}"), format!("--as={memory}"), format!("--nofile={open}")]);
        command.args([format!("--fsize={}", self.largest), "--core=0".to_owned(), "--".to_owned()]);
        command.args([ENV, "-C"]).arg(&self.folder).arg(program).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(Failed::Start)
    }
}

enum Failed {
    Cage(QemuError),
    Start(io::Error),
}

/// Makes a folder, and what is in it, the user's. No link is followed.
fn give(path: &Path, user: u32) -> io::Result<()> {
    let facts = fs::symlink_metadata(path)?;
    if facts.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), user)?;
        }
    }
    if facts.is_dir() || facts.is_file() { chown(path, Some(user), Some(user)) } else { Ok(()) }
}

fn reader(from: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let Some(mut from) = from else { return String::new() };
        let mut said = Vec::new();
        // What can't be read was not said; the rest is taken so that nobody waits for us.
        let _ = (&mut from).take(SAID).read_to_end(&mut said);
        let _ = io::copy(&mut from, &mut io::sink());
        String::from_utf8_lossy(&said).into_owned()
    })
}

/// Waits for its end; one that takes too long is killed.
fn wait(child: &mut Child) -> io::Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() >= deadline => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_sees_its_folder_and_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("file"), "mine").expect("file");
        let tools = CagedTools::new(folder.path(), 1 << 20).expect("user");
        let run = |program: &str, arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
            tools.run(program.as_ref(), &arguments, b"from us").expect("it ran")
        };
        assert_eq!(run("/usr/bin/cat", &["file", "-"]), (0, "minefrom us\n".to_owned()));
        let (code, said) = run("/usr/bin/cat", &["/etc/passwd"]);
        assert!(code == 1 && said.contains("No such file"), "{said}");
        assert_ne!(run("/usr/bin/id", &["-u"]).1.trim(), "0");
        assert_eq!(
            run("/usr/bin/ls", &["/proc/self/fd/../../"]).1.matches("\n1\n").count(),
            1,
            "its own processes only"
        );
        // More than it may write.
        let (code, said) = run("/usr/bin/dd", &["if=/dev/null", "bs=1", "seek=2M", "of=big"]);
        assert!(code != 0, "{said}");
        let missing = tools.run("/usr/bin/no-such-tool".as_ref(), &[], b"").expect_err("missing").to_string();
        assert!(missing.contains("no-such-tool"), "{missing}");
    }
}
