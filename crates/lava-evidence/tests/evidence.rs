//! The folder as written, broken, and read; the pictures as drawn.

mod common;

use std::fs;
use std::path::Path;

use lava_event::{Event, GuestText, Kind, NetEndpoint, Produced, Protocol, SessionId, Sha256, Source};
use lava_evidence::{Error, MAX_LINE, Manifest, Outcome, Parent, Session, State, report, svg};
use tempfile::tempdir;

fn change(session: &Session, file: &str, how: impl Fn(Vec<&str>) -> Vec<String>) {
    let path = session.dir().join(file);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, how(text.lines().collect()).join("\n") + "\n").unwrap();
}

type Change = fn(Vec<&str>) -> Vec<String>;

fn owned(lines: &[&str]) -> Vec<String> {
    lines.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_written_is_read() {
    let root = tempdir().unwrap();
    let session = common::session(root.path());
    let read: Vec<_> = session.events().unwrap().map(Result::unwrap).collect();
    assert_eq!(read, common::events().into_iter().map(|p| p.event).collect::<Vec<_>>());
    assert_eq!(
        (session.manifest().state, session.manifest().events, session.manifest().artifacts),
        (State::Closed, 13, 2)
    );
    assert_eq!(session.findings().unwrap(), common::trace().findings);
    assert_eq!(session.trace().unwrap(), common::trace());
    let check = session.verify_chain().unwrap();
    assert!(check.intact(), "{:?}", check.problems);
    assert_eq!((check.sealed, Some(check.head)), (13, session.manifest().chain_head));
    fs::create_dir(root.path().join("broken")).unwrap();
    let listed = Session::list(root.path()).unwrap();
    assert!(listed[0].session.is_ok() && matches!(listed[1].session, Err(Error::NotASession(_))));
}

#[test]
fn changes_show() {
    let cases: [(&str, Change); 5] = [
        ("flip", |lines| {
            lines.iter().enumerate().map(|(i, l)| if i == 3 { l.replace("410", "411") } else { (*l).into() }).collect()
        }),
        ("cut in the middle", |mut lines| {
            lines.remove(4);
            owned(&lines)
        }),
        ("cut at the end", |mut lines| {
            lines.pop();
            owned(&lines)
        }),
        ("reorder", |mut lines| {
            lines.swap(2, 5);
            owned(&lines)
        }),
        ("insert", |mut lines| {
            lines.insert(2, lines[2]);
            owned(&lines)
        }),
    ];
    for (name, how) in cases {
        let root = tempdir().unwrap();
        let session = common::session(root.path());
        change(&session, "events.jsonl", how);
        assert!(session.verify_chain().unwrap().tampered(), "{name}");
    }
    // Log and chain cut alike: the head in the manifest tells.
    let root = tempdir().unwrap();
    let session = common::session(root.path());
    for file in ["events.jsonl", "chain.txt"] {
        change(&session, file, |mut lines| {
            lines.pop();
            owned(&lines)
        });
    }
    assert!(session.verify_chain().unwrap().tampered());
    let root = tempdir().unwrap();
    let session = common::session(root.path());
    let artifact = fs::read_dir(session.dir().join("artifacts")).unwrap().next().unwrap().unwrap().path();
    fs::write(&artifact, "other").unwrap();
    assert!(session.verify_chain().unwrap().tampered());
    fs::remove_file(&artifact).unwrap();
    let report = session.verify_chain().unwrap();
    assert!(report.problems.iter().any(|problem| problem.to_string() == "artifacts: 2 were kept, 1 are there"));
}

#[test]
fn a_crash_leaves_a_valid_prefix() {
    let root = tempdir().unwrap();
    let dir = common::writer(root.path()).dir().to_path_buf();
    let log = dir.join("events.jsonl");
    let text = fs::read(&log).unwrap();
    fs::write(&log, &text[..text.len() - 9]).unwrap();
    let chain = fs::read_to_string(dir.join("chain.txt")).unwrap();
    fs::write(dir.join("chain.txt"), &chain[..chain.len() - 65]).unwrap();
    let session = Session::open(&dir).unwrap();
    let mut events = session.events().unwrap();
    assert_eq!(events.by_ref().filter(Result::is_ok).count(), 12);
    assert_eq!(events.torn(), Some(13));
    let check = session.verify_chain().unwrap();
    assert!(!check.intact() && !check.tampered(), "{:?}", check.problems);
    assert!(report::render(&session, &common::trace()).unwrap().contains("torn"));
}

/// A log that goes on from another session's begins with that one's events, and its manifest says what their chain was.
#[test]
fn a_session_goes_on_from_another_and_says_so_truly() {
    let root = tempdir().unwrap();
    let first = common::session(root.path());
    let behind = |events| first.chain_behind(events).unwrap();
    assert_eq!((behind(13), behind(14)), (first.manifest().chain_head, None));
    let goes_on = |id: &str, events: u64, chain: Sha256, lines: usize| {
        let id = SessionId(id.into());
        let task = first.manifest().task.clone();
        let mut manifest = Manifest::new(id.clone(), "0.1.0", task, "browser", "2026-11-24T10:00:00Z");
        let (session, started) = (first.manifest().session.clone(), first.manifest().started.clone());
        manifest.parent =
            Some(Box::new(Parent { session, snapshot: 1, events, chain, until_ns: 1, started, parent: None }));
        let mut writer = lava_evidence::SessionWriter::create(root.path(), &id, manifest).unwrap();
        common::events().iter().take(lines).for_each(|event| writer.event(event).unwrap());
        let session = writer.close(&common::trace(), Outcome { state: State::Closed, ..Outcome::default() }).unwrap();
        assert_eq!(session.manifest().parent.as_ref().unwrap().events, events);
        session.verify_chain().unwrap()
    };
    let check = goes_on("TRUE", 8, behind(8).unwrap(), 13);
    assert!(check.intact(), "{:?}", check.problems);
    for (id, events, chain, lines) in
        [("OTHER", 8, behind(7).unwrap(), 13), ("SHORT", 8, behind(8).unwrap(), 7), ("MORE", 9, behind(8).unwrap(), 13)]
    {
        let check = goes_on(id, events, chain, lines);
        let told = format!("the first {events} events are not those of session 01JD");
        assert!(check.tampered() && check.problems[0].what.starts_with(&told), "{id}: {:?}", check.problems);
    }
}

#[test]
fn broken_lines_are_named_and_passed_over() {
    let root = tempdir().unwrap();
    let session = common::session(root.path());
    let long = "x".repeat(MAX_LINE + 10);
    change(&session, "events.jsonl", |lines| [lines[0], "{\"seq\":", &long, lines[1]].map(String::from).to_vec());
    let read: Vec<_> = session.events().unwrap().collect();
    let said: Vec<String> = read.iter().filter_map(|r| r.as_ref().err().map(ToString::to_string)).collect();
    assert_eq!((read.len(), said.len()), (4, 2));
    assert!(said[0].contains("events.jsonl, line 2: ") && said[1].contains("line 3: longer"), "{said:?}");
    fs::write(session.dir().join("manifest.json"), "{}").unwrap();
    assert!(Session::open(session.dir()).unwrap_err().to_string().contains("manifest.json"));
}

#[test]
fn ids_stay_in_the_root() {
    let root = tempdir().unwrap();
    let manifest = common::session(root.path()).manifest().clone();
    for id in ["../x", "", "a/b", "a.b"] {
        let made =
            lava_evidence::SessionWriter::create(root.path(), &lava_event::SessionId(id.into()), manifest.clone());
        assert!(matches!(made, Err(Error::BadId(_))), "{id}");
    }
    let again = lava_evidence::SessionWriter::create(root.path(), &manifest.session.clone(), manifest);
    assert!(matches!(again, Err(Error::Exists(_))));
}

fn page(root: &Path) -> String {
    fs::read_to_string(common::session(root).dir().join("report.html")).unwrap()
}

#[test]
fn the_report_fetches_nothing_and_escapes_everything() {
    let root = tempdir().unwrap();
    let page = page(root.path());
    for never in
        ["<img", "<script", "<link", "<iframe", "http://", "https://", "url(", "@import", " src=\"", "\u{202e}"]
    {
        assert!(!page.contains(never), "{never}");
    }
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;\\u{202e}"));
    assert!(!page.contains(&"A".repeat(3500)), "a long name is bounded");
    assert!(page.contains("default-src 'none'"));
    let levels: Vec<u8> = page
        .match_indices("<h")
        .filter_map(|(at, _)| page.as_bytes().get(at + 2))
        .filter(|b| b.is_ascii_digit())
        .copied()
        .collect();
    assert!(levels.windows(2).all(|pair| pair[1] <= pair[0] + 1) && levels[0] == b'1', "{levels:?}");
}

/// What a task says to the simulated network, and a file it wrote; the name is the guest's.
fn said(name: &GuestText) -> Vec<Kind> {
    let end = |address: [u8; 4], port| NetEndpoint { address: address.into(), port };
    let (origin, web) = (end([10, 77, 0, 15], 40_010), end([198, 18, 0, 5], 8443));
    let hash = |bytes: &[u8]| Some(Sha256::of(bytes));
    vec![
        Kind::NetDns {
            protocol: Protocol::Udp,
            origin,
            question: name.clone(),
            qtype: 28,
            addresses: vec![web.address],
            frame: 1,
        },
        Kind::NetHttp {
            origin,
            destination: web,
            tls: true,
            method: "POST".into(),
            host: name.clone(),
            path: "/gate.php?id=7".into(),
            user_agent: Some("beacon/1.0".into()),
            content_type: None,
            status: 200,
            answer: "default".into(),
            response_type: "text/html".into(),
            request_bytes: 6,
            request_sha256: hash(b"stolen"),
            request_complete: true,
            response_bytes: 0,
            response_sha256: None,
            frame: 2,
        },
        Kind::NetTls {
            origin,
            destination: web,
            server_name: Some(name.clone()),
            alpn: vec!["h2".into()],
            version: "TLSv1.3".into(),
            ja3: "e7d705a3286e19ea42f587b344ee6865".into(),
            ja4: String::new(),
            outcome: "established".into(),
            frame: 3,
        },
        Kind::NetMail {
            origin,
            destination: end([198, 18, 0, 6], 25),
            from: "bot@example.com".into(),
            to: vec![name.clone()],
            receivers: 70,
            subject: Some("invoice".into()),
            bytes: 2048,
            sha256: hash(b"mail"),
            complete: false,
            frame: 4,
        },
        Kind::NetStream {
            protocol: Protocol::Tcp,
            origin,
            destination: end([198, 18, 0, 7], 6667),
            application: "irc".into(),
            sent: 10,
            received: 20,
            sent_sha256: hash(b"NICK x"),
            received_sha256: None,
            complete: true,
            ended: "guest".into(),
            frame: 5,
        },
        Kind::FileContent {
            path: name.clone(),
            file: common::file(),
            sha256: Sha256::of(b"dropped"),
            kept: 7,
            complete: true,
        },
    ]
}

#[test]
fn the_report_lists_what_was_said_and_written() {
    let root = tempdir().unwrap();
    let mut writer = common::writer(root.path());
    let evil = GuestText::from("c2.example<b>\u{202e}");
    // Twice the same, and many others: equal ones are one row, and what does not fit is counted.
    let mut kinds = said(&evil);
    kinds.extend(said(&evil));
    kinds.extend((0..500).flat_map(|n| said(&GuestText::from(format!("n{n}.example").as_str()))));
    for (kind, seq) in kinds.into_iter().zip(14..) {
        let event = Event { seq, ..Event::new(seq * 1_000_000, Source::Net, kind) };
        writer.event(&Produced { event, artifacts: vec![] }).unwrap();
    }
    let session = writer.close(&common::trace(), Outcome { state: State::Closed, ..Outcome::default() }).unwrap();
    let page = fs::read_to_string(session.dir().join("report.html")).unwrap();
    let name = "c2.example&lt;b&gt;\\u{202e}";
    for row in [
        format!("<code>{name} (AAAA)</code></td><td>198.18.0.5</td><td class=\"n\">2×</td>"),
        format!("<code>POST https://{name}:8443/gate.php?id=7</code>"),
        "user agent: beacon/1.0".into(),
        format!("sent 6 B, SHA-256 {}", Sha256::of(b"stolen")),
        format!("<code>{name} at 198.18.0.5:8443</code>"),
        "JA3 e7d705a3286e19ea42f587b344ee6865".into(),
        format!("from bot@example.com to {name} and 69 more"),
        format!("mail 2.0 KiB (kept: the first of it), SHA-256 {}", Sha256::of(b"mail")),
        "irc with 198.18.0.7:6667 (Tcp)".into(),
        format!("<code>{name}</code><small>7 B</small></td><td><code>{}</code>", Sha256::of(b"dropped")),
        "and 101 more that did not fit".into(),
    ] {
        assert!(page.contains(&row), "{row}");
    }
    assert!(!page.contains("example<b>") && !page.contains('\u{202e}'));
    assert!(page.len() < 4 << 20, "{}", page.len());
}

#[test]
fn the_same_session_gives_the_same_bytes() {
    let (a, b) = (tempdir().unwrap(), tempdir().unwrap());
    assert_eq!(page(a.path()), page(b.path()));
    assert_eq!(svg::render(&common::trace()), svg::render(&common::trace()));
}

#[test]
fn a_small_picture() {
    let mut trace = common::trace();
    trace.nodes.truncate(3);
    let svg = svg::render(&trace);
    let drawn = svg.split_once("</style>").unwrap().1;
    insta::assert_snapshot!(drawn);
}

/// For looking at: `LAVA_LOOK=/folder cargo test -p lava-evidence look`.
#[test]
fn look() {
    if let Some(folder) = std::env::var_os("LAVA_LOOK") {
        common::session(Path::new(&folder));
    }
}
