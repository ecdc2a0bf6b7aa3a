//! Formats of events: a line for each event and finding, as they come.

use std::io::Write;

use lava_event::{Event, Finding, Process, ProcessKey, Severity};
use lava_evidence::{Manifest, Session};
use uuid::Uuid;

use crate::clock::Clock;
use crate::walk::{Item, Seen, walk};
use crate::{Error, Exported, ids, text};

/// Which events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Scope {
    /// What the task and its descendants did, what findings rest on, and what LAVA itself did.
    #[default]
    Task,
    /// Every event of the guest.
    All,
}

impl Scope {
    fn holds(self, seen: &Seen<'_>) -> bool {
        self == Self::All || seen.tainted || !seen.findings.is_empty() || seen.event.kind.name().starts_with("vm.")
    }
}

/// What every line may want to say of its session.
pub(crate) struct Context {
    pub(crate) manifest: Manifest,
    pub(crate) clock: Clock,
}

impl Context {
    pub(crate) fn of(manifest: &Manifest) -> Result<Self, Error> {
        Ok(Self { clock: Clock::of(manifest)?, manifest: text::manifest(manifest) })
    }

    /// An event's identifier.
    pub(crate) fn event(&self, event: &Event) -> Uuid {
        ids::within(&self.manifest.session, "event", &event.seq.to_string())
    }

    /// A finding's identifier.
    pub(crate) fn finding(&self, n: usize) -> Uuid {
        ids::within(&self.manifest.session, "finding", &n.to_string())
    }

    /// A process's identifier.
    pub(crate) fn process(&self, key: ProcessKey) -> Uuid {
        ids::within(&self.manifest.session, "process", &format!("{}\0{}", key.pid, key.start_ns))
    }
}

/// A format of events.
pub(crate) trait Lines {
    /// An event's line, without its end.
    fn event(&self, context: &Context, seen: &Seen<'_>) -> String;
    /// A finding's.
    fn finding(&self, context: &Context, n: usize, finding: &Finding) -> String;
}

/// Writes a whole session.
pub(crate) fn write(
    session: &Session,
    lines: &dyn Lines,
    scope: Scope,
    out: &mut dyn Write,
) -> Result<Exported, Error> {
    let context = Context::of(session.manifest())?;
    let walked = walk(session, |item| {
        if let Some(line) = line(&context, lines, scope, &item) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    })?;
    Ok(Exported { unreadable: walked.unreadable, left_out: 0 })
}

/// The line of an event or a finding, without its end, if it is wanted.
pub(crate) fn line(context: &Context, lines: &dyn Lines, scope: Scope, item: &Item<'_>) -> Option<String> {
    match item {
        Item::Event(seen) => scope.holds(seen).then(|| lines.event(context, seen)),
        Item::Finding(n, finding) => Some(lines.finding(context, *n, finding)),
    }
}

/// The last part of a path.
pub(crate) fn base(path: &str) -> &str {
    path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(path)
}

/// The folder of a path.
pub(crate) fn folder(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        ("", _) => Some("/"),
        (folder, _) => Some(folder),
    }
}

/// The program's name: its file's, or the thread's where there is none (kernel threads).
pub(crate) fn program(process: &Process) -> String {
    let exe = text::name(&process.exe);
    if exe.is_empty() { text::name(&process.comm) } else { base(&exe).to_owned() }
}

/// 1 (info) to 5 (critical).
pub(crate) const fn level(severity: Severity) -> u8 {
    match severity {
        Severity::Info => 1,
        Severity::Low => 2,
        Severity::Medium => 3,
        Severity::High => 4,
        Severity::Critical => 5,
    }
}
