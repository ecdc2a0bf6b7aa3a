//! A synthetic drive-by: a page drops a program, which gains rights, writes the MBR and calls out.
#![allow(dead_code, unreachable_pub)]

use lava_event::*;
use lava_evidence::{Manifest, Outcome, Session, SessionWriter, State, TaskFacts};
use lava_graph::*;
use std::path::Path;

pub const EVIL: &str = "<img src=x onerror=alert(1)>\u{202e}gpj";

fn process(pid: u32, ppid: u32, comm: &str, exe: &str, uid: u32) -> Process {
    Process { pid, tid: pid, start_ns: u64::from(pid), ppid, uid, comm: comm.into(), exe: exe.into() }
}

pub fn file() -> FileId {
    FileId { device: (254, 1), inode: 9, mode: 0o100_644, uid: 1000, gid: 1000, size: 5, node: None }
}

fn exec(path: &str, argv: &[&str]) -> Kind {
    let argv = argv.iter().map(|word| GuestText::from(*word)).collect();
    Kind::ProcessExec {
        path: path.into(),
        argv,
        envp: vec![],
        truncated: false,
        cwd: "/home/user".into(),
        file: file(),
        interpreter: None,
    }
}

pub fn events() -> Vec<Produced> {
    let old = Artifact::new(&[0x33; 440]);
    let mut new = old.bytes.to_vec();
    new[..48].fill(0x90);
    let new = Artifact::new(&new);
    let browser = || process(401, 400, "firefox", "/usr/lib/firefox", 1000);
    let sh = || process(410, 401, "sh", "/bin/dash", 1000);
    let upd = |uid| process(411, 410, "updater", "/tmp/.x/updater", uid);
    let child = |pid, comm: &str| Kind::ProcessFork {
        flags: 0,
        child: ProcessRef { pid, tid: pid, start_ns: u64::from(pid), comm: comm.into() },
        thread: false,
    };
    let cred = |uid| Credentials { uid, euid: uid, ..Credentials::default() };
    let end = NetEndpoint { address: [203, 0, 113, 7].into(), port: 445 };
    let one = |n| vec![Range { start: 0, end: n }];
    let list: Vec<(Option<Process>, Kind)> = vec![
        (None, Kind::VmStarted { qemu: "10.0.2".into(), kernel: "6.1.0-40-cloud-amd64".into() }),
        (Some(browser()), exec("/usr/lib/firefox", &["firefox", "invoice.html"])),
        (Some(browser()), child(410, "sh")),
        (Some(sh()), exec("/bin/sh", &["sh", "-c", EVIL])),
        (
            Some(sh()),
            Kind::FileWrite {
                path: "/tmp/.x/updater".into(),
                file: file(),
                ranges: one(48_128),
                bytes: 48_128,
                count: 12,
            },
        ),
        (Some(sh()), child(411, "sh")),
        (Some(upd(1000)), exec("/tmp/.x/updater", &["/tmp/.x/updater", &"A".repeat(4096)])),
        (Some(upd(1000)), Kind::ProcessCredentials { old: cred(1000), new: cred(0) }),
        (
            Some(upd(0)),
            Kind::DiskWrite {
                disk: "vda".into(),
                region: DiskRegion::MbrBootCode,
                ranges: one(440),
                bytes: 440,
                count: 1,
                changed: one(48),
                before: Some(old.sha256),
                after: Some(new.sha256),
            },
        ),
        (
            None,
            Kind::VmDecision {
                subject: 9,
                action: Action::Remediate,
                policy: "remediate".into(),
                rule: Some("mbr".into()),
                reason: Some("Nothing writes boot code.".into()),
                outcome: "the 440 bytes were put back".into(),
            },
        ),
        (Some(upd(0)), Kind::NetConnect { protocol: Protocol::Tcp, destination: Some(end), path: None }),
        (
            None,
            Kind::VmGap {
                at: Source::Tap,
                cause: GapCause::Unreadable,
                missing: Some(1),
                detail: "a path could not be read".into(),
            },
        ),
        (None, Kind::VmEnded { reason: "finished".into(), orderly: true, detail: None }),
    ];
    let mut seq = 0;
    list.into_iter()
        .map(|(process, kind)| {
            seq += 1;
            let artifacts = if seq == 9 { vec![old.clone(), new.clone()] } else { vec![] };
            let source = if process.is_some() { Source::Tap } else { Source::Microvisor };
            Produced { event: Event { seq, process, ..Event::new(seq * 700_000_000, source, kind) }, artifacts }
        })
        .collect()
}

fn node(id: &str, kind: NodeKind, label: &str, stage: Option<Stage>, findings: &[usize]) -> TraceNode {
    let findings = findings.to_vec();
    TraceNode {
        id: id.into(),
        kind,
        label: label.into(),
        detail: vec![EVIL.into()],
        folded: 0,
        stage,
        tainted: true,
        findings,
        first_ns: 1_400_000_000,
        last_ns: 7_700_000_000,
    }
}

fn edge(from: &str, to: &str, verb: Verb, grade: Grade, event: u64, stage: Option<Stage>) -> TraceEdge {
    let ns = event * 700_000_000;
    TraceEdge {
        from: from.into(),
        to: to.into(),
        verb,
        grade,
        first_ns: ns,
        last_ns: ns,
        count: 1 + event % 3,
        bytes: 440,
        events: vec![event],
        stage,
        decision: None,
    }
}

fn finding(title: &str, stage: Stage, id: &str, name: &str, event: u64) -> Finding {
    Finding {
        detector: format!("{stage}.test"),
        title: title.into(),
        why: "Honest programs do not do this.".into(),
        stage,
        technique: Technique { id: id.into(), name: name.into() },
        severity: Severity::High,
        grade: Grade::Observed,
        time_ns: event * 700_000_000,
        process: None,
        events: vec![event],
        distance: None,
    }
}

pub fn trace() -> Trace {
    use Stage::{Escalate, Execute, Exploit, Persist, Propagate};
    let (p, f) = (NodeKind::Process, NodeKind::File);
    let findings = vec![
        finding("Firefox started a shell", Exploit, "T1189", "Drive-by Compromise", 4),
        finding("A program dropped by the task was run: /tmp/.x/updater", Execute, "T1204.002", "Malicious File", 7),
        finding("updater became root without setuid", Escalate, "T1068", "Exploitation for Privilege Escalation", 8),
        finding("The disk's boot code was overwritten", Persist, "T1542.003", "Bootkit", 9),
        finding(
            "20 connection attempts to port 445 of 10 hosts",
            Propagate,
            "T1210",
            "Exploitation of Remote Services",
            11,
        ),
    ];
    let g = Grade::Observed;
    let mut to_disk = edge("n4", "n7", Verb::Writes, Grade::Proven, 9, Some(Persist));
    to_disk.decision = Some(EdgeDecision { action: Action::Remediate, outcome: "put back".into(), event: 10 });
    Trace {
        nodes: vec![
            node("n0", NodeKind::Task, "invoice.html", None, &[]),
            node("n1", p, "firefox invoice.html", None, &[]),
            node("n2", p, &format!("sh -c {EVIL}"), Some(Exploit), &[0]),
            node("n3", f, "/tmp/.x/updater", Some(Execute), &[1]),
            node("n4", p, "/tmp/.x/updater", Some(Execute), &[1, 2, 3]),
            node("n5", NodeKind::Credential, "uid 0, all capabilities", Some(Escalate), &[2]),
            node("n6", f, "/dev/vda", Some(Persist), &[3]),
            node("n7", NodeKind::DiskArea, "vda: MBR boot code (bytes 0..440)", Some(Persist), &[3]),
            node("n8", NodeKind::Endpoint, "10 hosts, 20 connection attempts on ports 22, 445", Some(Propagate), &[4]),
            node("n1.reads", NodeKind::Fold, "opened 212 files for reading", None, &[]),
            node("n4.files", NodeKind::Fold, "changed 3 other files", None, &[]),
        ],
        edges: vec![
            edge("n0", "n1", Verb::Opens, g, 2, None),
            edge("n1", "n1.reads", Verb::Reads, g, 2, None),
            edge("n1", "n2", Verb::Starts, g, 4, Some(Exploit)),
            edge("n2", "n3", Verb::Creates, g, 5, None),
            edge("n2", "n3", Verb::Writes, g, 5, None),
            edge("n2", "n4", Verb::Starts, g, 7, Some(Execute)),
            edge("n4", "n3", Verb::Runs, g, 7, Some(Execute)),
            edge("n4", "n5", Verb::Gains, g, 8, Some(Escalate)),
            edge("n4", "n6", Verb::Writes, g, 9, Some(Persist)),
            edge("n6", "n7", Verb::Writes, Grade::Inferred, 9, Some(Persist)),
            to_disk,
            edge("n4", "n8", Verb::Connects, g, 11, Some(Propagate)),
            edge("n4", "n4.files", Verb::Writes, g, 11, None),
        ],
        kill_chain: findings
            .iter()
            .enumerate()
            .map(|(i, f)| StageSummary { stage: f.stage, findings: vec![i], first_ns: f.time_ns })
            .collect(),
        incidents: vec![Incident {
            title: findings[0].title.clone(),
            verdict: Verdict::Malicious,
            score: 100,
            stages: Stage::ALL.to_vec(),
            findings: (0..findings.len()).collect(),
            first_ns: findings[0].time_ns,
            last_ns: findings[4].time_ns,
        }],
        findings,
        verdict: Verdict::Malicious,
        score: 100,
        explanation: format!("Malicious (score 100 of 100): findings of severity high in 5 stages: {EVIL}."),
        decisions: vec![DecisionSummary {
            event: 10,
            subject: 9,
            time_ns: 7_000_000_000,
            action: Action::Remediate,
            policy: "remediate".into(),
            rule: Some("mbr".into()),
            reason: Some("Nothing writes boot code.".into()),
            outcome: "the 440 bytes were put back".into(),
        }],
        graph_nodes: 412,
        graph_edges: 980,
    }
}

pub fn writer(root: &Path) -> SessionWriter {
    let id = SessionId("01JD0000000000000000000000".into());
    let task = TaskFacts { name: format!("invoice{EVIL}.html"), sha256: Sha256::of(b"task"), size: 4321 };
    let mut manifest = Manifest::new(id.clone(), "0.1.0", task, "browser", "2026-11-23T10:00:00Z");
    manifest.mbr_before = Some(Sha256::of(b"mbr"));
    let mut writer = SessionWriter::create(root, &id, manifest).unwrap();
    events().iter().for_each(|event| writer.event(event).unwrap());
    trace().findings.iter().for_each(|finding| writer.finding(finding).unwrap());
    writer
}

pub fn session(root: &Path) -> Session {
    let mbr_after = Some(Sha256::of(b"mbr"));
    let outcome = Outcome { state: State::Closed, ended: "2026-11-23T10:00:10Z".into(), mbr_after, detail: None };
    writer(root).close(&trace(), outcome).unwrap()
}
