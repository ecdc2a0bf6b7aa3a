//! The cage around QEMU: nothing of the host can be reached from inside it, nothing of it stays behind, and a guest that uses up what it has
//! leaves the session whole.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lava_event::Kind;
use lava_evidence::Session;

use crate::common::{lava, qemu_of, root, run, turn, until};

/// A session whose task sleeps.
struct Running {
    lava: Child,
    qemu: u32,
    out: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        let (out, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let task = folder.path().join("sleep.sh");
        std::fs::write(&task, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        let mut command = lava();
        command.arg("run").arg(&task).args(["--timeout", "900", "--format", "jsonl", "--out"]).arg(out.path());
        let mut lava = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(lava.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("process.exec") && line.contains("/usr/bin/sleep")), "the task runs");
        // Read on, or the pipe would hold lava back.
        std::thread::spawn(move || lines.for_each(drop));
        let qemu = qemu_of(lava.id()).expect("lava's QEMU");
        Self { lava, qemu, out }
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.qemu.to_string()).join(name)
    }

    fn session_dir(&self) -> PathBuf {
        std::fs::read_dir(self.out.path()).unwrap().next().unwrap().unwrap().path()
    }

    fn id(&self) -> String {
        self.session_dir().file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// What QEMU finds in a folder.
    fn sees(&self, folder: &str) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.proc("root").join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.lava.kill();
        let _ = self.lava.wait();
    }
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// What `tasks/reach.py` reaches: run on the host, or in QEMU's namespaces.
fn reached(namespaces: &[&str], port: u16, name: &str) -> Vec<String> {
    let (program, arguments) = namespaces.split_first().map_or(("python3", &[][..]), |(first, rest)| (*first, rest));
    let mut command = Command::new(program);
    command.args(arguments).arg(root().join("crates/lava/tests/vm/tasks/reach.py"));
    let output = command.args([&port.to_string(), name, &std::process::id().to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn nothing_of_the_host_is_reachable_from_qemu() {
    let _turn = turn();
    let session = Running::start();
    for name in ["mnt", "net", "pid", "ipc", "uts", "cgroup"] {
        let of = |process: PathBuf| std::fs::read_link(process.join("ns").join(name)).unwrap();
        assert_ne!(of(session.proc("")), of("/proc/self".into()), "{name}");
    }

    // Files: what was shown, and nothing else.
    let runtime = format!("lava-{}", session.id());
    let as_root = rustix::process::geteuid().is_root();
    assert_eq!(session.sees(""), names(["dev", "etc", "lava", "lib", "lib64", "proc", "usr"]));
    assert_eq!(session.sees("dev"), names(["null", "shm"]));
    assert_eq!(session.sees("dev/shm"), names([runtime.as_str()]));
    assert_eq!(session.sees("etc"), names(["ld.so.cache"]));
    assert_eq!(session.sees("lava"), names(["ram", "state", "tap.so", "kernel"]));
    assert_eq!(session.sees("usr"), names(["bin", "lib", "lib64", "share"]));
    let programs = if as_root { names(["qemu-system-x86_64", "setpriv"]) } else { names(["qemu-system-x86_64"]) };
    assert_eq!(session.sees("usr/bin"), programs);
    assert_eq!(session.sees("usr/share"), names(["qemu", "seabios"]));
    let mounts = std::fs::read_to_string(session.proc("mountinfo")).unwrap();
    let writable: Vec<&str> = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields[5].split(',').any(|option| option == "rw"))
        .map(|fields| fields[4])
        .collect();
    assert_eq!(writable, ["/dev/null", "/proc", &format!("/dev/shm/{runtime}")]);
    let status = std::fs::read_to_string(session.proc("status")).unwrap();
    let is = |line: &str| status.lines().any(|seen| seen.split_whitespace().eq(line.split(' ')));
    for line in ["CapEff: 0000000000000000", "CapBnd: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"] {
        assert!(is(line), "{line}\n{status}");
    }

    // Network, sockets without a file, processes: from the host they are there, from QEMU's namespaces they are not.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("lava-test-{}", std::process::id());
    let _unix = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(reached(&[], port, &name)[..3], ["tcp", "unix", "process"]);
    let target = session.qemu.to_string();
    let user: &[&str] = if as_root { &[] } else { &["-U", "--preserve-credentials"] };
    let enter = [&["nsenter", "-t", &target, "-n", "-p", "-i", "-u"], user, &["python3"]].concat();
    assert_eq!(reached(&enter, port, &name), ["interfaces: lo"]);
}

#[test]
fn a_killed_supervisor_leaves_nothing() {
    let _turn = turn();
    let mut session = Running::start();
    let (id, dir) = (session.id(), session.session_dir());
    let group = std::fs::read_to_string(session.proc("cgroup")).unwrap();
    let left = || {
        let shm = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name());
        let shm = shm.filter(|name| name.to_string_lossy().contains(&id)).count();
        shm + usize::from(dir.join("vda.overlay").exists())
    };
    assert_eq!(left(), 3, "runtime folder, control folder, overlay");
    let lava = |arguments: &[&str]| {
        let output = lava().args(arguments).arg("--out").arg(session.out.path()).output().unwrap();
        assert!(output.status.success() || arguments[0] == "verify", "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(lava(&["sessions"]).contains("  open  "));
    assert_eq!(left(), 3, "what runs is left alone");

    session.lava.kill().unwrap();
    session.lava.wait().unwrap();
    assert!(lava(&["sessions"]).contains("  interrupted  "));
    assert_eq!(left(), 0);
    until("QEMU is gone", || !Path::new("/proc").join(session.qemu.to_string()).exists());
    for line in group.lines().filter_map(|line| line.strip_prefix("0::")).filter(|group| group.contains(&id)) {
        let group = Path::new("/sys/fs/cgroup").join(line.trim_start_matches(['/', '.']));
        assert!(!group.exists(), "{}", group.display());
    }

    // What was recorded until then can be read.
    assert!(lava(&["events", "latest", "--kind", "process.exec"]).contains("/usr/bin/sleep"));
    assert!(lava(&["show", "latest"]).contains("interrupted"));
    assert!(lava(&["verify", "latest"]).contains("no sign that somebody changed it"));
    assert!(!Session::open(&dir).unwrap().verify_chain().unwrap().tampered());
}

#[test]
fn a_guest_that_uses_up_what_it_has_leaves_the_session_whole() {
    let task = root().join("crates/lava/tests/vm/tasks/nasty.py");
    let ran = run(&[task.to_str().unwrap(), "--console"]);
    for said in ["flood: sent", "disk: No space left on device", "bomb: lit"] {
        assert!(ran.console.lines().any(|line| line.ends_with(said)), "{said}\n{}\n{}", ran.console, ran.stderr);
    }
    assert!(ran.code.is_some_and(|code| code != 1), "{}", ran.stderr);
    let end = ran.events.last().map(|event| &event.kind);
    assert!(matches!(end, Some(Kind::VmEnded { orderly: true, .. })), "{end:?}");
    assert!(!ran.events.iter().any(|event| matches!(event.kind, Kind::VmGap { .. })), "nothing was lost");
    assert!(ran.session.verify_chain().unwrap().intact());
}
