//! Whole sessions: from the log to the findings and the trace.

mod common;

use std::collections::BTreeSet;

use common::*;
use lava_event::*;
use lava_graph::{Graph, NodeKind, Trace, Unfold};

fn detectors(graph: &Graph) -> Vec<&str> {
    graph.findings().iter().map(|finding| finding.detector.as_str()).collect()
}

#[test]
fn drive_by_goes_through_all_stages() {
    let graph = run(&drive_by());
    assert_eq!(
        detectors(&graph),
        [
            "stealth.hidden_file",
            "stealth.permissions_file",
            "exploit.host_runs_dropped_file",
            "execute.dropped_file",
            "stealth.hidden_program",
            "escalate.setuid",
            "persist.cron",
            "persist.mbr_boot_code",
            "propagate.remote_services",
            "propagate.remote_services",
            "propagate.scan"
        ]
    );
    let techniques: Vec<&str> = graph.findings().iter().map(|f| f.technique.id.as_str()).collect();
    assert_eq!(
        techniques,
        [
            "T1564.001",
            "T1222.002",
            "T1203",
            "T1106",
            "T1564.001",
            "T1548.001",
            "T1053.003",
            "T1542.003",
            "T1021.004",
            "T1021.002",
            "T1046"
        ]
    );
    let trace = graph.trace();
    assert_eq!(trace.verdict, Verdict::Malicious);
    assert_eq!(trace.kill_chain.iter().map(|s| s.stage).collect::<Vec<_>>(), Stage::ALL);
    assert!(trace.kill_chain.windows(2).all(|w| w[0].first_ns <= w[1].first_ns));
    assert!(trace.nodes.len() < 20, "{:#?}", trace.nodes);
    let labels: Vec<&str> = trace.nodes.iter().map(|n| n.label.as_str()).collect();
    for expect in [
        "opened 412 files for reading",
        "10 hosts, 20 connection attempts on ports 22, 445",
        "/tmp/.x/dropper",
        "MBR boot code of vda",
        "/etc/cron.d/update",
    ] {
        assert!(labels.contains(&expect), "{expect} in {labels:#?}");
    }
    let area = trace.nodes.iter().find(|n| n.kind == NodeKind::DiskArea).unwrap();
    let edge = trace.edges.iter().find(|e| e.to == area.id).unwrap();
    assert_eq!((edge.grade, edge.stage), (Grade::Observed, Some(Stage::Persist)));
    assert_eq!(edge.decision.as_ref().unwrap().action, Action::Deny);
    for edge in &trace.edges {
        for end in [&edge.from, &edge.to] {
            assert!(trace.nodes.iter().any(|n| n.id == *end), "{edge:?}");
        }
    }
    let json = serde_json::to_string(&trace).unwrap();
    assert_eq!(serde_json::from_str::<lava_graph::Trace>(&json).unwrap(), trace);
    assert_eq!(serde_json::to_string(&run(&drive_by()).trace()).unwrap(), json);
}

#[test]
fn honest_programs_give_nothing_that_counts() {
    let java = "/usr/bin/java";
    let mut log = Log::task(java, "/home/user/app.jar");
    log.create(TASK, java, "/tmp/hsperfdata_user/200", 50)
        .create(TASK, java, "/home/user/.java/prefs", 51)
        .create(TASK, java, "/home/user/.cache/x", 52)
        .fork(TASK, java, 201)
        .exec(201, "/usr/bin/uname", 53, 0o100_755, &["uname"])
        .connect(TASK, java, 1, 443);
    let python = "/usr/bin/python3.11";
    let mut script = Log::task(python, "/home/user/x.py");
    script.create(TASK, python, "/home/user/out.csv", 50).create(TASK, python, "/home/user/__pycache__/a.pyc", 51);
    // Asking for the machine's name is told, and is no threat: no stage is reached by it.
    for (log, told) in [(log, vec!["discovery.system"]), (script, vec![])] {
        let graph = run(&log.0);
        assert_eq!(detectors(&graph), told);
        assert!(graph.findings().iter().all(|finding| finding.severity == Severity::Info));
        assert_eq!((graph.verdict(), graph.stages(), graph.trace().kill_chain), (Verdict::Clean, vec![], vec![]));
    }
}

#[test]
fn what_an_archive_held_is_content_and_what_it_drops_is_not() {
    let (zip, sh, launcher) = ("/usr/bin/7zz", "/usr/bin/dash", "/usr/lib/lava-launcher");
    let (setup, tool) = ("/home/user/a.zip.d/setup.sh", "/home/user/a.zip.d/tool");
    let mut log = Log::task(zip, "/home/user/a.zip");
    let Kind::VmTask { unpacks, .. } = &mut log.0[0].kind else { panic!("no task first") };
    *unpacks = Some("/home/user/a.zip.d".into());
    log.create(TASK, zip, setup, 50).create(TASK, zip, tool, 51).create(TASK, zip, "/tmp/aside", 52);
    log.raw(None, Kind::VmTaskExit { code: Some(0), signal: None, error: None });
    log.raw(
        None,
        Kind::VmMember {
            path: text(setup),
            size: 9,
            sha256: None,
            profile: Some("script".into()),
            command: vec!["/bin/sh".into(), setup.into()],
            hosts: vec![],
            jit: vec![],
            unpacks: None,
            skipped: None,
        },
    );
    log.fork(LAUNCHER, launcher, 210).exec(210, sh, 12, 0o100_755, &["sh", setup]).read(210, sh, setup, 50);
    log.fork(210, sh, 211).exec(211, tool, 51, 0o100_755, &[tool]);
    let graph = run(&log.0);
    let tainted = |pid: u32| graph.is_tainted(ProcessKey { pid, start_ns: u64::from(pid) });
    assert_eq!([LAUNCHER, 210, 211].map(tainted), [false, true, true]);
    assert_eq!(detectors(&graph), Vec::<&str>::new());
    assert!(graph.is_task_file(&text(setup)));
    let labels: Vec<String> = graph.trace().nodes.into_iter().map(|node| node.label).collect();
    assert!(labels.iter().any(|label| label == setup), "{labels:?}");

    // What lies elsewhere was not in the archive, whoever wrote it; nor was what the content writes.
    log.fork(210, sh, 212).exec(212, "/tmp/aside", 52, 0o100_755, &["aside"]);
    log.create(210, sh, "/home/user/a.zip.d/new", 53);
    log.fork(210, sh, 213).exec(213, "/home/user/a.zip.d/new", 53, 0o100_755, &["new"]);
    let graph = run(&log.0);
    let found = detectors(&graph).into_iter().filter(|id| *id == "execute.dropped_file").count();
    assert_eq!(found, 2);
}

#[test]
fn taint_is_cut_at_daemons_and_goes_on_in_their_jobs() {
    let sh = "/usr/bin/dash";
    let mut log = Log::task(sh, "/home/user/x.sh");
    log.create(TASK, sh, "/var/spool/cron/crontabs/user", 50)
        .create(TASK, sh, "/var/log/x.log", 51)
        .read(300, "/usr/sbin/cron", "/var/spool/cron/crontabs/user", 50)
        .fork(300, "/usr/sbin/cron", 301)
        .read(302, "/usr/bin/grep", "/var/log/x.log", 51)
        .create(TASK, sh, "/home/user/note", 52)
        .read(303, "/usr/bin/cat", "/home/user/note", 52);
    let graph = run(&log.0);
    let tainted = |pid: u32| graph.is_tainted(ProcessKey { pid, start_ns: u64::from(pid) });
    assert_eq!([300, 301, 302, 303, LAUNCHER].map(tainted), [false, true, false, true, false]);
}

#[test]
fn pipes_carry_taint_and_get_a_node_between_two_processes() {
    let sh = "/usr/bin/dash";
    let pipe = |inode: u64| file(inode, 0o010_600);
    let write =
        |inode| Kind::FileWrite { path: text("pipe:[x]"), file: pipe(inode), ranges: vec![], bytes: 5, count: 1 };
    let read = |inode| Kind::FileRead { path: text("pipe:[x]"), file: pipe(inode), ranges: vec![], bytes: 9, count: 1 };
    let mut log = Log::task(sh, "/home/user/x.sh");
    // 300 waits in its read, 301 reads afterwards and hands on; a daemon and the launcher read too; 303 writes, clean.
    log.act(300, "/usr/bin/cat", read(70)).act(TASK, sh, write(70)).act(301, "/usr/bin/tee", read(70));
    log.act(301, "/usr/bin/tee", write(71)).act(302, "/usr/bin/wc", read(71));
    log.act(TASK, sh, write(72)).act(LAUNCHER, "/usr/lib/lava-launcher", read(72));
    log.act(TASK, sh, write(72)).act(310, "/usr/sbin/cron", read(72));
    log.act(303, "/usr/bin/echo", write(73)).act(304, "/usr/bin/cat", read(73));
    let graph = run(&log.0);
    let tainted = |pid: u32| graph.is_tainted(ProcessKey { pid, start_ns: u64::from(pid) });
    assert_eq!([300, 301, 302].map(tainted), [true; 3]);
    assert_eq!([LAUNCHER, 310, 303, 304].map(tainted), [false; 4]);
    let grade = |pid: u32| {
        let of = |node: &&lava_graph::Node| node.process.is_some_and(|key| key.pid == pid);
        graph.nodes().iter().find(of).unwrap().taint.as_ref().unwrap().grade
    };
    assert_eq!([300, 301, 302].map(grade), [Grade::Inferred, Grade::Observed, Grade::Observed]);
    // The pipes 70 and 71; what only the task writes into, or nobody tainted, has no node.
    assert_eq!(graph.nodes().iter().filter(|node| node.label == "pipe:[x]").count(), 2);
}

#[test]
fn reading_a_tainted_file_through_an_inherited_descriptor_taints() {
    let sh = "/usr/bin/dash";
    let mut log = Log::task(sh, "/home/user/x.sh");
    log.create(TASK, sh, "/home/user/note", 52);
    let kind = |inode| Kind::FileRead {
        path: text("/home/user/note"),
        file: file(inode, 0o100_644),
        ranges: vec![],
        bytes: 9,
        count: 1,
    };
    log.act(300, "/usr/bin/cat", kind(52)).act(301, "/usr/bin/cat", kind(53));
    let stored = Kind::FileMapWrite { path: text("/home/user/map"), file: file(54, 0o100_644), ranges: vec![] };
    log.act(TASK, sh, stored).read(302, "/usr/bin/cat", "/home/user/map", 54);
    let graph = run(&log.0);
    let tainted = |pid: u32| graph.is_tainted(ProcessKey { pid, start_ns: u64::from(pid) });
    assert_eq!([300, 301, 302].map(tainted), [true, false, true]);
}

#[test]
fn becoming_root_without_a_setuid_file_is_critical() {
    let mut log = Log::task("/home/user/x", "/home/user/x");
    let old = Credentials { uid: 1000, euid: 1000, ..Credentials::default() };
    log.act(TASK, "/home/user/x", Kind::ProcessCredentials { old, new: Credentials::default() });
    let graph = run(&log.0);
    assert_eq!(detectors(&graph), ["escalate.root"]);
    assert_eq!(graph.verdict(), Verdict::Malicious);
}

#[test]
fn findings_that_rest_on_each_other_are_one_incident() {
    let trace = run(&drive_by()).trace();
    assert_eq!(trace.incidents.len(), 1, "{:#?}", trace.incidents);
    let all: Vec<usize> = (0..trace.findings.len()).collect();
    assert_eq!(
        (&trace.incidents[0].findings, trace.incidents[0].verdict, trace.score),
        (&all, Verdict::Malicious, 100)
    );
    assert!(
        trace.explanation.starts_with("Malicious (score 100 of 100): a critical finding: "),
        "{}",
        trace.explanation
    );
    assert!(trace.explanation.contains("persist.mbr_boot_code, T1542.003, inferred, event "), "{}", trace.explanation);
}

#[test]
fn what_is_only_inferred_is_an_incident_of_its_own() {
    let sh = "/usr/bin/dash";
    let root = Credentials::default();
    let user = Credentials { uid: 1000, euid: 1000, ..root };
    let mut log = Log::task(sh, "/home/user/x.sh");
    log.create(TASK, sh, "/tmp/x", 49)
        .create(TASK, sh, "/var/spool/cron/crontabs/user", 50)
        .read(300, "/usr/sbin/cron", "/var/spool/cron/crontabs/user", 50)
        .fork(300, "/usr/sbin/cron", 301)
        .act(301, "/usr/sbin/cron", Kind::ProcessCredentials { old: user, new: root });
    let trace = run(&log.0).trace();
    let of = |trace: &lava_graph::Trace| -> Vec<usize> { trace.incidents.iter().map(|i| i.findings.len()).collect() };
    assert_eq!(of(&trace), [1, 1], "{:#?}", trace.findings);
    assert!(
        trace.explanation.contains("in 2 incidents that are not seen to rest on each other"),
        "{}",
        trace.explanation
    );
    // The job runs what the task dropped: now it is seen that they belong together.
    log.exec(301, "/tmp/x", 49, 0o100_755, &["/tmp/x"]);
    let trace = run(&log.0).trace();
    assert_eq!((of(&trace), trace.incidents[0].stages.len()), (vec![trace.findings.len()], 3), "{:#?}", trace.findings);
}

#[test]
fn a_flood_still_gives_a_small_trace() {
    let x = "/home/user/x";
    let mut log = Log::task(x, x);
    for i in 0..200 {
        let pid = 1000 + i;
        let path = format!("/tmp/{i}");
        log.fork(TASK, x, pid).create(pid, x, &path, 5000 + u64::from(i));
        log.create(pid, x, &format!("/etc/cron.d/{i}"), 9000 + u64::from(i));
        log.exec(pid, &path, 5000 + u64::from(i), 0o100_755, &[&path]).read(pid, &path, "/etc/hosts", 3);
        log.connect(pid, &path, 7, 22);
    }
    let trace = run(&log.0).trace();
    assert!(trace.nodes.len() < lava_graph::trace::MAX_NODES, "{}", trace.nodes.len());
    assert_eq!(trace.findings.len(), 400);
}

#[test]
fn folds_open_one_after_the_other_until_everything_is_there() {
    let x = "/home/user/x";
    let mut log = Log::task(x, x);
    for i in 0..30 {
        let (pid, path) = (1000 + i, format!("/usr/bin/p{i}"));
        log.fork(TASK, x, pid).exec(pid, &path, 5000 + u64::from(i), 0o100_755, &[&path]);
        for j in 0..3 {
            log.read(pid, &path, &format!("/srv/{i}/{j}"), u64::from(9000 + i * 3 + j));
        }
    }
    let graph = run(&log.0);
    let files = |trace: &Trace| trace.nodes.iter().filter(|node| node.label.starts_with("/srv/")).count();
    let folds = |trace: &Trace| -> BTreeSet<String> {
        trace.nodes.iter().filter(|node| node.folded > 0).map(|node| node.id.clone()).collect()
    };
    let (mut open, mut trace) = (BTreeSet::new(), graph.trace());
    assert!(files(&trace) < 90 && !folds(&trace).is_empty());
    // The processes first: what comes out of their fold has folds of its own, which are opened in their turn.
    let first = folds(&trace);
    let mut from_within = 0;
    while let Some(fold) = folds(&trace).into_iter().min_by_key(|fold| !fold.ends_with(".processes")) {
        let hidden = |trace: &Trace| trace.nodes.iter().map(|node| node.folded).sum::<usize>();
        let before = hidden(&trace);
        from_within += usize::from(!first.contains(&fold));
        open.insert(fold);
        trace = graph.trace_of(&Unfold::Groups(open.clone()));
        assert!(hidden(&trace) < before || open.len() == 1, "the last of {open:?} opened nothing");
    }
    assert!(from_within > 0);
    assert_eq!(files(&trace), 90);
    let ends: BTreeSet<&str> = trace.edges.iter().flat_map(|edge| [edge.from.as_str(), edge.to.as_str()]).collect();
    assert!(ends.iter().all(|end| trace.nodes.iter().any(|node| node.id == *end)), "no edge leads nowhere");
}

mod arbitrary {
    use super::*;
    use proptest::prelude::*;

    /// Mixed-up pieces of an attack, with few processes and files so that they meet.
    fn events() -> impl Strategy<Value = Vec<Event>> {
        let piece = (0usize..500, 0u32..6, 0u64..6, any::<bool>());
        proptest::collection::vec(piece, 0..120).prop_map(|pieces| {
            let base: Vec<Event> = drive_by().into_iter().filter(|e| e.kind.name() != "file.open").collect();
            let mut out: Vec<Event> = base[..3].to_vec();
            for (at, pid, inode, other) in pieces {
                let mut event = base[at % base.len()].clone();
                if let Some(process) = &mut event.process
                    && other
                {
                    (process.pid, process.start_ns) = (199 + pid, u64::from(199 + pid));
                }
                match &mut event.kind {
                    Kind::FileWrite { file, .. } | Kind::ProcessExec { file, .. } if other => file.inode = 48 + inode,
                    Kind::ProcessFork { child, .. } if other => child.pid = 199 + pid,
                    _ => {}
                }
                out.push(event);
            }
            for (i, event) in out.iter_mut().enumerate() {
                event.seq = i as u64 + 1;
            }
            out
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn same_log_same_graph(log in events()) {
            // `run` also holds the sum of the deltas against the graph.
            let (a, b) = (run(&log), run(&log));
            prop_assert_eq!(a.snapshot(), b.snapshot());
            let trace = a.trace();
            prop_assert!(trace.nodes.len() < lava_graph::trace::MAX_NODES);
            prop_assert_eq!(trace, b.trace());
        }

        #[test]
        fn hostile_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), seq in 1u64..) {
            if let Ok(codec::Frame::Event(mut event)) = codec::decode(&[&[codec::VERSION, 0][..], &bytes].concat()) {
                event.seq = seq;
                run(&[event]);
            }
        }
    }
}
