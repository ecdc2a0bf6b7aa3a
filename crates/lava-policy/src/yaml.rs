//! The YAML of policy files: a small tree in which every value knows its place.
//!
//! Built from the parser's events, so that what a policy never needs is refused before it costs anything: aliases (a few
//! lines of them can stand for gigabytes), tags, several documents, nesting deeper than [`MAX_DEPTH`].

use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Deepest nesting of mappings and sequences.
const MAX_DEPTH: usize = 8;

pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
}

pub(crate) enum Value {
    /// The text, and true if the source holds it letter by letter (one line, no escapes).
    Scalar(String, bool),
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    pub(crate) fn what(&self) -> &'static str {
        match self.value {
            Value::Scalar(..) => "a text",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

pub(crate) struct Failure {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) too_large: bool,
}

/// The parser counts characters, diagnostics count bytes.
struct Bytes<'a> {
    text: &'a str,
    offsets: Vec<usize>,
}

impl Bytes<'_> {
    fn at(&self, index: usize) -> usize {
        self.offsets.get(index).copied().unwrap_or(self.text.len())
    }

    fn span(&self, span: Span) -> Range<usize> {
        let start = self.at(span.start.index());
        let end = self.at(span.end.index()).max(start);
        start..start + self.text.get(start..end).map_or(0, |t| t.trim_end().len())
    }
}

enum Open {
    Sequence(usize, Vec<Node>),
    Mapping(usize, Vec<(Node, Node)>, Option<Node>),
}

/// Parses `text`; `None` if there is nothing in it.
pub(crate) fn parse(text: &str) -> Result<Option<Node>, Failure> {
    let bytes = Bytes { text, offsets: text.char_indices().map(|(at, _)| at).collect() };
    let mut parser = Parser::new_from_str(text);
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|error| {
            let at = bytes.at(error.marker().index());
            Failure { span: at..at, message: error.info().to_owned(), too_large: false }
        })?;
        let span = bytes.span(span);
        let refuse =
            |message: &str, too_large| Err(Failure { span: span.clone(), message: message.to_owned(), too_large });
        let done = match event {
            Event::Alias(_) => return refuse("anchors and aliases are not used in policies", false),
            Event::DocumentStart(_) if root.is_some() => {
                return refuse("a policy file holds one document", false);
            }
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                return refuse("anchors and aliases are not used in policies", false);
            }
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                return refuse("tags are not used in policies", false);
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() >= MAX_DEPTH => {
                return refuse("nested too deeply", true);
            }
            Event::SequenceStart(..) => {
                open.push(Open::Sequence(span.start, Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                open.push(Open::Mapping(span.start, Vec::new(), None));
                None
            }
            Event::Scalar(value, style, ..) => {
                let quoted = matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted);
                let inner = if quoted && span.len() >= 2 { span.start + 1..span.end - 1 } else { span.clone() };
                let literal = text.get(inner.clone()) == Some(&*value);
                let span = if literal { inner } else { span };
                Some(Node { span, value: Value::Scalar(value.into_owned(), literal) })
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(|open| match open {
                Open::Sequence(start, items) => {
                    let end = items.last().map_or(start, |n| n.span.end);
                    Node { span: start..end.max(start), value: Value::Sequence(items) }
                }
                Open::Mapping(start, pairs, _) => {
                    let end = pairs.last().map_or(start, |(k, v)| k.span.end.max(v.span.end));
                    Node { span: start..end.max(start), value: Value::Mapping(pairs) }
                }
            }),
            _ => None,
        };
        if let Some(node) = done {
            match open.last_mut() {
                None => root = Some(node),
                Some(Open::Sequence(_, items)) => items.push(node),
                Some(Open::Mapping(_, pairs, key)) => match key.take() {
                    None => *key = Some(node),
                    Some(name) => pairs.push((name, node)),
                },
            }
        }
    }
    Ok(root)
}
