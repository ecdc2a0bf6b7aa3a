//! The graph for graph tools: GraphML, Graphviz DOT, Cytoscape JSON.
//!
//! [`Scope::Task`](crate::Scope) gives the trace (at most 60 nodes, the rest in folds), [`Scope::All`](crate::Scope) every node
//! and edge of the provenance graph.

use std::io::Write;

use lava_evidence::text::xml;
use serde_json::json;

use crate::lines::Scope;
use crate::summary::Summary;
use crate::{Error, text};

/// Longest label in a picture, characters.
const LABEL: usize = 80;

struct Node {
    id: String,
    label: String,
    detail: String,
    kind: String,
    stage: &'static str,
    tainted: bool,
    first_ns: u64,
    last_ns: u64,
}

struct Edge {
    from: String,
    to: String,
    verb: &'static str,
    grade: String,
    stage: &'static str,
    decision: String,
    first_ns: u64,
    last_ns: u64,
    count: u64,
    bytes: u64,
}

fn decided(decision: Option<&lava_graph::EdgeDecision>) -> String {
    decision.map_or(String::new(), |decision| decision.action.to_string())
}

fn nodes(summary: &Summary, scope: Scope) -> Box<dyn Iterator<Item = Node> + '_> {
    match scope {
        Scope::Task => Box::new(summary.trace.nodes.iter().map(|node| Node {
            id: node.id.clone(),
            label: text::plain(&node.label),
            detail: text::plain(&node.detail.join("; ")),
            kind: text::word(&node.kind),
            stage: node.stage.map_or("", lava_event::Stage::name),
            tainted: node.tainted,
            first_ns: node.first_ns,
            last_ns: node.last_ns,
        })),
        Scope::All => Box::new(summary.graph.nodes().iter().map(|node| Node {
            id: format!("n{}", node.id.0),
            label: text::plain(&node.label),
            detail: text::plain(&node.detail.join("; ")),
            kind: text::word(&node.kind),
            stage: "",
            tainted: node.is_tainted(),
            first_ns: node.first_ns,
            last_ns: node.last_ns,
        })),
    }
}

fn edges(summary: &Summary, scope: Scope) -> Box<dyn Iterator<Item = Edge> + '_> {
    match scope {
        Scope::Task => Box::new(summary.trace.edges.iter().map(|edge| Edge {
            from: edge.from.clone(),
            to: edge.to.clone(),
            verb: edge.verb.name(),
            grade: edge.grade.to_string(),
            stage: edge.stage.map_or("", lava_event::Stage::name),
            decision: decided(edge.decision.as_ref()),
            first_ns: edge.first_ns,
            last_ns: edge.last_ns,
            count: edge.count,
            bytes: edge.bytes,
        })),
        Scope::All => Box::new(summary.graph.edges().iter().map(|edge| Edge {
            from: format!("n{}", edge.from.0),
            to: format!("n{}", edge.to.0),
            verb: edge.verb.name(),
            grade: edge.grade.to_string(),
            stage: "",
            decision: decided(edge.decision.as_ref()),
            first_ns: edge.first_ns,
            last_ns: edge.last_ns,
            count: edge.count,
            bytes: edge.bytes,
        })),
    }
}

/// GraphML 1.0.
pub(crate) fn graphml(summary: &Summary, scope: Scope, out: &mut dyn Write) -> Result<(), Error> {
    const NODE: [(&str, &str); 7] = [
        ("label", "string"),
        ("detail", "string"),
        ("kind", "string"),
        ("stage", "string"),
        ("tainted", "boolean"),
        ("first_ns", "long"),
        ("last_ns", "long"),
    ];
    const EDGE: [(&str, &str); 8] = [
        ("verb", "string"),
        ("grade", "string"),
        ("stage", "string"),
        ("decision", "string"),
        ("first_ns", "long"),
        ("last_ns", "long"),
        ("count", "long"),
        ("bytes", "long"),
    ];
    writeln!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<graphml xmlns=\"http://graphml.graphdrawing.org/xmlns\">"
    )?;
    for (side, keys) in [("node", &NODE[..]), ("edge", &EDGE[..])] {
        for (name, kind) in keys {
            writeln!(out, "<key id=\"{side}_{name}\" for=\"{side}\" attr.name=\"{name}\" attr.type=\"{kind}\"/>")?;
        }
    }
    writeln!(out, "<graph id=\"{}\" edgedefault=\"directed\">", xml(&summary.manifest.session.0))?;
    for node in nodes(summary, scope) {
        write!(out, "<node id=\"{}\">", xml(&node.id))?;
        let (first, last) = (long(node.first_ns), long(node.last_ns));
        let values = [&node.label, &node.detail, &node.kind, node.stage, truth(node.tainted), &first, &last];
        data(out, "node", NODE.iter().map(|(name, _)| *name).zip(values))?;
        writeln!(out, "</node>")?;
    }
    for (n, edge) in edges(summary, scope).enumerate() {
        write!(out, "<edge id=\"e{n}\" source=\"{}\" target=\"{}\">", xml(&edge.from), xml(&edge.to))?;
        let numbers = [edge.first_ns, edge.last_ns, edge.count, edge.bytes].map(long);
        let [first, last, count, bytes] = &numbers;
        let values = [edge.verb, &edge.grade, edge.stage, &edge.decision, first, last, count, bytes];
        data(out, "edge", EDGE.iter().map(|(name, _)| *name).zip(values))?;
        writeln!(out, "</edge>")?;
    }
    writeln!(out, "</graph>\n</graphml>")?;
    Ok(())
}

/// XML Schema's long is signed.
fn long(value: u64) -> String {
    i64::try_from(value).unwrap_or(i64::MAX).to_string()
}

const fn truth(is: bool) -> &'static str {
    if is { "true" } else { "false" }
}

fn data<'a>(out: &mut dyn Write, side: &str, values: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), Error> {
    for (name, value) in values.filter(|(_, value)| !value.is_empty()) {
        write!(out, "<data key=\"{side}_{name}\">{}</data>", xml(value))?;
    }
    Ok(())
}

/// Graphviz.
pub(crate) fn dot(summary: &Summary, scope: Scope, out: &mut dyn Write) -> Result<(), Error> {
    writeln!(out, "digraph {} {{", escaped(&summary.manifest.session.0))?;
    writeln!(out, "graph [rankdir=LR];\nnode [shape=box, fontname=\"sans-serif\", style=filled, fillcolor=white];")?;
    for node in nodes(summary, scope) {
        let (shape, colour) = match node.kind.as_str() {
            "task" | "process" => ("box", if node.tainted { "#ffd9d9" } else { "#eeeeee" }),
            "file" => ("note", if node.tainted { "#ffe9cc" } else { "#ffffff" }),
            "endpoint" => ("ellipse", "#dde9ff"),
            "fold" => ("folder", "#f7f7f7"),
            _ => ("component", "#e9ddff"),
        };
        let label = escaped(&lava_evidence::text::line(&node.label, LABEL));
        let (id, tip) = (escaped(&node.id), escaped(&node.detail));
        writeln!(out, "{id} [label={label}, tooltip={tip}, shape={shape}, fillcolor=\"{colour}\"];")?;
    }
    for edge in edges(summary, scope) {
        let style = if edge.grade == "inferred" { "dashed" } else { "solid" };
        let label =
            if edge.decision.is_empty() { edge.verb.to_owned() } else { format!("{}: {}", edge.verb, edge.decision) };
        let (from, to, label) = (escaped(&edge.from), escaped(&edge.to), escaped(&label));
        writeln!(out, "{from} -> {to} [label={label}, style={style}];")?;
    }
    writeln!(out, "}}")?;
    Ok(())
}

/// A string of Graphviz's; its own escapes (`\N`, `\G`...) are none.
fn escaped(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Cytoscape.js JSON, as Cytoscape reads and writes it.
pub(crate) fn cytoscape(summary: &Summary, scope: Scope, out: &mut dyn Write) -> Result<(), Error> {
    let head = json!({"name": format!("LAVA session {}", summary.manifest.session), "verdict": summary.trace.verdict});
    write!(
        out,
        "{{\"format_version\":\"1.0\",\"generated_by\":\"LAVA\",\"directed\":true,\"multigraph\":true,\"data\":{head},\n\"elements\":{{\"nodes\":["
    )?;
    for (n, node) in nodes(summary, scope).enumerate() {
        let data = json!({
            "id": node.id, "value": node.id, "name": node.label, "detail": node.detail, "kind": node.kind, "stage": node.stage, "tainted": node.tainted,
            "first_ns": node.first_ns, "last_ns": node.last_ns,
        });
        write!(out, "{}{}", if n == 0 { "\n" } else { ",\n" }, json!({"data": data}))?;
    }
    write!(out, "],\n\"edges\":[")?;
    for (n, edge) in edges(summary, scope).enumerate() {
        let data = json!({
            "id": format!("e{n}"), "key": n, "source": edge.from, "target": edge.to, "interaction": edge.verb, "grade": edge.grade,
            "stage": edge.stage, "decision": edge.decision, "first_ns": edge.first_ns, "last_ns": edge.last_ns, "count": edge.count,
            "bytes": edge.bytes,
        });
        write!(out, "{}{}", if n == 0 { "\n" } else { ",\n" }, json!({"data": data}))?;
    }
    writeln!(out, "]}}}}")?;
    Ok(())
}
