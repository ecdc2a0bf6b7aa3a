//! Doing what a header asks, on the guest itself.
//!
//! The child is made by one fork and becomes the task by one exec: no shell, no helper. It is an ordinary user's
//! process, or root's if that was asked for, in its own session, with nothing on its standard input and its output discarded.
//!
//! Limits: the user has no supplementary groups. The guest has one user and one task; nothing here is a boundary against
//! a task that has already taken the guest over.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::system::{RebootCommand, reboot};

use crate::header::Task;
use crate::identity::Identity;
use crate::serve::{Outcome, System};

/// The user that opens things; the image's recipe makes it.
const USER: Account = Account {
    name: "user",
    id: 1000,
    home: "/home/user",
    path: "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games",
};
/// The one that installs things.
const ROOT: Account = Account {
    name: "root",
    id: 0,
    home: "/root",
    path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
};
const CONSOLE: &str = "/dev/ttyS0";

/// Where the second disk is mounted, by udev, when the machine has one labelled `LAVA-SCENARIO`.
const SCENARIO: &str = "/opt/scenario";
const SCENARIO_WAIT: Duration = Duration::from_secs(30);
const SCENARIO_POLL: Duration = Duration::from_millis(50);

/// Whose process a task becomes.
struct Account {
    name: &'static str,
    /// Of the user and of its group.
    id: u32,
    home: &'static str,
    path: &'static str,
}

impl Account {
    const fn of(task: &Task) -> &'static Self {
        if task.root { &ROOT } else { &USER }
    }
}

/// The machine the launcher runs on.
pub struct Guest;

impl System for Guest {
    fn run(&self, task: &Task, bytes: &mut dyn Read) -> io::Result<Outcome> {
        let outcome = match start(task, bytes) {
            Ok(mut child) => child.wait().map(ended).unwrap_or_else(|error| Outcome::Error(error.to_string())),
            Err(why) => Outcome::Error(why),
        };
        // Delayed writes must reach the disk, where they are watched, before the host takes the task for finished.
        rustix::fs::sync();
        Ok(outcome)
    }

    fn identify(&self, identity: &Identity) -> Result<(), String> {
        identity.take()
    }

    fn trust(&self, certificate: &str) -> Result<(), String> {
        crate::trust::add(Path::new("/"), certificate)
    }

    fn reboot(&self) {
        restart(RebootCommand::Restart);
    }

    fn power_off(&self) {
        restart(RebootCommand::PowerOff);
    }
}

fn restart(how: RebootCommand) {
    rustix::fs::sync();
    // Fails only without privilege, that is in a test; the host sees that the machine goes on.
    let _refused = reboot(how);
}

fn start(task: &Task, bytes: &mut dyn Read) -> Result<std::process::Child, String> {
    let placed = if task.existing { prepare(task) } else { write(task, bytes) };
    placed.map_err(|error| format!("cannot put {} in place: {error}", task.path.display()))?;
    if task.scenario_disk && !wait_for_mount(Path::new(SCENARIO)) {
        return Err(format!("no disk labelled LAVA-SCENARIO was mounted on {SCENARIO} within {SCENARIO_WAIT:?}"));
    }
    let mut command = command(task)?;
    let account = Account::of(task);
    command.uid(account.id).gid(account.id).current_dir(account.home);
    own_session(&mut command);
    command.spawn().map_err(|error| format!("cannot start {:?}: {error}", command.get_program()))
}

/// The command with arguments, environment and streams, but not yet as another user.
fn command(task: &Task) -> Result<Command, String> {
    let arguments = task.arguments();
    let (program, rest) = arguments.split_first().ok_or("the command is empty")?;
    let account = Account::of(task);
    let mut command = Command::new(program);
    command
        .args(rest)
        .env_clear()
        .envs([("HOME", account.home), ("USER", account.name), ("LOGNAME", account.name), ("SHELL", "/bin/bash")])
        .envs([("PATH", account.path), ("LANG", "C.UTF-8"), ("PWD", account.home)])
        .envs(&task.env)
        .stdin(Stdio::null());
    let (out, err) = if task.console { console()? } else { (Stdio::null(), Stdio::null()) };
    command.stdout(out).stderr(err);
    Ok(command)
}

fn console() -> Result<(Stdio, Stdio), String> {
    let no_terminal = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap_or(0);
    let open = || {
        let out = File::options().write(true).custom_flags(no_terminal).open(CONSOLE)?;
        let err = out.try_clone()?;
        Ok::<_, io::Error>((Stdio::from(out), Stdio::from(err)))
    };
    open().map_err(|error| format!("cannot open {CONSOLE}: {error}"))
}

/// Lets the child begin a session of its own, so that it has no terminal and shares no job control with the launcher.
#[allow(unsafe_code)]
fn own_session(command: &mut Command) {
    // SAFETY: the closure runs in the child between fork and exec. It makes one system call, setsid(2), which is
    // async-signal-safe; it takes no lock and allocates nothing (the error is the bare number).
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
}

/// Writes the task's file anew: what was at the path, a symbolic link too, is removed and not followed.
fn write(task: &Task, bytes: &mut dyn Read) -> io::Result<()> {
    match fs::remove_file(&task.path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&task.path)?;
    let count = io::copy(bytes, &mut file)?;
    if count != task.size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    own(task, &file)
}

/// Gives a file that is there what a task's file has. A symbolic link is not followed.
fn prepare(task: &Task) -> io::Result<()> {
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    own(task, &File::options().read(true).custom_flags(no_follow).open(&task.path)?)
}

fn own(task: &Task, file: &File) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let account = Account::of(task);
        fchown(file, Some(account.id), Some(account.id))?;
    }
    file.set_permissions(fs::Permissions::from_mode(task.mode & 0o7777))
}

fn ended(status: std::process::ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exit(code),
        (None, Some(number)) => Outcome::Signal(number),
        (None, None) => Outcome::Error(format!("ended in an unknown way: {status}")),
    }
}

fn wait_for_mount(place: &Path) -> bool {
    let deadline = Instant::now() + SCENARIO_WAIT;
    loop {
        if fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| is_mounted(&table, place)) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(SCENARIO_POLL);
    }
}

/// Whether a mountinfo table (proc(5): the mount point is the fifth field) has a mount on `place`.
fn is_mounted(table: &str, place: &Path) -> bool {
    table.lines().any(|line| line.split(' ').nth(4).is_some_and(|mounted| Path::new(mounted) == place))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn task(path: &Path, size: u64, command: &[&str]) -> Task {
        Task {
            name: "sample".into(),
            path: path.to_owned(),
            size,
            existing: false,
            command: command.iter().map(|&word| word.to_owned()).collect(),
            env: BTreeMap::from([("COLOUR".into(), "blue".into())]),
            scenario_disk: false,
            mode: 0o751,
            console: false,
            root: false,
        }
    }

    #[test]
    fn the_file_is_written_anew_and_a_link_is_not_followed() {
        let place = tempfile::tempdir().expect("temporary directory");
        let (victim, path) = (place.path().join("victim"), place.path().join("task"));
        fs::write(&victim, "untouched").expect("victim");
        std::os::unix::fs::symlink(&victim, &path).expect("link");
        write(&task(&path, 3, &[]), &mut "abc".as_bytes()).expect("written");
        assert_eq!(fs::read_to_string(&victim).expect("victim"), "untouched");
        assert_eq!(fs::read_to_string(&path).expect("task"), "abc");
        assert_eq!(fs::symlink_metadata(&path).expect("metadata").permissions().mode() & 0o7777, 0o751);
    }

    #[test]
    fn a_file_that_is_there_gets_its_mode_and_keeps_its_bytes() {
        let place = tempfile::tempdir().expect("temporary directory");
        let (path, link) = (place.path().join("member"), place.path().join("link"));
        fs::write(&path, "abc").expect("member");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        prepare(&task(&path, 0, &[])).expect("prepared");
        assert_eq!(fs::read_to_string(&path).expect("member"), "abc");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o7777, 0o751);
        assert!(prepare(&task(&link, 0, &[])).is_err());
    }

    #[test]
    fn a_missing_directory_and_missing_bytes_are_errors() {
        let place = tempfile::tempdir().expect("temporary directory");
        assert!(write(&task(&place.path().join("none/task"), 0, &[]), &mut "".as_bytes()).is_err());
        assert!(write(&task(&place.path().join("task"), 4, &[]), &mut "abc".as_bytes()).is_err());
    }

    #[test]
    fn the_command_has_its_environment_and_its_end_is_told() {
        let script = r#"[ "$COLOUR$USER" = blueuser ] && [ "$(env | wc -l)" -le 12 ] && exit 7"#;
        let status = command(&task(Path::new("/x"), 0, &["sh", "-c", script])).expect("command").status();
        assert_eq!(ended(status.expect("status")), Outcome::Exit(7));
        let status = command(&task(Path::new("/x"), 0, &["sh", "-c", "kill -9 $$"])).expect("command").status();
        assert_eq!(ended(status.expect("status")), Outcome::Signal(9));
        let script = r#"[ "$USER$HOME" = root/root ] && case $PATH in */sbin:*) exit 5;; esac"#;
        let root = Task { root: true, ..task(Path::new("/x"), 0, &["sh", "-c", script]) };
        assert_eq!(ended(command(&root).expect("command").status().expect("status")), Outcome::Exit(5));
        assert!(command(&task(Path::new("/x"), 0, &[])).is_err());
    }

    #[test]
    fn the_child_begins_its_own_session() {
        // Field 6 of /proc/PID/stat is the session; the shell's own built-ins keep this to one process.
        let script = r#"read -r pid comm state ppid group session rest </proc/$$/stat; [ "$session" = $$ ]"#;
        let mut command = command(&task(Path::new("/x"), 0, &["sh", "-c", script])).expect("command");
        own_session(&mut command);
        assert_eq!(ended(command.status().expect("status")), Outcome::Exit(0));
    }

    #[test]
    fn a_mount_is_found_by_its_place() {
        let table = "29 1 254:1 / / rw - ext4 /dev/vda1 rw\n40 29 254:16 / /opt/scenario rw - ext4 /dev/vdb rw\n";
        assert!(is_mounted(table, Path::new(SCENARIO)));
        assert!(!is_mounted(table, Path::new("/opt")));
    }
}
