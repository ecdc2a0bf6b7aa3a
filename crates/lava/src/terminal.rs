//! What the terminal shows: the trace growing while the session runs, and the summary.

use std::io::{IsTerminal, Write};

use lava_event::{Event, Finding, GuestText, Kind, Severity, Stage, Verdict};
use lava_graph::Trace;

/// Colours, where the terminal has them.
#[derive(Clone, Copy)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// For standard output: colours only on a terminal, and not if `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        Self { colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn severity(self, severity: Severity, text: &str) -> String {
        match severity {
            Severity::Critical | Severity::High => self.paint("1;31", text),
            Severity::Medium => self.paint("33", text),
            Severity::Low | Severity::Info => self.paint("36", text),
        }
    }

    pub fn verdict(self, verdict: Verdict) -> String {
        let text = verdict.to_string().to_uppercase();
        match verdict {
            Verdict::Clean => self.paint("1;32", &text),
            Verdict::Suspicious => self.paint("1;33", &text),
            Verdict::Malicious => self.paint("1;31", &text),
        }
    }
}

/// Session time, seconds.
pub fn seconds(ns: u64) -> String {
    format!("{:>8.3}s", ns as f64 / 1e9)
}

/// Incidents that are listed.
const INCIDENTS: usize = 10;

/// A title was escaped when it was made; a trace that somebody handed to us may say anything.
fn shown(text: &str) -> String {
    GuestText::from(text).to_string()
}

/// The live view.
pub struct Live {
    style: Style,
    quiet: bool,
}

impl Live {
    /// `quiet`: standard output belongs to the events as JSON.
    pub fn new(quiet: bool) -> Self {
        Self { style: Style::of_stdout(), quiet }
    }

    /// A line of progress, on standard error, so that it disturbs no pipe.
    pub fn progress(&self, text: &str) {
        eprintln!("lava: {text}");
    }

    fn line(&self, text: &str) {
        if !self.quiet {
            // A closed pipe must not end the session that is being recorded.
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    /// What of an event is worth a line by itself.
    pub fn event(&self, event: &Event) {
        let text = match &event.kind {
            Kind::VmStarted { qemu, kernel } => format!("micro-VM started: QEMU {qemu}, Linux {kernel}"),
            Kind::VmIntrospection { hooks, missing, .. } => {
                let missing =
                    if missing.is_empty() { String::new() } else { format!("; MISSING: {}", missing.join("; ")) };
                format!("introspection ready: {} hooks{missing}", hooks.len())
            }
            Kind::VmContinued { .. } => event.kind.sentence(),
            Kind::VmTask { name, command, .. } => format!("task {name} opened: {}", command.join(" ")),
            Kind::VmMember { command, .. } if command.is_empty() => event.kind.sentence(),
            Kind::VmMember { path, command, .. } => format!("{path} of the archive opened: {}", command.join(" ")),
            Kind::VmTaskExit { code: Some(code), .. } => format!("task exited with code {code}"),
            Kind::VmTaskExit { signal: Some(signal), .. } => format!("task ended by signal {signal}"),
            Kind::VmTaskExit { error, .. } => {
                format!("task could not be started: {}", error.as_ref().map(ToString::to_string).unwrap_or_default())
            }
            Kind::VmReset { by } => format!("guest restarted by {by}"),
            Kind::VmResponse { command, outcome, by } => format!("{command} by {by}: {outcome}"),
            Kind::VmGap { at, detail, .. } => format!("GAP at {at:?}: {detail}"),
            Kind::VmEnded { reason, detail, .. } => {
                format!("micro-VM ended: {reason}{}", detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())
            }
            Kind::VmDecision { .. } => return self.decision(event),
            _ => return,
        };
        self.line(&self.style.dim(&format!("{}  {text}", seconds(event.time_ns))));
    }

    fn decision(&self, event: &Event) {
        let Kind::VmDecision { action, rule, reason, outcome, .. } = &event.kind else { return };
        // A rule's reason is known to who wrote it.
        let reason = reason.as_ref().filter(|_| rule.is_none());
        let rule = rule.as_ref().map_or("default".to_owned(), |rule| format!("rule {rule}"));
        let text = format!("{}  {:<9}  {} by {rule}: {outcome}", seconds(event.time_ns), "POLICY", action);
        self.line(&self.style.bold(&text));
        if let Some(reason) = reason {
            self.line(&self.style.dim(&format!("          {reason}")));
        }
    }

    /// A finding.
    pub fn finding(&self, finding: &Finding) {
        let stage = self.style.severity(finding.severity, &format!("{:<9}", finding.stage.name().to_uppercase()));
        self.line(&format!("{}  {stage}  {}  {}", seconds(finding.time_ns), finding.technique.id, finding.title));
    }
}

/// Verdict, kill chain and decisions: what came out of a session.
pub fn summary(trace: &Trace, style: Style, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "\n{} {}", style.bold("verdict:"), style.verdict(trace.verdict))?;
    explanation(trace, style, out)?;
    kill_chain(trace, style, out)?;
    noticed(trace, style, out)?;
    ranked(trace, style, out)?;
    if trace.decisions.is_empty() {
        return Ok(());
    }
    writeln!(out, "{}", style.bold("decisions:"))?;
    decisions(trace, out)
}

/// The sentence that explains the verdict, and the incidents where there are several. A trace of an older LAVA has neither.
pub fn explanation(trace: &Trace, style: Style, out: &mut impl Write) -> std::io::Result<()> {
    if !trace.explanation.is_empty() {
        writeln!(out, "{}", shown(&trace.explanation))?;
    }
    if trace.incidents.len() < 2 {
        return Ok(());
    }
    for incident in trace.incidents.iter().take(INCIDENTS) {
        let stages = incident.stages.iter().map(|stage| stage.name()).collect::<Vec<_>>().join(", ");
        writeln!(
            out,
            "  {}  {} (score {}), {} finding(s), {stages}: {}",
            seconds(incident.first_ns),
            style.verdict(incident.verdict),
            incident.score,
            incident.findings.len(),
            shown(&incident.title)
        )?;
    }
    match trace.incidents.len().checked_sub(INCIDENTS + 1) {
        Some(more) => writeln!(out, "  and {} more incidents, in trace.json", more + 1),
        None => Ok(()),
    }
}

/// The kill chain with its evidence, stage by stage.
pub fn kill_chain(trace: &Trace, style: Style, out: &mut impl Write) -> std::io::Result<()> {
    for stage in Stage::ALL {
        let Some(summary) = trace.kill_chain.iter().find(|summary| summary.stage == stage) else {
            writeln!(out, "  {}", style.dim(&format!("{:<9}  -", stage.name())))?;
            continue;
        };
        for (nth, finding) in summary.findings.iter().filter_map(|&index| trace.findings.get(index)).enumerate() {
            let name = format!("{:<9}", if nth == 0 { stage.name() } else { "" });
            let name = style.severity(finding.severity, &name);
            let events = finding.events.iter().take(6).map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let more = if finding.events.len() > 6 { ", ..." } else { "" };
            writeln!(
                out,
                "  {name}  {}  {:<10} {}\n{:13}{}",
                seconds(finding.time_ns),
                finding.technique.id,
                style.bold(&shown(&finding.title)),
                "",
                style.dim(&format!(
                    "{} ({}); {}; events {events}{more}{}",
                    finding.technique.name,
                    finding.detector,
                    finding.grade,
                    finding.distance.map(|distance| format!("; {}", distance.words())).unwrap_or_default()
                )),
            )?;
        }
    }
    Ok(())
}

/// What was found beside the kill chain: what honest tasks do too, technique by technique.
pub fn noticed(trace: &Trace, style: Style, out: &mut impl Write) -> std::io::Result<()> {
    let mut techniques: Vec<String> = Vec::new();
    for finding in trace.findings.iter().filter(|finding| !finding.severity.counts()) {
        let technique = format!("{} {}", finding.technique.id, finding.technique.name);
        if !techniques.contains(&technique) {
            techniques.push(technique);
        }
    }
    if techniques.is_empty() {
        return Ok(());
    }
    writeln!(out, "{} {}", style.bold("also noticed, no threat by itself:"), techniques.join(", "))
}

/// Findings that are listed by their distance.
const RANKED: usize = 20;

/// Findings by how far they are from what is usual for the profile, the farthest first; nothing if they were held against no baseline.
pub fn ranked(trace: &Trace, style: Style, out: &mut impl Write) -> std::io::Result<()> {
    let mut ranked: Vec<_> = trace.findings.iter().filter_map(|finding| Some((finding.distance?, finding))).collect();
    if ranked.is_empty() {
        return Ok(());
    }
    ranked.sort_by_key(|(distance, finding)| std::cmp::Reverse((*distance, finding.severity)));
    writeln!(out, "{} (5 never to 0 usual)", style.bold("how usual it is for the profile:"))?;
    for (distance, finding) in ranked.iter().take(RANKED) {
        let (number, words) = (distance.number(), distance.words());
        let title = shown(&finding.title);
        writeln!(out, "  {number}  {:<10} {title}\n{:15}{}", finding.technique.id, "", style.dim(words))?;
    }
    match ranked.len().checked_sub(RANKED) {
        Some(more @ 1..) => writeln!(out, "  and {more} more, none farther"),
        _ => Ok(()),
    }
}

/// What the policy decided.
pub fn decisions(trace: &Trace, out: &mut impl Write) -> std::io::Result<()> {
    for decision in &trace.decisions {
        let rule = decision.rule.as_deref().unwrap_or("default");
        writeln!(out, "  {}  {} by {rule}: {}", seconds(decision.time_ns), decision.action, decision.outcome)?;
        // A rule's reason is known to who wrote it.
        if let Some(reason) = decision.reason.as_ref().filter(|_| decision.rule.is_none()) {
            writeln!(out, "            {reason}")?;
        }
    }
    Ok(())
}
