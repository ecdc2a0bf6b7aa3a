//! The trace: the graph simplified to what an analyst reads.
//!
//! Of a graph with thousands of nodes it keeps what descends from the task and matters: the chain of processes, the
//! files that were dropped and run, and what findings speak of. The rest is folded, and each fold says what it folds and
//! how many. A trace has fewer than [`MAX_NODES`] nodes, whatever the guest did.
//!
//! *Limit:* where more processes or files matter than there is room for, those that appear in findings come first, then
//! the earlier ones; the rest is in the folds (whose `findings` tell when something found is among them).

mod build;
mod choose;
pub(crate) use build::of;

use std::collections::BTreeSet;

use lava_event::{Action, EventSeq, Finding, Grade, Stage, Verdict};
use serde::{Deserialize, Serialize};

use crate::{Incident, NodeKind, Verb};

/// A trace has fewer nodes than this.
pub const MAX_NODES: usize = 60;

/// What is not to be folded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Unfold {
    /// All that can be is folded: fewer than [`MAX_NODES`] nodes.
    #[default]
    Nothing,
    /// The nodes of these folds, by their ids (`n12.reads`), are drawn for themselves. An unfolded process can have folds of its own.
    Groups(BTreeSet<String>),
    /// Every node and edge of the graph, as they are.
    Everything,
}

/// A node of the trace.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TraceNode {
    /// Stays the same from one trace of a session to the next: `n12` for a node of the graph, `n12.reads` for a fold.
    pub id: String,
    /// What it stands for.
    pub kind: NodeKind,
    /// One line.
    pub label: String,
    /// More lines.
    pub detail: Vec<String>,
    /// How many nodes of the graph are folded into it; 0 if it stands for itself alone.
    #[serde(default)]
    pub folded: usize,
    /// The stage of the kill chain that it belongs to.
    pub stage: Option<Stage>,
    /// True if it descends from the task.
    pub tainted: bool,
    /// The findings it takes part in: indexes into [`Trace::findings`].
    pub findings: Vec<usize>,
    /// First seen, ns.
    pub first_ns: u64,
    /// Last seen, ns.
    pub last_ns: u64,
}

/// An edge of the trace.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TraceEdge {
    /// Id of the acting node.
    pub from: String,
    /// Id of the node acted on.
    pub to: String,
    /// How.
    pub verb: Verb,
    /// How we know; of several edges drawn as one, the weakest.
    pub grade: Grade,
    /// First time, ns.
    pub first_ns: u64,
    /// Last time, ns.
    pub last_ns: u64,
    /// How often.
    pub count: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Events behind it, ascending, at most [`crate::EDGE_EVENTS`].
    pub events: Vec<EventSeq>,
    /// The first stage among the findings that rest on its events.
    pub stage: Option<Stage>,
    /// What the policy did about it, if it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<crate::EdgeDecision>,
}

/// A stage of the kill chain that was reached.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StageSummary {
    /// The stage.
    pub stage: Stage,
    /// Its findings: indexes into [`Trace::findings`].
    pub findings: Vec<usize>,
    /// Session time of the first of them, ns.
    pub first_ns: u64,
}

/// A decision of the policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DecisionSummary {
    /// The `vm.decision` event.
    pub event: EventSeq,
    /// The event that waited for it.
    pub subject: EventSeq,
    /// Session time, ns.
    pub time_ns: u64,
    /// The answer.
    pub action: Action,
    /// Name of the policy.
    pub policy: String,
    /// The rule that matched; none if the default answered.
    pub rule: Option<String>,
    /// The rule's reason.
    pub reason: Option<String>,
    /// What was done, in a sentence.
    pub outcome: String,
}

/// What happened, in a form that can be read at once.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Trace {
    /// The nodes, in the order in which they appeared; folds behind the node they belong to.
    pub nodes: Vec<TraceNode>,
    /// The edges, by time, then by their ends.
    pub edges: Vec<TraceEdge>,
    /// All findings, in the order in which they were made.
    pub findings: Vec<Finding>,
    /// The stages that were reached, first to last of the kill chain (not by time).
    pub kill_chain: Vec<StageSummary>,
    /// Is it a threat?
    pub verdict: Verdict,
    /// 0 to 100: malicious from 80, suspicious from 10.
    #[serde(default)]
    pub score: u8,
    /// The verdict in one sentence: by which rule, on which evidence, and what would change it.
    #[serde(default)]
    pub explanation: String,
    /// The findings that rest on each other, together; worst first.
    #[serde(default)]
    pub incidents: Vec<Incident>,
    /// What the policy decided, in order.
    pub decisions: Vec<DecisionSummary>,
    /// Nodes of the whole graph.
    pub graph_nodes: usize,
    /// Edges of the whole graph.
    pub graph_edges: usize,
}
