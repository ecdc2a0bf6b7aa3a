//! Event logs in a few words, and their analysis.

use lava_analysis::Analysis;
use lava_event::*;
use lava_graph::{Graph, Snapshot};

/// Runs a log; whenever a viewer takes the deltas, it must hold the graph.
pub fn run(events: &[Event]) -> Graph {
    let (mut analysis, mut viewer, mut held) = (Analysis::new(), Snapshot::default(), 0);
    for event in events {
        let observed = analysis.observe(event);
        for finding in &observed.findings {
            assert!(!finding.events.is_empty() && finding.events.iter().all(|&seq| seq <= event.seq), "{finding:?}");
        }
        // Sometimes after each event, sometimes after many.
        if event.seq % 7 < 2 {
            analysis.graph().deltas_since(held).iter().for_each(|delta| viewer.apply(delta));
            held = event.seq;
            assert_eq!(viewer, analysis.graph().snapshot());
        }
    }
    analysis.graph().deltas_since(held).iter().for_each(|delta| viewer.apply(delta));
    assert_eq!(viewer, analysis.graph().snapshot());
    analysis.into_graph()
}

#[derive(Default)]
pub struct Log(pub Vec<Event>);

pub const LAUNCHER: u32 = 100;
pub const TASK: u32 = 200;

pub fn text(text: &str) -> GuestText {
    GuestText::from(text)
}

pub fn file(inode: u64, mode: u32) -> FileId {
    FileId { device: (254, 1), inode, mode, uid: 0, gid: 0, size: 1, node: None }
}

impl Log {
    pub fn raw(&mut self, who: Option<(u32, &str, u32)>, kind: Kind) -> &mut Self {
        let seq = self.0.len() as u64 + 1;
        let mut event = Event::new(seq * 1000, Source::Tap, kind);
        event.seq = seq;
        event.process = who.map(|(pid, exe, uid)| Process {
            pid,
            tid: pid,
            start_ns: u64::from(pid),
            ppid: 1,
            uid,
            comm: text(exe.rsplit('/').next().unwrap()),
            exe: text(exe),
        });
        self.0.push(event);
        self
    }

    pub fn act(&mut self, pid: u32, exe: &str, kind: Kind) -> &mut Self {
        self.raw(Some((pid, exe, 1000)), kind)
    }

    /// The launcher starts `exe` as process [`TASK`], and it opens the content.
    pub fn task(exe: &str, path: &str) -> Self {
        let mut log = Self::default();
        log.raw(
            None,
            Kind::VmTask {
                name: "task".into(),
                path: path.into(),
                sha256: Sha256::default(),
                profile: "p".into(),
                command: vec![exe.into(), path.into()],
                launcher: "/usr/lib/lava-launcher".into(),
                jit: vec![],
                hosts: vec!["java".into()],
                unpacks: None,
            },
        );
        log.fork(LAUNCHER, "/usr/lib/lava-launcher", TASK).exec(TASK, exe, 10, 0o100_755, &[exe, path]);
        log.open(TASK, exe, path, 11)
    }

    pub fn fork(&mut self, pid: u32, exe: &str, child: u32) -> &mut Self {
        let child = ProcessRef { pid: child, tid: child, start_ns: u64::from(child), comm: text("x") };
        self.act(pid, exe, Kind::ProcessFork { child, thread: false, flags: 0 })
    }

    pub fn exec(&mut self, pid: u32, exe: &str, inode: u64, mode: u32, argv: &[&str]) -> &mut Self {
        let argv = argv.iter().map(|a| text(a)).collect();
        let (path, cwd) = (text(exe), text("/home/user"));
        let file = file(inode, mode);
        self.act(
            pid,
            exe,
            Kind::ProcessExec { path, argv, envp: vec![], truncated: false, cwd, file, interpreter: None },
        )
    }

    pub fn open(mut self, pid: u32, exe: &str, path: &str, inode: u64) -> Self {
        self.read(pid, exe, path, inode);
        self
    }

    pub fn read(&mut self, pid: u32, exe: &str, path: &str, inode: u64) -> &mut Self {
        let kind = Kind::FileOpen { path: text(path), file: file(inode, 0o100_644), access: Access::Read };
        self.act(pid, exe, kind)
    }

    pub fn create(&mut self, pid: u32, exe: &str, path: &str, inode: u64) -> &mut Self {
        let made = file(inode, 0o100_644);
        let kind = Kind::FileCreate { path: text(path), file: Some(made), what: FileType::Regular, target: None };
        self.act(pid, exe, kind);
        let kind = Kind::FileWrite { path: text(path), file: made, ranges: vec![], bytes: 9, count: 1 };
        self.act(pid, exe, kind)
    }

    pub fn connect(&mut self, pid: u32, exe: &str, host: u8, port: u16) -> &mut Self {
        let destination = Some(NetEndpoint { address: [10, 0, 0, host].into(), port });
        self.act(pid, exe, Kind::NetConnect { protocol: Protocol::Tcp, destination, path: None })
    }
}

pub fn drive_by() -> Vec<Event> {
    const JAVA: &str = "/usr/lib/jvm/bin/java";
    const DROPPER: &str = "/tmp/.x/dropper";
    let mut log = Log::task(JAVA, "/home/user/evil.jar");
    for i in 0..412 {
        log.read(TASK, JAVA, &format!("/usr/lib/jvm/lib/{i}.so"), 1000 + i);
    }
    log.create(TASK, JAVA, DROPPER, 50);
    let made = file(50, 0o100_644);
    log.act(
        TASK,
        JAVA,
        Kind::FileAttributes { path: text(DROPPER), file: made, mode: Some(0o100_755), uid: None, gid: None },
    );
    log.fork(TASK, JAVA, 201).exec(201, "/usr/lib/jvm/lib/jspawnhelper", 12, 0o100_755, &["jspawnhelper"]);
    log.exec(201, DROPPER, 50, 0o100_755, &[DROPPER]);
    let user = Credentials { uid: 1000, euid: 1000, ..Credentials::default() };
    log.fork(201, DROPPER, 202);
    let new = Credentials { uid: 1000, euid: 0, ..Credentials::default() };
    log.act(202, DROPPER, Kind::ProcessCredentials { old: user, new });
    log.exec(202, "/usr/local/bin/helper", 13, 0o104_755, &["helper"]);
    log.create(202, "/usr/local/bin/helper", "/etc/cron.d/update", 60);
    let vda = FileId { node: Some((254, 0)), ..file(7, 0o060_660) };
    let ranges = vec![Range { start: 0, end: 440 }];
    log.act(
        202,
        "/usr/local/bin/helper",
        Kind::FileWrite { path: text("/dev/vda"), file: vda, ranges: ranges.clone(), bytes: 440, count: 1 },
    );
    log.raw(
        None,
        Kind::DiskWrite {
            disk: "vda".into(),
            region: DiskRegion::MbrBootCode,
            ranges: ranges.clone(),
            bytes: 440,
            count: 1,
            changed: ranges,
            before: None,
            after: None,
        },
    );
    let subject = log.0.len() as u64;
    log.raw(
        None,
        Kind::VmDecision {
            subject,
            action: Action::Deny,
            policy: "p".into(),
            rule: None,
            reason: None,
            outcome: "refused".into(),
        },
    );
    for host in 1..=10 {
        log.connect(201, DROPPER, host, 22).connect(201, DROPPER, host, 445);
    }
    log.0
}
