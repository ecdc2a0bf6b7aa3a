//! The YAML of Sigma rules: a small tree in which every value knows its line.
//!
//! Built from the parser's events, so that aliases (a few lines of them can stand for gigabytes), tags and deep nesting are
//! refused before they cost anything. A file may hold several documents, each a rule.

use saphyr_parser::{Event, Parser, ScalarStyle};

/// Deepest nesting of mappings and sequences.
const MAX_DEPTH: usize = 12;
/// Values in one file.
const MAX_NODES: usize = 50_000;

#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Line of the file, from 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// The text, and true if it stood there without quotes (only then `null`, `true` and numbers are no text).
    Scalar(String, bool),
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    /// The text, if it is a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// True for `null`, `~` and nothing at all, unquoted.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(text, true) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The member of a mapping.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Value::Mapping(pairs) = &self.value else { return None };
        pairs.iter().find(|(key, _)| key.text() == Some(name)).map(|(_, value)| value)
    }
}

pub(super) struct Failure {
    pub(super) line: usize,
    pub(super) message: String,
    pub(super) too_large: bool,
}

enum Open {
    Sequence(usize, Vec<Node>),
    Mapping(usize, Vec<(Node, Node)>, Option<Node>),
}

/// The documents of a file; empty ones are left out.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, Failure> {
    let mut open: Vec<Open> = Vec::new();
    let mut roots = Vec::new();
    let mut nodes = 0;
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|error| Failure {
            line: error.marker().line(),
            message: error.info().to_owned(),
            too_large: false,
        })?;
        let line = span.start.line();
        let refuse = |message: &str, too_large| Err(Failure { line, message: message.to_owned(), too_large });
        nodes += 1;
        let done = match event {
            Event::Alias(_) => return refuse("anchors and aliases are not read", false),
            _ if nodes > MAX_NODES => return refuse("more values than a rule file may have", true),
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() >= MAX_DEPTH => {
                return refuse("nested too deeply", true);
            }
            Event::SequenceStart(..) => {
                open.push(Open::Sequence(line, Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                open.push(Open::Mapping(line, Vec::new(), None));
                None
            }
            Event::Scalar(text, style, ..) => {
                Some(Node { line, value: Value::Scalar(text.into_owned(), style == ScalarStyle::Plain) })
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(|open| match open {
                Open::Sequence(line, items) => Node { line, value: Value::Sequence(items) },
                Open::Mapping(line, pairs, _) => Node { line, value: Value::Mapping(pairs) },
            }),
            _ => None,
        };
        let Some(node) = done else { continue };
        match open.last_mut() {
            None if node.is_null() => {}
            None => roots.push(node),
            Some(Open::Sequence(_, items)) => items.push(node),
            Some(Open::Mapping(_, pairs, key)) => match key.take() {
                None => *key = Some(node),
                Some(name) => {
                    if pairs.iter().any(|(known, _)| known.text().is_some() && known.text() == name.text()) {
                        let message = format!("`{}` stands there twice", name.text().unwrap_or_default());
                        return Err(Failure { line: name.line, message, too_large: false });
                    }
                    pairs.push((name, node));
                }
            },
        }
    }
    Ok(roots)
}
