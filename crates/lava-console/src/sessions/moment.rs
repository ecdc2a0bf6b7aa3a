//! A session as it was after one of its events.
//!
//! The graph is built from the recorded events and findings. The detectors do not run again: what the session itself found (with
//! the user's Sigma rules too) is what is shown, and the picture is the one that `lava run` closes the session with.

use std::path::Path;

use lava_event::{Event, Finding, Kind, Stage, Verdict};
use lava_evidence::{Error, Follow};
use lava_graph::{Graph, Trace};
use serde::Serialize;
use utoipa::ToSchema;

/// Findings of a session that are read.
pub const MAX_FINDINGS: usize = 10_000;

/// What is known of a session up to an event.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// The last event taken; 0 before the first.
    pub seq: u64,
    /// Its session time, ns.
    pub time_ns: u64,
    /// The graph.
    pub graph: Graph,
    /// The analyst holds the guest.
    pub paused: bool,
    /// Findings taken.
    findings: usize,
    /// Where the next event begins in the log.
    offset: u64,
}

impl Moment {
    /// Where the next event begins in the log, bytes.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next event.
    pub fn apply(&mut self, event: &Event) {
        self.seq = event.seq;
        self.time_ns = event.time_ns;
        if let Kind::VmResponse { command, outcome, .. } = &event.kind
            && outcome == "done"
        {
            match command.as_str() {
                "pause" => self.paused = true,
                "resume" => self.paused = false,
                _ => {}
            }
        }
        self.graph.apply(event);
    }

    /// Takes those of the session's findings that were made by now; true if there were any.
    pub fn apply_findings(&mut self, all: &[Finding]) -> bool {
        let before = self.findings;
        let made = |finding: &&Finding| finding.events.last().is_none_or(|&last| last <= self.seq);
        for finding in all.iter().skip(before).take_while(made) {
            self.graph.apply_finding(finding);
            self.findings += 1;
        }
        self.findings > before
    }

    /// Goes on through the log of the session in `dir`, up to event `until` or its end. `on_way` is called between events.
    ///
    /// # Errors
    /// If the log cannot be read; a line of it that is no event is passed over.
    pub fn advance(&mut self, dir: &Path, until: u64, mut on_way: impl FnMut(&Self)) -> Result<(), Error> {
        let mut log = Follow::from_offset(&dir.join("events.jsonl"), self.offset)?;
        while self.seq < until {
            match log.read::<Event>() {
                Ok(Some(event)) if event.seq > until => break,
                Ok(Some(event)) => {
                    self.apply(&event);
                    self.offset = log.offset();
                    on_way(self);
                }
                Ok(None) => break,
                Err(Error::Line { .. }) => self.offset = log.offset(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// All findings of the session in `dir`, as far as they are written.
///
/// # Errors
/// If they cannot be read; a line that is none is passed over.
pub fn findings(dir: &Path) -> Result<Vec<Finding>, Error> {
    let mut log = Follow::open(&dir.join("findings.jsonl"))?;
    let mut found = Vec::new();
    while found.len() < MAX_FINDINGS {
        match log.read() {
            Ok(Some(finding)) => found.push(finding),
            Ok(None) => break,
            Err(Error::Line { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// What these findings come to.
pub fn sum(findings: &[Finding]) -> (Verdict, Vec<Stage>) {
    let mut graph = Graph::new();
    for finding in findings {
        graph.apply_finding(finding);
    }
    (graph.verdict(), graph.stages())
}

/// A finding as the page gets it.
#[derive(Serialize)]
pub struct Indexed<'a> {
    /// Its place among the session's findings.
    pub index: usize,
    /// It.
    #[serde(flatten)]
    pub finding: &'a Finding,
}

/// A stage of the kill chain, reached or not.
#[derive(Serialize, ToSchema)]
pub struct StageFacts {
    /// Its name.
    #[schema(value_type = String)]
    pub stage: Stage,
    /// Session time of its first finding, ns.
    pub reached_ns: Option<u64>,
    /// Its findings: indexes into the trace's.
    pub findings: Vec<usize>,
}

/// The trace, for a viewer.
#[derive(Serialize, ToSchema)]
pub struct TraceFacts {
    /// The last event in it.
    pub until: u64,
    /// As in `trace.json`.
    #[schema(value_type = Object)]
    pub trace: Trace,
    /// The answer so far.
    #[schema(value_type = String)]
    pub verdict: Verdict,
    /// All stages, first to last.
    pub stages: Vec<StageFacts>,
}

impl TraceFacts {
    /// Of a trace that holds everything up to event `until`.
    pub fn new(until: u64, trace: Trace) -> Self {
        let stages = Stage::ALL.map(|stage| {
            let reached = trace.kill_chain.iter().find(|summary| summary.stage == stage);
            StageFacts {
                stage,
                reached_ns: reached.map(|summary| summary.first_ns),
                findings: reached.map(|summary| summary.findings.clone()).unwrap_or_default(),
            }
        });
        Self { until, verdict: trace.verdict, trace, stages: stages.into() }
    }
}
