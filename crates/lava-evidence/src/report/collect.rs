//! What the report needs of the log, in one pass and bounded memory.

use std::collections::{BTreeMap, BTreeSet};

use lava_event::{Event, Kind, ProcessKey};
use lava_graph::Trace;

use super::network::Talk;
use crate::{Error, Session};

/// Events shown with their content.
pub(super) const SHOWN: usize = 1500;
const PROCESSES: usize = 50_000;
const CONNECTIONS: usize = 400;

/// A process as the log tells it.
#[derive(Default, Clone)]
pub(super) struct Proc {
    pub(super) parent: Option<ProcessKey>,
    pub(super) name: String,
    pub(super) programs: Vec<String>,
    pub(super) uid: Option<u32>,
    pub(super) end: Option<String>,
}

/// One destination.
#[derive(Default)]
pub(super) struct Connection {
    pub(super) count: u64,
    pub(super) first_ns: u64,
    pub(super) by: BTreeSet<String>,
    pub(super) answers: BTreeSet<String>,
}

#[derive(Default)]
pub(super) struct Collected {
    pub(super) events: BTreeMap<u64, Event>,
    pub(super) processes: BTreeMap<ProcessKey, Proc>,
    pub(super) connections: BTreeMap<String, Connection>,
    pub(super) more_connections: u64,
    /// What was said over the network, and contents of files.
    pub(super) talk: Talk,
    /// Gaps, broken lines, a torn end: what must be said.
    pub(super) faults: Vec<String>,
    pub(super) more_faults: u64,
    pub(super) total: u64,
    pub(super) left_out: usize,
}

pub(super) fn collect(session: &Session, trace: &Trace) -> Result<Collected, Error> {
    let mut wanted: BTreeSet<u64> = trace.findings.iter().flat_map(|finding| finding.events.iter().copied()).collect();
    wanted.extend(trace.decisions.iter().flat_map(|decision| [decision.subject, decision.event]));
    let first = wanted.len();
    let edges: BTreeSet<u64> = trace.edges.iter().flat_map(|edge| edge.events.iter().copied()).collect();
    let left_out = (first + edges.len()).saturating_sub(SHOWN);
    wanted.extend(edges.into_iter().take(SHOWN.saturating_sub(first)));
    let mut all = Collected { left_out, ..Collected::default() };
    let mut events = session.events()?;
    for event in events.by_ref() {
        match event {
            Ok(event) => all.take(event, &wanted),
            Err(error @ Error::Line { .. }) => all.fault(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    if let Some(line) = events.torn() {
        all.fault(format!("events.jsonl, line {line}: the last line is torn; what was before it is shown"));
    }
    Ok(all)
}

impl Collected {
    fn fault(&mut self, what: String) {
        if self.faults.len() < 200 { self.faults.push(what) } else { self.more_faults += 1 }
    }

    fn take(&mut self, event: Event, wanted: &BTreeSet<u64>) {
        self.total += 1;
        self.process(&event);
        self.talk.take(&event);
        let mut keep = wanted.contains(&event.seq);
        match &event.kind {
            Kind::NetConnect { protocol, destination: Some(to), .. } => {
                let by = event.process.as_ref().map(|process| format!("{} ({})", process.comm, process.pid));
                self.connection(format!("{} {:?}", to_text(to), protocol), event.time_ns, by, None);
            }
            Kind::NetFlow { protocol, destination, answer, .. } => {
                self.connection(format!("{} {:?}", to_text(destination), protocol), event.time_ns, None, Some(answer));
            }
            Kind::VmGap { at, cause, missing, detail } => {
                let count = missing.map_or("an unknown number of".to_owned(), |n| n.to_string());
                self.fault(format!("event {}: {count} event(s) missing from {at:?} ({cause:?}): {detail}", event.seq));
            }
            Kind::VmIntrospection { missing, .. } => {
                missing.iter().for_each(|what| self.fault(format!("could not be hooked: {what}")));
                keep = true;
            }
            Kind::VmStarted { .. }
            | Kind::VmContinued { .. }
            | Kind::VmTask { .. }
            | Kind::VmMember { .. }
            | Kind::VmTaskExit { .. }
            | Kind::VmEnded { .. } => keep = true,
            _ => {}
        }
        if keep && self.events.len() < SHOWN + 500 {
            self.events.insert(event.seq, event);
        }
    }

    fn connection(&mut self, to: String, first_ns: u64, by: Option<String>, answer: Option<&String>) {
        if self.connections.len() >= CONNECTIONS && !self.connections.contains_key(&to) {
            self.more_connections += 1;
            return;
        }
        let entry = self.connections.entry(to).or_insert_with(|| Connection { first_ns, ..Connection::default() });
        entry.count += 1;
        if entry.by.len() < 5 {
            entry.by.extend(by)
        }
        if entry.answers.len() < 5 {
            entry.answers.extend(answer.cloned())
        }
    }

    fn process(&mut self, event: &Event) {
        let Some(actor) = &event.process else { return };
        if self.processes.len() >= PROCESSES {
            return;
        }
        let entry = self.processes.entry(actor.key()).or_default();
        if entry.name.is_empty() {
            entry.name = actor.comm.to_string();
        }
        entry.uid = Some(actor.uid);
        match &event.kind {
            Kind::ProcessFork { child, thread: false, .. } => {
                let key = ProcessKey { pid: child.pid, start_ns: child.start_ns };
                let child_entry = self.processes.entry(key).or_default();
                child_entry.parent = Some(actor.key());
                child_entry.name = child.comm.to_string();
            }
            Kind::ProcessExec { argv, .. } if entry.programs.len() < 8 => {
                let words: Vec<String> = argv.iter().take(40).map(ToString::to_string).collect();
                entry.programs.push(format!("{} — {}", actor.exe, words.join(" ")));
            }
            Kind::ProcessExit { code, signal } => {
                entry.end = signal.map(|s| format!("killed by signal {s}")).or(code.map(|c| format!("exit {c}")));
            }
            _ => {}
        }
    }

    /// The processes behind the shown events, with their ancestors: (depth, key), parents before children.
    pub(super) fn tree(&self) -> Vec<(usize, ProcessKey)> {
        let mut shown: BTreeSet<ProcessKey> = BTreeSet::new();
        for mut key in self.events.values().filter_map(Event::actor) {
            while shown.insert(key) {
                match self.processes.get(&key).and_then(|process| process.parent) {
                    Some(parent) => key = parent,
                    None => break,
                }
            }
        }
        let mut children: BTreeMap<Option<ProcessKey>, Vec<ProcessKey>> = BTreeMap::new();
        for &key in &shown {
            let parent = self.processes.get(&key).and_then(|process| process.parent);
            children.entry(parent.filter(|parent| shown.contains(parent))).or_default().push(key);
        }
        let mut out = Vec::new();
        let mut stack: Vec<(usize, ProcessKey)> =
            children.remove(&None).into_iter().flatten().rev().map(|key| (0, key)).collect();
        while let Some((depth, key)) = stack.pop() {
            out.push((depth, key));
            stack.extend(children.remove(&Some(key)).into_iter().flatten().rev().map(|key| (depth + 1, key)));
        }
        out.truncate(300);
        out
    }
}

fn to_text(end: &lava_event::NetEndpoint) -> String {
    std::net::SocketAddr::new(end.address, end.port).to_string()
}
