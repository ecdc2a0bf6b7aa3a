//! What the graph is made of: nodes, edges, and the deltas a viewer applies.
//!
//! An edge goes from the one who acts to what is acted on (`process -writes-> file`), whatever way the information
//! flows. Everything here is plain data, serialisable, and in a fixed order, so that two graphs of one log are equal
//! byte by byte.

use lava_event::{Action, EventSeq, Finding, Grade, ProcessKey, Verdict};
use serde::{Deserialize, Serialize};

/// A node's number: 0, 1, 2... in the order of appearance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

/// An edge's number: 0, 1, 2... in the order of appearance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EdgeId(pub u32);

/// What a node stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// The task itself.
    Task,
    /// One generation of a process: from its fork or exec to its next exec.
    Process,
    /// One version of a file: what one process made of it.
    File,
    /// An address and port, or a Unix socket.
    Endpoint,
    /// A watched part of a disk.
    DiskArea,
    /// A kernel module.
    Module,
    /// Rights that a process was given.
    Credential,
    /// The guest's kernel, acting for nobody that is known.
    Kernel,
    /// Several nodes drawn as one; its label says of what and how many. Only in a [`crate::Trace`].
    Fold,
}

/// What the one does with the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Task -> its content; task -> its root process.
    Opens,
    /// Process -> its child.
    Forks,
    /// Process -> the program that it became.
    Executes,
    /// Process -> a child's program (fork and exec drawn as one; only in a trace), or crontab -> its job (inferred).
    Starts,
    /// Process -> the file that it is running.
    Runs,
    /// Process -> a file opened for reading.
    Reads,
    /// Process -> a file opened for writing.
    OpensForWriting,
    /// Process -> a file that came to be.
    Creates,
    /// Process -> a file, or device -> an area of the disk behind it.
    Writes,
    /// Process -> a file whose mode or owner changed.
    ChangesAttributes,
    /// Process -> a file that got another name.
    Renames,
    /// Process -> a file that lost a name.
    Deletes,
    /// A version of a file -> the version before.
    Follows,
    /// Process -> an endpoint.
    Connects,
    /// Process -> rights.
    Gains,
    /// Process -> a kernel module.
    Loads,
    /// Process -> the process that receives it, over a socket within the guest.
    Sends,
    /// Process -> a file that it has in its memory, shared with whoever has it there too.
    Maps,
    /// Process -> the process whose memory it wrote into.
    Injects,
}

impl Verb {
    /// The verb as it reads in a sentence.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opens => "opens",
            Self::Forks => "forks",
            Self::Executes => "executes",
            Self::Starts => "starts",
            Self::Runs => "runs",
            Self::Reads => "reads",
            Self::OpensForWriting => "opens for writing",
            Self::Creates => "creates",
            Self::Writes => "writes",
            Self::ChangesAttributes => "changes attributes of",
            Self::Renames => "renames",
            Self::Deletes => "deletes",
            Self::Follows => "follows",
            Self::Connects => "connects to",
            Self::Gains => "gains",
            Self::Loads => "loads",
            Self::Sends => "sends to",
            Self::Maps => "shares in memory",
            Self::Injects => "injects into",
        }
    }
}

/// Why a node is tainted: see [`crate::cut`] for where taint ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaintRule {
    /// The task, its content, and the first process that the launcher forked for it.
    Task,
    /// Forked by a tainted process.
    Descent,
    /// Runs a tainted file.
    Image,
    /// Made or changed by a tainted process.
    Written,
    /// Opened a tainted file for reading after it was written. Inferred: that bytes went over was not seen.
    Read,
    /// Started by a job daemon (cron) that has read a tainted file. Inferred.
    Job,
    /// Received bytes over a socket from a tainted process.
    Received,
    /// Shares memory with a tainted process that can write there. Inferred: what was written there, and read, is not seen.
    Shared,
    /// A tainted process wrote into its memory.
    Injected,
}

/// Why, and how surely, a node descends from the task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeTaint {
    /// The rule.
    pub rule: TaintRule,
    /// How we know.
    pub grade: Grade,
    /// The event that showed it; 0 if it follows from the order of the nodes alone.
    pub event: EventSeq,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// What it stands for.
    pub kind: NodeKind,
    /// One line; guest text in it is escaped and bounded.
    pub label: String,
    /// More lines; likewise escaped and bounded.
    pub detail: Vec<String>,
    /// For a process node: which process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessKey>,
    /// Why it is tainted, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint: Option<NodeTaint>,
    /// Session time of the first event that it takes part in, ns.
    pub first_ns: u64,
    /// Session time of the last one.
    pub last_ns: u64,
}

impl Node {
    /// True if it descends from the task.
    #[must_use]
    pub const fn is_tainted(&self) -> bool {
        self.taint.is_some()
    }
}

/// What the policy did about an action that an edge stands for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EdgeDecision {
    /// The answer.
    pub action: Action,
    /// What became of it, in a sentence.
    pub outcome: String,
    /// The `vm.decision` event.
    pub event: EventSeq,
}

/// An edge: everything one node did with another in one way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Edge {
    /// Its number.
    pub id: EdgeId,
    /// Who acts.
    pub from: NodeId,
    /// What is acted on.
    pub to: NodeId,
    /// How.
    pub verb: Verb,
    /// How we know: the best of its events.
    pub grade: Grade,
    /// First time, ns.
    pub first_ns: u64,
    /// Last time, ns.
    pub last_ns: u64,
    /// How often (a `file.write` event can stand for many writes).
    pub count: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The first [`crate::EDGE_EVENTS`] of its events, ascending.
    pub events: Vec<EventSeq>,
    /// How many events there are in all.
    pub event_count: u64,
    /// True if one of its ends was tainted when it was added or last updated.
    pub tainted: bool,
    /// The policy's latest decision on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<EdgeDecision>,
}

/// A change of the graph, to be applied in order.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "delta", rename_all = "snake_case")]
pub enum Delta {
    /// A new node.
    NodeAdded {
        /// The node.
        node: Node,
    },
    /// Label, detail or taint of a node changed. When it was last seen is told by its edges.
    NodeUpdated {
        /// The node as it is now.
        node: Node,
    },
    /// A new edge.
    EdgeAdded {
        /// The edge.
        edge: Edge,
    },
    /// An edge was seen again, or a decision was taken on it.
    EdgeUpdated {
        /// The edge as it is now.
        edge: Edge,
    },
    /// A detector found something.
    FindingAdded {
        /// The finding.
        finding: Finding,
    },
    /// The answer to "is it a threat?", or its score, changed.
    VerdictChanged {
        /// The new answer.
        verdict: Verdict,
        /// 0 to 100.
        score: u8,
    },
}

/// What a viewer holds: the sum of the deltas.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// All nodes, by number.
    pub nodes: Vec<Node>,
    /// All edges, by number.
    pub edges: Vec<Edge>,
    /// All findings, in order.
    pub findings: Vec<Finding>,
    /// Is it a threat?
    pub verdict: Verdict,
    /// 0 to 100.
    pub score: u8,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { nodes: Vec::new(), edges: Vec::new(), findings: Vec::new(), verdict: Verdict::Clean, score: 0 }
    }
}

impl Snapshot {
    /// Applies a change. A delta that does not fit (of another graph, or out of order) changes nothing.
    pub fn apply(&mut self, delta: &Delta) {
        match delta {
            Delta::NodeAdded { node } if node.id.0 as usize == self.nodes.len() => self.nodes.push(node.clone()),
            Delta::NodeUpdated { node } => {
                if let Some(place) = self.nodes.get_mut(node.id.0 as usize) {
                    place.clone_from(node);
                }
            }
            Delta::EdgeAdded { edge } if edge.id.0 as usize == self.edges.len() => {
                self.seen(edge);
                self.edges.push(edge.clone());
            }
            Delta::EdgeUpdated { edge } => {
                self.seen(edge);
                if let Some(place) = self.edges.get_mut(edge.id.0 as usize) {
                    place.clone_from(edge);
                }
            }
            Delta::FindingAdded { finding } => self.findings.push(finding.clone()),
            Delta::VerdictChanged { verdict, score } => (self.verdict, self.score) = (*verdict, *score),
            Delta::NodeAdded { .. } | Delta::EdgeAdded { .. } => {}
        }
    }

    /// A node was last seen when its latest edge was.
    fn seen(&mut self, edge: &Edge) {
        for end in [edge.from, edge.to] {
            if let Some(node) = self.nodes.get_mut(end.0 as usize) {
                node.last_ns = node.last_ns.max(edge.last_ns);
            }
        }
    }
}
