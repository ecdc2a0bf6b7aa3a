//! The detector: shows every event to every behaviour and turns what they hit on into findings, each thing once.

use std::collections::BTreeSet;

use lava_event::{Event, Finding, Kind};

use crate::behaviour::{self, Behaviour, Context, Hit};
use crate::memory::Memory;
use crate::sigma::{RuleSet, Sigma};
use crate::{Taint, attack};

/// A session has at most this many findings of our own behaviours; what a guest does to drown the analyst ends here. Sigma
/// rules have bounds of their own: [`crate::sigma::MAX_MATCHES`].
pub const MAX_FINDINGS: usize = 1000;
/// Events that a finding names.
pub const MAX_EVENTS_OF_FINDING: usize = 64;

/// All behaviours over one session.
pub struct Detector {
    behaviours: Vec<Box<dyn Behaviour + Send>>,
    sigma: Sigma,
    memory: Memory,
    said: BTreeSet<(&'static str, Vec<u8>)>,
}

impl std::fmt::Debug for Detector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Detector").field("findings", &self.said.len()).finish_non_exhaustive()
    }
}

impl Default for Detector {
    fn default() -> Self {
        Self::new()
    }
}

impl Detector {
    /// A detector for a new session.
    #[must_use]
    pub fn new() -> Self {
        Self::with_rules(RuleSet::new())
    }

    /// A detector for a new session that also matches the user's Sigma rules.
    #[must_use]
    pub fn with_rules(rules: RuleSet) -> Self {
        Self {
            behaviours: behaviour::all(),
            sigma: Sigma::new(rules),
            memory: Memory::default(),
            said: BTreeSet::new(),
        }
    }

    /// Looks at the next event of the session. The graph behind `taint` has taken it in already.
    ///
    /// Findings of one event come in the order of the kill chain.
    pub fn observe(&mut self, event: &Event, taint: &dyn Taint) -> Vec<Finding> {
        // What the task is comes before it starts.
        if !taint.task_started() && !matches!(event.kind, Kind::VmEnded { .. } | Kind::VmTask { .. }) {
            return Vec::new();
        }
        let mut hits = Vec::new();
        let context = Context::new(event, taint, &self.memory);
        for behaviour in &mut self.behaviours {
            behaviour.observe(&context, &mut hits);
        }
        let matches = self.sigma.observe(&context);
        let actor = context.tainted_actor();
        self.memory.remember(event, actor, taint);
        let mut findings: Vec<Finding> = hits.into_iter().filter_map(|hit| self.say(event, hit)).collect();
        findings.extend(matches);
        findings.sort_by_key(|finding| finding.stage);
        findings
    }

    /// True if the guest made more files or processes than are remembered: dropped files, or command lines that a Sigma rule
    /// asks for, may be missed from here on.
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        self.memory.is_saturated() || self.sigma.is_saturated()
    }

    fn say(&mut self, event: &Event, hit: Hit) -> Option<Finding> {
        if self.said.len() >= MAX_FINDINGS || !self.said.insert((hit.about.id, hit.once)) {
            return None;
        }
        let mut events = hit.events;
        // A behaviour that waited can speak of an earlier event than this one, never of a later one.
        events.retain(|&seq| seq <= event.seq);
        events.sort_unstable();
        events.dedup();
        if events.is_empty() {
            events.push(event.seq);
        }
        if events.len() > MAX_EVENTS_OF_FINDING {
            let last = events.len() - 1;
            events.swap(MAX_EVENTS_OF_FINDING - 1, last);
            events.truncate(MAX_EVENTS_OF_FINDING);
        }
        Some(Finding {
            detector: hit.about.id.to_owned(),
            title: hit.title,
            why: hit.why.unwrap_or_else(|| hit.about.why.to_owned()),
            stage: hit.about.stage,
            technique: attack::technique(hit.technique),
            severity: hit.severity,
            grade: hit.grade,
            time_ns: hit.time_ns,
            process: hit.process,
            events,
            distance: None,
        })
    }
}
