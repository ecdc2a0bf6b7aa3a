//! The chain over the log: flipping, cutting out or reordering events shows.
//!
//! Line n of `chain.txt` is SHA-256(line n-1 as 32 bytes, then line n of `events.jsonl` without its line end); the line
//! before the first is SHA-256("lava-chain-1 " and the session's id). The log itself stays plain JSONL, so every tool
//! reads it. An event is written before its chain line: after a crash the log may be ahead by its tail, which is
//! reported as not sealed.

use lava_event::{SessionId, Sha256};
use sha2::Digest;

use crate::manifest::Parent;

/// Problems listed by a verifier.
const MAX_PROBLEMS: usize = 100;

/// The chain's value before the first event.
#[must_use]
pub fn start(session: &SessionId) -> Sha256 {
    Sha256::of(format!("lava-chain-1 {session}").as_bytes())
}

/// The chain's value behind one more line.
#[must_use]
pub fn next(head: &Sha256, line: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::new().chain_update(head.0).chain_update(line).finalize().into())
}

/// Something about a session that is not as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Which file.
    pub file: String,
    /// Which line, from 1, where it is about one.
    pub line: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// False for what a crash leaves behind too: it does not say that somebody changed anything.
    pub tampering: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}, line {line}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

/// What [`crate::Session::verify_chain`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainReport {
    /// Events whose chain value is right, from the first on.
    pub sealed: u64,
    /// The chain's value behind them. Hold it against the one you kept elsewhere.
    pub head: Sha256,
    /// What is wrong, in order; at most 100.
    pub problems: Vec<Problem>,
}

impl ChainReport {
    /// True if everything is as it was written.
    #[must_use]
    pub fn intact(&self) -> bool {
        self.problems.is_empty()
    }

    /// True if something was changed that a crash does not explain.
    #[must_use]
    pub fn tampered(&self) -> bool {
        self.problems.iter().any(|problem| problem.tampering)
    }
}

/// Collects problems.
#[derive(Default)]
pub(crate) struct Check {
    pub(crate) problems: Vec<Problem>,
    seq: Option<u64>,
}

impl Check {
    pub(crate) fn add(&mut self, file: &str, line: Option<u64>, what: &str, tampering: bool) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { file: file.into(), line, what: what.into(), tampering });
        }
    }

    /// Are the events that the log begins with those of the session that this one goes on from?
    pub(crate) fn parent(&mut self, parent: &Parent, head: Sha256) {
        if head != parent.chain {
            let (events, session) = (parent.events, &parent.session);
            self.add(
                "events.jsonl",
                None,
                &format!("the first {events} events are not those of session {session}"),
                true,
            );
        }
    }

    /// Is this the number that is due?
    pub(crate) fn seq(&mut self, seq: u64, line: u64) {
        let expected = self.seq.map_or(seq, |last| last.saturating_add(1));
        if seq != expected {
            self.add("events.jsonl", Some(line), &format!("event {seq} stands where {expected} is due"), true);
        }
        self.seq = Some(seq);
    }
}
