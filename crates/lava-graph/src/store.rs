//! The nodes and edges themselves, and the deltas of what changes in them.
//!
//! Bounded: past a number of nodes of one kind, the next ones share one node that says so. Edges are one for each (from,
//! to, verb), so a loop in the guest makes a count, not a graph.

use std::collections::{BTreeMap, BTreeSet};

use lava_event::{Event, EventSeq, Grade, GuestText, ProcessKey};

use crate::{Delta, Edge, EdgeDecision, EdgeId, Node, NodeId, NodeKind, NodeTaint, Verb};

/// How many events an edge names.
pub const EDGE_EVENTS: usize = 16;
const NODES_OF_A_KIND: usize = 50_000;
const EDGES: usize = 400_000;
const INDEXED_EVENTS: usize = 1_000_000;
const LABEL_CHARS: usize = 240;

/// Guest text as it stands in labels: escaped and bounded.
pub(crate) fn label(text: &GuestText) -> String {
    let bytes = text.bytes();
    // Cut before escaping too, so that a megabyte of arguments costs no megabyte of formatting.
    let short = GuestText::from(bytes.get(..LABEL_CHARS * 4).unwrap_or(bytes).to_vec());
    clip(&short.to_string())
}

/// Bounds a line that is escaped already.
pub(crate) fn clip(text: &str) -> String {
    match text.char_indices().nth(LABEL_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// One thing that happened along an edge.
#[derive(Clone, Copy)]
pub(crate) struct Happening {
    pub from: NodeId,
    pub to: NodeId,
    pub verb: Verb,
    pub grade: Grade,
    pub count: u64,
    pub bytes: u64,
}

impl Happening {
    pub(crate) const fn observed(from: NodeId, verb: Verb, to: NodeId) -> Self {
        Self { from, to, verb, grade: Grade::Observed, count: 1, bytes: 0 }
    }

    pub(crate) const fn inferred(self) -> Self {
        Self { grade: Grade::Inferred, ..self }
    }

    pub(crate) const fn of(self, count: u64, bytes: u64) -> Self {
        Self { count, bytes, ..self }
    }
}

/// All nodes and edges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    ends: BTreeMap<(NodeId, NodeId, Verb), EdgeId>,
    by_event: BTreeSet<(EventSeq, EdgeId)>,
    kinds: BTreeMap<NodeKind, (usize, Option<NodeId>)>,
    deltas: Vec<Delta>,
}

impl Store {
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn edges(&self) -> &[Edge] {
        &self.edges
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.0 as usize)
    }

    pub(crate) fn take_deltas(&mut self) -> Vec<Delta> {
        std::mem::take(&mut self.deltas)
    }

    /// Adds a node; where there are too many of its kind, the one that stands for the rest.
    pub(crate) fn add_node(
        &mut self,
        event: &Event,
        kind: NodeKind,
        label: String,
        detail: Vec<String>,
        process: Option<ProcessKey>,
    ) -> NodeId {
        let (count, rest) = self.kinds.entry(kind).or_default();
        *count += 1;
        if let Some(rest) = *rest {
            return rest;
        }
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        let full = *count > NODES_OF_A_KIND;
        if full {
            *rest = Some(id);
        }
        let node = Node {
            id,
            kind,
            label: if full { "further ones: the graph's bound is reached".to_owned() } else { label },
            detail: if full { Vec::new() } else { detail },
            process: if full { None } else { process },
            taint: None,
            first_ns: event.time_ns,
            last_ns: event.time_ns,
        };
        self.nodes.push(node.clone());
        self.deltas.push(Delta::NodeAdded { node });
        id
    }

    /// Changes a node's words.
    pub(crate) fn update_node(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(id.0 as usize) {
            let before = node.clone();
            change(node);
            if *node != before {
                let node = node.clone();
                self.deltas.push(Delta::NodeUpdated { node });
            }
        }
    }

    /// Marks a node as descending from the task; the first reason stays.
    pub(crate) fn taint(&mut self, id: NodeId, taint: NodeTaint) {
        if let Some(node) = self.nodes.get_mut(id.0 as usize)
            && node.taint.is_none()
        {
            node.taint = Some(taint);
            self.deltas.push(Delta::NodeTainted { node: id, taint });
        }
    }

    /// True if that was noted before.
    pub(crate) fn has_edge(&self, from: NodeId, to: NodeId, verb: Verb) -> bool {
        self.ends.contains_key(&(from, to, verb))
    }

    /// Notes that something happened.
    pub(crate) fn happen(&mut self, event: &Event, what: Happening) -> Option<EdgeId> {
        let tainted = [what.from, what.to].iter().any(|&id| self.node(id).is_some_and(Node::is_tainted));
        for id in [what.from, what.to] {
            if let Some(node) = self.nodes.get_mut(id.0 as usize) {
                // The viewer learns of it from the edge; a delta for each would double the stream.
                node.last_ns = node.last_ns.max(event.time_ns);
            }
        }
        let key = (what.from, what.to, what.verb);
        let id = if let Some(&id) = self.ends.get(&key) {
            let edge = self.edges.get_mut(id.0 as usize)?;
            edge.last_ns = edge.last_ns.max(event.time_ns);
            edge.grade = edge.grade.max(what.grade);
            edge.count = edge.count.saturating_add(what.count);
            edge.bytes = edge.bytes.saturating_add(what.bytes);
            edge.event_count = edge.event_count.saturating_add(1);
            edge.tainted |= tainted;
            if edge.events.len() < EDGE_EVENTS
                && let Err(at) = edge.events.binary_search(&event.seq)
            {
                edge.events.insert(at, event.seq);
            }
            let edge = edge.clone();
            self.deltas.push(Delta::EdgeUpdated { edge });
            id
        } else {
            if self.edges.len() >= EDGES {
                return None;
            }
            let id = EdgeId(u32::try_from(self.edges.len()).unwrap_or(u32::MAX));
            let edge = Edge {
                id,
                from: what.from,
                to: what.to,
                verb: what.verb,
                grade: what.grade,
                first_ns: event.time_ns,
                last_ns: event.time_ns,
                count: what.count,
                bytes: what.bytes,
                events: vec![event.seq],
                event_count: 1,
                tainted,
                decision: None,
            };
            self.edges.push(edge.clone());
            self.ends.insert(key, id);
            self.deltas.push(Delta::EdgeAdded { edge });
            id
        };
        if self.by_event.len() < INDEXED_EVENTS {
            self.by_event.insert((event.seq, id));
        }
        Some(id)
    }

    /// The edges an event is behind.
    pub(crate) fn edges_of(&self, event: EventSeq) -> impl Iterator<Item = &Edge> {
        self.by_event
            .range((event, EdgeId(0))..=(event, EdgeId(u32::MAX)))
            .filter_map(|(_, id)| self.edges.get(id.0 as usize))
    }

    /// Attaches the policy's decision to the edges of the event that waited.
    pub(crate) fn decide(&mut self, subject: EventSeq, decision: &EdgeDecision) {
        let ids: Vec<EdgeId> = self.edges_of(subject).map(|edge| edge.id).collect();
        for id in ids {
            if let Some(edge) = self.edges.get_mut(id.0 as usize) {
                edge.decision = Some(decision.clone());
                let edge = edge.clone();
                self.deltas.push(Delta::EdgeUpdated { edge });
            }
        }
    }
}
