//! Sessions that somebody looks at while they run.
//!
//! One thread follows a session's folder, however many look at it, and keeps what a viewer is sent next: the latest of everything and
//! a bounded number of events. Each viewer takes from it at its own pace, so a slow one holds nobody up and costs no memory.
//! The thread ends with the session, or when nobody has looked for a while.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use lava_event::{Event, Finding, Kind};
use lava_evidence::{Error, Follow, Session};
use serde::Serialize;
use tokio::sync::watch;

use super::facts::{FactsCache, SessionFacts};
use super::moment::{Indexed, Moment, TraceFacts};
use super::pending::{Pending, pending};
use crate::lock;

/// Between two looks at the log of a session that runs.
const LOOK: Duration = Duration::from_millis(20);
/// Between two looks at what the session is.
const STATE: Duration = Duration::from_secs(1);
/// Between two looks at what waits for the analyst.
const PENDING: Duration = Duration::from_millis(250);
/// Between two traces.
const TRACE: Duration = Duration::from_millis(50);
/// The same for a trace so large that sending it costs more than a viewer gains.
const LARGE_TRACE: (usize, Duration) = (256 << 10, Duration::from_secs(1));
/// Events taken between two publications: a log that is there already is read fast, and still grows before the eye.
const BATCH: usize = 2_000;
/// Events kept for viewers, and their bytes.
const EVENTS: usize = 2_000;
const EVENT_BYTES: usize = 8 << 20;
/// Sessions followed at a time.
const MAX_FOLLOWED: usize = 64;

/// An event that a viewer is sent.
pub struct Shown {
    /// Its number.
    pub seq: u64,
    /// Its JSON, in one line.
    pub json: Arc<str>,
}

/// The latest of a session.
#[derive(Default)]
pub struct Latest {
    /// The last event read.
    pub seq: u64,
    /// Events that matter, the oldest first.
    events: VecDeque<Shown>,
    /// Their bytes.
    bytes: usize,
    /// All findings' JSON.
    pub findings: Vec<Arc<str>>,
    /// The trace's JSON, and a number that grows with each.
    pub trace: (u64, Arc<str>),
    /// The facts' JSON, and a number that grows with each.
    pub session: (u64, Arc<str>),
    /// What waits for the analyst, as JSON, and a number that grows with each change.
    pub pending: (u64, Arc<str>),
    /// Nothing more is to come.
    pub over: bool,
}

impl Latest {
    /// The events behind `seq` that are kept, at most `limit`.
    pub fn events_behind(&self, seq: u64, limit: usize) -> Vec<(u64, Arc<str>)> {
        let begin = self.events.partition_point(|shown| shown.seq <= seq);
        self.events.range(begin..).take(limit).map(|shown| (shown.seq, Arc::clone(&shown.json))).collect()
    }

    fn show(&mut self, event: &Event) {
        let Ok(json) = serde_json::to_string(event) else { return };
        self.bytes += json.len();
        self.events.push_back(Shown { seq: event.seq, json: json.into() });
        while self.events.len() > EVENTS || self.bytes > EVENT_BYTES {
            let Some(gone) = self.events.pop_front() else { break };
            self.bytes -= gone.json.len();
        }
    }
}

/// A session that is followed.
pub struct Followed {
    latest: Mutex<Latest>,
    told: watch::Sender<u64>,
}

impl Followed {
    /// Looks at the latest.
    pub fn look<T>(&self, look: impl FnOnce(&Latest) -> T) -> T {
        look(&lock(&self.latest))
    }

    /// Says when there is something new.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }
}

/// All that are followed.
#[derive(Default)]
pub struct Hub(Mutex<HashMap<String, Weak<Followed>>>);

impl Hub {
    /// Follows the session of this id from now on, or joins those who do. It goes on while the result is held.
    ///
    /// `None`: too many are followed already.
    pub fn follow(&self, root: &Path, id: &str, facts: &Arc<FactsCache>) -> Option<Arc<Followed>> {
        let mut all = lock(&self.0);
        all.retain(|_, followed| followed.strong_count() > 0);
        if let Some(known) = all.get(id).and_then(Weak::upgrade) {
            return Some(known);
        }
        if all.len() >= MAX_FOLLOWED {
            return None;
        }
        let followed = Arc::new(Followed { latest: Mutex::default(), told: watch::Sender::new(0) });
        let mut follower = Follower {
            root: root.to_path_buf(),
            dir: root.join(id),
            id: id.to_owned(),
            facts: Arc::clone(facts),
            moment: Moment::default(),
            findings: Vec::new(),
            traced: 0,
            new_findings: false,
            last_trace: None,
            last_state: None,
            last_pending: None,
            over: false,
        };
        let watched = Arc::downgrade(&followed);
        let follow = move || follower.run(&watched);
        std::thread::Builder::new().name("follow".into()).spawn(follow).ok()?;
        all.insert(id.to_owned(), Arc::downgrade(&followed));
        Some(followed)
    }
}

/// What waits for the analyst.
#[derive(Serialize)]
struct PendingList<'a> {
    pending: &'a [Pending],
}

struct Follower {
    root: PathBuf,
    dir: PathBuf,
    id: String,
    facts: Arc<FactsCache>,
    moment: Moment,
    findings: Vec<Finding>,
    /// The last event in the trace that viewers have.
    traced: u64,
    new_findings: bool,
    last_trace: Option<Instant>,
    last_state: Option<Instant>,
    last_pending: Option<Instant>,
    over: bool,
}

impl Follower {
    /// Until nobody looks, or the session is over.
    fn run(&mut self, watched: &Weak<Followed>) {
        let opened = Follow::open(&self.dir.join("events.jsonl"))
            .and_then(|events| Ok((events, Follow::open(&self.dir.join("findings.jsonl"))?)));
        let Ok((mut events, mut findings)) = opened else {
            if let Some(followed) = watched.upgrade() {
                lock(&followed.latest).over = true;
                followed.told.send_modify(|told| *told += 1);
            }
            return;
        };
        loop {
            let Some(followed) = watched.upgrade() else { return };
            // What it is stands before what it did: if it is over now, everything is in the log already.
            let state = self.state();
            self.over |= state.as_ref().is_some_and(|state| state.is_over());
            let read = self.read(&mut events, &followed) + self.read_findings(&mut findings, &followed);
            let caught_up = read == 0;
            let asked = self.look_for_questions(&followed);
            let news = self.publish(&followed, state.as_deref(), read > 0 || asked, self.over && caught_up);
            if news {
                followed.told.send_modify(|told| *told += 1);
            }
            if self.over && caught_up {
                return;
            }
            drop(followed);
            if caught_up {
                std::thread::sleep(LOOK);
            }
        }
    }

    fn state(&mut self) -> Option<Arc<SessionFacts>> {
        if self.last_state.is_some_and(|last| last.elapsed() < STATE) {
            return None;
        }
        let facts = self.facts.of(&self.root, &self.id).ok();
        self.last_state = Some(Instant::now());
        facts
    }

    fn read(&mut self, log: &mut Follow, followed: &Followed) -> usize {
        for read in 0..BATCH {
            match log.read::<Event>() {
                Ok(Some(event)) => {
                    self.moment.apply(&event);
                    let matters = matters(&event, &self.moment);
                    let mut latest = lock(&followed.latest);
                    latest.seq = event.seq;
                    if matters {
                        latest.show(&event);
                    }
                }
                Ok(None) => return read,
                Err(Error::Line { .. }) => {}
                Err(_) => return read,
            }
        }
        BATCH
    }

    fn read_findings(&mut self, log: &mut Follow, followed: &Followed) -> usize {
        let before = self.findings.len();
        while self.findings.len() < super::moment::MAX_FINDINGS {
            match log.read::<Finding>() {
                Ok(Some(finding)) => self.findings.push(finding),
                Err(Error::Line { .. }) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.new_findings |= self.moment.apply_findings(&self.findings);
        let mut latest = lock(&followed.latest);
        for (index, finding) in self.findings.iter().enumerate().skip(latest.findings.len()) {
            latest.findings.push(json(&Indexed { index, finding }));
        }
        self.findings.len() - before
    }

    /// Looks whether something waits for the analyst; true if that changed.
    fn look_for_questions(&mut self, followed: &Followed) -> bool {
        if self.last_pending.is_some_and(|last| last.elapsed() < PENDING) {
            return false;
        }
        self.last_pending = Some(Instant::now());
        let waiting = Session::open(&self.dir).ok().and_then(|session| pending(&session).ok()).unwrap_or_default();
        let waiting = json(&PendingList { pending: &waiting });
        let mut latest = lock(&followed.latest);
        let changed = latest.pending.1 != waiting;
        if changed {
            latest.pending = (latest.pending.0 + 1, waiting);
        }
        changed
    }

    /// Whether the trace that viewers have is out of date.
    fn graph_changed(&self) -> bool {
        let moved = self.moment.seq > self.traced && !self.moment.graph.deltas_since(self.traced).is_empty();
        self.last_trace.is_none() || self.new_findings || moved
    }

    /// Puts the trace and the facts where viewers find them; true if there is anything new.
    fn publish(&mut self, followed: &Followed, state: Option<&SessionFacts>, read: bool, last: bool) -> bool {
        let mut news = read;
        let size = lock(&followed.latest).trace.1.len();
        let apart = if size > LARGE_TRACE.0 { LARGE_TRACE.1 } else { TRACE };
        let due = last || self.last_trace.is_none_or(|made| made.elapsed() >= apart);
        if due && self.graph_changed() {
            let trace = json(&TraceFacts::new(self.moment.seq, self.moment.graph.trace()));
            self.traced = self.moment.seq;
            self.new_findings = false;
            self.last_trace = Some(Instant::now());
            let mut latest = lock(&followed.latest);
            latest.trace = (latest.trace.0 + 1, trace);
            news = true;
        }
        let mut latest = lock(&followed.latest);
        if let Some(state) = state.map(|state| json(&state)).filter(|state| *state != latest.session.1) {
            latest.session = (latest.session.0 + 1, state);
            news = true;
        }
        latest.over = last;
        news || last
    }
}

/// Whether a viewer is sent the event as it happens: what descends from the task does it, or the machine itself tells it.
fn matters(event: &Event, moment: &Moment) -> bool {
    let group = event.kind.name().split('.').next().unwrap_or_default();
    match (&event.kind, group) {
        (Kind::ProcessExisting {}, _) => false,
        (_, "vm" | "kernel") => true,
        _ => event
            .actor()
            .or_else(|| moment.graph.attributed(event.seq))
            .is_some_and(|process| moment.graph.is_tainted(process)),
    }
}

/// As JSON without a line end. What we made ourselves can be written.
fn json(value: &impl Serialize) -> Arc<str> {
    serde_json::to_string(value).unwrap_or_else(|_| "null".into()).into()
}
