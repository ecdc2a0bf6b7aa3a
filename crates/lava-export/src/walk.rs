//! One way through a session's log: events in order, each finding behind the last event it rests on, with what the graph knows
//! of both.
//!
//! *Memory:* the graph's, which is bounded, the findings, and one event.

use std::collections::BTreeMap;

use lava_event::{Event, EventSeq, Finding, Kind, NetEndpoint, ProcessKey};
use lava_evidence::Session;
use lava_graph::Graph;

use crate::{Error, text};

/// Senders of packets remembered, for the flows that only the wire saw; the oldest are forgotten with all others when there are more.
const OWNERS: usize = 65_536;

/// The next thing of the log.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// What was seen.
    Event(Seen<'a>),
    /// What a detector thought, and its number.
    Finding(usize, &'a Finding),
}

/// An event and what is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// The event.
    pub(crate) event: &'a Event,
    /// Who did it, also where only the graph or the socket layer knows.
    pub(crate) actor: Option<ProcessKey>,
    /// True if the actor descends from the task.
    pub(crate) tainted: bool,
    /// The findings that rest on it.
    pub(crate) findings: &'a [usize],
}

/// What has been read, at its end.
#[derive(Debug)]
pub(crate) struct Walked {
    /// The graph of all events.
    pub(crate) graph: Graph,
    /// The findings of the recording.
    pub(crate) findings: Vec<Finding>,
    /// Lines of the log that were none.
    pub(crate) unreadable: u64,
}

/// Reads a session from its first event to its last.
pub(crate) fn walk(session: &Session, mut see: impl FnMut(Item<'_>) -> Result<(), Error>) -> Result<Walked, Error> {
    let mut walk = Walk::new();
    session.findings()?.into_iter().for_each(|finding| walk.add(finding));
    let mut unreadable = 0;
    for event in session.events()? {
        match event {
            Ok(event) => walk.event(&event, &mut see)?,
            Err(lava_evidence::Error::Line { .. }) => unreadable += 1,
            Err(error) => return Err(error.into()),
        }
    }
    walk.rest(EventSeq::MAX, &mut see)?;
    Ok(Walked { graph: walk.graph, findings: walk.findings, unreadable })
}

/// The state on the way.
pub(crate) struct Walk {
    graph: Graph,
    findings: Vec<Finding>,
    of_event: BTreeMap<EventSeq, Vec<usize>>,
    /// Findings by their last event, those that are still to come.
    due: Vec<usize>,
    owners: BTreeMap<Socket, ProcessKey>,
}

/// Address and port of the guest.
type Socket = (std::net::IpAddr, u16);

fn key(end: &NetEndpoint) -> Socket {
    (end.address, end.port)
}

impl Walk {
    pub(crate) fn new() -> Self {
        let (findings, due) = (Vec::new(), Vec::new());
        Self { graph: Graph::new(), findings, of_event: BTreeMap::new(), due, owners: BTreeMap::new() }
    }

    /// Takes a finding, which is shown when its last event was.
    pub(crate) fn add(&mut self, finding: Finding) {
        let n = self.findings.len();
        for &seq in &finding.events {
            self.of_event.entry(seq).or_default().push(n);
        }
        self.findings.push(text::finding(finding));
        // The next one is taken from the end.
        let key = |&n: &usize| (last(&self.findings[n]), n);
        let at = self.due.partition_point(|each| key(each) > key(&n));
        self.due.insert(at, n);
    }

    pub(crate) fn event(
        &mut self,
        event: &Event,
        see: &mut impl FnMut(Item<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.graph.apply(event);
        let actor = self.actor(event);
        let tainted = actor.is_some_and(|process| self.graph.is_tainted(process));
        let findings = self.of_event.get(&event.seq).map_or(&[][..], Vec::as_slice);
        see(Item::Event(Seen { event, actor, tainted, findings }))?;
        self.rest(event.seq, see)
    }

    /// The findings that rest on nothing later than `seq`.
    pub(crate) fn rest(
        &mut self,
        seq: EventSeq,
        see: &mut impl FnMut(Item<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while let Some(&n) = self.due.last() {
            let finding = &self.findings[n];
            if last(finding) > seq {
                break;
            }
            self.graph.apply_finding(finding);
            see(Item::Finding(n, finding))?;
            self.due.pop();
        }
        Ok(())
    }

    fn actor(&mut self, event: &Event) -> Option<ProcessKey> {
        let known = event.actor().or_else(|| self.graph.attributed(event.seq));
        match &event.kind {
            Kind::NetFlowOwner { origin, .. } => {
                if let Some(owner) = known {
                    if self.owners.len() >= OWNERS {
                        self.owners.clear();
                    }
                    self.owners.insert(key(origin), owner);
                }
                known
            }
            Kind::NetDns { origin, .. } | Kind::NetFlow { origin, .. } => {
                known.or_else(|| self.owners.get(&key(origin)).copied())
            }
            _ => known,
        }
    }
}

fn last(finding: &Finding) -> EventSeq {
    finding.events.last().copied().unwrap_or_default()
}
