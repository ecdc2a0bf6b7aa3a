//! A recorded session under another policy.

use lava_analysis::{Answer, Difference, WhatIf};
use lava_event::*;
use lava_policy::Policy;

const LAUNCHER: &str = "/usr/lib/lava/launcher";

fn policy(rules: &str) -> Policy {
    Policy::compile("test", &format!("policy: p\ndefault: allow\nrules:\n{rules}")).unwrap()
}

/// A task that writes a file, runs it and opens one to read; the run was denied by the policy of that time.
fn log() -> Vec<Event> {
    let file = FileId { device: (254, 1), inode: 9, mode: 0o100_755, uid: 0, gid: 0, size: 1, node: None };
    let key = |pid: u32| ProcessRef { pid, tid: pid, start_ns: u64::from(pid), comm: "x".into() };
    let open = |path: &str, access| Kind::FileOpen { path: path.into(), file, access };
    let exec = Kind::ProcessExec {
        path: "/tmp/a".into(),
        argv: vec![],
        envp: vec![],
        truncated: false,
        cwd: "/".into(),
        file,
        interpreter: None,
    };
    let task = Kind::VmTask {
        name: "t".into(),
        path: "/home/t".into(),
        sha256: Sha256::default(),
        profile: "p".into(),
        command: vec![],
        launcher: LAUNCHER.into(),
        hosts: vec![],
        jit: vec![],
        unpacks: None,
    };
    let denied = Kind::VmDecision {
        subject: 5,
        action: Action::Deny,
        policy: "old".into(),
        rule: Some("dropped".into()),
        reason: None,
        outcome: "killed".into(),
    };
    let kinds = [
        (None, open("/tmp/before", Access::Write)),
        (None, task),
        (Some((1, LAUNCHER)), Kind::ProcessFork { child: key(2), thread: false, flags: 0 }),
        (Some((2, "/bin/sh")), open("/tmp/a", Access::Write)),
        (Some((2, "/tmp/a")), exec),
        (None, denied),
        (Some((2, "/tmp/a")), open("/etc/passwd", Access::Read)),
        (Some((2, "/tmp/a")), Kind::NetFlowOwner { protocol: Protocol::Tcp, origin: end(1), destination: end(22) }),
        // Of older recordings: the wire alone, which knows no processes.
        (None, flow(Protocol::Tcp, 1, 22, "accepted")),
        (None, flow(Protocol::Udp, 68, 67, "answered")),
        (None, flow(Protocol::Other, 0, 0, "dropped")),
    ];
    let mut log = Vec::new();
    for ((who, kind), seq) in kinds.into_iter().zip(1..) {
        let mut event = Event::new(seq * 1000, Source::Tap, kind);
        event.seq = seq;
        event.process = who.map(|(pid, exe)| Process {
            pid,
            tid: pid,
            start_ns: u64::from(pid),
            ppid: 1,
            uid: 0,
            comm: "x".into(),
            exe: exe.into(),
        });
        log.push(event);
    }
    log
}

fn end(port: u16) -> NetEndpoint {
    NetEndpoint { address: [10, 77, 0, 15].into(), port }
}

fn flow(protocol: Protocol, from: u16, to: u16, answer: &str) -> Kind {
    Kind::NetFlow { protocol, origin: end(from), destination: end(to), answer: answer.into(), frame: 1 }
}

fn check(rules: &str, expect: &[(EventSeq, Action, Action)]) -> Vec<Difference> {
    let (policy, log) = (policy(rules), log());
    let mut what_if = WhatIf::new(&policy, log.iter().cloned());
    let found: Vec<Difference> = log
        .iter()
        .filter_map(|event| {
            let (difference, faults) = what_if.observe(event);
            assert!(faults.is_empty(), "{faults:?}");
            difference
        })
        .collect();
    let told: Vec<_> = found.iter().map(|d| (d.event, d.recorded.action(), d.now.action)).collect();
    assert_eq!(told, expect);
    found
}

#[test]
fn the_same_answers_are_no_difference() {
    check("  - {name: r, when: 'event.kind == \"process.exec\" && trace.tainted', action: deny}\n", &[]);
}

#[test]
fn what_was_denied_would_happen() {
    let found = check("  []\n", &[(5, Action::Deny, Action::Allow)]);
    assert_eq!(found[0].recorded, Answer::Asked { action: Action::Deny, rule: Some("dropped".into()) });
    assert_eq!(found[0].recorded.to_string(), "deny by dropped");
}

#[test]
fn what_was_not_asked_would_be_denied() {
    // Opens to read never wait, and nothing waits before the task.
    let opens = "  - {name: opens, when: 'event.kind == \"file.open\"', action: deny}\n";
    let found = check(opens, &[(4, Action::Allow, Action::Deny), (5, Action::Deny, Action::Allow)]);
    assert_eq!((found[0].recorded.clone(), found[0].now.rule.as_deref()), (Answer::NotAsked, Some("opens")));
}

#[test]
fn flows_are_their_sockets_owners_and_what_the_network_lives_by_does_not_wait() {
    let denied = (5, Action::Deny, Action::Allow);
    let all = "  - {name: all, when: 'event.kind == \"net.flow\"', action: deny}\n";
    check(all, &[denied, (9, Action::Allow, Action::Deny)]);
    let of_task = "  - {name: task, when: 'event.kind == \"net.flow\" && trace.tainted', action: remediate}\n";
    check(of_task, &[denied, (9, Action::Allow, Action::Remediate)]);
}
