//! Indicators as rows: for spreadsheets (CSV), scripts (JSON), and the formats that list them.
//!
//! A row is *confirmed* if a finding that counts rests on it; what else the task did is context. *Fit to block* is narrower: a
//! hash, an outside address, a name or a URL that is confirmed, or that the task of a session with a threat spoke to.

use std::io::Write;

use lava_event::{Grade, Severity, Sha256, Verdict};
use serde_json::{Value, json};

use crate::clock::micros;
use crate::remedy::region_name;
use crate::stix::objects::is_domain;
use crate::summary::{About, Key, Summary, Thing, Weight, is_outside, names_outside};
use crate::{Error, text};

/// What a row's value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Sha256,
    Path,
    Address,
    Domain,
    Url,
    Command,
    Module,
    BootArea,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Path => "path",
            Self::Address => "ip",
            Self::Domain => "domain",
            Self::Url => "url",
            Self::Command => "command",
            Self::Module => "kernel-module",
            Self::BootArea => "boot-area",
        }
    }
}

/// One indicator.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) value: String,
    /// More about it: a path for a hash, ports for an address.
    pub(crate) detail: String,
    /// Bytes, for a hash.
    pub(crate) size: Option<u64>,
    /// What the findings say of it.
    pub(crate) weight: Option<Weight>,
    /// True if a defender may block or search for it as it is.
    pub(crate) fit: bool,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    pub(crate) count: u64,
    /// The detectors whose findings rest on it.
    pub(crate) detectors: Vec<String>,
}

/// All rows: the file that was opened, then what it did.
pub(crate) fn rows(summary: &Summary) -> Vec<Row> {
    let threat = summary.trace.verdict != Verdict::Clean;
    let task = &summary.manifest.task;
    let weight = threat.then_some(Weight { severity: Severity::High, grade: Grade::Observed });
    let mut rows = vec![Row {
        kind: Kind::Sha256,
        value: task.sha256.to_string(),
        detail: format!("{}: the file that was opened", task.name),
        size: Some(task.size),
        weight,
        fit: threat,
        first_ns: 0,
        last_ns: 0,
        count: 1,
        detectors: Vec::new(),
    }];
    for (key, thing) in &summary.things {
        match (key, &thing.about) {
            (Key::File(path), About::File { contents, .. }) => {
                rows.push(row(summary, thing, Kind::Path, path, ""));
                for content in contents {
                    rows.push(Row { size: Some(content.size), ..hash(summary, thing, path, &content.sha256) });
                }
            }
            (Key::Program(..), About::Program { command, cwd, .. }) if !command.is_empty() => {
                rows.push(row(summary, thing, Kind::Command, command, cwd));
            }
            (Key::Address(address, port, protocol), About::Address { made_up, .. }) => {
                let detail = if *made_up { ", made up by the simulated network" } else { "" };
                let mut row =
                    row(summary, thing, Kind::Address, &address.to_string(), &format!("{port}/{protocol}{detail}"));
                row.fit = threat && !made_up && is_outside(*address);
                rows.push(row);
            }
            (Key::Name(name), About::Name { by_task, .. }) => {
                let detail = if *by_task { "" } else { "asked for by some program of the guest" };
                let mut row = row(summary, thing, Kind::Domain, name, detail);
                row.fit = threat && *by_task && is_domain(name);
                rows.push(row);
            }
            (Key::Url(full), About::Url { made_up, url, method, user_agent, destination, .. }) => {
                let agent = user_agent.as_ref().map_or(String::new(), |agent| format!(", user agent {agent}"));
                let mut row = row(summary, thing, Kind::Url, full, &format!("{method} of {destination}{agent}"));
                row.fit = threat && names_outside(url, *made_up);
                rows.push(row);
            }
            (Key::Module(name), _) => rows.push(row(summary, thing, Kind::Module, name, "")),
            (Key::Area(disk, region), About::Area { before, after }) => {
                let hash = |hash: &Option<Sha256>| hash.map_or("unknown".to_owned(), |hash| hash.to_string());
                let detail = format!("sha256 before {}, after {}", hash(before), hash(after));
                rows.push(row(summary, thing, Kind::BootArea, &format!("{} of {disk}", region_name(*region)), &detail));
            }
            _ => {}
        }
    }
    rows
}

fn row(summary: &Summary, thing: &Thing, kind: Kind, value: &str, detail: &str) -> Row {
    let detectors = thing.findings.iter().filter_map(|&n| summary.findings.get(n)).map(|f| f.detector.clone());
    let mut detectors: Vec<String> = detectors.collect();
    detectors.sort_unstable();
    detectors.dedup();
    Row {
        kind,
        value: value.to_owned(),
        detail: detail.to_owned(),
        size: None,
        weight: summary.weight(thing),
        fit: false,
        first_ns: thing.first_ns,
        last_ns: thing.last_ns,
        count: thing.count,
        detectors,
    }
}

fn hash(summary: &Summary, thing: &Thing, path: &str, sha256: &Sha256) -> Row {
    let mut row = row(summary, thing, Kind::Sha256, &sha256.to_string(), path);
    row.fit = row.weight.is_some();
    row
}

/// Comma-separated values (RFC 4180), every cell in quotes.
pub(crate) fn csv(summary: &Summary, out: &mut dyn Write) -> Result<(), Error> {
    let head = [
        "kind",
        "value",
        "detail",
        "size",
        "confirmed",
        "fit_to_block",
        "severity",
        "grade",
        "first_seen",
        "last_seen",
        "events",
        "detectors",
        "session",
        "task_sha256",
        "verdict",
    ];
    write!(out, "{}\r\n", head.map(quoted).join(","))?;
    for row in rows(summary) {
        let cells = [
            row.kind.name().to_owned(),
            row.value,
            row.detail,
            row.size.map_or(String::new(), |size| size.to_string()),
            yes(row.weight.is_some()),
            yes(row.fit),
            row.weight.map_or(String::new(), |weight| text::word(&weight.severity)),
            row.weight.map_or(String::new(), |weight| weight.grade.to_string()),
            micros(summary.clock.at(row.first_ns)),
            micros(summary.clock.at(row.last_ns)),
            row.count.to_string(),
            row.detectors.join(" "),
            summary.manifest.session.to_string(),
            summary.manifest.task.sha256.to_string(),
            summary.trace.verdict.to_string(),
        ];
        write!(out, "{}\r\n", cells.map(|cell| quoted(&cell)).join(","))?;
    }
    Ok(())
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

/// In quotes; what a spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV Injection").
fn quoted(cell: &str) -> String {
    let begins = cell.trim_start().chars().next();
    let formula = begins.is_some_and(|c| matches!(c, '=' | '+' | '-' | '@' | '|' | '%' | '＝' | '＋' | '－' | '＠'));
    format!("\"{}{}\"", if formula { "'" } else { "" }, cell.replace('"', "\"\""))
}

/// One JSON object, an indicator a line.
pub(crate) fn json(summary: &Summary, out: &mut dyn Write) -> Result<(), Error> {
    let manifest = &summary.manifest;
    let head = json!({
        "format": "lava-indicators", "version": 1, "session": manifest.session, "verdict": summary.trace.verdict,
        "task": manifest.task, "started": micros(summary.clock.start()), "left_out": summary.left_out,
    });
    let head = head.to_string();
    // The rows are the last member: the object stays open for them.
    writeln!(out, "{},\"indicators\":[", head.strip_suffix('}').unwrap_or(&head))?;
    let rows = rows(summary);
    for (n, row) in rows.iter().enumerate() {
        let end = if n + 1 == rows.len() { "" } else { "," };
        writeln!(out, "{}{end}", object(summary, row))?;
    }
    writeln!(out, "]}}")?;
    Ok(())
}

fn object(summary: &Summary, row: &Row) -> Value {
    json!({
        "kind": row.kind.name(), "value": row.value, "detail": row.detail, "size": row.size,
        "confirmed": row.weight.is_some(), "fit_to_block": row.fit,
        "severity": row.weight.map(|weight| weight.severity), "grade": row.weight.map(|weight| weight.grade),
        "first_seen": micros(summary.clock.at(row.first_ns)), "last_seen": micros(summary.clock.at(row.last_ns)),
        "events": row.count, "detectors": row.detectors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        for (cell, wanted) in [
            ("=cmd|' /C calc'!A0", "\"'=cmd|' /C calc'!A0\""),
            (" -1", "\"' -1\""),
            ("a \"b\", c", "\"a \"\"b\"\", c\""),
            ("/tmp/=x", "\"/tmp/=x\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(cell), wanted);
        }
    }
}
