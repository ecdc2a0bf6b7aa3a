//! What-if: a recorded session under another policy.
//!
//! Every event that waited, or would have waited, is decided anew with the trace as it was then. The first difference is certain; what
//! follows it is what the session did under its own policy, and might have gone another way under this one.

use std::collections::{BTreeMap, BTreeSet};

use lava_baseline::Baseline;
use lava_event::{Action, Decision, Event, EventSeq, Kind};
use lava_policy::{EvaluationFault, Policy};

use crate::Analysis;

/// How an event was answered when it was recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The policy of that time was not asked: it happened.
    NotAsked,
    /// It was asked.
    Asked {
        /// What it answered.
        action: Action,
        /// By which rule; `None`: by its default.
        rule: Option<String>,
    },
}

impl Answer {
    /// What was done.
    #[must_use]
    pub const fn action(&self) -> Action {
        match self {
            Self::NotAsked => Action::Allow,
            Self::Asked { action, .. } => *action,
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAsked => f.write_str("allow (not asked)"),
            Self::Asked { action, rule } => write!(f, "{action} by {}", rule.as_deref().unwrap_or("default")),
        }
    }
}

/// An event that the policy would have answered otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The event.
    pub event: EventSeq,
    /// How it was answered.
    pub recorded: Answer,
    /// How it would be.
    pub now: Decision,
}

/// Goes through one session under `policy`.
#[derive(Debug)]
pub struct WhatIf<'a> {
    policy: &'a Policy,
    asked: BTreeSet<&'static str>,
    recorded: BTreeMap<EventSeq, Answer>,
    analysis: Analysis,
    decided: u64,
}

impl<'a> WhatIf<'a> {
    /// `log` is all of the session's events, for what was answered: a decision stands behind its event.
    pub fn new(policy: &'a Policy, log: impl Iterator<Item = Event>) -> Self {
        let answer = |event: Event| match event.kind {
            Kind::VmDecision { subject, action, rule, .. } => Some((subject, Answer::Asked { action, rule })),
            _ => None,
        };
        let recorded = log.filter_map(answer).collect();
        Self { policy, asked: policy.waits_for().collect(), recorded, analysis: Analysis::new(), decided: 0 }
    }

    /// The same, with the profile's baseline: see [`Analysis::with_baseline`].
    #[must_use]
    pub fn with_baseline(mut self, baseline: Option<Baseline>) -> Self {
        self.analysis = self.analysis.with_baseline(baseline);
        self
    }

    /// Takes the next event of the same log. A difference, if it would be answered otherwise; and the rules that could not be evaluated.
    pub fn observe(&mut self, event: &Event) -> (Option<Difference>, Vec<EvaluationFault>) {
        self.analysis.observe(event);
        let recorded = self.recorded.remove(&event.seq).unwrap_or(Answer::NotAsked);
        let (now, faults) = if self.waits(event) {
            self.decided += 1;
            self.policy.decide(event, &self.analysis.view(event))
        } else {
            (Decision { action: Action::Allow, rule: None, reason: None }, Vec::new())
        };
        let differs = now.action != recorded.action();
        (differs.then_some(Difference { event: event.seq, recorded, now }), faults)
    }

    /// How many events the policy was asked about.
    #[must_use]
    pub const fn decided(&self) -> u64 {
        self.decided
    }

    /// Whether the micro-VM would ask about it under this policy.
    fn waits(&self, event: &Event) -> bool {
        let started = || self.analysis.graph().task_started();
        event.kind.can_wait()
            && match event.kind {
                Kind::DiskWrite { .. } | Kind::KernelImmutableWrite { .. } => true,
                Kind::NetFlow { .. } | Kind::NetDns { .. } => self.asked.contains(event.kind.name()),
                _ => self.asked.contains(event.kind.name()) && started(),
            }
    }
}
