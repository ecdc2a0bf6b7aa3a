//! Code in memory and other processes' memory, over events made here.

mod common;

use common::Fake;
use lava_detect::Detector;
use lava_event::{Event, FileId, FileType, GuestText, Kind, Process, ProcessRef, Protection, Range, Severity, Source};

fn by(pid: u32, exe: &str, kind: Kind) -> Event {
    let process = Process { pid, tid: pid, start_ns: 1, ppid: 1, uid: 1000, comm: "x".into(), exe: exe.into() };
    Event { seq: 9, process: Some(process), ..Event::new(0, Source::Tap, kind) }
}

fn unbacked(backing: Option<&str>) -> Kind {
    Kind::MemoryUnbackedExecution {
        address: 0x7000,
        region: Range { start: 0x7000, end: 0x8000 },
        protection: Protection::from_bits(7),
        backing: backing.map(GuestText::from),
        code: "c3".into(),
    }
}

fn task(jit: &[&str]) -> Kind {
    Kind::VmTask {
        name: "x".into(),
        path: "/home/user/x".into(),
        sha256: lava_event::Sha256::of(b""),
        profile: "jar".into(),
        command: vec![],
        launcher: String::new(),
        hosts: vec![],
        jit: jit.iter().map(|&name| name.to_owned()).collect(),
        unpacks: None,
    }
}

/// Detector and severity of the findings of these events.
fn found(events: &[Event]) -> Vec<(String, String, Severity)> {
    // Process 7 is the task's.
    let taint = Fake { tainted: |process| process.pid == 7, ..Fake::default() };
    let mut detector = Detector::new();
    let findings = events.iter().flat_map(|event| detector.observe(event, &taint));
    findings.map(|finding| (finding.detector, finding.technique.id, finding.severity)).collect()
}

#[test]
fn code_without_a_file() {
    let of = |id: &str, severity| vec![("execute.unbacked_memory".to_owned(), id.to_owned(), severity)];
    let twice = [by(7, "/usr/bin/python3", unbacked(None)), by(7, "/usr/bin/python3", unbacked(None))];
    assert_eq!(found(&twice), of("T1620", Severity::High));
    assert_eq!(found(&[by(7, "/x", unbacked(Some("/memfd:x")))]), of("T1620", Severity::High));
    assert_eq!(found(&[by(7, "/x", unbacked(Some("/home/user/gone")))]), of("T1620", Severity::Low));
    assert_eq!(found(&[by(8, "/x", unbacked(None))]), [], "not the task's");
}

#[test]
fn a_java_vm_is_expected_to() {
    let rwx = Kind::MemoryMap {
        address: 0,
        length: 4096,
        protection: Protection::from_bits(7),
        shared: false,
        path: None,
        file: None,
    };
    let java = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java";
    let with = |jit: &[&str]| {
        let java = [by(7, java, unbacked(None)), by(7, java, rwx.clone())];
        found(&[&[Event::new(0, Source::Microvisor, task(jit))][..], &java].concat()).len()
    };
    assert_eq!(with(&["java"]), 0);
    assert_eq!(with(&[]), 2);
}

#[test]
fn other_processes_memory() {
    let write = |way: &str| {
        let target = ProcessRef { pid: 20, tid: 20, start_ns: 5, comm: "sleep".into() };
        by(7, "/x", Kind::MemoryRemoteWrite { target, address: 0x1000, bytes: 8, way: way.into() })
    };
    let ids: Vec<String> = found(&[write("ptrace"), write("proc_mem"), write("process_vm_writev"), write("ptrace")])
        .into_iter()
        .map(|(_, id, _)| id)
        .collect();
    assert_eq!(ids, ["T1055.008", "T1055.009", "T1055"]);
}

#[test]
fn pivots() {
    let pivot = Kind::MemoryStackPivot { rsp: 1, rip: 2, region: "[heap]".into(), call: "execve".into() };
    let back = Kind::MemoryReturnToData { address: 1, region: "[heap]".into(), call: "execve".into() };
    let ids: Vec<String> = found(&[by(7, "/x", pivot), by(7, "/x", back)]).into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, ["exploit.stack_pivot", "exploit.return_to_data"]);
}

#[test]
fn libraries_of_the_tasks_own() {
    let file = |inode| FileId { device: (254, 1), inode, mode: 0o100_644, uid: 1000, gid: 1000, size: 8, node: None };
    let made = |path: &str, inode| {
        let write =
            Kind::FileCreate { path: path.into(), file: Some(file(inode)), what: FileType::Regular, target: None };
        by(7, "/usr/bin/cp", write)
    };
    let load = |exe: &str, path: &str, inode, bits| {
        let (path, file) = (Some(path.into()), Some(file(inode)));
        let protection = Protection::from_bits(bits);
        by(9, exe, Kind::MemoryMap { address: 0, length: 4096, protection, shared: false, path, file })
    };
    let of = |severity| vec![("execute.dropped_library".to_owned(), "T1129".to_owned(), severity)];
    let (hidden, open) = (made("/tmp/x.so", 5), made("/home/user/lib/x.so", 6));
    // Whoever loads it, by whatever name, once.
    let loads = [hidden.clone(), load("/usr/sbin/cron", "/y.so", 5, 5), load("/usr/sbin/cron", "/y.so", 5, 5)];
    assert_eq!(found(&loads), of(Severity::Medium));
    assert_eq!(found(&[open, load("/usr/bin/app", "/home/user/lib/x.so", 6, 5)]), of(Severity::Low));
    assert_eq!(found(&[hidden.clone(), load("/usr/bin/cat", "/tmp/x.so", 5, 1)]), [], "not as code");
    assert_eq!(found(&[hidden.clone(), load("/usr/bin/cat", "/lib/libc.so", 8, 5)]), [], "not the task's");
    assert_eq!(found(&[hidden, load("/tmp/x.so", "/tmp/x.so", 5, 5)]), [], "a program's own code");
}
