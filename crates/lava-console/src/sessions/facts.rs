//! What a list of sessions says of each.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use lava_control::Command;
use lava_event::{Severity, Sha256, Stage, Verdict};
use lava_evidence::{Manifest, Session, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::moment;
use crate::error::Answer;
use crate::lock;
use crate::sessions::folder;

/// Closed sessions whose facts are kept in memory.
const MAX_KEPT: usize = 10_000;
/// Bytes of a line of chain.txt: a SHA-256 in hex digits and the line's end.
const CHAIN_LINE: u64 = 65;

/// What was opened.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TaskFacts {
    /// Its name, as the user gave it.
    pub name: String,
    /// Of its content; null while it waits in the queue.
    #[schema(value_type = Option<String>)]
    pub sha256: Option<Sha256>,
    /// Bytes.
    pub size: u64,
}

/// A session in a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SessionFacts {
    /// Its id.
    pub id: String,
    /// What was opened.
    pub task: TaskFacts,
    /// How it was opened; empty while that is not known.
    pub profile: String,
    /// What decides.
    pub policy: String,
    /// `queued`, `starting`, `running`, `paused`, `closed`, `aborted` (ended early, what is there is valid), `incomplete` (its writer
    /// died), `failed` (no session came of it) or `damaged` (the folder cannot be read).
    pub state: String,
    /// Is it a threat? Null while it waits.
    #[schema(value_type = Option<String>)]
    pub verdict: Option<Verdict>,
    /// RFC 3339: when it was started, or queued.
    pub started: String,
    /// RFC 3339.
    pub ended: Option<String>,
    /// The stages of the kill chain that were reached.
    #[schema(value_type = Vec<String>)]
    pub stages: Vec<Stage>,
    /// Number of events so far.
    pub events: u64,
    /// Number of findings so far.
    pub findings: u64,
    /// The worst finding's severity.
    #[schema(value_type = Option<String>)]
    pub severity: Option<Severity>,
    /// Why it ended so, in words.
    pub detail: Option<String>,
}

impl SessionFacts {
    /// Whether more is to come.
    pub fn is_over(&self) -> bool {
        !matches!(self.state.as_str(), "queued" | "starting" | "running" | "paused")
    }

    fn new(manifest: &Manifest, state: &str) -> Self {
        Self {
            id: manifest.session.0.clone(),
            task: TaskFacts {
                name: manifest.task.name.clone(),
                sha256: Some(manifest.task.sha256),
                size: manifest.task.size,
            },
            profile: manifest.profile.clone(),
            policy: manifest.policy.name.clone(),
            state: state.to_owned(),
            verdict: manifest.verdict,
            started: manifest.started.clone(),
            ended: manifest.ended.clone(),
            stages: Vec::new(),
            events: manifest.events,
            findings: manifest.findings,
            severity: None,
            detail: manifest.detail.clone(),
        }
    }
}

/// Reads what a list says, and remembers it of sessions that change no more.
#[derive(Default)]
pub struct FactsCache(Mutex<HashMap<String, Arc<SessionFacts>>>);

impl FactsCache {
    /// Forgets a session that is there no more.
    pub fn forget(&self, id: &str) {
        lock(&self.0).remove(id);
    }

    /// Of the session of this id. Reads files, and may ask the session: not for the threads that serve.
    ///
    /// # Errors
    /// If there is no such session, or it is damaged.
    pub fn of(&self, root: &Path, id: &str) -> Answer<Arc<SessionFacts>> {
        if let Some(known) = lock(&self.0).get(id) {
            return Ok(Arc::clone(known));
        }
        let mut facts = read(&folder::open(root, id)?)?;
        if facts.state == "incomplete" {
            // It may have been closed between two looks.
            facts = read(&folder::open(root, id)?)?;
        }
        let facts = Arc::new(facts);
        if facts.is_over() && facts.state != "incomplete" {
            let mut kept = lock(&self.0);
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
            kept.insert(id.to_owned(), Arc::clone(&facts));
        }
        Ok(facts)
    }
}

fn read(session: &Session) -> Answer<SessionFacts> {
    let manifest = session.manifest();
    let dir = session.dir();
    let findings = moment::findings(dir)?;
    let (verdict, stages) = moment::sum(&findings);
    let open = manifest.state == State::Open;
    let mut facts = SessionFacts::new(manifest, if open { state_of_open(session) } else { manifest.state.name() });
    facts.severity = findings.iter().map(|finding| finding.severity).max();
    facts.stages = stages;
    if open {
        facts.verdict = Some(verdict);
        facts.findings = findings.len() as u64;
        facts.events = std::fs::metadata(dir.join("chain.txt")).map_or(0, |chain| chain.len() / CHAIN_LINE);
    }
    Ok(facts)
}

/// The manifest says that it is open: is it?
fn state_of_open(session: &Session) -> &'static str {
    if !session.is_being_written() {
        return "incomplete";
    }
    match lava_control::ask(&lava_control::runtime(&session.manifest().session), Command::Status) {
        Ok(Ok(word)) if word == "paused" => "paused",
        // At its beginning and its end nobody answers.
        _ => "running",
    }
}

/// Of a folder that cannot be read: that there is one.
pub fn damaged(id: &str, why: &str) -> SessionFacts {
    SessionFacts {
        id: id.to_owned(),
        task: TaskFacts { name: String::new(), sha256: None, size: 0 },
        profile: String::new(),
        policy: String::new(),
        state: "damaged".into(),
        verdict: None,
        started: String::new(),
        ended: None,
        stages: Vec::new(),
        events: 0,
        findings: 0,
        severity: None,
        detail: Some(why.to_owned()),
    }
}
