//! Why a rule is not used: one coded reason, with its line.

/// What is the matter. The codes are stable: documentation and searches rely on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// S0001: not YAML, or YAML of a form that rules do not use (anchors, one name twice).
    NotYaml,
    /// S0002: larger than what is compiled: file, nesting, condition, pattern, number of rules.
    TooLarge,
    /// S0003: a field that every rule must have is missing.
    Missing,
    /// S0004: a field has a value that it cannot have.
    BadValue,
    /// S0005: the condition cannot be parsed.
    Condition,
    /// S0006: the condition names a selection that the rule does not have.
    UnknownSelection,
    /// S0007: a modifier that Sigma does not have.
    UnknownModifier,
    /// S0101: for another system than Linux.
    OtherSystem,
    /// S0102: a log source for which LAVA has no events.
    NoEvents,
    /// S0103: a field that LAVA's events cannot answer.
    NoField,
    /// S0104: no detection rule: a correlation, a filter, a collection's global part.
    OtherKind,
    /// S0105: the old aggregation (`| count() by`), which Sigma replaced with correlations.
    Aggregation,
    /// S0106: a modifier of Sigma that is not implemented here.
    Modifier,
    /// S0107: a regular expression that the linear-time engine does not have (look-around, back-references) or is none.
    Pattern,
}

impl Code {
    /// The code as printed: `lava::sigma::S0101`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotYaml => "lava::sigma::S0001",
            Self::TooLarge => "lava::sigma::S0002",
            Self::Missing => "lava::sigma::S0003",
            Self::BadValue => "lava::sigma::S0004",
            Self::Condition => "lava::sigma::S0005",
            Self::UnknownSelection => "lava::sigma::S0006",
            Self::UnknownModifier => "lava::sigma::S0007",
            Self::OtherSystem => "lava::sigma::S0101",
            Self::NoEvents => "lava::sigma::S0102",
            Self::NoField => "lava::sigma::S0103",
            Self::OtherKind => "lava::sigma::S0104",
            Self::Aggregation => "lava::sigma::S0105",
            Self::Modifier => "lava::sigma::S0106",
            Self::Pattern => "lava::sigma::S0107",
        }
    }

    /// True if the rule itself is wrong; false if it is a good rule that cannot be used here.
    #[must_use]
    pub const fn is_malformed(self) -> bool {
        matches!(
            self,
            Self::NotYaml
                | Self::TooLarge
                | Self::Missing
                | Self::BadValue
                | Self::Condition
                | Self::UnknownSelection
                | Self::UnknownModifier
        )
    }
}

/// Why a rule is not used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {message} ({})", code.name())]
pub struct SigmaError {
    /// What kind of reason.
    pub code: Code,
    /// Line of the file, from 1.
    pub line: usize,
    /// The reason, in a sentence.
    pub message: String,
}

impl SigmaError {
    pub(super) fn new(code: Code, line: usize, message: impl Into<String>) -> Self {
        Self { code, line, message: message.into() }
    }
}
