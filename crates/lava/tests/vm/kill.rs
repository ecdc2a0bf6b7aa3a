//! `lava ctl SESSION kill PID`: one process of the guest is killed from outside.

use std::path::Path;

use lava_event::Kind;

use crate::common::{begin, ctl, lava, log, read, turn, until};

/// One that never rests, one that sleeps most of its time and has a second thread, one that lives on and tells that it does. It ends when both are
/// gone, and says how they went.
const TASK: &str = r#"#!/bin/sh
sh -c 'while :; do :; done' & busy=$!
python3 -c 'import threading, time
threading.Thread(target=lambda: [time.sleep(2) for _ in iter(int, 1)]).start()
while True: time.sleep(2)' & asleep=$!
sh -c 'while :; do echo x > /home/user/alive; sleep 0.3; done' & lives=$!
wait $busy; echo "BUSY $?"
wait $asleep; echo "ASLEEP $?"
rm -f /home/user/alive; until test -e /home/user/alive; do sleep 0.2; done
echo LIVES; kill $lives
"#;

/// The process whose program's arguments have this in them.
fn process(out: &Path, with: &str) -> Option<u32> {
    log(out).iter().find_map(|event| match &event.kind {
        Kind::ProcessExec { argv, .. } if argv.iter().any(|one| one.to_string().contains(with)) => {
            Some(event.process.as_ref()?.pid)
        }
        _ => None,
    })
}

#[test]
fn one_process_is_killed_and_the_others_live() {
    let _turn = turn();
    let (out, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let child = begin(out.path(), place.path(), TASK, &["--console"]);

    until("all three run", || process(out.path(), "alive").is_some() && process(out.path(), "threading").is_some());
    let (busy, asleep) = (process(out.path(), "do :; done").unwrap(), process(out.path(), "threading").unwrap());
    until("its second thread runs", || {
        log(out.path()).iter().any(|event| {
            event.process.as_ref().is_some_and(|process| process.pid == asleep)
                && matches!(&event.kind, Kind::ProcessFork { child, .. } if child.pid == asleep)
        })
    });
    let refused = |what: &str, why: &str| {
        let output = lava().args(["ctl", "latest", "kill", what, "--out"]).arg(out.path()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(why), "{what}: {told}");
    };
    refused("4000000", "no such process");
    refused("1", "first process");
    refused("99999999999", "it is `lava ctl SESSION kill PID`");
    assert!(ctl(out.path(), &format!("kill {busy}")).contains("1 thread;"));
    assert!(ctl(out.path(), &format!("kill {asleep}")).contains("2 threads;"));
    let output = child.wait_with_output().unwrap();

    let ran = read(&output, out);
    // 128 and SIGKILL.
    for said in ["BUSY 137", "ASLEEP 137", "LIVES"] {
        assert!(ran.console.contains(said), "{said}: {}", ran.console);
    }
    let responses = ran.responses();
    let (first, second) = (format!("kill {busy}"), format!("kill {asleep}"));
    assert!(responses[0].0 == "kill 4000000" && responses[0].1.starts_with("failed: "), "{responses:?}");
    assert_eq!([&responses[2].0, &responses[3].0], [&first, &second]);
    assert!(responses[3].1 == "done" && responses[3].2.starts_with("analyst (user "), "{responses:?}");
    assert!(matches!(&ran.events.last().unwrap().kind, Kind::VmEnded { orderly: true, .. }));
}
