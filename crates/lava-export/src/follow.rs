//! A session's lines while it runs.
//!
//! *Order:* as in an export; a session that has ended gives the same lines. While one runs, findings come after the events they rest on,
//! and an event that is sent only because a finding rests on it comes when the finding does, so later than its number says.
//!
//! *Limit:* of such events the latest [`HELD`] are kept; what a finding rests on and is older is not sent.

use std::collections::BTreeMap;

use lava_event::{Event, EventSeq, Finding, ProcessKey};
use lava_evidence::{Follow, Session};

use crate::lines::{Context, Lines, Scope, line};
use crate::walk::{Item, Seen, Walk};
use crate::{Error, Format};

/// Events that were not wanted, kept for a finding that may come.
const HELD: usize = 4096;

/// What there is to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The session runs, and all it wrote was given: try again later.
    Waiting,
    /// That was all.
    Ended,
}

/// Reads a session as it grows.
pub struct Follower<'a> {
    session: &'a Session,
    out: Output,
    walk: Walk,
    events: Follow,
    findings: Follow,
    last: EventSeq,
    /// Lines of the log that were none.
    pub unreadable: u64,
}

/// What becomes of the items.
struct Output {
    context: Context,
    lines: &'static dyn Lines,
    scope: Scope,
    held: BTreeMap<EventSeq, (Event, Option<ProcessKey>)>,
}

impl<'a> Follower<'a> {
    /// Begins with the session's first event.
    ///
    /// # Errors
    /// If the format is not one of lines, or the session cannot be read.
    pub fn open(session: &'a Session, format: Format, scope: Scope) -> Result<Self, Error> {
        let lines = format.lines().ok_or(Error::NoLines(format.name()))?;
        let open = |name: &str| Follow::open(&session.dir().join(name));
        Ok(Self {
            session,
            out: Output { context: Context::of(session.manifest())?, lines, scope, held: BTreeMap::new() },
            walk: Walk::new(),
            events: open("events.jsonl")?,
            findings: open("findings.jsonl")?,
            last: 0,
            unreadable: 0,
        })
    }

    /// Gives every line that has come since.
    ///
    /// # Errors
    /// If the log cannot be read, or what takes the lines refuses.
    pub fn step(&mut self, send: &mut dyn FnMut(&str) -> Result<(), Error>) -> Result<Step, Error> {
        // Asked first: what is written before the writer goes is read below.
        let runs = self.session.is_being_written();
        self.new_findings()?;
        while let Some(event) = Self::read::<Event>(&mut self.events, &mut self.unreadable)? {
            self.last = event.seq;
            self.walk.event(&event, &mut |item| self.out.take(&item, send))?;
        }
        self.new_findings()?;
        let until = if runs { self.last } else { EventSeq::MAX };
        self.walk.rest(until, &mut |item| self.out.take(&item, send))?;
        Ok(if runs { Step::Waiting } else { Step::Ended })
    }

    fn new_findings(&mut self) -> Result<(), Error> {
        while let Some(finding) = Self::read::<Finding>(&mut self.findings, &mut self.unreadable)? {
            self.walk.add(finding);
        }
        Ok(())
    }

    /// The next that can be read.
    fn read<T: serde::de::DeserializeOwned>(from: &mut Follow, unreadable: &mut u64) -> Result<Option<T>, Error> {
        loop {
            match from.read() {
                Ok(read) => return Ok(read),
                Err(lava_evidence::Error::Line { .. }) => *unreadable += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Output {
    fn take(&mut self, item: &Item<'_>, send: &mut dyn FnMut(&str) -> Result<(), Error>) -> Result<(), Error> {
        if let Item::Finding(n, finding) = item {
            for seq in &finding.events {
                if let Some((event, actor)) = self.held.remove(seq) {
                    let seen = Seen { event: &event, actor, tainted: false, findings: &[*n] };
                    send(&self.lines.event(&self.context, &seen))?;
                }
            }
        }
        match (line(&self.context, self.lines, self.scope, item), item) {
            (Some(line), _) => send(&line)?,
            (None, Item::Event(seen)) => {
                if self.held.len() >= HELD {
                    self.held.pop_first();
                }
                self.held.insert(seen.event.seq, (seen.event.clone(), seen.actor));
            }
            (None, Item::Finding(..)) => {}
        }
        Ok(())
    }
}
