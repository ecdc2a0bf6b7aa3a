//! The pipeline: event -> graph -> detectors -> policy -> evidence, in the stream's order.

use anyhow::Result;
use lava_detect::{Detector, Taint};
use lava_event::{Decision, Event, EventSeq, Finding, GuestText, Kind, ProcessKey, Produced};
use lava_evidence::SessionWriter;
use lava_graph::Graph;
use lava_policy::{EvaluationFault, Policy, TraceView};

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

/// The stages behind the stream. A pure function of the events, but for the evidence it writes.
pub struct Pipeline {
    pub graph: Graph,
    detector: Detector,
    policy: Policy,
}

impl Pipeline {
    pub fn new(policy: Policy) -> Self {
        Self { graph: Graph::new(), detector: Detector::new(), policy }
    }

    pub fn policy_name(&self) -> &str {
        self.policy.name()
    }

    /// Takes one event; returns what was thought of it. It is on disk before that.
    pub fn event(&mut self, produced: &Produced, evidence: &mut SessionWriter) -> Result<Vec<Finding>> {
        evidence.event(produced)?;
        let findings = self.analyse(&produced.event);
        findings.iter().try_for_each(|finding| evidence.finding(finding))?;
        Ok(findings)
    }

    fn analyse(&mut self, event: &Event) -> Vec<Finding> {
        self.graph.apply(event);
        let findings = self.detector.observe(event, &View(&self.graph));
        for finding in &findings {
            self.graph.apply_finding(finding);
        }
        findings
    }

    /// What the policy says of an event that waits, and which rules could not be evaluated.
    pub fn decide(&self, event: &Event) -> (Decision, Vec<EvaluationFault>) {
        let actor = event.actor().or_else(|| self.graph.attributed(event.seq));
        let view = TraceView {
            tainted: actor.is_some_and(|process| self.graph.is_tainted(process)),
            stages: self.graph.stages(),
            verdict: self.graph.verdict(),
            task_started: self.graph.task_started(),
            autostart: match &event.kind {
                Kind::FileOpen { path, .. } => lava_detect::autostart(path).unwrap_or_default(),
                _ => "",
            },
        };
        self.policy.decide(event, &view)
    }
}
