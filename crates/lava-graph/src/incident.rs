//! Incidents: findings that rest on each other are one thing to look at, not twenty.
//!
//! Two findings belong together if they rest on the same event, or if what they speak of is joined in the graph by what was
//! *observed*: a process and what it forked, executed, wrote, ran; a file and who read it. What was only inferred joins nothing
//! (that a process took bytes out of a file it opened, which job a daemon started): it stays an incident of its own, so that an
//! analyst can dismiss it alone. The session's verdict counts all findings all the same: see [`crate::verdict`].
//!
//! Only findings that count ([`lava_event::Severity::counts`]) make an incident; those of severity low and info are listed with the
//! incident that they belong to.
//!
//! *Limit:* who starts many unrelated programs (a build, an installer) joins them: they have the same cause.

use std::collections::BTreeMap;

use lava_event::{EventSeq, Finding, Grade, Stage, Verdict};
use serde::{Deserialize, Serialize};

use crate::graph::Graph;
use crate::verdict::Strengths;
use crate::{Edge, Node, NodeId, TaintRule, Verb};

/// Findings that rest on each other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Incident {
    /// The title of its strongest finding, the first of them.
    pub title: String,
    /// What it would be if it were alone.
    pub verdict: Verdict,
    /// 0 to 100, by the rule of the session's score.
    pub score: u8,
    /// The stages it reaches, first to last of the kill chain.
    pub stages: Vec<Stage>,
    /// Its findings, in the order in which they were made: indexes into [`crate::Trace::findings`].
    pub findings: Vec<usize>,
    /// Session time of the first of them, ns.
    pub first_ns: u64,
    /// Session time of the last of them, ns.
    pub last_ns: u64,
}

/// Disjoint sets of numbers; the smallest stands for its set, so the order of joining does not matter.
struct Sets(Vec<usize>);

impl Sets {
    fn of(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        self.0[a.max(b)] = a.min(b);
    }
}

/// True if the edge joins what its ends did.
fn joins(graph: &Graph, edge: &Edge) -> bool {
    let node = |id: NodeId| graph.store.node(id).filter(|node| node.is_tainted());
    let (Some(from), Some(_)) = (node(edge.from), node(edge.to)) else { return false };
    let guessed = from.taint.is_some_and(|taint| {
        matches!(taint.rule, TaintRule::Read | TaintRule::Shared) && taint.grade == Grade::Inferred
    });
    edge.grade >= Grade::Observed && !(matches!(edge.verb, Verb::Reads | Verb::Maps) && guessed)
}

/// The incidents, worst first, then by time.
pub(crate) fn of(graph: &Graph) -> Vec<Incident> {
    let (findings, nodes) = (&graph.findings, graph.nodes().len());
    // The graph's nodes, and behind them the findings.
    let mut sets = Sets((0..nodes + findings.len()).collect());
    for edge in graph.edges().iter().filter(|edge| joins(graph, edge)) {
        sets.join(edge.from.0 as usize, edge.to.0 as usize);
    }
    let mut seen: BTreeMap<EventSeq, usize> = BTreeMap::new();
    for (i, finding) in findings.iter().enumerate() {
        let known = |id: NodeId| (id.0 as usize) < nodes && graph.store.node(id).is_some_and(Node::is_tainted);
        let process = finding.process.and_then(|key| graph.processes.get(key)).map(|state| state.node);
        let ends = graph.edges_of_finding(i).flat_map(|edge| [edge.from, edge.to]);
        for node in ends.chain(process).filter(|&id| known(id)) {
            sets.join(node.0 as usize, nodes + i);
        }
        for &event in &finding.events {
            let other = *seen.entry(event).or_insert(i);
            sets.join(nodes + other, nodes + i);
        }
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in 0..findings.len() {
        groups.entry(sets.of(nodes + i)).or_default().push(i);
    }
    let mut incidents: Vec<Incident> = groups.into_values().filter_map(|of| incident(findings, of)).collect();
    incidents.sort_by_key(|incident| (std::cmp::Reverse(incident.score), incident.first_ns, incident.findings[0]));
    incidents
}

fn incident(findings: &[Finding], of: Vec<usize>) -> Option<Incident> {
    let all = || of.iter().map(|&i| &findings[i]);
    let strengths = Strengths::of(all());
    // The first of the strongest: `max_by_key` would give the last.
    let strongest = all().rev().max_by_key(|finding| finding.severity).filter(|finding| finding.severity.counts())?;
    Some(Incident {
        title: strongest.title.clone(),
        verdict: strengths.verdict(),
        score: strengths.score(),
        stages: strengths.stages(),
        first_ns: all().map(|finding| finding.time_ns).min().unwrap_or_default(),
        last_ns: all().map(|finding| finding.time_ns).max().unwrap_or_default(),
        findings: of,
    })
}
