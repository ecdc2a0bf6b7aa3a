//! Sigma rules: the user's own detections, compiled and matched against what the task does.
//!
//! Written here because the crates that exist do not fit: sigma-rust 0.7 misses matches (a wildcard inside `contains` is not
//! retried) and takes `all of` nothing for true; rsigma-eval 0.23 needs a newer Rust than this workspace promises.
//!
//! What is supported: log sources of Linux in the categories `process_creation`, `file_event`, `file_delete` and
//! `network_connection`; the modifiers `contains`, `startswith`, `endswith`, `all`, `cased`, `re` (`i`, `m`, `s`), `cidr`,
//! `exists`, `lt`, `lte`, `gt`, `gte`, `base64`, and `windash`, which changes nothing on Linux; lists, mappings, keywords;
//! whole conditions. Of every other rule [`RuleSet::add`] says why it is not used.
//!
//! *Limits:* a field's text is looked at up to 64 KiB; user names other than root are numbers; of 65,536 processes the command
//! line is remembered. Sizes of files, patterns, nesting and the number of rules are bounded.

mod condition;
mod error;
mod field;
mod record;
mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lava_event::{Finding, Grade};
use lava_yaml::{Limits, Node};

pub use error::{Code, SigmaError};

use crate::behaviour::Context;
use record::Processes;
use rule::Rule;

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
    /// Used, or why not.
    pub result: Result<(), SigmaError>,
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
        documents
            .iter()
            .map(|document| {
                let result = rule::compile(document).and_then(|rule| {
                    if rules.len() >= MAX_RULES {
                        let message = format!("{MAX_RULES} rules are in use already");
                        return Err(SigmaError::new(Code::TooLarge, document.line, message));
                    }
                    rules.push(rule);
                    Ok(())
                });
                Outcome { title: rule::title(document), result }
            })
            .collect()
    }
}

/// The rules over one session.
#[derive(Debug, Default)]
pub(crate) struct Sigma {
    rules: RuleSet,
    processes: Processes,
    /// What each rule, by its place, was said of.
    said: BTreeMap<usize, BTreeSet<String>>,
    matches: usize,
}

impl Sigma {
    pub(crate) fn new(rules: RuleSet) -> Self {
        Self { rules, ..Self::default() }
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
        let Some(record) = self.processes.record(context.event, context.taint) else { return Vec::new() };
        let rules = Arc::clone(&self.rules.rules);
        let matching =
            rules.iter().enumerate().filter(|(_, rule)| rule.category == record.category && rule.matches(&record));
        let subject = record.subject.as_str();
        let new = matching.filter(|&(index, _)| {
            let said = self.said.entry(index).or_default();
            let new = self.matches < MAX_MATCHES && said.len() < MAX_MATCHES_OF_RULE && said.insert(subject.to_owned());
            self.matches += usize::from(new);
            new
        });
        new.map(|(_, rule)| Finding {
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
        })
        .collect()
    }
}
