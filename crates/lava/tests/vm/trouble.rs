//! QEMU dies in the middle: the session is closed, says so, and keeps what was recorded.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use lava_event::Kind;
use lava_evidence::State;

use crate::common::{lava, qemu_of, read, turn};

#[test]
fn qemu_killed_in_the_middle() {
    let _turn = turn();
    let (out, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let task = folder.path().join("sleep.sh");
    std::fs::write(&task, "#!/bin/sh\nsleep 100\n").unwrap();
    let mut command = lava();
    command.arg("run").arg(&task).args(["--format", "jsonl", "--out"]).arg(out.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen = lines.by_ref().map_while(Result::ok).find(|line| line.contains("\"kind\":\"process.exec\""));
    assert!(seen.is_some(), "the guest was seen to start a program");
    let qemu = qemu_of(child.id()).expect("lava's QEMU");
    let killed = std::process::Command::new("kill").args(["-KILL", &qemu.to_string()]).status().unwrap();
    assert!(killed.success());
    // Read on to the end, or the pipe would hold lava back.
    let drain = std::thread::spawn(move || lines.map_while(Result::ok).count());
    let output = child.wait_with_output().unwrap();
    drain.join().unwrap();
    let ran = read(&output, out);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("did not end in order"), "{}", ran.stderr);
    assert_eq!(ran.session.manifest().state, State::Aborted);
    assert!(matches!(ran.events.last().unwrap().kind, Kind::VmEnded { orderly: false, .. }));
    assert!(ran.events.iter().any(|event| matches!(event.kind, Kind::VmGap { .. })), "the gap is told");
    assert!(!ran.session.verify_chain().unwrap().tampered());
    assert!(ran.session.dir().join("report.html").is_file());
}
