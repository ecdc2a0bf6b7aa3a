//! `lava pack`: what a defender's tools load, to find and stop on other machines what a session's findings rest on.
//!
//! One module for each tool. All of them write the same marks (`marks.rs`), which are chosen so that they do not match honest machines;
//! what was not fit is listed with the reason. A clean session has no marks, and so no pack.
//!
//! *Limits:* a mark is as good as one session shows: names that the malware makes up anew each time are not known to be such, and
//! hashes match this build only. Nothing is in a pack that was only seen and that no finding rests on.

mod block;
mod hosts;
mod marks;
mod readme;
mod sigma;
mod suricata;
mod yara;

use lava_event::Verdict;
use lava_evidence::Session;

use crate::summary::Summary;
use crate::{Error, indicators};
use marks::Marks;

/// A pack: files to write into a folder.
#[derive(Debug)]
pub struct Pack {
    /// Relative path and text; empty if there is nothing to act on.
    pub files: Vec<(String, String)>,
    /// Lines of the log that could not be read.
    pub unreadable: u64,
}

/// Makes a session's pack.
///
/// # Errors
/// If the session cannot be read.
pub fn pack(session: &Session) -> Result<Pack, Error> {
    let summary = Summary::of(session)?;
    let unreadable = summary.unreadable;
    if summary.trace.verdict == Verdict::Clean {
        return Ok(Pack { files: Vec::new(), unreadable });
    }
    let marks = Marks::of(&summary);
    let mut rows = Vec::new();
    indicators::json(&summary, &mut rows)?;
    let made = [
        ("sigma/files.yml", sigma::files(&summary, &marks)),
        ("sigma/programs.yml", sigma::programs(&summary, &marks)),
        ("sigma/connections.yml", sigma::connections(&summary, &marks)),
        ("yara/lava.yar", yara::rules(session, &summary, &marks)?),
        ("suricata/lava.rules", suricata::rules(&summary, &marks)),
        ("block/addresses.nft", block::nftables(&summary, &marks)),
        ("block/hosts", block::hosts(&summary, &marks)),
        ("block/domains.txt", block::domains(&marks)),
        ("osquery/lava-pack.json", hosts::osquery(&marks)?),
        ("velociraptor/lava.yaml", hosts::velociraptor(&summary, &marks)),
        ("steps.md", Some(readme::steps(&summary, &marks))),
        ("indicators.json", Some(String::from_utf8_lossy(&rows).into_owned())),
    ];
    let mut files: Vec<(String, String)> =
        made.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?))).collect();
    files.insert(0, ("README.md".to_owned(), readme::readme(&summary, &marks, &files)));
    Ok(Pack { files, unreadable })
}

/// What the rules call themselves: the session's id, which is plain.
fn name(summary: &Summary) -> String {
    summary.manifest.session.0.replace('-', "_")
}

/// What a rule says of where it comes from.
fn origin(summary: &Summary) -> String {
    let task = &summary.manifest.task;
    format!("Made by LAVA from session {}: {} (sha256 {})", summary.manifest.session, task.name, task.sha256)
}

/// A text in single quotes, as YAML and SQL have them.
fn single(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A text in double quotes, for rules whose tools escape as C does. Texts are without controls here.
fn double(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
