//! `lava ctl SESSION snapshot` and `lava run --from`: one moment, and what would have happened had the answer been another.

use std::path::Path;
use std::process::{Output, Stdio};

use lava_event::{Action, DiskRegion, Event, FileType, Kind, ProcessKey, snapshots};

use crate::common::{Ran, begin, ctl, decisions, lava, log, read, turn, until};

/// Drops a program, writes into a file that stays open, waits until its other process is gone, runs the program, writes on.
const TASK: &str = r#"#!/bin/sh
head -c 440 /dev/zero | tr '\0' L > /home/user/boot
printf '#!/bin/sh\nexec dd if=/home/user/boot of=/dev/vda bs=440 count=1 conv=notrunc,fsync\n' > /tmp/.dropped
chmod +x /tmp/.dropped
exec 3> /home/user/diary
echo one >&3; echo two >&3
sh -c 'while :; do sleep 0.3; done' & waiter=$!
wait $waiter
/tmp/.dropped
echo three >&3; exec 3>&-
echo DONE
"#;

const ASK: &str = r#"policy: ask-me
default: allow
rules:
  - name: boot-code
    when: trace.task_started && event.kind == "disk.write"
    action: ask
    within: 120
    otherwise: deny
"#;

/// The process whose death the task waits for.
fn waiter(events: &[Event]) -> Option<u32> {
    events.iter().find_map(|event| match &event.kind {
        Kind::ProcessExec { argv, .. } if argv.iter().any(|one| one.to_string().contains("sleep 0.3; done")) => {
            Some(event.process.as_ref()?.pid)
        }
        _ => None,
    })
}

/// Goes on from a snapshot of the session in that folder, has `meanwhile` done while the task waits, and `then` once it goes on.
fn go_on(from: &str, options: &[&str], meanwhile: impl FnOnce(&Path), then: impl FnOnce(&Path)) -> Ran {
    let out = tempfile::tempdir().unwrap();
    let mut run = lava();
    run.args(["run", "--timeout", "600", "--from", from, "--out"]).arg(out.path()).args(options);
    let child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("it goes on, and is watched", || {
        let events = log(out.path());
        let gone_on = events.iter().rposition(|event| matches!(event.kind, Kind::VmContinued { .. }));
        gone_on.is_some_and(|at| events[at..].iter().any(|event| matches!(event.kind, Kind::VmIntrospection { .. })))
    });
    meanwhile(out.path());
    ctl(out.path(), &format!("kill {}", waiter(&log(out.path())).unwrap()));
    then(out.path());
    read(&child.wait_with_output().unwrap(), out)
}

/// Asks what is refused while a question waits, and then answers that.
fn answer(out: &Path) {
    let asked = || log(out).iter().rev().find(|event| boot_code(event)).map(|event| event.seq);
    until("the write waits", || asked().is_some() && !ctl(out, "questions").contains("nothing waits"));
    for command in ["snapshot", "dump", "pause"] {
        let output = lava().args(["ctl", "latest", command, "--out"]).arg(out).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains("a question waits for an answer"), "{command}: {told}");
    }
    ctl(out, &format!("decide {} allow", asked().unwrap()));
}

fn refused(arguments: &[&str], why: &str) -> Output {
    let out = tempfile::tempdir().unwrap();
    let output = lava().arg("run").args(arguments).arg("--out").arg(out.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains(why), "{arguments:?}: {told}");
    assert!(std::fs::read_dir(out.path()).unwrap().next().is_none(), "{why}: no session was begun");
    output
}

fn boot_code(event: &Event) -> bool {
    matches!(event.kind, Kind::DiskWrite { region: DiskRegion::MbrBootCode, .. })
}

fn actions(ran: &Ran) -> Vec<Action> {
    decisions(ran, boot_code).into_iter().map(|(action, ..)| action).collect()
}

/// Bytes written to the diary, as the events tell them.
fn written<'a>(events: impl IntoIterator<Item = &'a Event>) -> u64 {
    let of = |event: &Event| match &event.kind {
        Kind::FileWrite { path, bytes, .. } if path.to_string() == "/home/user/diary" => *bytes,
        _ => 0,
    };
    events.into_iter().map(of).sum()
}

/// Who ran the dropped program, and the process that did so before the exec.
fn dropped(ran: &Ran) -> (ProcessKey, u32) {
    let found = ran
        .events
        .iter()
        .find(|event| matches!(&event.kind, Kind::ProcessExec { path, .. } if path.to_string() == "/tmp/.dropped"));
    let process = found.and_then(|event| event.process.as_ref()).expect("the dropped program ran");
    (process.key(), process.ppid)
}

fn titles(ran: &Ran) -> Vec<(String, String)> {
    ran.findings.iter().map(|finding| (finding.detector.clone(), finding.title.clone())).collect()
}

/// What holds for every session here.
fn check(ran: &Ran) {
    assert!(
        !ran.events.iter().any(|event| matches!(event.kind, Kind::VmGap { .. })),
        "nothing was lost: {}",
        ran.stderr
    );
    for detector in ["execute.dropped_script", "persist.mbr_boot_code"] {
        assert!(titles(ran).iter().any(|(found, _)| found == detector), "{detector}: {:#?}", titles(ran));
    }
    assert_eq!(written(&ran.events), 14, "each byte is told once");
    let whole = ran.events.iter().find_map(|event| match &event.kind {
        Kind::FileContent { path, sha256, .. } if path.to_string() == "/home/user/diary" => Some(*sha256),
        _ => None,
    });
    assert_eq!(ran.session.artifact(&whole.expect("its content")).unwrap().unwrap(), b"one\ntwo\nthree\n");
    let verify = lava().arg("verify").arg(ran.session.dir()).output().unwrap();
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
    let replay = lava().arg("replay").arg(ran.session.dir()).output().unwrap();
    let replayed = String::from_utf8_lossy(&replay.stdout).into_owned();
    assert!(replayed.contains("the same as when it was recorded"), "{replayed}");
    let to_device =
        |event: &Event| matches!(event.kind, Kind::FileWrite { file, .. } if file.file_type() == FileType::BlockDevice);
    assert!(ran.events.iter().any(to_device), "the write to the device is told");
}

#[test]
fn a_moment_goes_on_otherwise() {
    let _turn = turn();
    let (out, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let child = begin(out.path(), place.path(), TASK, &["--root", "--policy", "observe"]);
    until("it waits", || waiter(&log(out.path())).is_some());

    assert!(ctl(out.path(), "snapshot").starts_with("snapshots/1: "));
    assert!(ctl(out.path(), "status").contains("running"), "the guest went on");
    ctl(out.path(), "pause");
    assert!(ctl(out.path(), "snapshot").starts_with("snapshots/2: "));
    assert!(ctl(out.path(), "status").contains("paused"), "who held the guest still holds it");
    let again = lava().args(["ctl", "latest", "snapshot", "--out"]).arg(out.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("has not run since the last snapshot"));

    // From a session that still runs.
    let dir = std::fs::read_dir(out.path()).unwrap().next().unwrap().unwrap().path();
    let second = format!("{}:2", dir.display());
    let other = go_on(&second, &["--policy", "remediate", "--net", "refused"], |_| {}, |_| {});
    check(&other);
    assert_eq!(actions(&other), [Action::Remediate]);

    ctl(out.path(), "resume");
    ctl(out.path(), &format!("kill {}", waiter(&log(out.path())).unwrap()));
    let first = read(&child.wait_with_output().unwrap(), out);
    check(&first);
    assert_eq!(actions(&first), [Action::Allow]);
    let manifest = first.session.manifest();
    assert_ne!(manifest.mbr_before, manifest.mbr_after, "it landed");
    assert!(
        manifest.files.contains_key("snapshots/1/state") && manifest.files.contains_key("snapshots/2/snapshot.json")
    );

    let from = format!("{}:1", first.session.dir().display());
    let mut nested = None;
    let ran = go_on(
        &from,
        &["--policy", "protect", "--trace", "api"],
        |out| {
            assert!(ctl(out, "snapshot").starts_with("snapshots/1: "));
            // Its folder goes with the session: what goes on from it is a copy, made while nothing is written.
            ctl(out, "pause");
            until("all is told", || {
                let events = log(out);
                matches!(&events.last().unwrap().kind, Kind::VmResponse { command, .. } if command == "pause")
            });
            let kept = tempfile::tempdir().unwrap();
            let dir = std::fs::read_dir(out).unwrap().next().unwrap().unwrap().path();
            let mut copy = std::process::Command::new("cp");
            let copied = copy.args(["-a", "--sparse=always"]).arg(&dir).arg(kept.path()).status();
            assert!(copied.unwrap().success());
            nested = Some((kept, dir.file_name().unwrap().to_owned()));
            ctl(out, "resume");
        },
        |_| {},
    );
    check(&ran);
    assert_eq!(actions(&ran), [Action::Deny]);
    let manifest = ran.session.manifest();
    assert_eq!((manifest.mbr_before, manifest.mbr_before), (first.session.manifest().mbr_before, manifest.mbr_after));
    let cut = first.events.iter().position(|event| snapshots::told(&event.kind).is_some_and(|(number, _)| number == 1));
    let cut = cut.expect("the snapshot is told") + 1;
    assert_eq!(ran.events[..cut], first.events[..cut], "what was before is the same");
    assert_eq!(written(&ran.events[..cut]), 8, "what was only added up is told before the snapshot");
    let Kind::VmContinued { session, snapshot: 1, .. } = &ran.events[cut].kind else { panic!("{:?}", ran.events[cut]) };
    assert_eq!(session, &first.session.manifest().session);
    assert!(ran.events.windows(2).skip(cut - 1).take(1).all(|two| two[0].time_ns <= two[1].time_ns), "time goes on");
    // The same processes: who runs the program was there before, under the same name.
    let ((_, parent), (_, was)) = (dropped(&ran), dropped(&first));
    assert_eq!(parent, was);
    let known = |event: &Event| event.process.as_ref().is_some_and(|process| process.pid == parent);
    let keys = |events: &[Event]| {
        let keys: std::collections::BTreeSet<_> =
            events.iter().filter(|event| known(event)).filter_map(Event::actor).collect();
        keys
    };
    assert_eq!(keys(&ran.events[cut..]), keys(&ran.events[..cut]));
    assert!(
        ran.events[cut..].iter().any(|event| matches!(event.kind, Kind::ApiCall { .. })),
        "more is told from here on"
    );
    let shown = lava().arg("show").arg(ran.session.dir()).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&format!("from:     snapshot 1 of session {session}: the first {cut} events")), "{shown}");
    let parent = manifest.parent.as_ref().expect("its parent");
    assert_eq!((&parent.session, parent.events), (&first.session.manifest().session, cut as u64));

    // And from a snapshot of a session that itself goes on.
    let (kept, id) = nested.expect("a copy");
    let policy = place.path().join("ask.yaml");
    std::fs::write(&policy, ASK).unwrap();
    let third = go_on(kept.path().join(id).to_str().unwrap(), &["--policy", policy.to_str().unwrap()], |_| {}, answer);
    check(&third);
    assert_eq!(actions(&third), [Action::Allow]);
    let times = third.events.iter().filter(|event| matches!(event.kind, Kind::VmContinued { .. })).count();
    assert_eq!(times, 2);

    refuses(&first, &from);
}

/// What is not gone on from, and why.
fn refuses(first: &Ran, from: &str) {
    let dir = first.session.dir();
    refused(&["--from", &format!("{}:3", dir.display())], "tells of no snapshot 3");
    refused(&["--from", from, "--net", "none"], "has a network card");
    refused(&["--from", &format!("{}:9", dir.display())], "tells of no snapshot 9");
    let usage = refused(&["--from", from, "task.sh"], "cannot be used with");
    assert_eq!(usage.status.code(), Some(2));
    let state = std::fs::OpenOptions::new().write(true).open(dir.join("snapshots/1/state")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&state, b"x", 1 << 20).unwrap();
    refused(&["--from", from], "snapshots/1/state: is not as it was when the session was closed");
    let verify = lava().arg("verify").arg(dir).output().unwrap();
    assert!(String::from_utf8_lossy(&verify.stdout).contains("snapshots/1/state"));
    std::fs::remove_dir_all(dir.join("snapshots")).unwrap();
    refused(&["--from", from], "snapshot");
}
