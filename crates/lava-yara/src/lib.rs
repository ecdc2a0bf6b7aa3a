//! YARA rules of the user's over what a session kept: the task, files that it wrote, what it said and was sent, memory dumps.
//!
//! The engine is yara-x. A rule that matches becomes a finding ([`Scanner::scan`]); what the rule says of itself in its `meta` and tags
//! becomes the finding's technique, severity and reason (`meta.rs`).
//!
//! *Invariants:* no I/O: whoever calls reads rules and contents. The rules are often a stranger's and the contents an attacker's, so
//! both are bounded: rules include nothing, a content is searched for [`LIMIT`] at most, and one that takes longer is told.
//!
//! *Limits:* modules for Windows, macOS and Android files (`pe`, `dotnet`, `macho`, `dex`, `lnk`), `vt` and `cuckoo` are not there: rules that
//! need one are left out, and [`Rules::add`] says which. A memory dump is searched in pieces that overlap by 64 KiB, so a longer match across
//! two of them is missed, and it has no `filesize` and no modules.
#![forbid(unsafe_code)]

mod meta;
mod subject;

pub use subject::contents;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::time::Duration;

use lava_event::{Finding, Grade, GuestText, Produced, Sha256};
use yara_x::errors::ScanError;
use yara_x::{Compiler, SourceCode};

/// The longest that one content is searched.
pub const LIMIT: Duration = Duration::from_secs(20);
/// Of a file of rules, bytes.
pub const MAX_FILE: usize = 16 << 20;
/// Findings of one rule in a session.
const MAX_OF_RULE: usize = 100;
/// Findings in a session.
const MAX_IN_ALL: usize = 1000;
/// A piece of a memory dump, and how much of it the next one begins with.
const PIECE: usize = 16 << 20;
const OVERLAP: usize = 64 << 10;
/// Modules that rules may name and that are not there.
const ABSENT: [&str; 9] = ["pe", "dotnet", "macho", "dex", "lnk", "crx", "vt", "cuckoo", "magic"];

/// Rules that are being put together.
pub struct Sources(Compiler<'static>);

/// Compiled rules.
pub struct Rules(yara_x::Rules);

impl Default for Sources {
    fn default() -> Self {
        let mut compiler = Compiler::new();
        // Old rules are written for YARA's looser regular expressions.
        compiler.enable_includes(false).relaxed_re_syntax(true);
        for module in ABSENT {
            compiler.ignore_module(module);
        }
        Self(compiler)
    }
}

impl Sources {
    /// Takes a file of rules in; `name` is how it is called in messages. What of it can be used is used.
    ///
    /// Rules that only need a module that is not here are left out: of these, if there are any, says which and why.
    ///
    /// # Errors
    /// What is wrong with some of it, with its line and column, as text for people.
    pub fn add(&mut self, name: &str, text: &[u8]) -> Result<Option<String>, String> {
        if text.len() > MAX_FILE {
            return Err(format!("larger than the {MAX_FILE} bytes that are read of a file of rules"));
        }
        let (errors, warnings) = (self.0.errors().len(), self.0.warnings().len());
        // Two files may have a rule of the same name.
        self.0.new_namespace(name);
        let added = self.0.add_source(SourceCode::from(text).with_origin(name)).map(drop);
        let told = |all: Vec<String>| if all.is_empty() { None } else { Some(all.join("\n")) };
        if added.is_err() {
            let all = self.0.errors().iter().skip(errors).map(ToString::to_string).collect();
            return Err(told(all).unwrap_or_else(|| "no YARA rules".to_owned()));
        }
        // A rule that is left out for its module is only warned of.
        let left_out =
            self.0.warnings().iter().skip(warnings).filter(|warning| warning.code().starts_with("unsupported"));
        Ok(told(left_out.map(ToString::to_string).collect()))
    }

    /// The rules.
    #[must_use]
    pub fn build(self) -> Rules {
        Rules(self.0.build())
    }
}

impl Rules {
    /// How many there are; private ones count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What came of searching.
#[derive(Debug, Default)]
pub struct Scanned {
    /// A finding for each rule that matches.
    pub findings: Vec<Finding>,
    /// What could not be searched, and why.
    pub problems: Vec<String>,
}

/// A rule that matches a content that belongs to no event: a memory dump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match {
    /// The rule.
    pub rule: String,
    /// Pattern, place in the content and length of its first matches.
    pub places: Vec<(String, u64, u64)>,
}

/// Searches the contents of one session.
pub struct Scanner<'r> {
    rules: &'r Rules,
    /// Contents that were searched: the same bytes are not searched twice.
    known: BTreeSet<Sha256>,
    said: BTreeMap<String, usize>,
}

impl<'r> Scanner<'r> {
    /// A session's.
    #[must_use]
    pub fn new(rules: &'r Rules) -> Self {
        Self { rules, known: BTreeSet::new(), said: BTreeMap::new() }
    }

    /// Searches what was kept with an event. The same content is told with the event that brought it first.
    pub fn scan(&mut self, produced: &Produced) -> Scanned {
        let mut scanned = Scanned::default();
        for artifact in &produced.artifacts {
            let Some(subject) = subject::of(&produced.event.kind, artifact.sha256) else { continue };
            if !self.rules.is_empty() && self.known.insert(artifact.sha256) {
                self.scan_content(produced, &subject, &artifact.bytes, &mut scanned);
            }
        }
        scanned
    }

    fn scan_content(&mut self, produced: &Produced, subject: &str, bytes: &[u8], scanned: &mut Scanned) {
        let mut scanner = yara_x::Scanner::new(&self.rules.0);
        scanner.set_timeout(LIMIT).max_matches_per_pattern(1000);
        let results = match scanner.scan(bytes) {
            Ok(results) => results,
            Err(error) => {
                scanned.problems.push(format!("YARA: {subject} was not searched to its end: {}", told(&error)));
                return;
            }
        };
        for rule in results.matching_rules() {
            let name = rule.identifier().to_owned();
            let in_all: usize = self.said.values().sum();
            let said = self.said.entry(name.clone()).or_default();
            if *said >= MAX_OF_RULE || in_all >= MAX_IN_ALL {
                continue;
            }
            *said += 1;
            let about = meta::of(&rule);
            scanned.findings.push(Finding {
                detector: format!("yara.{name}"),
                title: format!("{subject} matches the YARA rule {name}"),
                why: about.why,
                stage: about.stage,
                technique: about.technique,
                severity: about.severity,
                grade: Grade::Observed,
                time_ns: produced.event.time_ns,
                process: produced.event.actor(),
                events: vec![produced.event.seq],
                distance: None,
            });
        }
    }
}

/// Searches a memory dump.
///
/// # Errors
/// If it cannot be read, or takes too long: `limit` is for all of it.
pub fn scan_memory(rules: &Rules, mut from: impl Read, limit: Duration) -> Result<Vec<Match>, String> {
    /// Places that are told of each rule.
    const PLACES: usize = 10;
    let mut scanner = yara_x::blocks::Scanner::new(&rules.0);
    scanner.set_timeout(limit).max_matches_per_pattern(PLACES);
    let mut piece = Vec::with_capacity(PIECE);
    let mut base = 0;
    loop {
        let kept = piece.len();
        let read =
            from.by_ref().take((PIECE - kept) as u64).read_to_end(&mut piece).map_err(|error| error.to_string())?;
        match read {
            0 if kept == 0 => return Ok(Vec::new()), // yara-x 1.12 panics if it is asked for the end of nothing.
            0 => break,
            _ => {}
        }
        scanner.scan(base, &piece).map_err(|error| told(&error))?;
        let done = piece.len().saturating_sub(OVERLAP);
        piece.drain(..done);
        base += done;
    }
    let results = scanner.finish().map_err(|error| told(&error))?;
    let places = |rule: &yara_x::Rule<'_, '_>| {
        let all = rule.patterns().flat_map(|pattern| {
            let name = pattern.identifier().to_owned();
            let places = pattern.matches().map(|found| (found.range().start as u64, found.range().len() as u64));
            places.map(|(at, length)| (name.clone(), at, length)).collect::<Vec<_>>()
        });
        all.take(PLACES).collect()
    };
    let found =
        results.matching_rules().map(|rule| Match { rule: rule.identifier().to_owned(), places: places(&rule) });
    Ok(found.collect())
}

fn told(error: &ScanError) -> String {
    match error {
        ScanError::Timeout => "it takes too long".to_owned(),
        other => GuestText::from(other.to_string().as_str()).to_string(),
    }
}
