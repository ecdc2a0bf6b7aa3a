//! Policies: rules in YAML with CEL conditions, answering events that wait for a decision.
//!
//! [`Policy::compile`] reads a file and reports every mistake in it, [`Policy::decide`] answers an event. The first rule
//! that matches, in the file's order, decides; a rule that cannot be evaluated does not match, and is reported as an
//! [`EvaluationFault`]. In conditions `event` has the JSON form's names, `trace` is the [`TraceView`]; whole numbers
//! are CEL `int` where they fit and `uint` above. Optional fields are tested with `has(event.process)`.
//!
//! A rule with `action: ask` leaves the answer to an analyst for `within` seconds ([`Policy::asks`]); its `otherwise`, *deny* if not
//! given, is the decision's action, and holds if nobody answers.
//!
//! *Invariant:* no I/O, no clock; the same event and trace give the same answer.
//!
//! *Limits:* 1 MiB and 1000 rules a file; see `condition.rs` for expressions. No regular expressions.
#![forbid(unsafe_code)]

mod compile;
mod condition;
mod error;
mod evaluate;
mod yaml;

use std::time::Duration;

use lava_event::{Action, Decision, Event, Stage, Verdict};

pub use error::{Code, PolicyError};

/// Longest policy file, bytes.
pub const MAX_FILE: usize = 1 << 20;
/// Most rules in a file.
pub const MAX_RULES: usize = 1000;

/// Names of the policies that come with LAVA.
pub const BUILTIN: [&str; 4] = ["observe", "protect", "remediate", "contain"];

/// The text of a policy that comes with LAVA.
#[must_use]
pub fn builtin(name: &str) -> Option<&'static str> {
    match name {
        "observe" => Some(include_str!("../../../rules/policies/observe.yaml")),
        "protect" => Some(include_str!("../../../rules/policies/protect.yaml")),
        "remediate" => Some(include_str!("../../../rules/policies/remediate.yaml")),
        "contain" => Some(include_str!("../../../rules/policies/contain.yaml")),
        _ => None,
    }
}

/// What is known of the trace when an event is decided: `trace` in conditions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceView {
    /// The acting process descends from the task, or was touched by it.
    pub tainted: bool,
    /// Stages of the kill chain seen so far.
    pub stages: Vec<Stage>,
    /// The verdict so far.
    pub verdict: Verdict,
    /// The task was handed to the guest.
    pub task_started: bool,
    /// What makes programs start by themselves there, if the event's path is such a place (`cron job`...); else empty.
    pub autostart: &'static str,
}

/// A rule that could not be evaluated, and so did not match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EvaluationFault {
    /// The rule.
    pub rule: String,
    /// Why, in a sentence; escaped, fit for display.
    pub message: String,
}

pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) condition: condition::Condition,
    /// What happens; if the analyst is asked: what happens if they do not answer.
    pub(crate) action: Action,
    /// How long the analyst has to answer.
    pub(crate) ask: Option<Duration>,
    pub(crate) reason: Option<String>,
}

/// A compiled policy.
pub struct Policy {
    name: String,
    description: String,
    default: Action,
    rules: Vec<Rule>,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy").field("name", &self.name).field("rules", &self.rules.len()).finish_non_exhaustive()
    }
}

impl Policy {
    /// Compiles the policy in `text`; `source_name` stands in diagnostics.
    ///
    /// # Errors
    /// Every mistake found, in the file's order.
    pub fn compile(source_name: &str, text: &str) -> Result<Self, Vec<PolicyError>> {
        compile::compile(source_name, text)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says of itself; may be empty.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Of the kinds that can wait ([`lava_event::Kind::WAITING`]), those that a rule may be about.
    pub fn waits_for(&self) -> impl Iterator<Item = &'static str> {
        let about = |kind: &str| {
            let mut conditions = self.rules.iter().map(|rule| &rule.condition);
            conditions
                .any(|condition| condition.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|known| known == kind)))
        };
        lava_event::Kind::WAITING.iter().copied().filter(move |kind| about(kind))
    }

    /// Answers `event`, and says which rules could not be evaluated on the way.
    #[must_use]
    pub fn decide(&self, event: &Event, trace: &TraceView) -> (Decision, Vec<EvaluationFault>) {
        evaluate::decide(self.default, &self.rules, event, trace)
    }

    /// How long the analyst is asked before a decision of this policy holds; `None`: it holds at once.
    #[must_use]
    pub fn asks(&self, decision: &Decision) -> Option<Duration> {
        let by = decision.rule.as_ref()?;
        self.rules.iter().find(|rule| rule.name == *by)?.ask
    }
}
