//! The graph: its state and what can be asked of it. What events do to it is in `apply`.

use lava_event::{Event, EventSeq, Finding, GuestText, ProcessKey, Stage, Verdict};

use crate::channels::Channels;
use crate::disk::Disks;
use crate::files::Files;
use crate::lanes::{Lanes, Timeline};
use crate::memory::Memory;
use crate::pipes::Pipes;
use crate::processes::Processes;
use crate::store::Store;
use crate::verdict::Strengths;
use crate::{Attribution, DecisionSummary, Delta, Edge, EdgeId, Node, NodeId, NodeKind, Snapshot, Trace, Unfold, cut};

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

/// What a finding rests on in the graph.
#[derive(Clone, Debug)]
struct Grounds {
    /// The event at which it was made.
    since: EventSeq,
    edges: Vec<EdgeId>,
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
    pub(crate) lanes: Lanes,
    pub(crate) files: Files,
    pub(crate) disks: Disks,
    pub(crate) pipes: Pipes,
    pub(crate) memory: Memory,
    pub(crate) channels: Channels,
    pub(crate) task: Option<Task>,
    pub(crate) root: Option<ProcessKey>,
    /// Endpoints, disk areas and modules, by name.
    pub(crate) names: std::collections::BTreeMap<(NodeKind, String), NodeId>,
    pub(crate) findings: Vec<Finding>,
    /// Of each finding.
    grounds: Vec<Grounds>,
    strengths: Strengths,
    verdict_since: EventSeq,
    pub(crate) decisions: Vec<DecisionSummary>,
}

impl Graph {
    /// An empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event of the session. To be called before the detectors see the event.
    pub fn apply(&mut self, event: &Event) {
        self.store.begin(event.seq);
        self.apply_event(event);
        self.through_memory(event);
        self.lanes.apply(event, &self.processes);
    }

    /// Takes what a detector made of the events so far.
    pub fn apply_finding(&mut self, finding: &Finding) {
        if self.findings.len() >= MAX_FINDINGS {
            return;
        }
        let before = self.score();
        // Now, while its events are recent.
        let edges = finding.events.iter().flat_map(|&seq| self.store.edges_of(seq)).collect();
        self.grounds.push(Grounds { since: self.store.now(), edges });
        self.findings.push(finding.clone());
        self.strengths.add(finding);
        // The verdict follows from the score.
        if self.score() != before {
            self.verdict_since = self.store.now();
        }
    }

    /// An interval of the session begins here: who is tainted, what is whose and who descends from whom stays known; what was done,
    /// found and decided before is forgotten.
    pub fn begin_interval(&mut self) {
        self.store.forget();
        self.findings.clear();
        self.grounds.clear();
        self.decisions.clear();
        self.strengths = Strengths::default();
    }

    /// What changed after the event `seq`, for a viewer that holds what was then; all there is, for 0. Applied in order to that
    /// ([`Snapshot::apply`]) it gives what is now. Several changes of one thing come as one.
    #[must_use]
    pub fn deltas_since(&self, seq: EventSeq) -> Vec<Delta> {
        let mut deltas = self.store.deltas_since(seq);
        let from = self.grounds.partition_point(|grounds| grounds.since <= seq);
        let new = self.findings.iter().skip(from);
        deltas.extend(new.map(|finding| Delta::FindingAdded { finding: finding.clone() }));
        if self.verdict_since > seq {
            deltas.push(Delta::VerdictChanged { verdict: self.verdict(), score: self.score() });
        }
        deltas
    }

    /// The edges that a finding rests on.
    pub(crate) fn edges_of_finding(&self, finding: usize) -> impl Iterator<Item = &Edge> {
        let edges = self.grounds.get(finding).into_iter().flat_map(|grounds| &grounds.edges);
        edges.filter_map(|&id| self.store.edge(id))
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

    /// True if what the program takes in taints it not: the launcher, and the daemons ([`crate::cut`], 4 and 5).
    pub(crate) fn is_cut(&self, exe: &[u8]) -> bool {
        cut::is_daemon(exe) || self.task.as_ref().is_some_and(|task| cut::same_program(&task.launcher, exe))
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

    /// The processes, for a timeline: at most 2,000 of them, what matters first.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        self.lanes.told()
    }

    /// All there is, for a viewer that comes in the middle.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            nodes: self.nodes().to_vec(),
            edges: self.edges().to_vec(),
            findings: self.findings.clone(),
            verdict: self.verdict(),
            score: self.score(),
        }
    }

    /// The simplified graph.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.trace_of(&Unfold::default())
    }

    /// The graph, simplified but for what is asked for.
    #[must_use]
    pub fn trace_of(&self, unfold: &Unfold) -> Trace {
        crate::trace::of(self, unfold)
    }
}
