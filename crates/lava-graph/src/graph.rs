//! The graph: its state and what can be asked of it. What events do to it is in `apply`.

use lava_event::{Event, EventSeq, Finding, GuestText, ProcessKey, Stage, Verdict};

use crate::channels::Channels;
use crate::disk::Disks;
use crate::files::Files;
use crate::pipes::Pipes;
use crate::processes::Processes;
use crate::store::Store;
use crate::verdict::Strengths;
use crate::{Attribution, DecisionSummary, Delta, Edge, Node, NodeId, NodeKind, Snapshot, Trace};

/// Findings kept; a detector says each thing once, so this is far away.
const MAX_FINDINGS: usize = 10_000;
/// Decisions kept.
pub(crate) const MAX_DECISIONS: usize = 10_000;

/// Files of the task's content: its own, and of an archive those that are opened.
pub(crate) const MAX_CONTENTS: usize = 257;

/// What `vm.task` and `vm.member` told.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) node: NodeId,
    /// The content's files, by path: the task's own, then what an archive held.
    pub(crate) contents: Vec<(Vec<u8>, NodeId)>,
    /// The launcher is about to fork the process that opens the content.
    pub(crate) handed_over: bool,
    pub(crate) launcher: Vec<u8>,
    /// Base names of the profile's host programs.
    pub(crate) hosts: Vec<Vec<u8>>,
}

impl Task {
    /// The node of the content of that path.
    pub(crate) fn content(&self, path: &[u8]) -> Option<NodeId> {
        self.contents.iter().find(|(known, _)| known == path).map(|(_, node)| *node)
    }
}

/// The provenance and taint graph of one session.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub(crate) store: Store,
    pub(crate) processes: Processes,
    pub(crate) files: Files,
    pub(crate) disks: Disks,
    pub(crate) pipes: Pipes,
    pub(crate) channels: Channels,
    pub(crate) task: Option<Task>,
    pub(crate) root: Option<ProcessKey>,
    /// Endpoints, disk areas and modules, by name.
    pub(crate) names: std::collections::BTreeMap<(NodeKind, String), NodeId>,
    pub(crate) findings: Vec<Finding>,
    strengths: Strengths,
    pub(crate) decisions: Vec<DecisionSummary>,
}

impl Graph {
    /// An empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event of the session and says what it changes. To be called before the detectors see the event.
    pub fn apply(&mut self, event: &Event) -> Vec<Delta> {
        self.apply_event(event);
        self.store.take_deltas()
    }

    /// Takes what a detector made of the events so far, and says what it changes.
    pub fn apply_finding(&mut self, finding: &Finding) -> Vec<Delta> {
        if self.findings.len() >= MAX_FINDINGS {
            return Vec::new();
        }
        let before = self.verdict();
        self.findings.push(finding.clone());
        self.strengths.add(finding);
        let mut deltas = vec![Delta::FindingAdded { finding: finding.clone() }];
        let verdict = self.verdict();
        if verdict != before {
            deltas.push(Delta::VerdictChanged { verdict });
        }
        deltas
    }

    /// True once the launcher has forked the task's root process.
    #[must_use]
    pub const fn task_started(&self) -> bool {
        self.root.is_some()
    }

    /// The task's root process.
    #[must_use]
    pub const fn root(&self) -> Option<ProcessKey> {
        self.root
    }

    /// True if the process descends from the task.
    #[must_use]
    pub fn is_tainted(&self, process: ProcessKey) -> bool {
        self.processes.get(process).is_some_and(|state| state.tainted)
    }

    /// True if the path names the task's content, or what an archive held of it.
    #[must_use]
    pub fn is_task_file(&self, path: &GuestText) -> bool {
        self.task.as_ref().is_some_and(|task| task.content(path.bytes()).is_some())
    }

    /// True if the process runs (or ran, before an exec) a host program of the task's profile and opened the content.
    #[must_use]
    pub fn is_host(&self, process: ProcessKey) -> bool {
        self.processes.get(process).is_some_and(|state| state.host)
    }

    /// Who forked the process, where known.
    #[must_use]
    pub fn parent(&self, process: ProcessKey) -> Option<ProcessKey> {
        self.processes.get(process).and_then(|state| state.parent)
    }

    /// Path of the program that the process is running, as last seen.
    #[must_use]
    pub fn program(&self, process: ProcessKey) -> Option<&GuestText> {
        self.processes.get(process).map(|state| &state.exe)
    }

    /// Who is behind a `disk.write`, where known.
    #[must_use]
    pub fn attributed(&self, disk_write: EventSeq) -> Option<ProcessKey> {
        self.attribution(disk_write).map(|attribution| attribution.process)
    }

    /// Who is behind a `disk.write`, by which `file.write`, and how surely.
    #[must_use]
    pub fn attribution(&self, disk_write: EventSeq) -> Option<Attribution> {
        self.disks.attribution(disk_write)
    }

    /// The stages of the kill chain that findings speak of, first to last of the chain.
    #[must_use]
    pub fn stages(&self) -> Vec<Stage> {
        self.strengths.stages()
    }

    /// Is it a threat? The rule is `verdict.rs`'s.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.strengths.verdict()
    }

    /// 0 to 100; the rule is `verdict.rs`'s.
    #[must_use]
    pub fn score(&self) -> u8 {
        self.strengths.score()
    }

    /// The findings, in the order in which they were made.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The policy's decisions, in order.
    #[must_use]
    pub fn decisions(&self) -> &[DecisionSummary] {
        &self.decisions
    }

    /// All nodes, by number.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        self.store.nodes()
    }

    /// All edges, by number.
    #[must_use]
    pub fn edges(&self) -> &[Edge] {
        self.store.edges()
    }

    /// All there is, for a viewer that comes in the middle.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { nodes: self.nodes().to_vec(), edges: self.edges().to_vec(), findings: self.findings.clone() }
    }

    /// The simplified graph.
    #[must_use]
    pub fn trace(&self) -> Trace {
        crate::trace::of(self)
    }
}
