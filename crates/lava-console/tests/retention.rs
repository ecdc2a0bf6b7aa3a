//! Searches that are kept, and sessions that are not.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Console, Recording, console, recorded};
use lava_console::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::tempdir;

const OLD: &str = "01J0000000000000000000000A";
const HELD: &str = "01J0000000000000000000000B";
const RUNS: &str = "01J0000000000000000000000C";

fn nobody() -> &'static Path {
    Path::new("/bin/false")
}

fn put(console: &Console, role: Role, path: &str, form: &Value) -> StatusCode {
    console.ask(role, Method::PUT, path).json(form).send().unwrap().status()
}

fn delete(console: &Console, role: Role, path: &str) -> StatusCode {
    console.ask(role, Method::DELETE, path).send().unwrap().status()
}

fn audit(console: &Console) -> Vec<(String, String, String)> {
    let log: Value = console.ask(Role::Admin, Method::GET, "/api/audit").send().unwrap().json().unwrap();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let entries = log["entries"].as_array().unwrap();
    entries.iter().map(|entry| (text(entry, "user"), text(entry, "what"), text(entry, "on"))).collect()
}

#[test]
fn searches_are_kept_for_each_user() {
    let root = tempdir().unwrap();
    let console = console(root.path(), nobody());
    let form = json!({"q": "cron.d", "kind": "name"});
    assert_eq!(put(&console, Role::Viewer, "/api/searches/jobs", &form), 204);
    assert_eq!(put(&console, Role::Viewer, "/api/searches/all%20of%20it", &json!({"q": "/etc"})), 204);
    assert_eq!(put(&console, Role::Viewer, "/api/searches/jobs", &json!({"q": "crontab", "kind": "command"})), 204);
    let kept = console.get("/api/searches");
    let shown: Vec<_> =
        kept["searches"].as_array().unwrap().iter().map(|s| (&s["name"], &s["q"], &s["kind"])).collect();
    let expect =
        [("all of it", "/etc", "text"), ("jobs", "crontab", "command")].map(|(n, q, k)| (json!(n), json!(q), json!(k)));
    assert_eq!(shown, expect.iter().map(|(n, q, k)| (n, q, k)).collect::<Vec<_>>());

    let of_others: Value = console.ask(Role::Admin, Method::GET, "/api/searches").send().unwrap().json().unwrap();
    assert_eq!(of_others["searches"], json!([]), "an admin has their own");
    assert_eq!(delete(&console, Role::Admin, "/api/searches/jobs"), 404);
    assert_eq!(delete(&console, Role::Viewer, "/api/searches/jobs"), 204);
    assert_eq!(delete(&console, Role::Viewer, "/api/searches/jobs"), 404);
    assert_eq!(put(&console, Role::Viewer, "/api/searches/%3Cb%3E", &form), 400, "a name has no markup");
    assert_eq!(put(&console, Role::Viewer, "/api/searches/short", &json!({"q": "ab"})), 400);
    assert_eq!(put(&console, Role::Viewer, "/api/searches/x", &json!({"q": "abc", "kind": "nose"})), 422);

    let full = (0..100).map(|i| put(&console, Role::Viewer, &format!("/api/searches/s{i}"), &form)).collect::<Vec<_>>();
    assert_eq!(full.iter().filter(|status| **status == 409).count(), 1, "one of 100 was there");
    assert_eq!(put(&console, Role::Viewer, "/api/searches/s1", &json!({"q": "abc"})), 204, "in place of another");
}

#[test]
fn what_the_rule_takes_goes_and_nothing_else() {
    let root = tempdir().unwrap();
    recorded(root.path(), OLD);
    recorded(root.path(), HELD);
    let mut runs = Recording::begin(root.path(), RUNS);
    runs.write(5);
    // What a server that died while it removed has left; and what only looks like it.
    fs::create_dir_all(root.path().join(".removed-01J0000000000000000000000Z/artifacts")).unwrap();
    fs::create_dir(root.path().join(".removed-..")).unwrap();
    let console = console(root.path(), nobody());
    let hold = format!("/api/sessions/{HELD}/hold");
    assert_eq!(put(&console, Role::Analyst, &hold, &json!({"reason": " "})), 400);
    assert_eq!(put(&console, Role::Analyst, &hold, &json!({"reason": "case 7"})), 204);
    assert_eq!(
        put(&console, Role::Analyst, "/api/sessions/01J0000000000000000000000X/hold", &json!({"reason": "x"})),
        404
    );

    let plan = console.get("/api/retention/preview?days=1");
    assert_eq!(plan["sessions"], 3);
    let removals = plan["removals"].as_array().unwrap();
    assert_eq!(removals.len(), 1, "{plan}");
    assert_eq!((&removals[0]["session"], &removals[0]["ended"]), (&json!(OLD), &json!("2026-01-01T00:01:00Z")));
    assert!(removals[0]["bytes"].as_u64().unwrap() > 10_000, "{plan}");
    let plan = console.get("/api/retention/preview?bytes=1");
    assert!(plan["unmet"][0].as_str().unwrap().contains("would still be taken"), "{plan}");
    assert_eq!(console.get("/api/retention/preview")["removals"], json!([]));
    assert_eq!(console.get("/api/retention")["rule"], json!({"days": null, "bytes": null, "free": null}));

    for broken in [json!({"days": 0}), json!({"days": 40_000}), json!({"bytes": 0}), json!({"free": u64::MAX})] {
        assert_eq!(put(&console, Role::Admin, "/api/retention", &broken), 400, "{broken}");
    }
    assert_eq!(put(&console, Role::Admin, "/api/retention", &json!({"day": 1})), 422);
    assert_eq!(put(&console, Role::Analyst, "/api/retention", &json!({"days": 1})), 403);
    assert!(root.path().join(OLD).is_dir(), "so far nothing was removed");
    assert_eq!(put(&console, Role::Admin, "/api/retention", &json!({"days": 1})), 204);
    gone(&console, OLD);
    assert_eq!(console.get("/api/retention/preview?days=1")["removals"], json!([]));
    assert!(root.path().join(HELD).is_dir() && root.path().join(RUNS).is_dir());
    assert!(!root.path().join(".removed-01J0000000000000000000000Z").exists());
    assert!(root.path().join(".removed-..").exists());

    // Not held any more, it goes; what runs stays, and then is over: since 2026-01-01.
    assert_eq!(delete(&console, Role::Analyst, &hold), 403);
    assert_eq!(delete(&console, Role::Admin, &hold), 204);
    assert_eq!(delete(&console, Role::Admin, &hold), 404);
    assert_eq!(put(&console, Role::Admin, "/api/retention", &json!({"bytes": 1})), 204);
    gone(&console, HELD);
    assert!(root.path().join(RUNS).is_dir());
    runs.close();
    assert_eq!(put(&console, Role::Admin, "/api/retention", &json!({"days": 2})), 204);
    gone(&console, RUNS);

    let log = audit(&console);
    let removed: Vec<_> = log.iter().filter(|(_, what, _)| what == "session.remove").collect();
    assert_eq!(removed.len(), 3);
    assert!(removed.iter().all(|(user, ..)| user == "retention"));
    assert!(removed[2].2.starts_with(&format!("{OLD}: it ended more than 1 days ago (")), "{removed:?}");
    for (user, what, on) in [
        ("analyst", "session.hold", format!("{HELD}: case 7")),
        ("admin", "session.release", HELD.to_owned()),
        ("admin", "retention.set", "days 1, bytes -, free -".to_owned()),
    ] {
        assert!(log.contains(&(user.to_owned(), what.to_owned(), on)), "{what}: {log:?}");
    }
}

/// Waits until there is no such session; the server does it in a thread of its own.
fn gone(console: &Console, id: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    let path = format!("/api/sessions/{id}");
    while console.ask(Role::Viewer, Method::GET, &path).send().unwrap().status() != 404 {
        assert!(Instant::now() < end, "{id} is still there");
        std::thread::yield_now();
    }
}
