//! The parts that prove it: decisions with the bytes, events behind each node, artifacts.

use std::fmt::Write;

use lava_event::{Event, Kind};
use lava_graph::Trace;
use maud::{Markup, html};

use super::collect::Collected;
use super::{class, hex};
use crate::text::{block, line, size, time};
use crate::{Error, Session};

const EVENTS_PER_NODE: usize = 12;
const DECISIONS: usize = 100;

pub(super) fn decisions(session: &Session, trace: &Trace, all: &Collected) -> Markup {
    html! {
        section aria-labelledby="decisions" {
            h2 #decisions { "Decisions" }
            @if trace.decisions.is_empty() { p { "The policy was not asked." } }
            @for d in trace.decisions.iter().take(DECISIONS) {
                div.card {
                    h3 { (d.action.to_string().to_uppercase()) ": " (line(&d.outcome, 300)) }
                    p { "Rule " code { (line(d.rule.as_deref().unwrap_or("default"), 80)) } " of policy " (line(&d.policy, 80)) ", at " (time(d.time_ns)) ", on event #" (d.subject) "."
                        @if let Some(reason) = &d.reason { " " (line(reason, 300)) } }
                    @if let Some(event) = all.events.get(&d.subject) { (bytes(session, event)) }
                }
            }
            @if trace.decisions.len() > DECISIONS { p { "and " (trace.decisions.len() - DECISIONS) " more" } }
        }
    }
}

fn bytes(session: &Session, event: &Event) -> Markup {
    let Kind::DiskWrite { disk, region, before: Some(before), after: Some(after), .. } = &event.kind else {
        return html! { p.mut { (line(&event.kind.sentence(), 300)) } };
    };
    let load = |hash| match session.artifact(hash) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err("was not kept".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    html! {
        p.mut { (format!("{region:?}")) " of " (line(disk, 20)) ": as it was (before) and as the guest wanted it (after)." }
        @match (load(before), load(after)) {
            (Ok(before), Ok(after)) => { (hex::diff(&before, &after)) }
            (Err(why), _) | (_, Err(why)) => { p { "The bytes cannot be shown: " (line(&why, 300)) } }
        }
    }
}

pub(super) fn nodes(trace: &Trace, all: &Collected) -> Markup {
    html! {
        section aria-labelledby="nodes" {
            h2 #nodes { "Evidence behind each node" }
            @for node in &trace.nodes {
                details class=[node.stage.map(class)] {
                    summary { strong { (line(&node.label, 200)) } " " span.mut { (format!("{:?}", node.kind).to_lowercase()) ", " (time(node.first_ns)) " to " (time(node.last_ns)) @if !node.tainted { ", not descended from the task" } } }
                    @for detail in node.detail.iter().take(20) { small { (line(detail, 400)) } }
                    @for finding in node.findings.iter().filter_map(|&i| trace.findings.get(i)).take(20) {
                        p { strong { (line(&finding.title, 200)) } " (" (line(&finding.technique.id, 20)) ", " code { (line(&finding.detector, 80)) } ", " (finding.grade) @if let Some(distance) = finding.distance { ", " (distance.words()) } ")" br; (line(&finding.why, 600)) }
                    }
                    ul { @for edge in trace.edges.iter().filter(|edge| edge.from == node.id || edge.to == node.id).take(40) {
                        li { (line(label(trace, &edge.from), 120)) " " em { (edge.verb.name()) } " " (line(label(trace, &edge.to), 120)) " — " (edge.grade) ", " (edge.count) "×"
                            @if edge.bytes > 0 { ", " (size(edge.bytes)) } ", events " @for (i, seq) in edge.events.iter().take(10).enumerate() { @if i > 0 { ", " } "#" (seq) } }
                    } }
                    @let mut seqs: Vec<u64> = trace.edges.iter().filter(|edge| edge.to == node.id).flat_map(|edge| edge.events.iter().copied()).chain(node.findings.iter().filter_map(|&i| trace.findings.get(i)).flat_map(|finding| finding.events.iter().copied())).collect();
                    @let () = { seqs.sort_unstable(); seqs.dedup(); };
                    @for event in seqs.iter().filter_map(|seq| all.events.get(seq)).take(EVENTS_PER_NODE) { pre { (excerpt(event)) } }
                    @if seqs.len() > EVENTS_PER_NODE { small { "and " (seqs.len() - EVENTS_PER_NODE) " more events" } }
                }
            }
        }
    }
}

fn label<'a>(trace: &'a Trace, id: &str) -> &'a str {
    trace.nodes.iter().find(|node| node.id == id).map_or("?", |node| &node.label)
}

/// An event's JSON, readable and bounded; registers in hexadecimal, then the backtrace.
fn excerpt(event: &Event) -> String {
    let mut plain = event.clone();
    let (registers, backtrace) = (plain.registers.take(), plain.backtrace.take());
    let mut out =
        serde_json::to_string_pretty(&plain).map_or_else(|error| error.to_string(), |json| block(&json, 3000));
    if let Some(registers) = registers {
        out.push('\n');
        for (i, (name, value)) in registers.iter().enumerate() {
            let _ = write!(out, "{name:>8} {value:016x}{}", if i % 4 == 3 { "\n" } else { "  " });
        }
    }
    for (title, frames) in backtrace.iter().flat_map(|known| [("kernel", &known.kernel), ("program", &known.user)]) {
        for frame in frames.iter().take(32) {
            let _ = write!(out, "\n{title:>8} {:016x} {}", frame.address, block(&frame.place.to_string(), 300));
        }
    }
    out
}

pub(super) fn artifacts(session: &Session) -> Result<Markup, Error> {
    let found = session.place().artifacts()?;
    Ok(html! {
        section aria-labelledby="artifacts" {
            h2 #artifacts { "Artifacts" }
            @if found.is_empty() { p { "None." } }
            ul { @for (name, bytes) in found.iter().take(500) { li { code { (line(name, 80)) } " " (size(*bytes)) } } }
            p.mut { "In the folder " code { "artifacts" } " beside this file; what is in it may be malicious." }
        }
    })
}
