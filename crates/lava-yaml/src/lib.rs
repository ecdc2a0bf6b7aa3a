//! YAML that somebody else wrote: a small tree in which every value knows its place.
//!
//! Built from the parser's events, so that what costs much is refused before it costs anything: aliases (a few lines of them can stand
//! for gigabytes), nesting deeper and more values than the caller wants ([`Limits`]).
//!
//! *Limits:* the numbers of tags and anchors are no values; unless they are refused ([`Limits::plain`]) they are passed over. One name
//! twice in a mapping is kept twice: the caller says what that means ([`Node::repeated`]).
#![forbid(unsafe_code)]

use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// How much is read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Deepest nesting of mappings and sequences.
    pub depth: usize,
    /// Most values, mappings and sequences in all.
    pub nodes: usize,
    /// Refuse anchors, tags and a second document too.
    pub plain: bool,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Bytes of the text.
    pub span: Range<usize>,
    /// Line of the text, from 1.
    pub line: usize,
    /// What stands there.
    pub value: Value,
}

/// What can stand somewhere.
#[derive(Clone, Debug)]
pub enum Value {
    /// A text.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// Names and values, in the file's order.
    Mapping(Vec<(Node, Node)>),
}

/// A text.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// Without quotes, folded, escapes resolved.
    pub text: String,
    /// It stood there without quotes: only then `null`, `true` and numbers are no text.
    pub plain: bool,
    /// The file holds it letter by letter, at [`Node::span`] (one line, no escapes).
    pub literal: bool,
}

impl Node {
    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// True for `null`, `~` and nothing at all, unquoted.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar)
            if scalar.plain && matches!(scalar.text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The member of a mapping: the first of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Value::Mapping(pairs) = &self.value else { return None };
        pairs.iter().find(|(key, _)| key.text() == Some(name)).map(|(_, value)| value)
    }

    /// `a text`, `a list`, `a mapping`
    #[must_use]
    pub const fn what(&self) -> &'static str {
        match self.value {
            Value::Scalar(_) => "a text",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    /// The first name that stands twice in one mapping, here or below.
    #[must_use]
    pub fn repeated(&self) -> Option<&Self> {
        match &self.value {
            Value::Scalar(_) => None,
            Value::Sequence(items) => items.iter().find_map(Self::repeated),
            Value::Mapping(pairs) => {
                let mut known = std::collections::BTreeSet::new();
                let again =
                    pairs.iter().map(|(key, _)| key).find(|key| key.text().is_some_and(|name| !known.insert(name)));
                again.or_else(|| pairs.iter().find_map(|(_, value)| value.repeated()))
            }
        }
    }
}

/// Why a text is not read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Bytes of the text.
    pub span: Range<usize>,
    /// Line of the text, from 1.
    pub line: usize,
    /// The reason, in a sentence.
    pub message: String,
    /// It is YAML, but too much of it.
    pub too_large: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for Failure {}

/// The parser counts characters, the places count bytes.
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
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>, Option<Node>),
}

/// A mapping or sequence that has not ended yet: where it began.
struct Begun {
    start: usize,
    line: usize,
    open: Open,
}

impl Begun {
    fn add(&mut self, node: Node) {
        match &mut self.open {
            Open::Sequence(items) => items.push(node),
            Open::Mapping(pairs, key) => match key.take() {
                None => *key = Some(node),
                Some(name) => pairs.push((name, node)),
            },
        }
    }

    fn close(self) -> Node {
        let (end, value) = match self.open {
            Open::Sequence(items) => (items.last().map(|node| node.span.end), Value::Sequence(items)),
            Open::Mapping(pairs, _) => {
                (pairs.last().map(|(key, value)| key.span.end.max(value.span.end)), Value::Mapping(pairs))
            }
        };
        let end = end.unwrap_or(self.start).max(self.start);
        Node { span: self.start..end, line: self.line, value }
    }
}

/// What the limits have against a parser's event.
fn refused(event: &Event<'_>, limits: &Limits, depth: usize, documents: usize) -> Option<(&'static str, bool)> {
    match event {
        Event::Alias(_) => Some(("anchors and aliases are not read", false)),
        Event::DocumentStart(_) if limits.plain && documents > 0 => Some(("the file holds one document", false)),
        Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
            if limits.plain && *anchor != 0 =>
        {
            Some(("anchors and aliases are not read", false))
        }
        Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_))
            if limits.plain =>
        {
            Some(("tags are not read", false))
        }
        Event::SequenceStart(..) | Event::MappingStart(..) if depth >= limits.depth => {
            Some(("nested too deeply", true))
        }
        _ => None,
    }
}

/// The documents of a text; empty ones are left out.
///
/// # Errors
/// If it is no YAML, or more of it than the limits allow.
pub fn documents(text: &str, limits: &Limits) -> Result<Vec<Node>, Failure> {
    let bytes = Bytes { text, offsets: text.char_indices().map(|(at, _)| at).collect() };
    let mut open: Vec<Begun> = Vec::new();
    let mut roots = Vec::new();
    let (mut nodes, mut documents) = (0, 0);
    for next in Parser::new_from_str(text) {
        let (event, place) = next.map_err(|error| {
            let at = bytes.at(error.marker().index());
            let (line, message) = (error.marker().line(), error.info().to_owned());
            Failure { span: at..at, line, message, too_large: false }
        })?;
        let (span, line) = (bytes.span(place), place.start.line());
        let mut problem = refused(&event, limits, open.len(), documents);
        nodes += usize::from(matches!(event, Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..)));
        if nodes > limits.nodes {
            problem = Some(("more values than are read of one file", true));
        }
        if let Some((message, too_large)) = problem {
            return Err(Failure { span, line, message: message.to_owned(), too_large });
        }
        let start = span.start;
        let done = match event {
            Event::DocumentStart(_) => {
                documents += 1;
                None
            }
            Event::SequenceStart(..) => {
                open.push(Begun { start, line, open: Open::Sequence(Vec::new()) });
                None
            }
            Event::MappingStart(..) => {
                open.push(Begun { start, line, open: Open::Mapping(Vec::new(), None) });
                None
            }
            Event::Scalar(value, style, ..) => Some(scalar(text, value.into_owned(), style, span, line)),
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(Begun::close),
            _ => None,
        };
        let Some(node) = done else { continue };
        match open.last_mut() {
            Some(begun) => begun.add(node),
            None if node.is_null() => {}
            None => roots.push(node),
        }
    }
    Ok(roots)
}

fn scalar(source: &str, text: String, style: ScalarStyle, span: Range<usize>, line: usize) -> Node {
    let quoted = matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted);
    let inner = if quoted && span.len() >= 2 { span.start + 1..span.end - 1 } else { span.clone() };
    let literal = source.get(inner.clone()) == Some(text.as_str());
    let span = if literal { inner } else { span };
    Node { span, line, value: Value::Scalar(Scalar { text, plain: style == ScalarStyle::Plain, literal }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { depth: 4, nodes: 100, plain: true };
    const LOOSE: Limits = Limits { plain: false, ..LIMITS };

    #[test]
    fn values_know_their_places() {
        let text = "a: 'ö'\nb:\n  - x\n  - \"y\\n\"\nc: ~\n";
        let root = documents(text, &LIMITS).unwrap().remove(0);
        let Some(Value::Sequence(items)) = root.get("b").map(|node| &node.value) else { panic!("{root:?}") };
        let place = |node: &Node| (&text[node.span.clone()], node.line, node.text().map(str::to_owned));
        assert_eq!(place(root.get("a").unwrap()), ("ö", 1, Some("ö".into())));
        assert_eq!(place(&items[0]), ("x", 3, Some("x".into())));
        assert_eq!(place(&items[1]), ("\"y\\n\"", 4, Some("y\n".into())));
        assert!(root.get("c").unwrap().is_null() && !root.get("a").unwrap().is_null());
    }

    #[test]
    fn what_costs_much_is_refused() {
        for (text, limits, expect) in [
            ("a: &x 1\nb: *x", LOOSE, "line 2: anchors and aliases are not read"),
            ("a: &x 1", LIMITS, "line 1: anchors and aliases are not read"),
            ("a: !!int 1", LIMITS, "line 1: tags are not read"),
            ("a: 1\n---\nb: 2", LIMITS, "line 2: the file holds one document"),
            ("[[[[[]]]]]", LIMITS, "line 1: nested too deeply"),
            (&*"- 1\n".repeat(100), LIMITS, "line 100: more values than are read of one file"),
        ] {
            assert_eq!(documents(text, &limits).unwrap_err().to_string(), expect, "{text}");
        }
        assert_eq!(documents("a: &x !!int 1\n---\nb: 2\n---\n~\n", &LOOSE).unwrap().len(), 2);
    }

    #[test]
    fn a_name_twice_is_found_wherever_it_stands() {
        for (text, expect) in [("a: 1\nb: 2", None), ("a: 1\na: 2", Some(2)), ("- x:\n    - {c: 1, c: 2}\n", Some(2))] {
            assert_eq!(documents(text, &LIMITS).unwrap()[0].repeated().map(|node| node.line), expect, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c:\\- \n'\"\\[\\]{}&*!|>#,\u{e4}\u{1F600}]{0,80}") {
            match documents(&text, &LOOSE) {
                Ok(roots) => roots.iter().for_each(|root| assert!(text.get(root.span.clone()).is_some())),
                Err(failure) => prop_assert!(text.get(failure.span).is_some() && failure.line > 0),
            }
        }
    }
}
