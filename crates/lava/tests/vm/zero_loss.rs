//! Nothing is lost: a guest that makes as many events as it can, and a consumer that stops.

use std::process::Stdio;
use std::time::Duration;

use lava_event::Kind;
use lava_evidence::Session;

use crate::common::{Ran, lava, read, scenario, turn};

const SECONDS: u32 = 10;

/// Runs the stress program; `meanwhile` gets the pid of `lava` once the log tells the program's first file.
fn stress(kernel: &str, meanwhile: Option<fn(u32)>) -> Ran {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let task = folder.path().join("stress.sh");
    std::fs::write(&task, format!("#!/bin/sh\nexec /opt/scenario/bin/stress {SECONDS} /home/user/stress\n")).unwrap();
    let mut command = lava();
    command.arg("run").arg(&task).arg("--disk").arg(scenario("proof.img")).args(["--console", "--timeout", "600"]);
    command.args(["--kernel", kernel]).arg("--out").arg(out.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if let Some(meanwhile) = meanwhile {
        while !has_begun(out.path()) {
            assert!(child.try_wait().unwrap().is_none(), "lava ended before the stress program began");
            std::thread::sleep(Duration::from_millis(100));
        }
        meanwhile(child.id());
    }
    let output = child.wait_with_output().unwrap();
    read(&output, out)
}

/// True once the log tells a file of the program's. The log is written through a buffer: the last line may be a part of one.
fn has_begun(out: &std::path::Path) -> bool {
    let log = |dir: std::fs::DirEntry| std::fs::read(dir.path().join("events.jsonl")).ok();
    let needle = b"/home/user/stress/0/f.";
    std::fs::read_dir(out)
        .ok()
        .and_then(|mut dirs| log(dirs.next()?.ok()?))
        .is_some_and(|text| text.windows(needle.len()).any(|window| window == needle))
}

/// What was told equals what the program counted, and no event says that one is missing.
fn check(ran: &Ran) {
    let line = ran.console.lines().find(|line| line.starts_with("{\"created\":"));
    let told: serde_json::Value = serde_json::from_str(line.expect(&ran.console)).unwrap();
    let count = |field: &str| usize::try_from(told[field].as_u64().unwrap()).unwrap();
    assert_eq!(count("failed"), 0, "{told}");
    assert!(count("created") >= 100, "that is no stress: {told}");
    let ours = |path: &lava_event::GuestText| path.bytes().starts_with(b"/home/user/stress/");
    let stress = |event: &lava_event::Event| {
        event.process.as_ref().is_some_and(|process| process.exe.bytes() == b"/opt/scenario/bin/stress")
    };
    let (mut created, mut opened, mut renamed, mut unlinked, mut forked) = (0, 0, 0, 0, 0);
    for event in &ran.events {
        match &event.kind {
            Kind::VmGap { .. } => panic!("{event:?}"),
            Kind::FileCreate { path, what: lava_event::FileType::Regular, .. } if ours(path) => created += 1,
            Kind::FileOpen { path, access, .. } if access.writes() && ours(path) => opened += 1,
            Kind::FileRename { from, .. } if ours(from) => renamed += 1,
            Kind::FileUnlink { path, .. } if ours(path) => unlinked += 1,
            Kind::ProcessFork { thread: false, .. } if stress(event) => forked += 1,
            _ => {}
        }
    }
    let fields = ["created", "created", "renamed", "unlinked", "forked"].map(count);
    assert_eq!([created, opened, renamed, unlinked, forked], fields, "{told}");
    assert!(matches!(&ran.events.last().unwrap().kind, Kind::VmEnded { orderly: true, .. }), "{:?}", ran.events.last());
    assert!(Session::verify_chain(&ran.session).unwrap().intact());
}

#[test]
fn as_many_events_as_the_guest_can_make() {
    check(&stress("6.12", None));
}

#[test]
fn a_consumer_that_stops_for_five_seconds() {
    let stop = |lava: u32| {
        let lava = rustix::process::Pid::from_raw(i32::try_from(lava).unwrap()).unwrap();
        rustix::process::kill_process(lava, rustix::process::Signal::STOP).unwrap();
        std::thread::sleep(Duration::from_secs(5));
        rustix::process::kill_process(lava, rustix::process::Signal::CONT).unwrap();
    };
    check(&stress("6.1", Some(stop)));
}
