//! `lava ctl`: a running session answers to another terminal.

use std::path::Path;

use lava_event::Kind;

use crate::common::{begin, ctl, read, turn, until};

/// Events recorded so far.
fn recorded(out: &Path) -> usize {
    let session = std::fs::read_dir(out).unwrap().next();
    let log = session.and_then(|dir| std::fs::read_to_string(dir.ok()?.path().join("events.jsonl")).ok());
    log.map_or(0, |log| log.lines().filter(|line| line.contains("/home/user/tick")).count())
}

#[test]
fn a_session_is_paused_looked_at_and_ended() {
    let _turn = turn();
    let (out, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let script = "#!/bin/sh\nwhile :; do echo x > /home/user/tick; sleep 0.1; done\n";
    let child = begin(out.path(), place.path(), script, &[]);

    until("the task ticks", || recorded(out.path()) > 3);
    assert!(ctl(out.path(), "status").contains("running"));
    assert!(ctl(out.path(), "pause").contains("paused"));
    assert!(ctl(out.path(), "status").contains("paused"));
    // What was on its way when the guest was held still comes in.
    let mut before = recorded(out.path());
    until("no more ticks", || std::mem::replace(&mut before, recorded(out.path())) == before);
    assert!(ctl(out.path(), "registers").contains("RIP="));
    assert_eq!(recorded(out.path()), before, "the guest is held");
    ctl(out.path(), "resume");
    until("it ticks again", || recorded(out.path()) > before);
    ctl(out.path(), "pause");
    // A guest that is held can be ended too.
    ctl(out.path(), "stop");
    let output = child.wait_with_output().unwrap();

    let ran = read(&output, out);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let commands: Vec<_> = ran.responses().into_iter().map(|(command, outcome, _)| (command, outcome)).collect();
    assert_eq!(commands, ["pause", "registers", "resume", "pause", "stop"].map(|command| (command, "done")));
    let end = ran.events.last().map(|event| &event.kind);
    assert!(matches!(end, Some(Kind::VmEnded { reason, orderly: true, .. }) if reason == "stopped"), "{end:?}");
    assert!(ran.session.verify_chain().unwrap().intact());
}
