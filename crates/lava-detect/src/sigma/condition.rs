//! Sigma conditions: `selection and not 1 of filter_*`.

use super::error::{Code, SigmaError};

/// Longest condition, bytes.
const MAX_LENGTH: usize = 4096;
/// Deepest nesting of parentheses and `not`.
const MAX_DEPTH: usize = 32;

/// What must hold; selections by their index.
#[derive(Debug)]
pub(super) enum Condition {
    Selection(usize),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
}

impl Condition {
    /// Evaluates it; `selection` says whether one of them holds.
    pub(super) fn holds(&self, selection: &mut impl FnMut(usize) -> bool) -> bool {
        match self {
            Self::Selection(index) => selection(*index),
            Self::Not(inner) => !inner.holds(selection),
            Self::All(parts) => parts.iter().all(|part| part.holds(selection)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(selection)),
        }
    }

    /// Whether it can hold, and whether it can fail, if those selections never hold.
    pub(super) fn possible(&self, never: &impl Fn(usize) -> bool) -> (bool, bool) {
        match self {
            Self::Selection(index) => (!never(*index), true),
            Self::Not(inner) => {
                let (hold, fail) = inner.possible(never);
                (fail, hold)
            }
            Self::All(parts) => {
                (parts.iter().all(|part| part.possible(never).0), parts.iter().any(|part| part.possible(never).1))
            }
            Self::Any(parts) => {
                (parts.iter().any(|part| part.possible(never).0), parts.iter().all(|part| part.possible(never).1))
            }
        }
    }

    /// Calls it for each selection, with whether the condition wants it not to hold.
    pub(super) fn each(&self, negated: bool, call: &mut impl FnMut(usize, bool)) {
        match self {
            Self::Selection(index) => call(*index, negated),
            Self::Not(inner) => inner.each(!negated, call),
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.each(negated, call)),
        }
    }
}

struct Parser<'a> {
    tokens: Vec<&'a str>,
    at: usize,
    names: &'a [String],
    line: usize,
}

/// Parses the condition over the selections of these names.
pub(super) fn parse(text: &str, names: &[String], line: usize) -> Result<Condition, SigmaError> {
    if text.len() > MAX_LENGTH {
        return Err(SigmaError::new(Code::TooLarge, line, format!("the condition is longer than {MAX_LENGTH} bytes")));
    }
    if text.contains('|') {
        return Err(SigmaError::new(Code::Aggregation, line, "aggregations in conditions are not supported"));
    }
    let mut parser = Parser { tokens: tokens(text), at: 0, names, line };
    let condition = parser.any(0)?;
    match parser.peek() {
        None => Ok(condition),
        Some(token) => Err(parser.syntax(&format!("`{token}` is not expected there"))),
    }
}

fn tokens(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    for word in text.split_whitespace() {
        let mut rest = word;
        while let Some(at) = rest.find(['(', ')']) {
            let (before, bracket) = rest.split_at(at);
            if !before.is_empty() {
                out.push(before);
            }
            let (bracket, behind) = bracket.split_at(1);
            out.push(bracket);
            rest = behind;
        }
        if !rest.is_empty() {
            out.push(rest);
        }
    }
    out
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).copied()
    }

    /// Takes the next token if it is this word, in any case.
    fn take(&mut self, word: &str) -> bool {
        let is = self.peek().is_some_and(|token| token.eq_ignore_ascii_case(word));
        self.at += usize::from(is);
        is
    }

    fn syntax(&self, message: &str) -> SigmaError {
        SigmaError::new(Code::Condition, self.line, format!("condition: {message}"))
    }

    fn any(&mut self, depth: usize) -> Result<Condition, SigmaError> {
        let mut parts = vec![self.all(depth)?];
        while self.take("or") {
            parts.push(self.all(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::Any(parts) })
    }

    fn all(&mut self, depth: usize) -> Result<Condition, SigmaError> {
        let mut parts = vec![self.one(depth)?];
        while self.take("and") {
            parts.push(self.one(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::All(parts) })
    }

    fn one(&mut self, depth: usize) -> Result<Condition, SigmaError> {
        if depth > MAX_DEPTH {
            return Err(SigmaError::new(Code::TooLarge, self.line, "the condition is nested too deeply"));
        }
        if self.take("not") {
            return Ok(Condition::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take("(") {
            let inner = self.any(depth + 1)?;
            return if self.take(")") { Ok(inner) } else { Err(self.syntax("a closing bracket is missing")) };
        }
        let Some(token) = self.peek() else { return Err(self.syntax("it ends too early")) };
        let quantity = self.tokens.get(self.at + 1).is_some_and(|next| next.eq_ignore_ascii_case("of"));
        self.at += 1;
        if !quantity {
            return match self.names.iter().position(|name| name == token) {
                Some(index) => Ok(Condition::Selection(index)),
                None if matches!(token.to_ascii_lowercase().as_str(), "and" | "or" | "of" | ")") => {
                    Err(self.syntax(&format!("`{token}` is not expected there")))
                }
                None => Err(self.unknown(token)),
            };
        }
        let every = match token.to_ascii_lowercase().as_str() {
            "1" | "any" => false,
            "all" => true,
            _ => return Err(self.syntax(&format!("`{token} of` is neither `1 of` nor `all of`"))),
        };
        self.at += 1;
        let Some(pattern) = self.peek() else { return Err(self.syntax("it ends too early")) };
        self.at += 1;
        let them = pattern.eq_ignore_ascii_case("them");
        let parts: Vec<Condition> = (0..self.names.len())
            .filter(|&i| match self.names.get(i) {
                // As the specification has it, what begins with an underscore is left out, unless it is asked for.
                Some(name) if name.starts_with('_') && !pattern.starts_with('_') => false,
                Some(name) => them || crate::glob::matches(pattern, name.as_bytes()),
                None => false,
            })
            .map(Condition::Selection)
            .collect();
        match (parts.is_empty(), every) {
            // `all of` nothing would hold always.
            (true, _) => Err(self.unknown(pattern)),
            (false, true) => Ok(Condition::All(parts)),
            (false, false) => Ok(Condition::Any(parts)),
        }
    }

    fn unknown(&self, name: &str) -> SigmaError {
        let known = self.names.join(", ");
        let message = format!("condition: there is no selection `{name}`; there is: {known}");
        SigmaError::new(Code::UnknownSelection, self.line, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let names: Vec<String> = ["a", "b", "f_1", "f_2", "_x"].map(str::to_owned).into();
        for (text, true_ones, expect) in [
            ("a and b", "a b", true),
            ("a and b", "a", false),
            ("a or b and f_1", "a", true),
            ("(a or b) and f_1", "a", false),
            ("not a", "", true),
            ("a and not 1 of f_*", "a", true),
            ("a and not 1 of f_*", "a f_2", false),
            ("all of f_*", "f_1 f_2", true),
            ("all of f_*", "f_1", false),
            ("1 of them", "_x", false),
            ("1 of *", "_x", false),
            ("1 of _*", "_x", true),
            ("all of them", "a b f_1 f_2", true),
            ("NOT (NOT(a))", "a", true),
        ] {
            let condition = parse(text, &names, 1).unwrap_or_else(|error| panic!("{text}: {error}"));
            let mut holds = |i: usize| true_ones.split(' ').any(|name| name == names[i]);
            assert_eq!(condition.holds(&mut holds), expect, "{text} with {true_ones}");
        }
        let deep = format!("{}a{}", "(".repeat(1000), ")".repeat(1000));
        for (text, code) in [
            ("", Code::Condition),
            ("a and", Code::Condition),
            ("(a", Code::Condition),
            ("a)", Code::Condition),
            ("a b", Code::Condition),
            ("2 of a", Code::Condition),
            ("c", Code::UnknownSelection),
            ("all of z*", Code::UnknownSelection),
            ("a | count() > 3", Code::Aggregation),
            (&deep, Code::TooLarge),
        ] {
            assert_eq!(parse(text, &names, 1).unwrap_err().code, code, "{text}");
        }
    }
}
