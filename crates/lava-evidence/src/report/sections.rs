//! The parts that tell what happened: header, kill chain, timeline, processes, connections, facts.

use std::collections::BTreeMap;

use lava_event::{Stage, Verdict};
use lava_graph::{Incident, Trace};
use maud::{Markup, html};

use super::class;
use super::collect::Collected;
use crate::text::{line, size, time};
use crate::{Session, State};

/// Incidents that are listed.
const INCIDENTS: usize = 50;

pub(super) fn header(session: &Session, trace: &Trace) -> Markup {
    let m = session.manifest();
    let reached = trace.kill_chain.len();
    html! {
        header {
            h1 { span class={ "v " (trace.verdict) } { (trace.verdict) } " " (line(&m.task.name, 160)) }
            p { strong { @match trace.verdict {
                Verdict::Clean => "Nothing was found.",
                Verdict::Suspicious => "Behaviour seldom seen in honest work.",
                Verdict::Malicious => "This is an attack.",
            } } " " (line(&trace.explanation, 1200)) }
            p { (reached) " of 5 stages of the kill chain reached, " (trace.findings.len()) " finding(s), " (trace.decisions.len()) " decision(s) of the policy." }
            p.mut { "SHA-256 " code { (m.task.sha256) } " · " (size(m.task.size)) " · opened " (line(&m.started, 60)) " with profile " (line(&m.profile, 60)) " · session " code { (m.session) } }
            nav aria-label="Sections" { ul {
                @for (id, name) in [("chain", "Kill chain"), ("graph", "Graph"), ("decisions", "Decisions"), ("time", "Timeline"), ("nodes", "Evidence"), ("procs", "Processes"), ("net", "Network"), ("files", "Files"), ("artifacts", "Artifacts"), ("facts", "Session")] {
                    li { a href={ "#" (id) } { (name) } }
                }
            } }
        }
    }
}

/// Which findings rest on each other. One incident is the whole of the kill chain, and needs no list.
pub(super) fn incidents(trace: &Trace) -> Markup {
    let span = |i: &Incident| format!("{} to {}", time(i.first_ns), time(i.last_ns));
    html! {
        @if trace.incidents.len() > 1 {
            section aria-labelledby="incidents" {
                h2 #incidents { "Incidents" }
                p.mut { "Findings that are seen to rest on each other are one incident. What was only inferred joins nothing." }
                ol { @for incident in trace.incidents.iter().take(INCIDENTS) {
                    li {
                        strong { (line(&incident.title, 240)) } " "
                        (incident.verdict) ", score " (incident.score) ", " (incident.findings.len()) " finding(s), "
                        @for (nth, stage) in incident.stages.iter().enumerate() { @if nth > 0 { " → " } (stage) }
                        ", " (span(incident))
                    }
                } }
                @if trace.incidents.len() > INCIDENTS { p.mut { "and " (trace.incidents.len() - INCIDENTS) " more, in trace.json" } }
            }
        }
    }
}

pub(super) fn faults(session: &Session, trace: &Trace, all: &Collected) -> Markup {
    let m = session.manifest();
    let mut said: Vec<String> = Vec::new();
    match m.state {
        State::Closed => {}
        State::Open => said.push("The session was not closed: it is running, or LAVA died. The end is missing.".into()),
        State::Aborted => {
            said.push("The session ended early: what is shown was seen, but more may have happened.".into())
        }
    }
    said.extend(m.detail.iter().map(|detail| line(detail, 400)));
    said.extend(all.faults.iter().map(|fault| line(fault, 400)));
    if all.more_faults > 0 {
        said.push(format!("and {} more faults", all.more_faults));
    }
    if m.artifacts_left_out > 0 {
        said.push(format!("{} artifact(s) were too large and are not kept.", m.artifacts_left_out));
    }
    if all.left_out > 0 {
        said.push(format!("{} event(s) behind the graph are not shown here; all are in events.jsonl.", all.left_out));
    }
    let blind = said.is_empty();
    html! {
        @if !blind {
            section.warn aria-labelledby="faults" { h2 #faults { "Gaps and faults" } ul { @for what in &said { li { (what) } } } }
        } @else if trace.verdict == Verdict::Clean {
            p.mut { "No gaps: every event was recorded. Clean means that no detector found anything, not that nothing can be hidden." }
        } @else { p.mut { "No gaps or faults: every event was recorded." } }
    }
}

pub(super) fn kill_chain(trace: &Trace) -> Markup {
    html! {
        section aria-labelledby="chain" {
            h2 #chain { "Kill chain" }
            ol.kc { @for stage in Stage::ALL {
                @let summary = trace.kill_chain.iter().find(|summary| summary.stage == stage);
                li class={ (class(stage)) @if summary.is_none() { " no" } } {
                    h3 { (stage) }
                    @if let Some(summary) = summary {
                        small { "first at " (time(summary.first_ns)) }
                        ol { @for finding in summary.findings.iter().filter_map(|&i| trace.findings.get(i)).take(12) {
                            li {
                                span.t { (line(&finding.title, 200)) }
                                small { (line(&finding.technique.id, 20)) " " (line(&finding.technique.name, 80)) }
                                small { (time(finding.time_ns)) " · " (format!("{:?}", finding.severity).to_lowercase()) " · " (finding.grade) }
                            }
                        } }
                        @if summary.findings.len() > 12 { small { "and " (summary.findings.len() - 12) " more" } }
                    } @else { small { "not reached" } }
                }
            } }
            @let lesser: Vec<_> = trace.findings.iter().filter(|finding| !finding.severity.counts()).collect();
            @if !lesser.is_empty() {
                h3 { "Also noticed, no threat by itself" }
                ul { @for finding in lesser.iter().take(40) {
                    li { (line(&finding.title, 200)) " " small { (line(&finding.technique.id, 20)) " " (line(&finding.technique.name, 80)) } }
                } }
                @if lesser.len() > 40 { small { "and " (lesser.len() - 40) " more" } }
            }
        }
    }
}

pub(super) fn timeline(trace: &Trace, all: &Collected) -> Markup {
    let mut found: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (i, finding) in trace.findings.iter().enumerate() {
        finding.events.iter().for_each(|&seq| found.entry(seq).or_default().push(i));
    }
    html! {
        section aria-labelledby="time" {
            h2 #time { "Timeline" }
            p.mut { "Session time. " (all.events.len()) " of " (all.total) " events: those behind the graph, the findings and the decisions." }
            table.tl {
                thead { tr { th scope="col" { "Time" } th scope="col" { "Event" } th scope="col" { "Kind" } th scope="col" { "Who" } th scope="col" { "What" } } }
                tbody { @for event in all.events.values() {
                    @let of: Vec<_> = found.get(&event.seq).into_iter().flatten().filter_map(|&i| trace.findings.get(i)).collect();
                    @let stage = of.iter().map(|finding| finding.stage).min();
                    tr class=[stage.map(class)] {
                        td.n { (time(event.time_ns)) } td.n { "#" (event.seq) } td.n { code { (event.kind.name()) } }
                        td { @if let Some(process) = &event.process { (line(&process.comm.to_string(), 40)) " (" (process.pid) ")" } @else { (format!("{:?}", event.source).to_lowercase()) } }
                        td { (line(&event.kind.sentence(), 260)) @for finding in of.iter().take(4) { br; span.chip { (finding.stage) } " " (line(&finding.title, 200)) } }
                    }
                } }
            }
        }
    }
}

pub(super) fn processes(all: &Collected) -> Markup {
    html! {
        section aria-labelledby="procs" {
            h2 #procs { "Processes" }
            ul.tree { @for (depth, key) in all.tree() {
                @let process = all.processes.get(&key).cloned().unwrap_or_default();
                li style={ "margin-left:" (depth.min(12) * 14) "px" } {
                    strong { (line(&process.name, 40)) } " " span.mut { "pid " (key.pid) @if let Some(uid) = process.uid { ", uid " (uid) } @if let Some(end) = &process.end { ", " (end) } }
                    @for program in &process.programs { br; code { (line(program, 240)) } }
                }
            } }
        }
    }
}

pub(super) fn connections(all: &Collected) -> Markup {
    html! {
        section aria-labelledby="net" {
            h2 #net { "Network" }
            h3 { "Connections" }
            @if all.connections.is_empty() { p { "None were seen." } } @else {
                div.scroll tabindex="0" role="region" aria-label="Connections" { table {
                    thead { tr { th scope="col" { "To" } th scope="col" { "Seen" } th scope="col" { "First" } th scope="col" { "By" } th scope="col" { "Our network" } } }
                    tbody { @for (to, c) in &all.connections {
                        tr { td { code { (to) } } td.n { (c.count) "×" } td.n { (time(c.first_ns)) }
                            td { (line(&c.by.iter().cloned().collect::<Vec<_>>().join(", "), 200)) } td { (line(&c.answers.iter().cloned().collect::<Vec<_>>().join(", "), 80)) } }
                    } }
                } }
                @if all.more_connections > 0 { p { "and " (all.more_connections) " more attempts to other destinations" } }
            }
            (all.talk.network())
        }
    }
}

pub(super) fn facts(session: &Session) -> Markup {
    let m = session.manifest();
    let hash = |hash: &Option<lava_event::Sha256>| hash.map_or("not recorded".to_owned(), |hash| hash.to_string());
    let or = |text: &str| if text.is_empty() { "not recorded".to_owned() } else { line(text, 200) };
    let mbr = match (m.mbr_before, m.mbr_after) {
        (Some(a), Some(b)) if a == b => "the same before and after",
        (Some(_), Some(_)) => "changed",
        _ => "not compared",
    };
    let rows = [
        ("State", m.state.name().to_owned()),
        ("LAVA", or(&m.lava)),
        ("QEMU", or(&m.qemu)),
        ("Tap", hash(&m.tap)),
        ("Guest kernel", or(&m.image.kernel)),
        ("Image recipe", hash(&m.image.recipe)),
        ("Image disk", hash(&m.image.disk)),
        ("Policy", or(&m.policy.name)),
        ("Policy file", hash(&m.policy.sha256)),
        ("Host", or(&m.host)),
        ("Started", or(&m.started)),
        ("Ended", or(m.ended.as_deref().unwrap_or_default())),
        ("MBR", mbr.to_owned()),
        ("MBR before", hash(&m.mbr_before)),
        ("MBR after", hash(&m.mbr_after)),
        ("Events", m.events.to_string()),
        ("Head of the chain", hash(&m.chain_head)),
    ];
    html! {
        section aria-labelledby="facts" {
            h2 #facts { "Session" }
            dl {
                @for (name, value) in &rows { dt { (name) } dd { @if value.len() == 64 { code { (value) } } @else { (value) } } }
                @for (name, value) in m.options.iter().take(50) { dt { "Option " (line(name, 60)) } dd { (line(value, 200)) } }
            }
            p.mut { "Check the folder with " code { "lava verify" } "; hold the head of the chain against one kept elsewhere." }
        }
    }
}
