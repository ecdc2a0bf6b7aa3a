//! Memory in the graph: what is mapped shared, and what is written into another process.

#[allow(dead_code)] // The other session tests use the rest of it.
mod common;

use common::*;
use lava_event::*;
use lava_graph::{Graph, TaintRule, Verb};

const PYTHON: &str = "/usr/bin/python3.11";
const SERVER: &str = "/usr/local/bin/server";
const OTHER: u32 = 300;
const THIRD: u32 = 400;
const READ: u64 = 1;
const WRITE: u64 = 3;
const SHARED: Option<(TaintRule, Grade)> = Some((TaintRule::Shared, Grade::Inferred));

/// A file in memory: of a file system without a device.
fn segment(inode: u64) -> FileId {
    FileId { device: (0, 1), ..file(inode, 0o100_600) }
}

fn map(path: &str, file: FileId, protection: u64) -> Kind {
    Kind::MemoryMap {
        address: 0x7000_0000,
        length: 4096,
        protection: Protection::from_bits(protection),
        shared: true,
        path: Some(text(path)),
        file: Some(file),
    }
}

fn shm(inode: u64, protection: u64) -> Kind {
    map("/SYSV00000000 (deleted)", segment(inode), protection)
}

fn store(path: &str, file: FileId) -> Kind {
    Kind::FileMapWrite { path: text(path), file, ranges: vec![Range { start: 0, end: 4096 }] }
}

fn task() -> Log {
    Log::task(PYTHON, "/home/user/x.py")
}

/// How `pid` is tainted.
fn taint(graph: &Graph, pid: u32) -> Option<(TaintRule, Grade)> {
    let key = ProcessKey { pid, start_ns: u64::from(pid) };
    let of = |node: &&lava_graph::Node| node.process == Some(key) && node.taint.is_some();
    graph.nodes().iter().find(of).and_then(|node| node.taint).map(|taint| (taint.rule, taint.grade))
}

#[test]
fn who_shares_memory_that_the_task_can_write_to_is_tainted_in_either_order() {
    for task_first in [true, false] {
        let mut log = task();
        if task_first {
            log.act(TASK, PYTHON, shm(7, WRITE)).act(OTHER, SERVER, shm(7, READ));
        } else {
            log.act(OTHER, SERVER, shm(7, READ)).act(TASK, PYTHON, shm(7, WRITE));
        }
        let graph = run(&log.0);
        assert_eq!(taint(&graph, OTHER), SHARED, "task first: {task_first}");
        let maps = graph.edges().iter().filter(|edge| edge.verb == Verb::Maps).count();
        assert_eq!(maps, 2, "both ends of the way");
        // And it is drawn: both processes, and what they share.
        let trace = graph.trace();
        assert!(trace.nodes.iter().any(|node| node.label.contains("SYSV")), "{:?}", trace.nodes);
        assert!(trace.nodes.iter().any(|node| node.label == SERVER), "{:?}", trace.nodes);
        let lane = graph.timeline().processes.into_iter().find(|lane| lane.pid == OTHER).expect("its lane");
        assert!(lane.tainted);
    }
}

#[test]
fn who_shares_something_else_or_only_with_clean_ones_is_not() {
    let mut log = task();
    log.act(TASK, PYTHON, shm(7, WRITE)).act(OTHER, SERVER, shm(8, WRITE)).act(THIRD, SERVER, shm(8, WRITE));
    // The task reads what the other writes: that is the other way round.
    log.act(OTHER, SERVER, shm(9, WRITE)).act(TASK, PYTHON, shm(9, READ));
    let graph = run(&log.0);
    assert_eq!((taint(&graph, OTHER), taint(&graph, THIRD)), (None, None));
}

#[test]
fn of_a_file_on_a_disk_the_store_is_awaited() {
    let (path, on_disk) = ("/home/user/cache", file(70, 0o100_600));
    let mut log = task();
    log.act(OTHER, SERVER, map(path, on_disk, READ)).act(TASK, PYTHON, map(path, on_disk, WRITE));
    assert_eq!(taint(&run(&log.0), OTHER), None, "nothing was stored there");
    log.act(TASK, PYTHON, store(path, on_disk));
    assert_eq!(taint(&run(&log.0), OTHER), SHARED);
    // A mapping that comes later, as a mapping that was inherited.
    log.act(THIRD, SERVER, map(path, on_disk, READ));
    assert_eq!(taint(&run(&log.0), THIRD), SHARED);
}

#[test]
fn it_goes_on_from_one_to_the_next_and_ends_somewhere() {
    // A chain of processes that each share with the next, all before the first is tainted.
    let mut log = task();
    let count = 5000;
    for link in 0..count {
        log.act(1000 + link, SERVER, shm(u64::from(link), WRITE));
        log.act(1000 + link, SERVER, shm(u64::from(link) + 1, WRITE));
    }
    log.act(TASK, PYTHON, shm(u64::from(count), WRITE));
    let graph = run(&log.0);
    assert_eq!(taint(&graph, 1000 + count - 1), SHARED, "the next one");
    assert_eq!(taint(&graph, 1000 + count - 4000), SHARED, "as far as is kept");
    assert_eq!(taint(&graph, 1000), None, "4096 files are kept; these were forgotten");
}

#[test]
fn a_mapping_ends_with_its_process_and_its_program_and_goes_to_children() {
    let mut log = task();
    log.act(OTHER, SERVER, shm(7, READ)).fork(OTHER, SERVER, THIRD);
    log.exec(OTHER, "/usr/bin/true", 20, 0o100_755, &["true"]);
    log.act(TASK, PYTHON, shm(7, WRITE));
    let graph = run(&log.0);
    assert_eq!((taint(&graph, OTHER), taint(&graph, THIRD)), (None, SHARED));

    let mut log = task();
    log.act(OTHER, SERVER, shm(7, READ));
    log.act(OTHER, SERVER, Kind::ProcessExit { code: Some(0), signal: None });
    log.act(TASK, PYTHON, shm(7, WRITE));
    let graph = run(&log.0);
    assert_eq!(taint(&graph, OTHER), None);
}

#[test]
fn the_display_and_the_daemons_share_with_everybody() {
    for daemon in ["/usr/lib/xorg/Xorg", "/usr/lib/systemd/systemd-journald"] {
        let mut log = task();
        log.act(TASK, PYTHON, shm(7, WRITE)).act(OTHER, daemon, shm(7, WRITE)).act(THIRD, SERVER, shm(7, READ));
        let graph = run(&log.0);
        assert_eq!((taint(&graph, OTHER), taint(&graph, THIRD)), (None, SHARED), "{daemon}");
    }
    let mut log = task();
    let (log_file, id) = ("/var/log/journal/1/system.journal", file(71, 0o100_600));
    log.act(OTHER, SERVER, map(log_file, id, READ)).act(TASK, PYTHON, map(log_file, id, WRITE));
    log.act(TASK, PYTHON, store(log_file, id));
    assert_eq!(taint(&run(&log.0), OTHER), None);
}

#[test]
fn who_is_written_into_is_tainted_a_daemon_too() {
    let write = |pid: u32| Kind::MemoryRemoteWrite {
        target: ProcessRef { pid, tid: pid, start_ns: u64::from(pid), comm: text("x") },
        address: 0x1000,
        bytes: 8,
        way: "ptrace".into(),
    };
    for victim in [SERVER, "/usr/sbin/cron"] {
        let mut log = task();
        log.connect(OTHER, victim, 1, 80);
        log.act(THIRD, SERVER, write(OTHER));
        assert_eq!(taint(&run(&log.0), OTHER), None, "a clean one wrote");
        log.act(TASK, PYTHON, write(OTHER));
        let graph = run(&log.0);
        assert_eq!(taint(&graph, OTHER), Some((TaintRule::Injected, Grade::Observed)), "{victim}");
        let edge = graph.edges().iter().find(|edge| edge.verb == Verb::Injects).expect("the edge");
        assert_eq!((edge.bytes, edge.grade), (8, Grade::Observed));
        assert!(graph.trace().nodes.iter().any(|node| node.label == victim));
    }
}
