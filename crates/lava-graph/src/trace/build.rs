//! From the chosen nodes to the trace: everything else is folded into what it belongs to.

use std::collections::{BTreeMap, BTreeSet};

use super::choose::{Choice, choose};
use super::{Trace, TraceEdge, TraceNode, Unfold};
use crate::graph::Graph;
use crate::store::{EDGE_EVENTS, clip};
use crate::{Edge, NodeId, NodeKind, Verb, incident, verdict};

/// Folds in a trace; where there would be more, all are drawn at the root.
const FOLDS: usize = 20;
/// Names that a fold gives as examples.
const EXAMPLES: usize = 5;

/// Several nodes drawn as one.
#[derive(Default)]
struct Fold {
    nodes: BTreeSet<NodeId>,
    count: u64,
    first_ns: Option<u64>,
    last_ns: u64,
    findings: BTreeSet<usize>,
}

type FoldKey = (NodeId, &'static str);

pub(crate) fn of(graph: &Graph, unfold: &Unfold) -> Trace {
    let mut choice = choose(graph);
    let mut folds = gather(graph, &choice, None);
    let mut owner = None;
    if folds.len() > FOLDS {
        owner = choice.kept.iter().copied().find(|&id| is(graph, id, NodeKind::Process));
        folds = gather(graph, &choice, owner);
    }
    match unfold {
        Unfold::Nothing => {}
        // What comes out of one fold can have folds of its own, and these may be asked for too.
        Unfold::Groups(groups) => loop {
            let asked = folds.iter().filter(|((owner, class), _)| groups.contains(&fold_name(*owner, class)));
            let nodes: Vec<NodeId> = asked.flat_map(|(_, fold)| &fold.nodes).copied().collect();
            let before = choice.kept.len();
            choice.kept.extend(nodes);
            if choice.kept.len() == before {
                break;
            }
            folds = gather(graph, &choice, owner);
        },
        Unfold::Everything => {
            choice.keep_everything(graph);
            folds.clear();
        }
    }
    let mut nodes = Vec::new();
    for &id in &choice.kept {
        let Some(node) = graph.store.node(id) else { continue };
        let findings = choice.of_node.get(&id);
        nodes.push(TraceNode {
            id: name(id),
            kind: node.kind,
            label: node.label.clone(),
            detail: node.detail.clone(),
            folded: 0,
            stage: Choice::stage(graph, findings),
            tainted: node.is_tainted(),
            findings: findings.into_iter().flatten().copied().collect(),
            first_ns: node.first_ns,
            last_ns: node.last_ns,
        });
        nodes.extend(folds.range((id, "")..).take_while(|(key, _)| key.0 == id).map(|(k, f)| fold(graph, *k, f)));
    }
    let incidents = incident::of(graph);
    Trace {
        nodes,
        edges: edges(graph, &choice, owner),
        findings: graph.findings.clone(),
        kill_chain: verdict::kill_chain(&graph.findings),
        verdict: graph.verdict(),
        score: graph.score(),
        explanation: verdict::explanation(&graph.findings, &incidents),
        incidents,
        decisions: graph.decisions.clone(),
        graph_nodes: graph.nodes().len(),
        graph_edges: graph.edges().len(),
    }
}

fn name(id: NodeId) -> String {
    format!("n{}", id.0)
}

/// `n12.reads`
fn fold_name(owner: NodeId, class: &str) -> String {
    format!("{}.{class}", name(owner))
}

fn is(graph: &Graph, id: NodeId, kind: NodeKind) -> bool {
    graph.store.node(id).is_some_and(|node| node.kind == kind)
}

/// What kind of fold an edge's far end goes into; `None` if it is left out.
const fn class(verb: Verb) -> Option<&'static str> {
    match verb {
        Verb::Reads => Some("reads"),
        Verb::Creates
        | Verb::Writes
        | Verb::OpensForWriting
        | Verb::ChangesAttributes
        | Verb::Renames
        | Verb::Deletes
        | Verb::Maps => Some("files"),
        Verb::Connects => Some("hosts"),
        Verb::Gains => Some("rights"),
        Verb::Loads => Some("modules"),
        Verb::Executes => Some("processes"),
        // A system program that is run is the process's own label.
        Verb::Opens | Verb::Forks | Verb::Starts | Verb::Runs | Verb::Follows | Verb::Sends | Verb::Injects => None,
    }
}

/// Where the two ends of an edge are drawn.
fn ends(
    graph: &Graph,
    choice: &Choice,
    owner: Option<NodeId>,
    edge: &Edge,
) -> Option<(NodeId, Result<NodeId, FoldKey>)> {
    let place = |id: NodeId| {
        if is(graph, id, NodeKind::Process) { choice.process(id) } else { choice.kept.get(&id).copied() }
    };
    let from = place(edge.from)?;
    if is(graph, edge.to, NodeKind::Process) {
        let to = place(edge.to)?;
        if to == from && edge.verb == Verb::Executes && !choice.kept.contains(&edge.to) && edge.tainted {
            return Some((from, Err((owner.unwrap_or(from), "processes"))));
        }
        return (to != from).then_some((from, Ok(to)));
    }
    match place(edge.to) {
        Some(to) => Some((from, Ok(to))),
        None => class(edge.verb).map(|class| (from, Err((owner.unwrap_or(from), class)))),
    }
}

fn gather(graph: &Graph, choice: &Choice, owner: Option<NodeId>) -> BTreeMap<FoldKey, Fold> {
    let mut folds: BTreeMap<FoldKey, Fold> = BTreeMap::new();
    for edge in graph.edges().iter().filter(|edge| edge.event_count > 0) {
        let Some((_, Err(key))) = ends(graph, choice, owner, edge) else { continue };
        let fold = folds.entry(key).or_default();
        fold.nodes.insert(edge.to);
        fold.count = fold.count.saturating_add(edge.count);
        fold.first_ns = Some(fold.first_ns.map_or(edge.first_ns, |ns| ns.min(edge.first_ns)));
        fold.last_ns = fold.last_ns.max(edge.last_ns);
        fold.findings.extend(choice.of_edge.get(&edge.id).into_iter().flatten());
    }
    folds
}

fn fold(graph: &Graph, (owner, class): FoldKey, fold: &Fold) -> TraceNode {
    let n = fold.nodes.len();
    let s = if n == 1 { "" } else { "s" };
    let names: Vec<&str> = fold.nodes.iter().filter_map(|&id| Some(graph.store.node(id)?.label.as_str())).collect();
    let label = match class {
        "reads" => format!("opened {n} file{s} for reading"),
        "files" => format!("changed {n} other file{s}"),
        "hosts" => hosts(&names, fold.count),
        "rights" => format!("changed rights {n} more time{s}"),
        "modules" => format!("{n} kernel module{s}"),
        _ => format!("ran {n} further program{s}"),
    };
    let mut detail: Vec<String> = names.iter().take(EXAMPLES).map(|name| clip(name)).collect();
    if n > EXAMPLES {
        detail.push(format!("and {} more", n - EXAMPLES));
    }
    TraceNode {
        id: fold_name(owner, class),
        kind: if class == "hosts" { NodeKind::Endpoint } else { NodeKind::Fold },
        label,
        detail,
        folded: n,
        stage: Choice::stage(graph, Some(&fold.findings)),
        tainted: true,
        findings: fold.findings.iter().copied().collect(),
        first_ns: fold.first_ns.unwrap_or_default(),
        last_ns: fold.last_ns,
    }
}

/// `10 hosts, 20 connection attempts on ports 22, 445`, from `192.0.2.1:22 tcp`...
fn hosts(names: &[&str], count: u64) -> String {
    let parts = || names.iter().filter_map(|name| name.split(' ').next()?.rsplit_once(':'));
    let addresses: BTreeSet<&str> = parts().map(|(address, _)| address).collect();
    let ports: BTreeSet<u16> = parts().filter_map(|(_, port)| port.parse().ok()).collect();
    let mut shown: Vec<String> = ports.iter().take(8).map(u16::to_string).collect();
    if ports.len() > shown.len() {
        shown.push(format!("and {} more", ports.len() - shown.len()));
    }
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    let hosts = addresses.len() as u64;
    let (h, c, p) = (plural(hosts), plural(count), plural(ports.len() as u64));
    format!("{hosts} host{h}, {count} connection attempt{c} on port{p} {}", shown.join(", "))
}

fn edges(graph: &Graph, choice: &Choice, owner: Option<NodeId>) -> Vec<TraceEdge> {
    let everything = choice.is_everything();
    let mut merged: BTreeMap<(String, String, Verb), TraceEdge> = BTreeMap::new();
    for edge in graph.edges().iter().filter(|edge| edge.event_count > 0) {
        let ends = if everything { Some((edge.from, Ok(edge.to))) } else { ends(graph, choice, owner, edge) };
        let Some((from, to)) = ends else { continue };
        let (to_name, folded) = match to {
            Ok(id) => (name(id), false),
            Err((owner, class)) => (fold_name(owner, class), true),
        };
        let from = if folded { owner.unwrap_or(from) } else { from };
        // A fork and the exec behind it are drawn as one.
        let verb = match edge.verb {
            Verb::Executes if folded || from != edge.from => Verb::Starts,
            Verb::Creates | Verb::OpensForWriting | Verb::ChangesAttributes | Verb::Renames if folded => Verb::Writes,
            verb => verb,
        };
        let stage = Choice::stage(graph, choice.of_edge.get(&edge.id));
        let entry = merged.entry((name(from), to_name.clone(), verb)).or_insert_with(|| TraceEdge {
            from: name(from),
            to: to_name,
            verb,
            grade: edge.grade,
            first_ns: edge.first_ns,
            last_ns: edge.last_ns,
            count: 0,
            bytes: 0,
            events: Vec::new(),
            stage: None,
            decision: None,
        });
        entry.grade = entry.grade.min(edge.grade);
        entry.first_ns = entry.first_ns.min(edge.first_ns);
        entry.last_ns = entry.last_ns.max(edge.last_ns);
        entry.count = entry.count.saturating_add(edge.count);
        entry.bytes = entry.bytes.saturating_add(edge.bytes);
        entry.events.extend(&edge.events);
        entry.events.sort_unstable();
        entry.events.dedup();
        entry.events.truncate(EDGE_EVENTS);
        entry.stage = entry.stage.into_iter().chain(stage).min();
        entry.decision = edge.decision.clone().or_else(|| entry.decision.take());
    }
    let mut edges: Vec<TraceEdge> = merged.into_values().collect();
    // Stable: edges of one moment stay in the order of their ends.
    edges.sort_by_key(|edge| edge.first_ns);
    edges
}
