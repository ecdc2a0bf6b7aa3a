//! Sigma rules: the user's own detections, compiled and matched against what the task does.
//!
//! Written here because the crates that exist do not fit: sigma-rust 0.7 misses matches (a wildcard inside `contains` is not
//! retried) and takes `all of` nothing for true; rsigma-eval 0.23 needs a newer Rust than this workspace promises.
//!
//! What is supported: the log sources and fields of [`log_sources`]; the modifiers `contains`, `startswith`, `endswith`, `all`,
//! `neq`, `cased`, `re` (`i`, `m`, `s`), `cidr`, `exists`, `lt`, `lte`, `gt`, `gte`, `fieldref`, `windash`, `base64`, `base64offset`,
//! `wide`, `utf16`, `utf16le`, `utf16be`; lists, mappings, keywords; whole conditions; collections (`action: global`). A part of a
//! rule that our events cannot answer never holds: the rule is used if it can match all the same, and is not one that says what is
//! left out. Of every rule [`RuleSet::add`] says what became of it.
//!
//! *Limits:* a field's text is looked at up to 64 KiB; of 65,536 processes the command line is remembered. Sizes of files, patterns,
//! nesting and the number of rules are bounded.

mod auditd;
mod collection;
mod condition;
mod error;
mod field;
mod modifier;
mod record;
mod rule;
mod source;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lava_event::{Event, Finding, Grade};
use lava_yaml::{Limits, Node};

pub use error::{Code, SigmaError};
pub use record::Record;
pub use source::{LogSource, log_sources};

use crate::Taint;
use crate::behaviour::Context;
use record::Processes;
use rule::Rule;
use source::Source;

/// A rule nests deepest in its selections; a file may hold a collection of rules.
const LIMITS: Limits = Limits { depth: 12, nodes: 50_000, plain: false };
/// Largest rule file, bytes.
pub const MAX_FILE: usize = 256 << 10;
/// Rules that are used at most.
pub const MAX_RULES: usize = 10_000;

/// Findings of all rules in a session. Our own behaviours' are not counted: a noisy rule silences none of them.
pub const MAX_MATCHES: usize = 500;
/// Findings of one rule in a session.
pub const MAX_MATCHES_OF_RULE: usize = 50;

/// What became of one rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Its title; empty if it has none that could be read.
    pub title: String,
    /// Used, and what of it never matches; or why it is not.
    pub result: Result<Vec<String>, SigmaError>,
}

/// Compiled rules. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    rules: Arc<Vec<Rule>>,
}

impl RuleSet {
    /// No rules.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many rules are used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// True if none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules that match the record: the place of each in the set, and its identifier, which is its findings' `detector`.
    pub fn matching<'a>(&'a self, record: &'a Record) -> impl Iterator<Item = (usize, &'a str)> {
        let matching = self.rules.iter().enumerate().filter(|(_, rule)| rule.matches(record));
        matching.map(|(index, rule)| (index, rule.id.as_str()))
    }

    /// Compiles the rules of a file and says of each what became of it. A file that is no YAML has one outcome.
    pub fn add(&mut self, text: &str) -> Vec<Outcome> {
        let failed = |code, line, message: &str| {
            vec![Outcome { title: String::new(), result: Err(SigmaError::new(code, line, message)) }]
        };
        if text.len() > MAX_FILE {
            return failed(Code::TooLarge, 1, "the file is larger than 256 KiB");
        }
        let documents = match lava_yaml::documents(text, &LIMITS) {
            Ok(documents) if documents.is_empty() => return failed(Code::Missing, 1, "there is no rule in it"),
            Ok(documents) => match documents.iter().find_map(Node::repeated) {
                Some(name) => {
                    let message = format!("`{}` stands there twice", name.text().unwrap_or_default());
                    return failed(Code::NotYaml, name.line, &message);
                }
                None => documents,
            },
            Err(failure) => {
                let code = if failure.too_large { Code::TooLarge } else { Code::NotYaml };
                return failed(code, failure.line, &failure.message);
            }
        };
        // The set is being made: nobody else holds it yet, so this does not copy.
        let Some(rules) = Arc::get_mut(&mut self.rules) else {
            return failed(Code::TooLarge, 1, "the rules are in use already");
        };
        collection::each(documents, |document| {
            let title = document.as_ref().map(|document| rule::title(document)).unwrap_or_default();
            let result = document.and_then(|document| {
                let rule = rule::compile(document)?;
                if rules.len() >= MAX_RULES {
                    let message = format!("{MAX_RULES} rules are in use already");
                    return Err(SigmaError::new(Code::TooLarge, document.line, message));
                }
                let notes = rule.notes.clone();
                rules.push(rule);
                Ok(notes)
            });
            Outcome { title, result }
        })
    }
}

/// What rules see of a session: its events as records.
#[derive(Debug, Default)]
pub struct Recorder(Processes);

impl Recorder {
    /// The records of the session's next event. The graph behind `taint` has taken it in already.
    #[must_use]
    pub fn observe(&mut self, event: &Event, taint: &dyn Taint) -> Vec<Record> {
        if !taint.task_started() {
            return Vec::new();
        }
        self.0.remember(event);
        match event.actor() {
            Some(actor) if taint.is_tainted(actor) => self.0.records(event, taint, &|_| true),
            _ => Vec::new(),
        }
    }
}

/// The rules over one session.
#[derive(Debug, Default)]
pub(crate) struct Sigma {
    rules: RuleSet,
    /// Sources of records that a rule looks at: of every event it is asked.
    wanted: BTreeSet<Source>,
    processes: Processes,
    /// What each rule, by its place, was said of.
    said: BTreeMap<usize, BTreeSet<String>>,
    matches: usize,
}

impl Sigma {
    pub(crate) fn new(rules: RuleSet) -> Self {
        let taken = |source: &Source| rules.rules.iter().any(|rule| rule.source.takes(*source));
        let wanted = log_sources().iter().map(|known| known.source).filter(taken).collect();
        Self { rules, wanted, ..Self::default() }
    }

    /// True if a command line may be missing because there were too many processes.
    pub(crate) fn is_saturated(&self) -> bool {
        self.processes.is_full()
    }

    /// A finding of each rule that matches. What a rule is about (a command line, a file, an address) it is said of once.
    pub(crate) fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        if self.rules.is_empty() {
            return Vec::new();
        }
        self.processes.remember(context.event);
        let Some(process) = context.tainted_actor() else { return Vec::new() };
        let rules = Arc::clone(&self.rules.rules);
        let records = self.processes.records(context.event, context.taint, &|source| self.wanted.contains(&source));
        let mut findings = Vec::new();
        for record in &records {
            for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.matches(record)) {
                let subject = record.subject();
                let said = self.said.entry(index).or_default();
                if self.matches >= MAX_MATCHES || said.len() >= MAX_MATCHES_OF_RULE || !said.insert(subject.to_owned())
                {
                    continue;
                }
                self.matches += 1;
                findings.push(Finding {
                    detector: rule.id.clone(),
                    title: format!("{}: {subject}", rule.title),
                    why: rule.why.clone(),
                    stage: rule.stage,
                    technique: rule.technique.clone(),
                    severity: rule.severity,
                    grade: Grade::Observed,
                    time_ns: context.event.time_ns,
                    process: Some(process),
                    events: vec![context.event.seq],
                    distance: None,
                });
            }
        }
        findings
    }
}
