//! A console over a folder of sessions, and somebody who asks it.
#![allow(dead_code)] // Each test program uses its part.

#[path = "../../../lava-graph/tests/common/mod.rs"]
pub mod log;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use lava_analysis::Analysis;
use lava_console::{Config, ProfileFacts, Role, ServeError, Server};
use lava_event::{Artifact, Event, Produced, SessionId, Sha256};
use lava_evidence::{Manifest, Outcome, PolicyFacts, SessionWriter, State, TaskFacts};
use reqwest::Method;
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

/// What a guest may call its things.
pub const HOSTILE: &str = "<img src=x onerror=alert(1)>\u{202e}gpj.jar";

/// A server that runs, and ends with this.
pub struct Console {
    pub address: SocketAddr,
    pub root: PathBuf,
    stop: Option<Box<dyn Fn() + Send>>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    tokens: Vec<(Role, String)>,
    pub link: String,
}

/// A console over the sessions in this folder; tasks are started with `program`.
pub fn console(root: &Path, program: &Path) -> Console {
    let server = Server::bind(Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        sessions: root.to_path_buf(),
        state: root.join(".console"),
        tls: None,
        hosts: Vec::new(),
        program: program.to_path_buf(),
        profiles: vec![ProfileFacts { name: "jar".into(), description: "a jar".into() }],
        max_running: 1,
    })
    .expect("bind");
    let store = server.store();
    let user = |role: Role| {
        store.put_user(role.name(), role, None).expect("user");
        store.user(role.name()).expect("store").expect("user")
    };
    let tokens = Role::ALL.map(|role| (role, store.make_token(&user(role), "test").expect("token").token)).into();
    let link = store.make_link(&user(Role::Analyst), 60).expect("link");
    let (address, stop) = (server.config().listen, server.stopper());
    let thread = Some(std::thread::spawn(move || server.run()));
    Console { address, root: root.to_path_buf(), stop: Some(Box::new(stop)), thread, tokens, link }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            stop();
            thread.join().expect("server").expect("served");
        }
    }
}

impl Console {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        Client::builder().timeout(None).build().expect("client").request(method, self.url(path))
    }

    pub fn token(&self, role: Role) -> &str {
        &self.tokens.iter().find(|(known, _)| *known == role).expect("token").1
    }

    pub fn ask(&self, role: Role, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(self.token(role))
    }

    /// As a viewer; it must be there.
    pub fn get(&self, path: &str) -> Value {
        let answer = self.ask(Role::Viewer, Method::GET, path).send().expect("answer");
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().expect("JSON")
    }

    pub fn stream(&self, id: &str, last: Option<u64>) -> Stream {
        let mut request = self.ask(Role::Viewer, Method::GET, &format!("/api/sessions/{id}/stream"));
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let answer = request.send().expect("answer");
        assert_eq!(answer.status(), 200);
        Stream { lines: BufReader::new(answer) }
    }
}

/// Server-sent events.
pub struct Stream {
    lines: BufReader<Response>,
}

/// One of them.
#[derive(Debug, Default)]
pub struct Sent {
    pub kind: String,
    pub id: u64,
    pub data: Value,
}

impl Iterator for Stream {
    type Item = Sent;

    fn next(&mut self) -> Option<Sent> {
        let mut sent = Sent::default();
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).expect("stream") == 0 {
                return None;
            }
            match line.trim_end().split_once(": ").or_else(|| line.trim_end().split_once(':')) {
                Some(("event", kind)) => sent.kind = kind.into(),
                Some(("id", id)) => sent.id = id.parse().expect("id"),
                Some(("data", data)) => sent.data = serde_json::from_str(data).expect("JSON"),
                None if !sent.kind.is_empty() => return Some(sent),
                _ => {}
            }
        }
    }
}

/// A session that is written as `lava run` writes it.
pub struct Recording {
    writer: SessionWriter,
    analysis: Analysis,
    pub events: Vec<Event>,
    written: usize,
}

impl Recording {
    pub fn begin(root: &Path, id: &str) -> Self {
        let task = TaskFacts { name: HOSTILE.into(), sha256: Sha256::of(b"task"), size: 4 };
        let mut manifest = Manifest::new(SessionId(id.into()), "0", task, "jar", "2026-01-01T00:00:00Z");
        manifest.policy = PolicyFacts { name: "observe".into(), sha256: None };
        let writer = SessionWriter::create(root, &SessionId(id.into()), manifest).expect("folder");
        Self { writer, analysis: Analysis::new(), events: log::drive_by(), written: 0 }
    }

    /// Writes so many events more.
    pub fn write(&mut self, count: usize) {
        for event in self.events.iter().skip(self.written).take(count) {
            let artifacts = if event.seq == 1 { vec![Artifact::new(b"MZ malware")] } else { Vec::new() };
            self.writer.event(&Produced { event: event.clone(), artifacts }).expect("write");
            for finding in self.analysis.observe(event).findings {
                self.writer.finding(&finding).expect("write");
            }
            self.written += 1;
        }
    }

    pub fn close(mut self) -> Value {
        self.write(usize::MAX);
        let trace = self.analysis.graph().trace();
        self.writer.timeline(&self.analysis.graph().timeline()).expect("timeline");
        let outcome = Outcome { state: State::Closed, ended: "2026-01-01T00:01:00Z".into(), ..Outcome::default() };
        self.writer.close(&trace, outcome).expect("close");
        json!(trace)
    }
}

/// The whole of it.
pub fn recorded(root: &Path, id: &str) -> Value {
    Recording::begin(root, id).close()
}
