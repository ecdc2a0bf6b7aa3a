//! Sigma rules (specification 2.0), for what SIEMs are fed of Linux: files, programs, connections.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use lava_event::Severity;

use super::marks::{Mark, Marks};
use super::{origin, single};
use crate::ids;
use crate::summary::Summary;

/// A rule over one field.
fn rule(summary: &Summary, kind: &str, what: &str, field: &str, marks: &[Mark<String>]) -> Option<String> {
    if marks.is_empty() {
        return None;
    }
    let findings: BTreeSet<usize> = marks.iter().flat_map(|mark| mark.findings.iter().copied()).collect();
    let findings: Vec<_> = findings.iter().filter_map(|&n| summary.findings.get(n)).collect();
    let tags: BTreeSet<String> =
        findings.iter().map(|finding| format!("attack.{}", finding.technique.id.to_ascii_lowercase())).collect();
    let level = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Medium);
    let date = summary.clock.start().to_string();
    let mut out = format!(
        "title: {}\nid: {}\nstatus: experimental\ndescription: {}\nauthor: LAVA\ndate: {}\n",
        single(&format!("{what} of LAVA session {}", summary.manifest.session)),
        ids::within(&summary.manifest.session, "sigma", kind),
        single(&origin(summary)),
        date.get(..10).unwrap_or("1970-01-01")
    );
    if !tags.is_empty() {
        out.push_str("tags:\n");
    }
    for tag in tags {
        let _ = writeln!(out, "    - {tag}");
    }
    let _ = write!(
        out,
        "logsource:\n    category: {kind}\n    product: linux\ndetection:\n    selection:\n        {field}:\n"
    );
    for mark in marks {
        let _ = writeln!(out, "            - {}", single(&mark.value));
        let _ = writeln!(out, "            # confidence {}: {}", mark.confidence, mark.why);
    }
    let _ = write!(
        out,
        "    condition: selection\nfalsepositives:\n    - Unknown\nlevel: {}\n",
        match level {
            Severity::Info => "informational",
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    );
    Some(out)
}

/// Files that were made.
pub(super) fn files(summary: &Summary, marks: &Marks) -> Option<String> {
    rule(summary, "file_event", "Files", "TargetFilename", &marks.paths)
}

/// Dropped programs that were run.
pub(super) fn programs(summary: &Summary, marks: &Marks) -> Option<String> {
    rule(summary, "process_creation", "Dropped programs", "Image", &marks.programs)
}

/// Addresses that were reached for.
pub(super) fn connections(summary: &Summary, marks: &Marks) -> Option<String> {
    let text = |mark: &Mark<std::net::IpAddr>| Mark {
        value: mark.value.to_string(),
        confidence: mark.confidence,
        why: mark.why.clone(),
        findings: mark.findings.clone(),
    };
    let addresses: Vec<Mark<String>> = marks.addresses.iter().map(text).collect();
    rule(summary, "network_connection", "Addresses", "DestinationIp", &addresses)
}
