//! `lava trace`: the graph of a recorded session, simplified or unfolded, whole or of an interval.
//!
//! It is built anew from the log, by today's detectors, so nothing stands in it that the log does not hold. An interval begins with what
//! was known by then (who is tainted, who descends from whom) and shows only what happened in it.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Context, Result, bail};
use lava_analysis::Analysis;
use lava_event::{GuestText, Stage};
use lava_evidence::Session;
use lava_graph::{Graph, NodeKind, Trace, TraceEdge, TraceNode, Unfold};

use crate::terminal::{self, Live, Style, seconds};
use crate::{baseline, replay, show};

/// How it is written.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// As trace.json.
    Json,
    /// For Graphviz.
    Dot,
}

/// A moment of the session.
#[derive(Clone, Copy)]
enum Moment {
    Second(f64),
    /// The first finding of the kill chain's first stage; without one, the first finding that counts.
    Exploit,
}

/// Options of `lava trace`.
#[derive(clap::Args)]
pub struct Options {
    /// A session's folder, its id, its bundle, or `latest`.
    session: String,
    /// Draw the nodes of this fold for themselves: its id as it stands in the trace, `n12.reads`. Can be given several times.
    #[arg(long, value_name = "GROUP", conflicts_with = "full")]
    unfold: Vec<String>,
    /// The whole graph: every node, every edge.
    #[arg(long)]
    full: bool,
    /// Only what happened from this second on, or from the point of exploit: `exploit`.
    #[arg(long, value_name = "S|exploit", value_parser = moment)]
    from: Option<Moment>,
    /// Only what happened until this second, or until the point of exploit: `exploit`.
    #[arg(long, value_name = "S|exploit", value_parser = moment)]
    until: Option<Moment>,
    /// How it is written.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    out: Option<std::path::PathBuf>,
}

fn moment(text: &str) -> Result<Moment, String> {
    match text {
        "exploit" => Ok(Moment::Exploit),
        _ => replay::moment(text).map(Moment::Second).map_err(|wanted| format!("{wanted}, or `exploit`")),
    }
}

impl Options {
    /// Prints it.
    pub fn run(&self) -> Result<()> {
        let session = show::find(&self.session, self.out.as_deref())?;
        let exploit = match (self.from, self.until) {
            (Some(Moment::Exploit), _) | (_, Some(Moment::Exploit)) => Some(point_of_exploit(&session)?),
            _ => None,
        };
        let ns = |moment: Moment| match moment {
            Moment::Second(second) => (second * 1e9) as u64,
            Moment::Exploit => exploit.unwrap_or_default(),
        };
        let (from, until) = (self.from.map_or(0, ns), self.until.map_or(u64::MAX, ns));
        if from > until {
            bail!(
                "--from {} lies behind --until {}: nothing is between them",
                seconds(from).trim(),
                seconds(until).trim()
            );
        }
        let graph = graph(&session, from, until)?;
        let trace = graph.trace_of(&self.what(&graph)?);
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        match self.format {
            Form::Text => text(&trace, &mut out)?,
            Form::Json => {
                serde_json::to_writer_pretty(&mut out, &trace)?;
                writeln!(out)?;
            }
            Form::Dot => dot(&trace, &mut out)?,
        }
        Ok(out.flush()?)
    }

    fn what(&self, graph: &Graph) -> Result<Unfold> {
        if self.full {
            return Ok(Unfold::Everything);
        }
        // One at a time: what comes out of one fold can have folds of its own, and these may be asked for too.
        let mut groups = BTreeSet::new();
        for group in &self.unfold {
            let trace = graph.trace_of(&Unfold::Groups(groups.clone()));
            let folds: Vec<&str> = trace.nodes.iter().filter(|node| node.folded > 0).map(|n| n.id.as_str()).collect();
            if !folds.contains(&group.as_str()) {
                let known = if folds.is_empty() { "nothing is folded".to_owned() } else { folds.join(", ") };
                bail!("there is no fold {} to unfold here: {known}", GuestText::from(group.as_str()));
            }
            groups.insert(group.clone());
        }
        Ok(if groups.is_empty() { Unfold::Nothing } else { Unfold::Groups(groups) })
    }
}

/// The graph of what happened from the one moment to the other, both counted in.
fn graph(session: &Session, from: u64, until: u64) -> Result<Graph> {
    let usual = baseline::usual(&session.manifest().profile)?;
    let (mut analysis, mut unreadable, mut begun) = (Analysis::new().with_baseline(usual), 0, false);
    let live = Live::new(true);
    for event in replay::events(session, &live, &mut unreadable)? {
        if event.time_ns > until {
            break;
        }
        if event.time_ns >= from && !begun {
            begun = true;
            if from > 0 {
                analysis.begin_interval();
            }
        }
        analysis.observe(&event);
    }
    if !begun {
        analysis.begin_interval();
    }
    if unreadable > 0 {
        live.progress(&format!("{unreadable} line(s) of the log could not be read and are left out"));
    }
    Ok(analysis.into_graph())
}

/// Session time of the first finding of the stage exploit; if there is none, of the first that counts.
fn point_of_exploit(session: &Session) -> Result<u64> {
    let graph = graph(session, 0, u64::MAX)?;
    let counting = || graph.findings().iter().filter(|finding| finding.severity.counts());
    let exploit = counting().filter(|finding| finding.stage == Stage::Exploit).map(|finding| finding.time_ns).min();
    let first = exploit.or_else(|| counting().map(|finding| finding.time_ns).min());
    first.context("nothing was found in this session, so there is no point of exploit: give seconds")
}

/// A trace's texts were escaped when the graph was built; the log may be somebody else's all the same.
fn shown(text: &str) -> String {
    GuestText::from(text).to_string()
}

fn text(trace: &Trace, out: &mut impl Write) -> std::io::Result<()> {
    let style = Style::of_stdout();
    writeln!(out, "{} {}", style.bold("verdict:"), style.verdict(trace.verdict))?;
    terminal::explanation(trace, style, out)?;
    terminal::ranked(trace, style, out)?;
    let folded: usize = trace.nodes.iter().map(|node| node.folded).sum();
    writeln!(
        out,
        "{} nodes and {} edges, of {} and {} in the whole graph; {folded} nodes are folded",
        trace.nodes.len(),
        trace.edges.len(),
        trace.graph_nodes,
        trace.graph_edges
    )?;
    for node in &trace.nodes {
        let fold =
            if node.folded > 0 { format!("  [{} folded: --unfold {}]", node.folded, node.id) } else { String::new() };
        let stage = node.stage.map(|stage| format!("  ({stage})")).unwrap_or_default();
        writeln!(out, "{:<12} {} {}{stage}{fold}", node.id, seconds(node.first_ns), style.bold(&shown(&node.label)))?;
        for detail in &node.detail {
            writeln!(out, "{:24}{}", "", shown(detail))?;
        }
        for edge in trace.edges.iter().filter(|edge| edge.from == node.id) {
            let to = trace.nodes.iter().find(|node| node.id == edge.to).map_or("?", |node| node.label.as_str());
            writeln!(out, "{:16}{} -{}-> {}: {}", "", seconds(edge.first_ns), edge.verb.name(), edge.to, shown(to))?;
            writeln!(out, "{:28}{}", "", tally(edge))?;
        }
    }
    Ok(())
}

/// `3 times, 96 bytes; observed; events 4, 5, 9`; what was once says `once`.
fn tally(edge: &TraceEdge) -> String {
    let bytes = if edge.bytes > 0 { format!(", {} bytes", edge.bytes) } else { String::new() };
    let events: Vec<String> = edge.events.iter().map(ToString::to_string).collect();
    let decision = edge.decision.as_ref().map(|d| format!("; {}: {}", d.action, shown(&d.outcome))).unwrap_or_default();
    let times = if edge.count == 1 { "once".to_owned() } else { format!("{} times", edge.count) };
    let what = if events.len() == 1 { "event" } else { "events" };
    format!("{times}{bytes}; {}; {what} {}{decision}", edge.grade, events.join(", "))
}

/// Graphviz. In a quoted string of its language only the quote and the backslash mean something.
fn dot(trace: &Trace, out: &mut impl Write) -> std::io::Result<()> {
    let quoted = |text: &str| format!("\"{}\"", shown(text).replace('\\', "\\\\").replace('"', "\\\""));
    let shape = |node: &TraceNode| match node.kind {
        NodeKind::Process => "box",
        NodeKind::File => "note",
        NodeKind::Endpoint => "ellipse",
        NodeKind::Fold => "folder",
        _ => "component",
    };
    writeln!(out, "digraph trace {{\n  node [fontname=\"monospace\"];")?;
    for node in &trace.nodes {
        let colour = if node.stage.is_some() { ", color=red" } else { "" };
        writeln!(out, "  {} [label={}, shape={}{colour}];", quoted(&node.id), quoted(&node.label), shape(node))?;
    }
    for edge in &trace.edges {
        let dashed = if edge.grade == lava_event::Grade::Inferred { ", style=dashed" } else { "" };
        let label = format!("{} ({})", edge.verb.name(), edge.count);
        writeln!(out, "  {} -> {} [label={}{dashed}];", quoted(&edge.from), quoted(&edge.to), quoted(&label))?;
    }
    writeln!(out, "}}")
}
