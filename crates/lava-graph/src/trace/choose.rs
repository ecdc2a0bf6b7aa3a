//! Which nodes of the graph stand in the trace for themselves.

use std::collections::{BTreeMap, BTreeSet};

use lava_event::Stage;

use crate::graph::Graph;
use crate::{Edge, Node, NodeId, NodeKind, TaintRule, Verb};

/// Process nodes drawn for themselves.
const PROCESSES: usize = 16;
/// Files, endpoints... drawn for themselves.
const OBJECTS: usize = 20;

/// Files of the task's content drawn for themselves.
const CONTENTS: usize = 12;

/// What was chosen, and what it rests on.
pub(super) struct Choice {
    pub(super) kept: BTreeSet<NodeId>,
    /// Where a process came from: its generation before, or who forked it.
    prior: BTreeMap<NodeId, NodeId>,
    /// The root's fork stands for the program that it became.
    alias: Option<(NodeId, NodeId)>,
    /// Findings of each node and of each edge.
    pub(super) of_node: BTreeMap<NodeId, BTreeSet<usize>>,
    pub(super) of_edge: BTreeMap<crate::EdgeId, BTreeSet<usize>>,
    everything: bool,
}

impl Choice {
    /// Every node that something happened to stands for itself.
    pub(super) fn keep_everything(&mut self, graph: &Graph) {
        self.everything = true;
        let live = graph.edges().iter().filter(|edge| edge.event_count > 0);
        self.kept.extend(live.flat_map(|edge| [edge.from, edge.to]));
    }

    pub(super) const fn is_everything(&self) -> bool {
        self.everything
    }

    /// The kept process that stands for a process.
    pub(super) fn process(&self, node: NodeId) -> Option<NodeId> {
        let mut at = node;
        // A process comes from an older node, so this ends; the bound is for graphs at their limit.
        for _ in 0..10_000 {
            if let Some((from, to)) = self.alias
                && at == from
            {
                at = to;
            }
            if self.kept.contains(&at) {
                return Some(at);
            }
            let next = *self.prior.get(&at)?;
            if next >= at {
                return None;
            }
            at = next;
        }
        None
    }

    /// The first stage among some findings.
    pub(super) fn stage(graph: &Graph, findings: Option<&BTreeSet<usize>>) -> Option<Stage> {
        findings?.iter().filter_map(|&i| graph.findings.get(i)).map(|finding| finding.stage).min()
    }
}

pub(super) fn choose(graph: &Graph) -> Choice {
    let mut choice = Choice {
        kept: BTreeSet::new(),
        prior: BTreeMap::new(),
        alias: None,
        of_node: BTreeMap::new(),
        of_edge: BTreeMap::new(),
        everything: false,
    };
    let live = live(graph);
    let mut programs = BTreeSet::new();
    for edge in graph.edges() {
        if matches!(edge.verb, Verb::Forks | Verb::Executes) {
            choice.prior.entry(edge.to).or_insert(edge.from);
        }
        if edge.verb == Verb::Executes {
            programs.insert(edge.to);
        }
    }
    findings(graph, &mut choice);
    let tainted = |id: NodeId| graph.store.node(id).is_some_and(Node::is_tainted);
    processes(graph, &mut choice, &programs, &|id| live.contains(&id), &tainted);
    objects(graph, &mut choice);
    choice
}

/// The nodes that something happened to: all of them, but in an interval.
fn live(graph: &Graph) -> BTreeSet<NodeId> {
    let edges = graph.edges().iter().filter(|edge| edge.event_count > 0);
    edges.flat_map(|edge| [edge.from, edge.to]).collect()
}

/// Which findings speak of which nodes and edges.
fn findings(graph: &Graph, choice: &mut Choice) {
    for (i, finding) in graph.findings.iter().enumerate() {
        for edge in graph.edges_of_finding(i) {
            choice.of_edge.entry(edge.id).or_default().insert(i);
            for id in [edge.from, edge.to] {
                let Some(node) = graph.store.node(id) else { continue };
                let fork = edge.verb == Verb::Forks || (edge.verb == Verb::Executes && id == edge.from);
                let actor = node.kind != NodeKind::Process || finding.process.is_none_or(|p| node.process == Some(p));
                if !fork && actor {
                    choice.of_node.entry(id).or_default().insert(i);
                }
            }
        }
    }
}

fn processes(
    graph: &Graph,
    choice: &mut Choice,
    programs: &BTreeSet<NodeId>,
    live: &dyn Fn(NodeId) -> bool,
    tainted: &dyn Fn(NodeId) -> bool,
) {
    let task = graph.task.as_ref().map(|task| task.node);
    let root = graph.edges().iter().find(|edge| {
        Some(edge.from) == task && graph.store.node(edge.to).is_some_and(|node| node.kind == NodeKind::Process)
    });
    if let Some(first) = root.map(|edge| edge.to) {
        let became = graph.edges().iter().find(|edge| edge.from == first && edge.verb == Verb::Executes);
        choice.alias = became.map(|edge| (first, edge.to));
        choice.kept.insert(became.map_or(first, |edge| edge.to));
    }
    let is_process = |node: &&Node| node.kind == NodeKind::Process && node.is_tainted();
    let found: Vec<NodeId> =
        graph.nodes().iter().filter(is_process).map(|n| n.id).filter(|id| choice.of_node.contains_key(id)).collect();
    for id in found {
        // The chain from the root down to it: all of it, or it alone if there is no room.
        let mut chain = vec![id];
        let mut at = id;
        while let Some(&next) = choice.prior.get(&at) {
            if next >= at || !tainted(next) || chain.len() > PROCESSES {
                break;
            }
            if programs.contains(&next) && !choice.kept.contains(&next) {
                chain.push(next);
            }
            at = next;
        }
        let room = PROCESSES.saturating_sub(choice.kept.len());
        choice.kept.extend(if chain.len() <= room { chain } else { vec![id; room.min(1)] });
    }
    for node in graph.nodes().iter().filter(is_process).filter(|node| live(node.id)) {
        let other_root = node.taint.is_some_and(|taint| {
            use TaintRule::{Image, Injected, Job, Read, Received, Shared};
            matches!(taint.rule, Read | Job | Image | Received | Shared | Injected)
        });
        if choice.kept.len() < PROCESSES && (programs.contains(&node.id) || other_root) {
            choice.kept.insert(node.id);
        }
    }
}

fn objects(graph: &Graph, choice: &mut Choice) {
    let mut ranked: BTreeSet<(u8, NodeId)> = BTreeSet::new();
    for edge in graph.edges().iter().filter(|edge| edge.event_count > 0) {
        for id in [edge.from, edge.to] {
            let Some(node) = graph.store.node(id) else { continue };
            if let Some(rank) = rank(graph, choice, edge, node) {
                ranked.insert((rank, id));
            }
        }
    }
    if let Some(task) = &graph.task {
        choice.kept.insert(task.node);
        choice.kept.extend(task.contents.iter().map(|(_, node)| *node).take(CONTENTS));
    }
    let mut room = OBJECTS;
    for (_, id) in ranked {
        if room > 0 && choice.kept.insert(id) {
            room -= 1;
        }
    }
}

/// How much a node that is no process matters; `None` if it goes into a fold.
fn rank(graph: &Graph, choice: &Choice, edge: &Edge, node: &Node) -> Option<u8> {
    let found = choice.of_node.contains_key(&node.id);
    let carries = || {
        let taint = graph.store.node(edge.from).and_then(|from| from.taint);
        edge.verb == Verb::Maps && taint.is_some_and(|taint| taint.rule == TaintRule::Shared)
    };
    match node.kind {
        // Endpoints are always drawn as groups.
        NodeKind::Process | NodeKind::Task | NodeKind::Endpoint | NodeKind::Fold => None,
        // Files first that a finding speaks of; one that is only read by what it speaks of comes later.
        _ if found => Some(0),
        NodeKind::DiskArea | NodeKind::Kernel | NodeKind::Module => Some(1),
        NodeKind::Credential => Some(2),
        NodeKind::File if edge.verb == Verb::Runs && node.is_tainted() => Some(3),
        NodeKind::File if edge.verb == Verb::Starts || carries() => Some(4),
        NodeKind::File => None,
    }
}
