//! What is thought of a session's events: graph, detectors, and the policy's view of them, in one order.
//!
//! A live session, a replay, a what-if and the tests all go through [`Analysis`], so that the same log gives the same findings,
//! graph and decisions wherever it is looked at.
//!
//! *Invariant:* no I/O, no clock. Whoever calls writes the evidence, and before that.
#![forbid(unsafe_code)]

mod names;
mod usual;
mod what_if;

use lava_baseline::Baseline;
use lava_detect::sigma::{Record, Recorder};
use lava_detect::{Detector, Taint};
use lava_event::{Event, EventSeq, Finding, GuestText, Kind, ProcessKey};
use lava_graph::Graph;
use lava_policy::TraceView;

pub use usual::{Compared, Unknown, compare};
pub use what_if::{Answer, Difference, WhatIf};

/// The detectors' view of the graph.
struct View<'a>(&'a Graph);

impl Taint for View<'_> {
    fn task_started(&self) -> bool {
        self.0.task_started()
    }
    fn is_tainted(&self, process: ProcessKey) -> bool {
        self.0.is_tainted(process)
    }
    fn is_task_file(&self, path: &GuestText) -> bool {
        self.0.is_task_file(path)
    }
    fn is_host(&self, process: ProcessKey) -> bool {
        self.0.is_host(process)
    }
    fn parent(&self, process: ProcessKey) -> Option<ProcessKey> {
        self.0.parent(process)
    }
    fn attributed(&self, disk_write: EventSeq) -> Option<ProcessKey> {
        self.0.attributed(disk_write)
    }
}

/// What one event led to.
#[derive(Debug)]
pub struct Observed {
    /// What the detectors think, in the order of the kill chain.
    pub findings: Vec<Finding>,
}

/// The analysis of one session, as far as its events have come.
#[derive(Debug, Default)]
pub struct Analysis {
    graph: Graph,
    detector: Detector,
    /// What is usual for the profile, if there is a baseline.
    usual: Option<usual::Usual>,
    names: names::Names,
}

impl Analysis {
    /// The analysis of a session that begins.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with a detector of the caller's.
    #[must_use]
    pub fn with_detector(detector: Detector) -> Self {
        Self { detector, ..Self::default() }
    }

    /// The same with the profile's baseline: each finding says how far it is from what is usual, and one of severity medium or low that rests
    /// on nothing but acts of the baseline is worth knowing only. To be called before the first event.
    #[must_use]
    pub fn with_baseline(mut self, baseline: Option<Baseline>) -> Self {
        self.usual = baseline.map(usual::Usual::new);
        self
    }

    /// The graph so far.
    #[must_use]
    pub const fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The graph, when there is nothing more to come.
    #[must_use]
    pub fn into_graph(self) -> Graph {
        self.graph
    }

    /// An interval of the session begins: see [`Graph::begin_interval`]. The detectors know what they have seen.
    pub fn begin_interval(&mut self) {
        self.graph.begin_interval();
    }

    /// Takes the session's next event. What it changes in the graph: [`Graph::deltas_since`].
    pub fn observe(&mut self, event: &Event) -> Observed {
        self.graph.apply(event);
        self.names.observe(event);
        let mut findings = self.detector.observe(event, &View(&self.graph));
        if let Some(usual) = &mut self.usual {
            usual.observe(event, &self.graph);
            findings.iter_mut().for_each(|finding| usual.rank(finding));
        }
        findings.iter().for_each(|finding| self.graph.apply_finding(finding));
        Observed { findings }
    }

    /// Takes in a finding that others made of what came with an event: its content. The event must have been observed.
    pub fn take_in(&mut self, finding: &Finding) {
        self.graph.apply_finding(finding);
    }

    /// What Sigma rules see of `event`, which was observed: see [`Recorder::observe`].
    #[must_use]
    pub fn records(&self, recorder: &mut Recorder, event: &Event) -> Vec<Record> {
        recorder.observe(event, &View(&self.graph))
    }

    /// What a policy is told of the trace when `event`, which was observed, waits for it.
    #[must_use]
    pub fn view(&self, event: &Event) -> TraceView {
        let flow = || self.graph.flow_owner(event.seq).map(|(owner, _)| owner);
        let actor = event.actor().or_else(|| self.graph.attributed(event.seq)).or_else(flow);
        TraceView {
            tainted: actor.is_some_and(|process| self.graph.is_tainted(process)),
            stages: self.graph.stages(),
            verdict: self.graph.verdict(),
            task_started: self.graph.task_started(),
            autostart: match &event.kind {
                Kind::FileOpen { path, .. } => lava_detect::autostart(path).unwrap_or_default(),
                _ => "",
            },
            in_baseline: self.usual.as_ref().is_some_and(|usual| usual.holds(event, &self.graph)),
            names: self.names.of(event),
        }
    }
}
