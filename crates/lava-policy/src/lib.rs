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
//! A policy may extend one that comes with LAVA (`extends: protect`): its own rules come first and take the place of those of the same
//! name. Under `profiles` stands what is other for tasks of some profiles, likewise laid over the rest ([`Policy::for_profile`]). In a dry
//! run every answer is *allow*, and the reason says what it would have been.
//!
//! Where allowed flows reach the real network, [`Policy::with_real_network`] bounds what the policy allows: see [`Nearby`].
//!
//! *Invariant:* no I/O, no clock; the same event and trace give the same answer.
//!
//! *Limits:* 1 MiB and 1000 rules a file; see `condition.rs` for expressions. No regular expressions.
#![forbid(unsafe_code)]

mod compile;
mod condition;
mod egress;
mod error;
mod evaluate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lava_event::{Action, Decision, Event, Stage, Verdict};

pub use egress::Nearby;
pub use error::{Code, PolicyError};

/// Longest policy file, bytes.
pub const MAX_FILE: usize = 1 << 20;
/// Most rules in a file.
pub const MAX_RULES: usize = 1000;

/// What waits of the network: a new flow, a question for a name.
const FLOW: &str = "net.flow";
const NAME: &str = "net.dns";

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
    /// The event is one that opening honest tasks of the profile leads to: it is in the baseline. Without a baseline nothing is.
    pub in_baseline: bool,
    /// The names that the guest was told the event's destination has, in lower case; empty: it was told none.
    pub names: Vec<String>,
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

/// What is other for the tasks of one profile.
#[derive(Clone, Default)]
pub(crate) struct Override {
    pub(crate) default: Option<Action>,
    pub(crate) dry_run: Option<bool>,
    pub(crate) rules: Vec<Arc<Rule>>,
}

/// The rules above come first, and take the place of those below that have the same name.
pub(crate) fn layered(above: &[Arc<Rule>], below: &[Arc<Rule>]) -> Vec<Arc<Rule>> {
    let left = below.iter().filter(|rule| !above.iter().any(|known| known.name == rule.name));
    above.iter().chain(left).map(Arc::clone).collect()
}

/// A compiled policy.
#[derive(Clone)]
pub struct Policy {
    name: String,
    description: String,
    default: Action,
    dry_run: bool,
    rules: Vec<Arc<Rule>>,
    profiles: BTreeMap<String, Override>,
    /// What it allows of the network leaves the host; this is what is near the host then.
    real: Option<Nearby>,
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

    /// Lays what is other for some profiles over what is already.
    pub(crate) fn with_profiles(mut self, profiles: BTreeMap<String, Override>) -> Self {
        for (name, above) in profiles {
            let below = self.profiles.remove(&name).unwrap_or_default();
            let over = Override {
                default: above.default.or(below.default),
                dry_run: above.dry_run.or(below.dry_run),
                rules: layered(&above.rules, &below.rules),
            };
            self.profiles.insert(name, over);
        }
        self
    }

    /// The policy as it is for tasks of that profile.
    #[must_use]
    pub fn for_profile(&self, profile: &str) -> Self {
        let Some(over) = self.profiles.get(profile) else { return self.clone() };
        Self {
            default: over.default.unwrap_or(self.default),
            dry_run: over.dry_run.unwrap_or(self.dry_run),
            rules: layered(&over.rules, &self.rules),
            ..self.clone()
        }
    }

    /// The profiles for which it says something else.
    pub fn profiles(&self) -> impl Iterator<Item = &str> {
        self.profiles.keys().map(String::as_str)
    }

    /// The same policy, as a dry run or in earnest.
    #[must_use]
    pub fn with_dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self.profiles.values_mut().for_each(|over| over.dry_run = None);
        self
    }

    /// True if every answer is *allow*, and what it would have been stands in the reason.
    #[must_use]
    pub const fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// The same policy, where what it allows of the network leaves the host: flows and names that no rule allows are denied, dry run or not.
    #[must_use]
    pub fn with_real_network(self, nearby: Nearby) -> Self {
        Self { real: Some(nearby), ..self }
    }

    /// True if there is a rule that may allow a flow: without one nothing of the real network can be reached.
    #[must_use]
    pub fn may_allow_flows(&self) -> bool {
        let gives = |rule: &Rule| rule.action == Action::Allow || rule.ask.is_some();
        self.rules.iter().any(|rule| gives(rule) && rule.condition.may_be_about(FLOW))
    }

    /// Of the kinds that can wait ([`lava_event::Kind::WAITING`]), those that a rule may be about.
    pub fn waits_for(&self) -> impl Iterator<Item = &'static str> {
        let about = |kind: &str| {
            (self.real.is_some() && [FLOW, NAME].contains(&kind))
                || self.rules.iter().any(|rule| rule.condition.may_be_about(kind))
        };
        lava_event::Kind::WAITING.iter().copied().filter(move |kind| about(kind))
    }

    /// Answers `event`, and says which rules could not be evaluated on the way.
    #[must_use]
    pub fn decide(&self, event: &Event, trace: &TraceView) -> (Decision, Vec<EvaluationFault>) {
        let real = self.real.as_ref().filter(|_| [FLOW, NAME].contains(&event.kind.name()));
        let counts = |rule: &Rule| real.is_none_or(|nearby| nearby.counts(rule, event));
        let (decision, faults) = evaluate::decide(self.default, &self.rules, &counts, event, trace);
        if let Some(nearby) = real {
            return (nearby.bounded(decision, event), faults);
        }
        if !self.dry_run || decision.action == Action::Allow {
            return (decision, faults);
        }
        let why = decision.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let reason = Some(format!("dry run, the answer would be {}{why}", decision.action));
        (Decision { action: Action::Allow, reason, ..decision }, faults)
    }

    /// How long the analyst is asked before a decision of this policy holds; `None`: it holds at once. Nobody is asked in a dry run.
    #[must_use]
    pub fn asks(&self, decision: &Decision) -> Option<Duration> {
        if self.dry_run {
            return None;
        }
        let by = decision.rule.as_ref()?;
        self.rules.iter().find(|rule| rule.name == *by)?.ask
    }
}
