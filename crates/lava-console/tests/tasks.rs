//! Tasks: uploaded, queued, started, and found again by a server that comes back.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{Console, console, recorded};
use lava_console::Role;
use reqwest::Method;
use reqwest::blocking::multipart::{Form, Part};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

const ID: &str = "01J0000000000000000000000A";

/// A `lava` that writes down what it was given, and ends with words of failure when somebody writes to its pipe.
struct Lava {
    folder: TempDir,
}

impl Lava {
    fn new() -> Self {
        let folder = tempdir().unwrap();
        let place = folder.path().display();
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {place}/given\nread word < {place}/pipe\necho \"lava: no image: $word\" >&2\nexit 1\n"
        );
        fs::write(folder.path().join("lava"), script).unwrap();
        fs::set_permissions(folder.path().join("lava"), fs::Permissions::from_mode(0o755)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, folder.path().join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        Self { folder }
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("lava")
    }

    /// Lets one that runs go on to its end; waits until there is one.
    fn go_on(&self) {
        fs::write(self.folder.path().join("pipe"), "gone\n").unwrap();
    }

    fn given(&self) -> String {
        fs::read_to_string(self.folder.path().join("given")).unwrap()
    }
}

fn send(console: &Console, form: Form) -> (u16, Value) {
    let answer = console.ask(Role::Analyst, Method::POST, "/api/sessions").multipart(form).send().unwrap();
    (answer.status().as_u16(), answer.json().unwrap())
}

fn upload(name: &str) -> Form {
    Form::new().part("file", Part::bytes(b"PK hostile".to_vec()).file_name(name.to_owned()))
}

fn started(console: &Console, form: Form) -> String {
    let (status, answer) = send(console, form);
    assert_eq!(status, 202, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

/// Waits until the session is told to be in this state.
fn wait(console: &Console, id: &str, state: &str) -> Value {
    let mut stream = console.stream(id, None);
    stream.find(|sent| sent.data["state"] == state).expect("the state").data
}

#[test]
fn a_task_waits_runs_and_outlives_the_server() {
    let (root, lava) = (tempdir().unwrap(), Lava::new());
    let first = console(root.path(), &lava.program());
    let form = upload("../../x.jar")
        .text("profile", "jar")
        .text("policy", "protect")
        .text("timeout", "60")
        .text("reboot", "true");
    let id = started(&first, form);
    let other = started(&first, upload("second.jar"));
    let facts = wait(&first, &id, "starting");
    assert_eq!(
        (&facts["task"]["name"], &facts["policy"], &facts["task"]["size"]),
        (&json!("x.jar"), &json!("protect"), &json!(10))
    );
    assert_eq!(first.get(&format!("/api/sessions/{other}"))["state"], "queued", "one at a time");
    // Whoever looks already sees that nothing happened yet.
    for (what, empty) in [
        ("trace", "/trace/nodes"),
        ("processes", "/processes"),
        ("findings", "/findings"),
        ("events", "/events"),
        ("decisions", "/pending"),
    ] {
        assert_eq!(first.get(&format!("/api/sessions/{other}/{what}")).pointer(empty), Some(&json!([])), "{what}");
    }
    let overview = first.get("/api/overview");
    assert_eq!(overview["queued"], json!([{"id": other, "name": "second.jar", "position": 1}]));
    drop(first);

    let second = console(root.path(), &lava.program());
    assert_eq!(second.get(&format!("/api/sessions/{id}"))["state"], "starting", "it runs on");
    lava.go_on();
    let facts = wait(&second, &id, "failed");
    assert_eq!(facts["detail"], "lava: no image: gone");
    wait(&second, &other, "starting");
    lava.go_on();
    wait(&second, &other, "failed");

    let given = lava.given();
    let mut lines = given.lines();
    let spool = root.path().join(".console/spool");
    let expect = format!(
        "run --profile jar --timeout 60 --reboot --policy protect --id {id} --out {} -- {}/{id}/task/x.jar",
        root.path().display(),
        spool.display()
    );
    assert_eq!(lines.next(), Some(expect.as_str()));
    assert!(lines.next().unwrap().contains("--policy observe"));
    assert_eq!(fs::read_dir(spool).unwrap().count(), 0, "uploads go with their jobs");
}

#[test]
fn an_address_is_a_task_too() {
    let (root, lava) = (tempdir().unwrap(), Lava::new());
    let console = console(root.path(), &lava.program());
    let address = "https://example.org/a?b=c&d";
    let form = || Form::new().text("url", address).text("net", "simulated");
    let facts = wait(&console, &started(&console, form()), "starting");
    assert_eq!((&facts["task"]["name"], &facts["task"]["sha256"]), (&json!(address), &Value::Null));
    lava.go_on();
    let id = started(&console, upload("a.zip").text("password", "--infected"));
    wait(&console, &id, "starting");
    lava.go_on();
    wait(&console, &id, "failed");
    let given = lava.given();
    let lines: Vec<&str> = given.lines().collect();
    assert!(lines[0].contains("--net simulated") && lines[0].ends_with(&format!(" -- {address}")), "{given}");
    assert!(lines[1].contains(" --password=--infected ") && lines[1].ends_with("/task/a.zip"), "{given}");
}

#[test]
fn what_waits_can_be_taken_back() {
    let (root, lava) = (tempdir().unwrap(), Lava::new());
    let console = console(root.path(), &lava.program());
    let running = started(&console, upload("a"));
    wait(&console, &running, "starting");
    let waiting = started(&console, upload("b"));
    let stop = |id: &str| {
        let request = console.ask(Role::Analyst, Method::POST, &format!("/api/sessions/{id}/respond"));
        request.json(&json!({"command": "stop"})).send().unwrap().status()
    };
    assert_eq!(stop(&waiting), 200);
    assert_eq!(console.get(&format!("/api/sessions/{waiting}"))["detail"], "taken from the queue by analyst");
    assert_eq!(stop(&waiting), 409);
    lava.go_on();
    wait(&console, &running, "failed");
    assert_eq!(lava.given().lines().count(), 1);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let (root, lava) = (tempdir().unwrap(), Lava::new());
    let console = console(root.path(), &lava.program());
    let refused = |form: Form, expect: &str| {
        let (status, answer) = send(&console, form);
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(expect), "{answer}");
    };
    refused(Form::new().text("profile", "jar"), "`file` or `url` is missing");
    refused(Form::new().part("file", Part::bytes(Vec::new()).file_name("a")), "empty");
    refused(upload("a").part("file", Part::bytes(b"b".to_vec()).file_name("b")), "one file");
    refused(upload("a").text("url", "https://example.org/"), "one file or address");
    refused(upload("a").text("profile", "--root"), "no such profile");
    refused(upload("a").text("policy", "../../../etc/passwd"), "no such policy");
    refused(upload("a").text("policy", "--boot"), "no such policy");
    refused(upload("a").text("timeout", "0"), "`timeout`");
    refused(upload("a").text("net", "host"), "`net`");
    refused(upload("a").text("root", "yes"), "`root`");
    refused(upload("a").text("disk", "/dev/sda"), "not known");
    for bad in ["file:///etc/passwd", "--boot", "//example.org", "HTTP://x"] {
        refused(Form::new().text("url", bad), "begins with http:// or https://");
    }
    refused(upload("a").text("profile", "x".repeat(5000)), "at most 1024");
    let spool = root.path().join(".console/spool");
    assert_eq!(fs::read_dir(spool).map_or(0, Iterator::count), 0, "nothing stays of what was refused");
}

#[test]
fn an_endless_upload_has_an_end() {
    let (root, lava) = (tempdir().unwrap(), Lava::new());
    let console = console(root.path(), &lava.program());
    let endless = std::io::Read::take(std::io::repeat(0), 300 << 20);
    let form = Form::new().part("file", Part::reader(endless).file_name("bomb"));
    let sent = console.ask(Role::Analyst, Method::POST, "/api/sessions").multipart(form).send();
    // A client that is still sending may see the connection's end before the answer.
    assert!(sent.is_err() || sent.unwrap().status() == 413);
    assert_eq!(console.get("/api/overview")["queued"], json!([]));
    let spool = root.path().join(".console/spool");
    assert_eq!(fs::read_dir(spool).map_or(0, Iterator::count), 0);
}

#[test]
fn policies_of_ones_own_can_be_chosen() {
    let (root, lava) = (tempdir().unwrap(), Lava::new());
    let console = console(root.path(), &lava.program());
    let put = |name: &str, text: &str| {
        let request = console.ask(Role::Analyst, Method::PUT, &format!("/api/policies/{name}"));
        request.json(&json!({"text": text})).send().unwrap().status().as_u16()
    };
    let text = "policy: mine\ndescription: of my own\ndefault: deny\nrules: []\n";
    assert_eq!(put("mine", text), 204);
    assert_eq!(put("observe", text), 409);
    assert_eq!(put("bad", "policy: [\n"), 400);
    assert_eq!(put("..%2fmine", text), 400);
    let list = console.get("/api/policies");
    let names: Vec<_> =
        list["policies"].as_array().unwrap().iter().map(|p| (p["name"].clone(), p["shipped"].clone())).collect();
    assert_eq!(names.len(), 5);
    assert_eq!(names[4], (json!("mine"), json!(false)));
    assert_eq!(list["policies"][4]["description"], "of my own");
    let id = started(&console, upload("a").text("policy", "mine"));
    wait(&console, &id, "starting");
    lava.go_on();
    wait(&console, &id, "failed");
    let path = root.path().join(".console/policies/mine.yaml");
    assert!(lava.given().contains(&format!("--policy {}", path.display())), "{}", lava.given());
    let remove = || console.ask(Role::Analyst, Method::DELETE, "/api/policies/mine").send().unwrap().status();
    assert_eq!((remove().as_u16(), remove().as_u16()), (204, 404));
}

#[test]
fn what_is_over_can_be_searched() {
    let root = tempdir().unwrap();
    recorded(root.path(), ID);
    let console = console(root.path(), Path::new("/bin/false"));
    // The index is filled beside; a search says what it has not seen.
    let find = |query: &str| loop {
        let found = console.get(&format!("/api/search?{query}"));
        if found["not_searched"] == 0 {
            return found["hits"].as_array().unwrap().clone();
        }
        std::thread::yield_now();
    };
    let whats = |query: &str| find(query).iter().map(|hit| hit["what"].clone()).collect::<Vec<_>>();
    assert_eq!(whats("q=10.0.0.7:445"), ["address"]);
    assert_eq!(whats("q=T1542.003&kind=technique"), ["technique"]);
    assert_eq!(find("q=dropper&kind=command")[0]["where"], "/tmp/.x/dropper");
    assert_eq!(whats("q=dropper&kind=name"), ["name"]);
    assert_eq!(find("q=cron.d&kind=name")[0]["session"], ID);
    assert_eq!(whats("q=onerror=&kind=name"), ["name"], "the task's name");
    let task = lava_event::Sha256::of(b"task").to_string();
    assert_eq!(whats(&format!("q={}&kind=hash", &task[10..40])), ["hash"]);
    assert!(find("q=%22%20OR%20text%20:%20a").is_empty(), "a text, not a query");
    let short = console.ask(Role::Viewer, Method::GET, "/api/search?q=ab").send().unwrap();
    assert_eq!(short.status(), 400);
}
