//! The nodes and edges themselves, and the deltas of what changes in them.
//!
//! Bounded: past a number of nodes of one kind, the next ones share one node that says so. Edges are one for each (from,
//! to, verb), so a loop in the guest makes a count, not a graph.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lava_event::{Event, EventSeq, Grade, GuestText, ProcessKey};

use crate::{Delta, Edge, EdgeDecision, EdgeId, Node, NodeId, NodeKind, NodeTaint, Verb};

/// How many events an edge names.
pub const EDGE_EVENTS: usize = 16;
const NODES_OF_A_KIND: usize = 50_000;
const EDGES: usize = 400_000;
/// The latest (event, edge) pairs that are found again; of older events only an edge's first is.
const RECENT: usize = 1 << 18;
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
    /// Every edge with its first event.
    firsts: BTreeSet<(EventSeq, EdgeId)>,
    /// The latest events with their edges, ascending.
    recent: VecDeque<(EventSeq, EdgeId)>,
    kinds: BTreeMap<NodeKind, (usize, Option<NodeId>)>,
    /// The event that is being applied.
    now: EventSeq,
    node_stamps: Vec<Stamp>,
    edge_stamps: Vec<Stamp>,
}

/// When something was made, and when it changed last.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    made: EventSeq,
    changed: EventSeq,
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

    /// An event begins. What changes from now on changed with it.
    pub(crate) const fn begin(&mut self, event: EventSeq) {
        self.now = event;
    }

    pub(crate) const fn now(&self) -> EventSeq {
        self.now
    }

    fn touch_node(&mut self, id: NodeId) {
        if let Some(stamp) = self.node_stamps.get_mut(id.0 as usize) {
            stamp.changed = self.now;
        }
    }

    /// What changed after that event, for a viewer who holds what was then: nodes, then edges, each by number.
    pub(crate) fn deltas_since(&self, seq: EventSeq) -> Vec<Delta> {
        let since = |stamp: &&Stamp| stamp.changed > seq;
        let nodes = self.node_stamps.iter().zip(&self.nodes).filter(|(stamp, _)| since(stamp)).map(|(stamp, node)| {
            let node = node.clone();
            if stamp.made > seq { Delta::NodeAdded { node } } else { Delta::NodeUpdated { node } }
        });
        let edges = self.edge_stamps.iter().zip(&self.edges).filter(|(stamp, _)| since(stamp)).map(|(stamp, edge)| {
            let edge = edge.clone();
            if stamp.made > seq { Delta::EdgeAdded { edge } } else { Delta::EdgeUpdated { edge } }
        });
        nodes.chain(edges).collect()
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
        self.nodes.push(node);
        self.node_stamps.push(Stamp { made: self.now, changed: self.now });
        id
    }

    /// Changes a node's words.
    pub(crate) fn update_node(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(id.0 as usize) {
            change(node);
            self.touch_node(id);
        }
    }

    /// Marks a node as descending from the task. The first reason stays, until a surer one comes.
    pub(crate) fn taint(&mut self, id: NodeId, taint: NodeTaint) {
        if let Some(node) = self.nodes.get_mut(id.0 as usize)
            && node.taint.is_none_or(|known| known.grade < taint.grade)
        {
            node.taint = Some(taint);
            self.touch_node(id);
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
            (edge.first_ns, edge.last_ns) = (edge.first_ns.min(event.time_ns), edge.last_ns.max(event.time_ns));
            // The first of an interval: see `forget`.
            edge.grade = if edge.event_count == 0 { what.grade } else { edge.grade.max(what.grade) };
            edge.count = edge.count.saturating_add(what.count);
            edge.bytes = edge.bytes.saturating_add(what.bytes);
            edge.event_count = edge.event_count.saturating_add(1);
            edge.tainted |= tainted;
            if edge.events.len() < EDGE_EVENTS
                && let Err(at) = edge.events.binary_search(&event.seq)
            {
                edge.events.insert(at, event.seq);
            }
            if let Some(stamp) = self.edge_stamps.get_mut(id.0 as usize) {
                stamp.changed = self.now;
            }
            id
        } else {
            if self.edges.len() >= EDGES {
                // No edge tells of it.
                [what.from, what.to].into_iter().for_each(|id| self.touch_node(id));
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
            self.edges.push(edge);
            self.edge_stamps.push(Stamp { made: self.now, changed: self.now });
            self.ends.insert(key, id);
            self.firsts.insert((event.seq, id));
            id
        };
        // An event that had to wait for its process is an older one: it can be found by its edge's first event only.
        if self.recent.back().is_none_or(|(last, _)| *last <= event.seq) {
            if self.recent.len() >= RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back((event.seq, id));
        }
        Some(id)
    }

    /// The edges an event is behind, ascending: all of a recent event; of an older one those that began with it.
    pub(crate) fn edges_of(&self, event: EventSeq) -> Vec<EdgeId> {
        let first = self.firsts.range((event, EdgeId(0))..=(event, EdgeId(u32::MAX))).map(|(_, id)| *id);
        let from = self.recent.partition_point(|(seq, _)| *seq < event);
        let recent = self.recent.range(from..).take_while(|(seq, _)| *seq == event).map(|(_, id)| *id);
        let mut edges: Vec<EdgeId> = first.chain(recent).collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    pub(crate) fn edge(&self, id: EdgeId) -> Option<&Edge> {
        self.edges.get(id.0 as usize)
    }

    /// An interval begins: of every edge only that it is there, so that ancestry is known, and nothing that happened along it.
    pub(crate) fn forget(&mut self) {
        for (edge, stamp) in self.edges.iter_mut().zip(&mut self.edge_stamps) {
            (edge.count, edge.bytes, edge.event_count, edge.decision) = (0, 0, 0, None);
            edge.events.clear();
            (edge.first_ns, edge.last_ns) = (u64::MAX, 0);
            stamp.changed = self.now;
        }
    }

    /// Attaches the policy's decision to the edges of the event that waited.
    pub(crate) fn decide(&mut self, subject: EventSeq, decision: &EdgeDecision) {
        for id in self.edges_of(subject) {
            if let (Some(edge), Some(stamp)) =
                (self.edges.get_mut(id.0 as usize), self.edge_stamps.get_mut(id.0 as usize))
            {
                edge.decision = Some(decision.clone());
                stamp.changed = self.now;
            }
        }
    }
}
