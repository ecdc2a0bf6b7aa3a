//! What must hold of every session, whatever its events are.

#[allow(dead_code)] // The other session tests use the rest of it.
mod common;

use std::collections::BTreeSet;

use common::*;
use lava_analysis::Analysis;
use lava_event::*;
use lava_graph::{Graph, Snapshot};
use proptest::prelude::*;

fn renumber(events: &mut [Event]) {
    for (i, event) in events.iter_mut().enumerate() {
        (event.seq, event.time_ns) = (i as u64 + 1, (i as u64 + 1) * 1000);
    }
}

/// Pieces of attacks and of honest work by a few processes that exist side by side, some of the task, some not.
fn session() -> impl Strategy<Value = Vec<Event>> {
    let act = (0u32..5, 0u32..9, 0u64..4);
    proptest::collection::vec(act, 0..60).prop_map(|acts| {
        let sh = "/usr/bin/dash";
        let mut log = Log::task(sh, "/home/user/x.sh");
        let exe = |pid: u32| format!("/opt/program-{pid}");
        for child in 300..303 {
            log.fork(TASK, sh, child).exec(child, &exe(child), u64::from(child), 0o100_755, &["x"]);
        }
        for (who, what, thing) in acts {
            // 303 and 304 are nobody's of the task, until they take something from it.
            let pid = 300 + who;
            let (exe, path, inode) = (exe(pid), format!("/tmp/thing-{thing}"), 50 + thing);
            let made = file(inode, 0o100_755);
            match what {
                0 => log.create(pid, &exe, &path, inode),
                1 => log.read(pid, &exe, &path, inode),
                2 => log.fork(pid, &exe, 1000 + pid).exec(1000 + pid, &path, inode, 0o100_755, &["y"]),
                3 => log.create(pid, &exe, &format!("/etc/cron.d/job-{thing}"), 90 + thing),
                4 => log.connect(pid, &exe, thing as u8 + 1, 22).connect(pid, &exe, who as u8 + 20, 445),
                5 => log.act(pid, &exe, Kind::FileUnlink { path: text(&path), file: made }),
                6 => log.act(pid, &exe, pipe(true, 700 + thing)),
                7 => log.act(pid, &exe, pipe(false, 700 + thing)),
                _ => {
                    let user = Credentials { uid: 1000, euid: 1000, ..Credentials::default() };
                    let new = Credentials { euid: 0, ..user };
                    log.act(pid, &exe, Kind::ProcessCredentials { old: user, new });
                    log.exec(pid, "/usr/bin/sudo", 99, 0o104_755, &["sudo"])
                }
            };
        }
        log.0
    })
}

fn pipe(write: bool, inode: u64) -> Kind {
    let (path, file, ranges) = (text("pipe:[x]"), file(inode, 0o010_600), vec![]);
    match write {
        true => Kind::FileWrite { path, file, ranges, bytes: 5, count: 1 },
        false => Kind::FileRead { path, file, ranges, bytes: 5, count: 1 },
    }
}

/// What an event is about; two events that share nothing can come in either order. `None`: everything.
fn about(event: &Event) -> Option<BTreeSet<String>> {
    let mut things = BTreeSet::from([format!("process {}", event.actor()?.pid)]);
    match &event.kind {
        Kind::ProcessFork { child, .. } => {
            things.insert(format!("process {}", child.pid));
        }
        Kind::ProcessExec { path, file, .. } => {
            things.extend([format!("path {path}"), format!("inode {}", file.inode)]);
        }
        Kind::FileOpen { path, file, .. } | Kind::FileUnlink { path, file } | Kind::FileRead { path, file, .. } => {
            things.extend([format!("path {path}"), format!("inode {}", file.inode)]);
        }
        // Who reads at a pipe's other end is waiting for it: a write is an event of theirs too.
        Kind::FileWrite { file, .. } if file.file_type() == FileType::Fifo => return None,
        Kind::FileWrite { path, file, .. } | Kind::FileCreate { path, file: Some(file), .. } => {
            things.extend([format!("path {path}"), format!("inode {}", file.inode)]);
        }
        Kind::NetConnect { .. } | Kind::ProcessCredentials { .. } => {}
        _ => return None,
    }
    Some(things)
}

/// Verdict, score, and which detectors said something how often. (Who reached the fifth of five machines is a matter of order.)
fn outcome(graph: &Graph) -> (Verdict, u8, Vec<String>) {
    let mut said: Vec<String> = graph.findings().iter().map(|f| format!("{} {}", f.detector, f.technique.id)).collect();
    said.sort();
    (graph.verdict(), graph.score(), said)
}

fn analyse(events: &[Event]) -> Graph {
    let mut analysis = Analysis::new();
    events.iter().for_each(|event| drop(analysis.observe(event)));
    analysis.into_graph()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_concurrent_events_changes_no_verdict(
        mut log in session(),
        swaps in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
    ) {
        let before = analyse(&log);
        let mut swapped = 0;
        for at in swaps {
            let at = at.index(log.len() - 1);
            if let (Some(a), Some(b)) = (about(&log[at]), about(&log[at + 1]))
                && a.is_disjoint(&b)
            {
                log.swap(at, at + 1);
                swapped += 1;
            }
        }
        renumber(&mut log);
        let after = analyse(&log);
        prop_assert_eq!(outcome(&before), outcome(&after), "after {} swaps", swapped);
        let incidents = |graph: &Graph| -> Vec<(u8, usize)> {
            let mut of: Vec<_> = graph.trace().incidents.iter().map(|i| (i.score, i.findings.len())).collect();
            of.sort_unstable();
            of
        };
        prop_assert_eq!(incidents(&before), incidents(&after));
    }

    #[test]
    fn a_child_that_acts_before_its_fork_is_told_is_the_same(log in session(), at in any::<prop::sample::Index>()) {
        let forks: Vec<usize> = (4..log.len() - 1).filter(|&i| matches!(log[i].kind, Kind::ProcessFork { .. })).collect();
        let at = forks[at.index(forks.len())];
        let mut late = log.clone();
        // As the kernel says of the child: who its parent is.
        let parent = log[at].actor().unwrap().pid;
        if let Some(process) = &mut late[at + 1].process {
            process.ppid = parent;
        }
        let expect = outcome(&analyse(&late));
        late.swap(at, at + 1);
        renumber(&mut late);
        prop_assert_eq!(outcome(&analyse(&late)), expect);
    }

    #[test]
    fn honest_events_before_the_task_change_nothing(log in session(), prefix in proptest::collection::vec((0u32..6, 0u64..40), 0..40)) {
        let mut before = Log::default();
        for (who, thing) in prefix {
            let (pid, exe) = (700 + who, format!("/usr/lib/systemd/daemon-{who}"));
            before.read(pid, &exe, &format!("/usr/share/{thing}"), 2000 + thing)
                .create(pid, &exe, &format!("/run/{thing}"), 3000 + thing)
                .fork(pid, &exe, 800 + who)
                .act(800 + who, &exe, Kind::ProcessExit { code: Some(0), signal: None });
        }
        let mut whole = before.0;
        whole.extend(log.iter().cloned());
        renumber(&mut whole);
        let (with, without) = (analyse(&whole), analyse(&log));
        prop_assert_eq!(outcome(&with), outcome(&without));
        let (with, without) = (with.trace(), without.trace());
        let labels = |trace: &lava_graph::Trace| -> Vec<String> { trace.nodes.iter().map(|n| n.label.clone()).collect() };
        prop_assert_eq!(labels(&with), labels(&without));
        prop_assert_eq!(with.incidents.len(), without.incidents.len());
    }

    #[test]
    fn a_viewer_that_looks_now_and_then_holds_what_one_that_comes_last_gets(
        log in session(),
        looks in proptest::collection::btree_set(1u64..200, 0..12),
    ) {
        let (mut analysis, mut viewer, mut held) = (Analysis::new(), Snapshot::default(), 0);
        for event in &log {
            analysis.observe(event);
            if looks.contains(&event.seq) {
                analysis.graph().deltas_since(held).iter().for_each(|delta| viewer.apply(delta));
                held = event.seq;
            }
        }
        analysis.graph().deltas_since(held).iter().for_each(|delta| viewer.apply(delta));
        let mut late = Snapshot::default();
        analysis.graph().deltas_since(0).iter().for_each(|delta| late.apply(delta));
        prop_assert_eq!(&viewer, &late);
        prop_assert_eq!(&late, &analysis.graph().snapshot());
        // Nothing happened since: nothing is told.
        prop_assert!(analysis.graph().deltas_since(log.len() as u64).is_empty());
    }
}
