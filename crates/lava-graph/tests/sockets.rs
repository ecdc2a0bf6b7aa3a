//! Sockets in the graph: taint from process to process, and flows that find their process.

#[allow(dead_code)] // The other session tests use the rest of it.
mod common;

use common::*;
use lava_event::*;
use lava_graph::{Graph, TaintRule, Verb};

const PYTHON: &str = "/usr/bin/python3.11";
const OTHER: u32 = 300;
const SERVER: &str = "/usr/local/bin/server";

fn end(host: u8, port: u16) -> NetEndpoint {
    NetEndpoint { address: [10, 77, 0, host].into(), port }
}

fn local(port: u16) -> NetEndpoint {
    NetEndpoint { address: [127, 0, 0, 1].into(), port }
}

fn key(pid: u32) -> ProcessKey {
    ProcessKey { pid, start_ns: u64::from(pid) }
}

/// A transfer over a Unix socket: sent and received bytes.
fn unix(name: Option<&str>, socket: u64, peer: Option<u64>, sent: u64, received: u64) -> Kind {
    Kind::NetTransfer {
        protocol: Protocol::Unix,
        local: None,
        remote: None,
        path: name.map(text),
        socket,
        peer,
        sent,
        received,
        sends: u64::from(sent > 0),
        receives: u64::from(received > 0),
    }
}

fn tcp(own: NetEndpoint, other: NetEndpoint, sent: u64, received: u64) -> Kind {
    Kind::NetTransfer {
        protocol: Protocol::Tcp,
        local: Some(own),
        remote: Some(other),
        path: None,
        socket: 1,
        peer: None,
        sent,
        received,
        sends: u64::from(sent > 0),
        receives: u64::from(received > 0),
    }
}

fn task() -> Log {
    Log::task(PYTHON, "/home/user/x.py")
}

/// How `pid` is tainted.
fn taint(graph: &Graph, pid: u32) -> Option<(TaintRule, Grade)> {
    let of = |node: &&lava_graph::Node| node.process == Some(key(pid)) && node.taint.is_some();
    graph.nodes().iter().find(of).and_then(|node| node.taint).map(|taint| (taint.rule, taint.grade))
}

#[test]
fn who_receives_from_the_task_is_tainted() {
    let observed = Some((TaintRule::Received, Grade::Observed));
    // The sender's socket 5, the receiver's 6; each may know the other's number or not.
    for (of_sender, of_receiver, expect) in
        [(Some(6), Some(5), observed), (None, Some(5), observed), (Some(6), None, None), (None, None, None)]
    {
        let mut log = task();
        log.act(TASK, PYTHON, unix(Some("/tmp/s"), 5, of_sender, 7, 0));
        log.act(OTHER, SERVER, unix(Some("/tmp/s"), 6, of_receiver, 0, 7));
        assert_eq!(taint(&run(&log.0), OTHER), expect, "{of_sender:?} {of_receiver:?}");
    }
    let mut log = task();
    log.act(TASK, PYTHON, tcp(local(40000), local(80), 7, 0)).act(OTHER, SERVER, tcp(local(80), local(40000), 9, 7));
    let graph = run(&log.0);
    assert_eq!(taint(&graph, OTHER), observed);
    let edge = graph.edges().iter().find(|edge| edge.verb == Verb::Sends).unwrap();
    assert_eq!((edge.bytes, edge.grade), (7, Grade::Observed));
}

#[test]
fn who_only_sends_or_speaks_to_others_stays_clean() {
    let mut log = task();
    log.act(OTHER, SERVER, unix(None, 6, Some(5), 7, 0)).act(TASK, PYTHON, unix(None, 5, Some(6), 0, 7));
    log.act(OTHER, SERVER, unix(None, 8, Some(9), 0, 7)).act(TASK, PYTHON, unix(None, 10, Some(11), 7, 0));
    assert_eq!(taint(&run(&log.0), OTHER), None);
}

#[test]
fn received_before_the_sending_was_told_is_inferred() {
    let mut log = task();
    log.act(OTHER, SERVER, unix(None, 6, Some(5), 0, 7)).act(TASK, PYTHON, unix(None, 5, Some(6), 7, 0));
    assert_eq!(taint(&run(&log.0), OTHER), Some((TaintRule::Received, Grade::Inferred)));
}

#[test]
fn a_line_for_the_log_taints_nobody() {
    let names = [
        "/run/systemd/journal/dev-log",
        "/dev/log",
        "/var/run/dbus/system_bus_socket",
        "/run/user/1000/bus",
        "@/org/freedesktop/plymouthd",
    ];
    for name in names {
        let mut log = task();
        log.act(TASK, PYTHON, unix(Some(name), 5, Some(6), 7, 0));
        log.act(OTHER, SERVER, unix(Some(name), 6, Some(5), 0, 7));
        assert_eq!(taint(&run(&log.0), OTHER), None, "{name}");
    }
    let daemon = "/usr/bin/dbus-daemon";
    let mut log = task();
    log.act(TASK, PYTHON, unix(Some("/tmp/bus"), 5, Some(6), 7, 0));
    log.act(OTHER, daemon, unix(Some("/tmp/bus"), 6, Some(5), 0, 7));
    assert_eq!(taint(&run(&log.0), OTHER), None, "a daemon's program");
}

#[test]
fn a_flow_finds_its_process_in_either_order() {
    let flow = || Kind::NetFlow {
        protocol: Protocol::Tcp,
        origin: end(2, 40000),
        destination: end(3, 22),
        answer: "refused".into(),
        frame: 1,
    };
    let owner = || Kind::NetFlowOwner { protocol: Protocol::Tcp, origin: end(2, 40000), destination: end(3, 22) };
    let connect = || Kind::NetConnect { protocol: Protocol::Tcp, destination: Some(end(3, 22)), path: None };
    for wire_first in [false, true] {
        let mut log = task();
        log.act(TASK, PYTHON, connect());
        if wire_first {
            log.raw(None, flow()).act(TASK, PYTHON, owner());
        } else {
            log.act(TASK, PYTHON, owner()).raw(None, flow());
        }
        let seq = log.0.iter().find(|event| matches!(event.kind, Kind::NetFlow { .. })).unwrap().seq;
        let graph = run(&log.0);
        assert_eq!(graph.flow_owner(seq), Some((key(TASK), Grade::Observed)), "wire first: {wire_first}");
        let edge = graph.edges().iter().find(|edge| edge.verb == Verb::Connects).unwrap();
        assert!(edge.events.contains(&seq), "{edge:?}");
        assert_eq!(edge.count, 1, "one connection, whoever tells of it");
    }
    // Without an owner, who asked for a connection to there is taken for it; nobody else is.
    let mut log = task();
    log.act(TASK, PYTHON, connect()).raw(None, flow());
    let seq = log.0.len() as u64;
    assert_eq!(run(&log.0).flow_owner(seq), Some((key(TASK), Grade::Inferred)));
    let mut log = task();
    log.act(
        OTHER,
        SERVER,
        Kind::NetFlowOwner { protocol: Protocol::Udp, origin: end(2, 40000), destination: end(3, 22) },
    );
    log.raw(None, flow());
    let seq = log.0.len() as u64;
    assert_eq!(run(&log.0).flow_owner(seq), None, "another protocol");
}

#[test]
fn behaviours() {
    let target = |pid: u32, comm: &str| ProcessRef { pid, tid: pid, start_ns: u64::from(pid), comm: text(comm) };
    let ptrace = |pid, request: &str| Kind::ProcessPtrace { target: target(pid, "sshd"), request: request.into() };
    let signal = |pid, comm, signal| Kind::ProcessSignal { target: target(pid, comm), signal };
    let listen = |address| Kind::NetListen { protocol: Protocol::Tcp, address: Some(address), path: None };
    let socket = |family: &str| Kind::NetSocket { family: family.into(), way: "raw".into(), protocol: Protocol::Other };
    for (kind, expect) in [
        (ptrace(OTHER, "attach"), Some("escalate.ptrace")),
        (ptrace(OTHER, "seize"), Some("escalate.ptrace")),
        (ptrace(201, "attach"), None),
        (ptrace(TASK, "traceme"), None),
        (signal(OTHER, "rsyslogd", 9), Some("escalate.guard_killed")),
        (signal(OTHER, "rsyslogd", 1), None),
        (signal(OTHER, "bash", 9), None),
        (signal(201, "rsyslogd", 9), None),
        (listen(end(2, 4444)), Some("persist.listener")),
        (listen(local(4444)), None),
        (socket("packet"), Some("propagate.sniffing")),
        (socket("inet"), None),
    ] {
        let mut log = task();
        log.fork(TASK, PYTHON, 201).act(TASK, PYTHON, kind.clone());
        let found = run(&log.0);
        let found: Vec<_> = found.findings().iter().map(|finding| finding.detector.as_str()).collect();
        assert_eq!(found, expect.into_iter().collect::<Vec<_>>(), "{kind:?}");
    }
    for (pid, exe, expect) in [(TASK, "/memfd:x", 1), (OTHER, "/memfd:x", 0), (TASK, "/usr/bin/true", 0)] {
        let mut log = task();
        log.exec(pid, exe, 60, 0o100_755, &["x"]);
        assert_eq!(run(&log.0).findings().len(), expect, "{pid} {exe}");
    }
}
