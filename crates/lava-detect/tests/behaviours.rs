//! Behaviours over events made here, where everything descends from the task.

mod common;

use common::Fake;
use lava_detect::Detector;
use lava_event::{Access, Event, FileId, Kind, NetEndpoint, Process, Protocol, Severity, Source};

const MODE: u32 = 0o100_755;

fn file(inode: u64) -> FileId {
    FileId { device: (254, 1), inode, mode: MODE, uid: 0, gid: 0, size: 1, node: None }
}

/// What is found in these events, each of a process that runs `exe`: detector and severity.
fn check(events: Vec<(&str, Kind)>, expect: &[(&str, Severity)]) {
    check_by(events.into_iter().map(|(exe, kind)| (9, exe, kind)).collect(), expect);
}

/// The same, with the processes' numbers.
fn check_by(events: Vec<(u32, &str, Kind)>, expect: &[(&str, Severity)]) {
    let mut detector = Detector::new();
    let mut found = Vec::new();
    for (seq, (pid, exe, kind)) in (1..).zip(events) {
        let mut event = Event::new(seq, Source::Tap, kind);
        let process = Process { pid, tid: pid, start_ns: 9, ppid: 1, uid: 0, comm: "x".into(), exe: exe.into() };
        event.process = Some(process);
        found.extend(detector.observe(&event, &Fake::default()));
    }
    let found: Vec<_> = found.iter().map(|finding| (finding.detector.as_str(), finding.severity)).collect();
    assert_eq!(found, expect);
}

fn write(path: &str, inode: u64) -> Kind {
    Kind::FileWrite { path: path.into(), file: file(inode), ranges: vec![], bytes: 1, count: 1 }
}

fn run(path: &str, inode: u64) -> Kind {
    let (argv, cwd) = (vec![path.into(), "x".into()], "/".into());
    Kind::ProcessExec {
        path: path.into(),
        argv,
        envp: vec![],
        truncated: false,
        cwd,
        file: file(inode),
        interpreter: None,
    }
}

#[test]
fn how_grave_a_program_is_that_the_task_wrote() {
    let sh = "/usr/bin/dash";
    let by =
        |writer, path, expect: &[(&str, Severity)]| check(vec![(writer, write(path, 7)), (path, run(path, 7))], expect);
    by(sh, "/var/lib/x", &[("execute.dropped_file", Severity::High)]);
    by(sh, "/home/user/project/x", &[("execute.dropped_file", Severity::Medium)]);
    by("/usr/bin/tcc", "/home/user/project/x", &[("execute.compiled_file", Severity::Low)]);
    by("/usr/bin/x86_64-linux-gnu-ld.bfd", "/var/lib/x", &[("execute.compiled_file", Severity::Low)]);
    by("/home/user/gcc", "/opt/x", &[("execute.dropped_file", Severity::Medium)]);
    // Somebody changes what the compiler made.
    let changed = vec![("/usr/bin/tcc", write("/opt/x", 7)), (sh, write("/opt/x", 7)), ("/opt/x", run("/opt/x", 7))];
    check(changed, &[("execute.dropped_file", Severity::Medium)]);
}

#[test]
fn names_of_others() {
    let named = |exe, new: &str| vec![(exe, Kind::ProcessName { old: "x".into(), new: new.into() })];
    check(named("/home/user/x", "kworker/0:1"), &[("stealth.process_name", Severity::Medium)]);
    check(named("/home/user/x", "sshd"), &[("stealth.process_name", Severity::Medium)]);
    check(named("/usr/sbin/sshd", "sshd"), &[]);
    check(named("/usr/bin/java", "GC Thread#0"), &[]);
}

#[test]
fn ports_of_this_machine() {
    let connect = |port| {
        let to = NetEndpoint { address: "127.0.0.1".parse().unwrap(), port };
        ("/usr/bin/bash", Kind::NetConnect { protocol: Protocol::Tcp, destination: Some(to), path: None })
    };
    check([80, 80, 81, 82, 83].map(connect).to_vec(), &[]);
    check([80, 81, 82, 83, 84].map(connect).to_vec(), &[("propagate.ports_tried", Severity::Low)]);
}

#[test]
fn who_may_read_the_password_hashes() {
    let open = |exe| vec![(exe, Kind::FileOpen { path: "/etc/shadow".into(), file: file(1), access: Access::Read })];
    check(open("/usr/bin/bash"), &[("credentials.shadow", Severity::Medium)]);
    check(open("/usr/sbin/unix_chkpwd"), &[]);
}

#[test]
fn what_a_package_brings() {
    let dpkg = "/usr/bin/dpkg";
    let unit = "/usr/lib/systemd/system/x.service";
    let script = "/var/lib/dpkg/info/x.postinst";
    let install =
        vec![(dpkg, run(dpkg, 1)), (dpkg, write(unit, 2)), (dpkg, write(script, 3)), (script, run(script, 3))];
    check(install, &[("persist.systemd", Severity::Low), ("execute.installed_file", Severity::Low)]);
    // Another program under that name, which the task wrote.
    let sh = "/usr/bin/dash";
    let false_one = vec![(sh, write(dpkg, 9)), (dpkg, run(dpkg, 9)), (dpkg, write(unit, 2))];
    check(false_one, &[("execute.dropped_file", Severity::High), ("persist.systemd", Severity::High)]);
    check(vec![(sh, write(unit, 2))], &[("persist.systemd", Severity::High)]);
}

#[test]
fn what_a_package_did_does_not_hide_what_is_done_by_hand() {
    let (dpkg, cp, unit, log) = ("/usr/bin/dpkg", "/usr/bin/cp", "/etc/systemd/system/x.service", "/etc/rsyslog.conf");
    let events = vec![
        (9, dpkg, run(dpkg, 1)),
        (9, dpkg, write(unit, 2)),
        (9, dpkg, write(log, 3)),
        (9, dpkg, write(log, 3)),
        (10, cp, write(unit, 2)),
        (10, cp, write(log, 3)),
        (10, cp, write(log, 3)),
    ];
    let (unit, log) = ("persist.systemd", "impair.logging_files");
    use Severity::{High, Low, Medium};
    check_by(events, &[(unit, Low), (log, Low), (unit, High), (log, Medium)]);
}

#[test]
fn a_compiled_program_that_is_installed() {
    let (made, installed) = ("/home/user/p/x", "/usr/local/bin/x");
    let open = |path: &str, inode| Kind::FileOpen { path: path.into(), file: file(inode), access: Access::Read };
    let copy = |writer| {
        let cp = "/usr/bin/install";
        vec![(writer, write(made, 7)), (cp, open(made, 7)), (cp, write(installed, 8)), (installed, run(installed, 8))]
    };
    check(copy("/usr/bin/tcc"), &[("execute.compiled_file", Severity::Low)]);
    check(copy("/usr/bin/dash"), &[("execute.dropped_file", Severity::Medium)]);
}
