//! What can be wrong with a policy file: one coded diagnostic per mistake, with the place underlined.

use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode, SourceSpan};

/// What is wrong. The codes are stable: documentation and searches rely on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// E0001: not YAML, or YAML of a form a policy does not use (anchors, tags, several documents).
    NotYaml,
    /// E0002: a field that policies do not have.
    UnknownField,
    /// E0003: an action that is none, or another value of the wrong type.
    BadValue,
    /// E0004: the condition is not CEL.
    Syntax,
    /// E0005: the condition names a variable or a function that there is not.
    UnknownName,
    /// E0006: two rules, or two fields, of one name.
    Duplicate,
    /// E0007: a field is missing.
    MissingField,
    /// E0008: `event.kind` is compared with a kind that no event has, or whose events never wait.
    UnknownKind,
    /// E0009: the file, a list or a condition is larger than what is evaluated.
    TooLarge,
    /// E0010: a policy is extended that does not come with LAVA.
    UnknownPolicy,
}

impl Code {
    /// The code as printed: `lava::policy::E0003`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotYaml => "lava::policy::E0001",
            Self::UnknownField => "lava::policy::E0002",
            Self::BadValue => "lava::policy::E0003",
            Self::Syntax => "lava::policy::E0004",
            Self::UnknownName => "lava::policy::E0005",
            Self::Duplicate => "lava::policy::E0006",
            Self::MissingField => "lava::policy::E0007",
            Self::UnknownKind => "lava::policy::E0008",
            Self::TooLarge => "lava::policy::E0009",
            Self::UnknownPolicy => "lava::policy::E0010",
        }
    }
}

/// One mistake in a policy file.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PolicyError {
    /// What kind of mistake.
    pub code: Code,
    /// What is wrong, in a sentence.
    pub message: String,
    /// What stands beside the underlined place.
    pub label: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Bytes of the source that are underlined.
    pub span: SourceSpan,
    source_code: Arc<NamedSource<String>>,
}

impl Diagnostic for PolicyError {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(self.code.name()))
    }

    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&*self.source_code)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(Some(self.label.clone()), self.span))))
    }
}

/// Collects the mistakes of one file.
pub(crate) struct Report {
    source: Arc<NamedSource<String>>,
    pub(crate) errors: Vec<PolicyError>,
}

impl Report {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        Self { source: Arc::new(NamedSource::new(name, text.to_owned())), errors: Vec::new() }
    }

    pub(crate) fn push(
        &mut self,
        code: Code,
        span: std::ops::Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
        help: Option<String>,
    ) {
        self.errors.push(PolicyError {
            code,
            message: message.into(),
            label: label.into(),
            help,
            span: span.into(),
            source_code: Arc::clone(&self.source),
        });
    }
}

/// `did you mean` for a misspelt name, or the list of what there is.
pub(crate) fn suggestion(name: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|k| (strsim::jaro_winkler(name, k), *k))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, near)) => format!("did you mean `{near}`?"),
        None => format!("there is: {}", known.join(", ")),
    }
}
