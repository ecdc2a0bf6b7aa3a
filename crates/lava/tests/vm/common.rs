//! Running `lava`, and reading what it left.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lava_event::{Action, Event, Finding, Kind};
use lava_evidence::Session;

/// Much longer than it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// One micro-VM at a time: two would only slow each other down.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits for the turn.
pub fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn place(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test`"))
}

/// A file that the scenarios' build made.
pub fn scenario(name: &str) -> PathBuf {
    place("LAVA_TEST_SCENARIOS").join(name)
}

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// `lava`, as `cargo xtask test` built it.
pub fn lava() -> Command {
    let mut command = Command::new(place("LAVA_TEST_PROGRAMS").join("lava"));
    command.env("LAVA_SHARE", root()).env_remove("LAVA_SESSIONS").env("NO_COLOR", "1");
    command
}

/// What a run left.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub session: Session,
    pub events: Vec<Event>,
    pub findings: Vec<Finding>,
    pub console: String,
    _out: tempfile::TempDir,
}

/// Runs `lava run` with these arguments in a turn of its own.
pub fn run(arguments: &[&str]) -> Ran {
    run_by(lava(), arguments)
}

/// The same by this command, which is `lava`, or starts it.
pub fn run_by(mut command: Command, arguments: &[&str]) -> Ran {
    let _turn = turn();
    let out = tempfile::tempdir().unwrap();
    let output = command.arg("run").args(arguments).arg("--out").arg(out.path()).output().unwrap();
    read(&output, out)
}

/// Reads the one session in `out`.
pub fn read(output: &Output, out: tempfile::TempDir) -> Ran {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let dir = std::fs::read_dir(out.path()).unwrap().next().unwrap_or_else(|| panic!("no session: {stderr}"));
    let session = Session::open(&dir.unwrap().path()).unwrap();
    let events: Vec<Event> = session.events().unwrap().map(|event| event.unwrap()).collect();
    let findings = session.findings().unwrap();
    let console = std::fs::read(session.dir().join("console.log")).unwrap_or_default();
    let console = String::from_utf8_lossy(&console).replace('\r', "");
    for (event, seq) in events.iter().zip(1..) {
        assert_eq!(event.seq, seq, "the stream has no gaps");
    }
    Ran { code: output.status.code(), stdout, stderr, session, events, findings, console, _out: out }
}

impl Ran {
    /// What was asked of it while it ran: command, outcome, by whom.
    pub fn responses(&self) -> Vec<(&str, &str, &str)> {
        let told = self.events.iter().filter_map(|event| match &event.kind {
            Kind::VmResponse { command, outcome, by } => Some((command.as_str(), outcome.as_str(), by.as_str())),
            _ => None,
        });
        told.collect()
    }
}

/// Begins to run a script, put into `place`, in a session that will stand in `out`: for another terminal to act on.
pub fn begin(out: &Path, place: &Path, script: &str, further: &[&str]) -> Child {
    let task = place.join("task.sh");
    std::fs::write(&task, script).unwrap();
    let mut run = lava();
    run.args(["run", "--timeout", "600", "--out"]).arg(out).args(further).arg(&task);
    run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The QEMU of this `lava`: its cage is between them.
pub fn qemu_of(supervisor: u32) -> Option<u32> {
    let parent = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse::<u32>().ok()
    };
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        (name.starts_with("qemu") && parent(parent(pid)?)? == supervisor).then_some(pid)
    })
}

/// What `lava ctl` answers of the one session in `out`; the command with its arguments.
pub fn ctl(out: &Path, command: &str) -> String {
    let output = lava().args(["ctl", "latest"]).args(command.split(' ')).arg("--out").arg(out).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {told}{}", String::from_utf8_lossy(&output.stderr));
    told
}

/// The events so far of the one session in `out`.
pub fn log(out: &Path) -> Vec<Event> {
    let session = std::fs::read_dir(out).unwrap().next();
    let log = session.and_then(|dir| std::fs::read_to_string(dir.ok()?.path().join("events.jsonl")).ok());
    log.unwrap_or_default().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A shipped profile with a screen, written into the folder.
pub fn with_screen(profile: &str, folder: &Path) -> PathBuf {
    let shipped = std::fs::read_to_string(root().join(format!("images/profiles/{profile}.toml"))).unwrap();
    let file = folder.join("screen.toml");
    std::fs::write(&file, shipped.replace("memory_mib", "display = true\nmemory_mib")).unwrap();
    file
}

/// Waits until it holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Plays a script under a policy, one of ours or the text of one; nothing may be lost.
pub fn play(script: &str, policy: &str, further: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let task = dir.path().join("task.sh");
    std::fs::write(&task, format!("#!/bin/sh\n{script}\n")).unwrap();
    let file = dir.path().join("policy.yaml");
    let policy = if policy.contains('\n') {
        std::fs::write(&file, policy).unwrap();
        file.to_str().unwrap()
    } else {
        policy
    };
    let task = task.to_str().unwrap();
    let ran = run(&[&[task, "--policy", policy, "--console"], further].concat());
    assert!(
        !ran.events.iter().any(|event| matches!(event.kind, Kind::VmGap { .. })),
        "nothing was lost: {}",
        ran.stderr
    );
    ran
}

/// What was decided on the events that `wanted` chooses: action, rule, outcome.
pub fn decisions(ran: &Ran, wanted: impl Fn(&Event) -> bool) -> Vec<(Action, Option<String>, String)> {
    let of = |event: &Event| match &event.kind {
        Kind::VmDecision { subject, action, rule, outcome, .. } => {
            let about = ran.events.iter().find(|event| event.seq == *subject)?;
            wanted(about).then(|| (*action, rule.clone(), outcome.clone()))
        }
        _ => None,
    };
    ran.events.iter().filter_map(of).collect()
}
