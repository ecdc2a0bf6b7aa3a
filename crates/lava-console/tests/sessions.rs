//! Sessions, recorded and live, as the page gets them.

mod common;

use std::os::unix::fs::symlink;

use common::{HOSTILE, Recording, console, recorded};
use lava_console::Role;
use lava_export::{Format, Scope};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::tempdir;

const ID: &str = "01J0000000000000000000000A";

fn nobody() -> &'static std::path::Path {
    std::path::Path::new("/bin/false")
}

#[test]
fn a_recorded_session_is_told_as_it_was_written() {
    let root = tempdir().unwrap();
    let trace = recorded(root.path(), ID);
    let events = common::log::drive_by();
    let last = events.len() as u64;
    let console = console(root.path(), nobody());

    let list = console.get("/api/sessions");
    let one = &list["sessions"][0];
    assert_eq!((&one["id"], &one["state"], &one["verdict"]), (&json!(ID), &json!("closed"), &json!("malicious")));
    assert_eq!((&one["task"]["name"], &one["events"]), (&json!(HOSTILE), &json!(last)));
    assert_eq!(one["stages"], json!(["exploit", "execute", "escalate", "persist", "propagate"]));
    assert_eq!(console.get(&format!("/api/sessions/{ID}"))["manifest"]["policy"]["name"], "observe");

    let base = format!("/api/sessions/{ID}");
    assert_eq!(console.get(&format!("{base}/trace"))["trace"], trace, "as it was written");
    let rebuilt = console.get(&format!("{base}/trace?until={last}"));
    assert_eq!(rebuilt["trace"], trace, "built anew from the log");
    assert!(
        rebuilt["stages"].as_array().unwrap().iter().all(|stage| stage["reached_ns"].is_u64()),
        "{}",
        rebuilt["stages"]
    );
    let early = console.get(&format!("{base}/trace?until=3"));
    assert_eq!((&early["until"], &early["verdict"]), (&json!(3), &json!("clean")));
    assert!(early["trace"]["nodes"].as_array().unwrap().len() < trace["nodes"].as_array().unwrap().len());

    // A fold that is opened gives way to what it held; the whole graph has no folds, and an unknown one changes nothing.
    let folded = |answer: &Value| -> Vec<String> {
        let nodes = answer["trace"]["nodes"].as_array().unwrap().iter();
        nodes
            .filter(|node| node["folded"].as_u64() > Some(0))
            .map(|node| node["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let count = |answer: &Value| answer["trace"]["nodes"].as_array().unwrap().len();
    let fold = &folded(&rebuilt)[0];
    let opened = console.get(&format!("{base}/trace?unfold={fold}"));
    assert!(!folded(&opened).contains(fold) && count(&opened) > count(&rebuilt));
    assert_eq!(console.get(&format!("{base}/trace?unfold=n1.nothing"))["trace"], trace);
    let whole = console.get(&format!("{base}/trace?full=true"));
    assert_eq!((count(&whole) as u64, folded(&whole)), (trace["graph_nodes"].as_u64().unwrap(), vec![]));
    let many: Vec<String> = (0..65).map(|n| format!("n{n}.reads")).collect();
    let refused =
        console.ask(Role::Viewer, Method::GET, &format!("{base}/trace?unfold={}", many.join(","))).send().unwrap();
    assert_eq!(refused.status(), 400);

    let findings = console.get(&format!("{base}/findings"));
    let titles = |list: &Value| list.as_array().unwrap().iter().map(|f| f["title"].clone()).collect::<Vec<_>>();
    assert_eq!(titles(&findings["findings"]), titles(&trace["findings"]));
    assert_eq!(findings["findings"][1]["index"], 1);
    let decisions = console.get(&format!("{base}/decisions"));
    assert_eq!(
        (&decisions["decisions"][0]["action"], decisions["decisions"].as_array().unwrap().len()),
        (&json!("deny"), 1)
    );
}

#[test]
fn a_session_is_exported_in_every_format() {
    let root = tempdir().unwrap();
    recorded(root.path(), ID);
    let session = lava_evidence::Session::open(&root.path().join(ID)).unwrap();
    let console = console(root.path(), nobody());
    let get = |path: &str| console.ask(Role::Viewer, Method::GET, path).send().unwrap();
    let listed = console.get("/api/exports");
    assert_eq!(listed["formats"].as_array().unwrap().len(), Format::ALL.len());
    for format in listed["formats"].as_array().unwrap() {
        let (name, extension) = (format["name"].as_str().unwrap(), format["extension"].as_str().unwrap());
        for (query, scope) in [("", Scope::Task), ("?all=true", Scope::All)] {
            let answer = get(&format!("/api/sessions/{ID}/exports/{name}{query}"));
            let expect = format!("attachment; filename=\"{ID}-{name}.{extension}\"");
            assert_eq!(answer.status(), 200, "{name}{query}");
            assert_eq!(answer.headers()["content-disposition"], *expect);
            let mut written = Vec::new();
            lava_export::export(&session, Format::named(name).unwrap(), scope, &mut written).unwrap();
            assert!(
                !written.is_empty() && answer.bytes().unwrap() == written,
                "{name}{query}: another than `lava export` writes"
            );
        }
    }
    assert_eq!(get(&format!("/api/sessions/{ID}/exports/nothing")).status(), 404);
    assert_eq!(get("/api/sessions/none/exports/stix").status(), 404);
    let log = root.path().join(ID).join("events.jsonl");
    std::fs::write(&log, std::fs::read_to_string(&log).unwrap().replacen("\"kind\"", "\"k\"", 1)).unwrap();
    let refused = get(&format!("/api/sessions/{ID}/exports/stix"));
    assert_eq!(refused.status(), 409, "not silently without a line: {}", refused.text().unwrap());
}

#[test]
fn every_moment_is_the_same_whichever_way_it_is_reached() {
    let root = tempdir().unwrap();
    recorded(root.path(), ID);
    let last = common::log::drive_by().len() as u64;
    let at = |console: &common::Console, seq: u64| console.get(&format!("/api/sessions/{ID}/trace?until={seq}"));
    let once: Vec<Value> = {
        let console = console(root.path(), nobody());
        (1..=last).step_by(29).map(|seq| at(&console, seq)).collect()
    };
    let console = console(root.path(), nobody());
    let seqs: Vec<u64> = (1..=last).step_by(29).collect();
    for (&seq, known) in seqs.iter().zip(&once).rev() {
        assert_eq!(at(&console, seq), *known, "event {seq}");
    }
}

#[test]
fn events_come_page_by_page_and_filtered() {
    let root = tempdir().unwrap();
    recorded(root.path(), ID);
    let events = common::log::drive_by();
    let console = console(root.path(), nobody());
    let base = format!("/api/sessions/{ID}/events");
    let mut seen = Vec::new();
    let mut from = json!(1);
    while !from.is_null() {
        let page = console.get(&format!("{base}?from={from}&limit=100"));
        seen.extend(page["events"].as_array().unwrap().clone());
        assert_eq!(page["total_seen"], json!(events.len()));
        from = page["next"].clone();
    }
    assert_eq!(seen, events.iter().map(|event| json!(event)).collect::<Vec<_>>());

    let count = |query: &str| console.get(&format!("{base}?limit=1000&{query}"))["events"].as_array().unwrap().len();
    let of = |kind: &str| events.iter().filter(|event| event.kind.name().starts_with(kind)).count();
    assert_eq!(count("kind=net."), of("net."));
    assert_eq!(count("kind=process.exec"), of("process.exec"));
    assert_eq!(count("q=/ETC/CRON.D"), 2, "create and write, whatever the case");
    assert_eq!(count("q=%22"), 0, "a quote is text, not JSON");
    assert_eq!(count("pid=202&kind=process."), 3, "its fork, its rights, its exec");
    assert_eq!(count("from=999999"), 0);
}

#[test]
fn processes_have_a_lane_each() {
    let root = tempdir().unwrap();
    recorded(root.path(), ID);
    let console = console(root.path(), nobody());
    let told = console.get(&format!("/api/sessions/{ID}/processes"));
    let lanes = told["processes"].as_array().unwrap();
    let pids: Vec<_> =
        lanes.iter().map(|lane| (lane["pid"].as_u64().unwrap(), lane["tainted"].as_bool().unwrap())).collect();
    assert_eq!(pids, [(200, true), (201, true), (202, true), (100, false)], "the task's first, then who started it");
    assert_eq!((&lanes[2]["ppid"], &lanes[2]["argv"]), (&json!(1), &json!(["helper"])));
    let before = console.get(&format!("/api/sessions/{ID}/processes?until=3"));
    assert_eq!(before["processes"].as_array().unwrap().len(), 2);
}

#[test]
fn the_processes_that_were_kept_are_those_of_the_log_or_are_not_believed() {
    let root = tempdir().unwrap();
    recorded(root.path(), ID);
    let last = common::log::drive_by().len();
    let kept = root.path().join(ID).join("processes.json");
    let told = |query: &str| {
        let console = console(root.path(), nobody());
        console.get(&format!("/api/sessions/{ID}/processes{query}"))
    };
    let rebuilt = told(&format!("?until={last}"));
    let text = std::fs::read_to_string(&kept).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), rebuilt, "what was kept is what the log says");
    // Without the log it is still there: that is what it is for.
    let log = root.path().join(ID).join("events.jsonl");
    let events = std::fs::read(&log).unwrap();
    std::fs::write(&log, "").unwrap();
    assert_eq!(told(""), rebuilt);
    std::fs::write(&log, events).unwrap();

    let verify = || lava_evidence::Session::open(&root.path().join(ID)).unwrap().verify_chain().unwrap();
    assert!(verify().intact(), "{:?}", verify().problems);
    std::fs::write(&kept, text.replacen("202", "203", 1)).unwrap();
    assert_eq!(told(""), rebuilt, "changed later: made anew from the log");
    assert!(verify().problems.iter().any(|problem| problem.to_string().contains("processes.json")));
    std::fs::remove_file(&kept).unwrap();
    assert_eq!(told(""), rebuilt, "a session of an older LAVA has none");
}

#[test]
fn bytes_leave_as_downloads_only() {
    let root = tempdir().unwrap();
    recorded(root.path(), ID);
    std::fs::write(root.path().join("secret"), "secret").unwrap();
    let folder = root.path().join(ID);
    symlink("../../secret", folder.join("console.log")).unwrap();
    let console = console(root.path(), nobody());
    let base = format!("/api/sessions/{ID}");
    let fetch = |path: &str| console.ask(Role::Viewer, Method::GET, path).send().unwrap();

    let artifacts = console.get(&format!("{base}/artifacts"));
    let name = artifacts["artifacts"][0]["sha256"].as_str().unwrap();
    let bytes = fetch(&format!("{base}/artifacts/{name}"));
    assert!(bytes.headers()["content-disposition"].to_str().unwrap().starts_with("attachment"));
    assert_eq!(bytes.headers()["content-type"], "application/octet-stream");
    assert_eq!(bytes.bytes().unwrap(), "MZ malware");
    let hex = console.get(&format!("{base}/artifacts/{name}?view=hex&offset=3&length=3"));
    assert_eq!(hex, json!({"offset": 3, "hex": "6d616c", "total": 10}));

    let report = fetch(&format!("{base}/files/report.html"));
    let policy = report.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("sandbox; default-src 'none'"), "{policy}");
    assert!(report.text().unwrap().contains("&lt;img"), "the name is text");
    assert_eq!(
        fetch(&format!("{base}/files/events.jsonl")).bytes().unwrap(),
        std::fs::read(folder.join("events.jsonl")).unwrap()
    );

    for path in [
        "files/console.log",
        "files/vda.overlay",
        "files/..%2f..%2fsecret",
        "files/%2e%2e%2fmanifest.json",
        "artifacts/..%2fmanifest.json",
        "artifacts/..%2f..%2f..%2fsecret",
    ] {
        let status = fetch(&format!("{base}/{path}")).status();
        assert!(status == 404 || status == 400, "{path}: {status}");
    }
    for id in ["..", "%2e%2e", "..%2f..", ".console", "secret", "%00", "x%2fy", "latest"] {
        let status = fetch(&format!("/api/sessions/{id}/findings")).status();
        assert!(status == 404 || status == 400, "{id}: {status}");
    }
}

#[test]
fn a_session_is_seen_while_it_grows() {
    let root = tempdir().unwrap();
    let mut recording = Recording::begin(root.path(), ID);
    let last = recording.events.len() as u64;
    recording.write(10);
    let console = console(root.path(), nobody());
    let mut stream = console.stream(ID, None);
    let first = stream.next().unwrap();
    assert_eq!((first.kind.as_str(), &first.data["state"]), ("session", &json!("running")));
    let behind = stream.by_ref().find(|sent| sent.id == 10).expect("ten events");
    assert_eq!(console.get(&format!("/api/sessions/{ID}"))["state"], "running");

    recording.write(420);
    let resumed = console.stream(ID, Some(behind.id));
    let grown = stream.by_ref().find(|sent| sent.id == 430 && sent.kind == "trace").expect("the trace grows");
    assert_eq!(grown.data["until"], 430);
    recording.close();

    let (mut shown, mut left_out, mut findings) = (0, 0, 0);
    let mut end = None;
    for sent in resumed {
        match sent.kind.as_str() {
            "events" => {
                let events = sent.data["events"].as_array().unwrap();
                assert!(events.iter().all(|event| event["seq"].as_u64().unwrap() > 10));
                shown += events.len() as u64;
                left_out += sent.data["left_out"].as_u64().unwrap();
            }
            "finding" => {
                assert_eq!(sent.data["index"], findings);
                findings += 1;
            }
            "end" => end = Some(sent),
            _ => {}
        }
    }
    assert_eq!(shown + left_out, last - 10, "every event is shown or counted");
    assert!(findings > 5 && shown > 100, "{findings} findings, {shown} events");
    assert_eq!(end.expect("an end").data["state"], "closed");
    assert_eq!(stream.last().expect("an end").kind, "end");
}

#[test]
fn a_session_whose_writer_died_is_not_running() {
    let root = tempdir().unwrap();
    let mut recording = Recording::begin(root.path(), ID);
    recording.write(450);
    drop(recording);
    let console = console(root.path(), nobody());
    let one = console.get(&format!("/api/sessions/{ID}"));
    assert_eq!(
        (&one["state"], &one["events"], &one["verdict"]),
        (&json!("incomplete"), &json!(450), &json!("malicious"))
    );
    assert_eq!(console.stream(ID, None).last().expect("an end").kind, "end");
}

#[test]
fn fifty_viewers_see_the_same() {
    let root = tempdir().unwrap();
    let recording = Recording::begin(root.path(), ID);
    let console = console(root.path(), nobody());
    let viewers: Vec<_> = (0..50).map(|_| console.stream(ID, None)).collect();
    let viewers: Vec<_> = viewers.into_iter().map(|viewer| std::thread::spawn(move || viewer.last())).collect();
    recording.close();
    for viewer in viewers {
        let last = viewer.join().unwrap().expect("an end");
        assert_eq!((last.kind.as_str(), &last.data["state"]), ("end", &json!("closed")));
    }
}

#[test]
fn a_damaged_folder_hides_no_other() {
    let root = tempdir().unwrap();
    recorded(root.path(), ID);
    std::fs::create_dir(root.path().join("damaged")).unwrap();
    std::fs::write(root.path().join("damaged/manifest.json"), "{").unwrap();
    let console = console(root.path(), nobody());
    let list = console.get("/api/sessions");
    let states: Vec<_> = list["sessions"].as_array().unwrap().iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, ["damaged", "closed"]);
    let page = console.get("/api/sessions?limit=1");
    assert_eq!(page["next"], "damaged");
    assert_eq!(console.get("/api/sessions?limit=1&before=damaged")["sessions"][0]["id"], ID);
}
