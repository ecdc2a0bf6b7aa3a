//! `lava files`: what a session changed in the guest's file system, told from the disk; and the recording of it.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use lava_disk::DiskView;
use lava_event::{Event, GuestText, Kind, Process};
use lava_evidence::{Session, SessionWriter};
use lava_filesystem::{Change, Changes, Entry, Limits, State, Xattr};
use serde_json::json;

use crate::{Format, show};

/// Options of `lava files`.
#[derive(clap::Args)]
pub struct Files {
    /// A session's folder, its id, its bundle, or `latest`.
    session: String,
    /// Also what every session changes, whatever the task is: journals, identity.
    #[arg(long)]
    all: bool,
    /// As lines to read, or one JSON object a line.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Files {
    /// Prints them.
    pub fn run(&self) -> Result<()> {
        let session = show::find(&self.session, self.out.as_deref())?;
        let changes = changes(&session)?;
        let by = writers(&session, &changes.entries)?;
        let usual = |entry: &&Entry| is_usual(entry, &by);
        let (known, mut wanted): (Vec<&Entry>, Vec<&Entry>) = changes.entries.iter().partition(usual);
        let own = wanted.len();
        wanted.extend(known.iter().filter(|_| self.all));
        let out = &mut std::io::BufWriter::new(std::io::stdout().lock());
        for (number, entry) in wanted.iter().enumerate() {
            let by = by.get(&entry.path);
            match self.format {
                Format::Text => writeln!(out, "{}{}", line(entry, by), if number < own { "" } else { "  (usual)" })?,
                Format::Jsonl => {
                    let mut value = json!(entry);
                    value["usual"] = (number >= own).into();
                    if let Some(Last { seq, process }) = by {
                        value["by"] = json!({ "seq": seq, "process": process });
                    }
                    writeln!(out, "{value}")?;
                }
            }
        }
        if self.format == Format::Text {
            let more = if self.all { "listed too" } else { "--all lists them" };
            writeln!(out, "{own} changes, and {} that every session makes ({more})", known.len())?;
        }
        for problem in &changes.problems {
            eprintln!("not compared: {problem}");
        }
        out.flush()?;
        Ok(())
    }
}

/// What a session changed, as it was recorded.
pub fn changes(session: &Session) -> Result<Changes> {
    session.filesystem()?.with_context(|| {
        format!(
            "session {} has no filesystem.json: it was recorded by an older LAVA, or is not closed; `lava events \
             {0} --kind file` tells what was seen",
            session.manifest().session
        )
    })
}

/// The paths that every session changes, and that nobody else changed last.
pub fn usual(session: &Session, entries: &[Entry]) -> Result<HashSet<GuestText>> {
    let by = writers(session, entries)?;
    Ok(entries.iter().filter(|entry| is_usual(entry, &by)).map(|entry| entry.path.clone()).collect())
}

fn is_usual(entry: &Entry, by: &HashMap<GuestText, Last>) -> bool {
    entry.usual && by.get(&entry.path).is_some_and(Last::is_usual)
}

/// Compares the guest's disk with what it was, and writes that into the session. Returns what could not be done: that is a
/// note to a session, and no failure of it.
pub fn record(disks: &[DiskView], evidence: &mut SessionWriter) -> Vec<String> {
    let Some(disk) = disks.first() else { return Vec::new() };
    let mut failed = None;
    let changes = lava_filesystem::compare(disk.base(), disk.clone(), Limits::default(), |artifact| {
        failed = failed.take().or(evidence.artifact(&artifact).err());
    });
    failed = failed.or(evidence.filesystem(&changes).err());
    let problem = |problem: &String| format!("file system not compared: {problem}");
    changes.problems.iter().map(problem).chain(failed.map(|error| error.to_string())).collect()
}

/// The latest event that speaks of a path, and its process.
struct Last {
    seq: u64,
    process: Option<Process>,
}

impl Last {
    /// True if it was one of those who change what is usual. By program, not by name: a process chooses its name.
    fn is_usual(&self) -> bool {
        let usual = [lava_microvisor::machine::LAUNCHER, "/usr/lib/systemd/systemd-journald"];
        self.process.as_ref().is_some_and(|process| usual.iter().any(|exe| process.exe.bytes() == exe.as_bytes()))
    }
}

/// Who changed each of `entries` last, as far as events tell it by path.
fn writers(session: &Session, entries: &[Entry]) -> Result<HashMap<GuestText, Last>> {
    let mut known: HashMap<&GuestText, Option<Last>> = entries.iter().map(|entry| (&entry.path, None)).collect();
    for event in session.events()? {
        let event = event?;
        for path in changed(&event).into_iter().flatten() {
            if let Some(last) = known.get_mut(path) {
                *last = Some(Last { seq: event.seq, process: event.process.clone() });
            }
        }
    }
    Ok(known.into_iter().filter_map(|(path, last)| Some((path.clone(), last?))).collect())
}

/// The paths that an event says were changed.
fn changed(event: &Event) -> [Option<&GuestText>; 2] {
    match &event.kind {
        Kind::FileCreate { path, .. }
        | Kind::FileWrite { path, .. }
        | Kind::FileMapWrite { path, .. }
        | Kind::FileTruncate { path, .. }
        | Kind::FileXattr { path, .. }
        | Kind::FileAttributes { path, .. }
        | Kind::FileUnlink { path, .. } => [Some(path), None],
        Kind::FileRename { from, to, .. } => [Some(from), Some(to)],
        _ => [None, None],
    }
}

fn line(entry: &Entry, by: Option<&Last>) -> String {
    let what = match entry.change {
        Change::Added => "added",
        Change::Changed => "changed",
        Change::Removed => "removed",
        Change::Attributes => "attributes",
    };
    let by = by.map_or("no event tells by whom".to_owned(), |last| {
        let who = last.process.as_ref().map_or("-".to_owned(), |process| format!("{}[{}]", process.comm, process.pid));
        format!("{who}, event {}", last.seq)
    });
    format!("{what:<10} {}  {}  by {by}", entry.path, told(entry))
}

/// One state, or what differs between two.
pub fn told(entry: &Entry) -> String {
    let facts = |state: &State| {
        let content = match (&state.target, &state.sha256) {
            (Some(target), _) => format!("-> {target}"),
            (None, Some(sha256)) => format!("{} bytes, sha256 {sha256}", state.size),
            (None, None) => format!("{} bytes", state.size),
        };
        [
            format!("{:?}", state.what).to_lowercase(),
            state.mode.clone(),
            format!("{}:{}", state.uid, state.gid),
            content,
        ]
    };
    match [&entry.before, &entry.after].map(Option::as_ref) {
        [Some(before), Some(after)] => {
            let (before_facts, after_facts) = (facts(before), facts(after));
            let pairs = before_facts.iter().zip(&after_facts).filter(|(before, after)| before != after);
            let mut differ: Vec<String> = pairs.map(|(before, after)| format!("{before} => {after}")).collect();
            if before.xattrs != after.xattrs {
                differ.push(format!("attributes {} => {}", xattrs(before), xattrs(after)));
            }
            if differ.is_empty() && before.modified != after.modified {
                differ.push(format!("modified {} => {}", before.modified, after.modified));
            }
            if differ.is_empty() { "its inode changed: links or flags".to_owned() } else { differ.join(", ") }
        }
        [Some(one), None] | [None, Some(one)] => facts(one).join(" "),
        [None, None] => String::new(),
    }
}

/// Names and beginnings of values.
fn xattrs(state: &State) -> String {
    let one = |xattr: &Xattr| format!("{}={}", xattr.name, xattr.value.get(..64).unwrap_or(&xattr.value));
    let all: Vec<String> = state.xattrs.iter().map(one).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(" ") }
}
