//! One line of a selection: `CommandLine|contains|all: [...]`.
//!
//! Texts with wildcards become regular expressions, matched in time linear in the guest's text; their compiled size is bounded.

use std::net::IpAddr;

use regex::{Regex, RegexBuilder};

use super::error::{Code, SigmaError};
use super::modifier::{self, How, Modifiers, Order};
use super::record::Record;
use super::text;
use lava_yaml::{Node, Value};

/// Compiled size of one pattern, bytes.
const PATTERN_SIZE: usize = 1 << 20;
/// Longest pattern, bytes.
const MAX_PATTERN: usize = 8192;
/// Values of one field.
const MAX_VALUES: usize = 4096;

#[derive(Debug)]
enum Test {
    Pattern(Regex),
    /// Not there.
    Null,
    Exists(bool),
    Cidr(IpAddr, u8),
    Number(Order, f64),
    /// Another field of the same event.
    Field(String, How, bool),
}

/// A field and what it is held against. Without a name (keywords) any field will do.
#[derive(Debug)]
pub(super) struct Field {
    name: Option<String>,
    tests: Vec<Test>,
    all: bool,
    negated: bool,
}

fn build(pattern: &str, modifiers: &Modifiers, line: usize) -> Result<Regex, SigmaError> {
    let re = modifiers.how == How::Re;
    if pattern.len() > MAX_PATTERN {
        return Err(SigmaError::new(Code::TooLarge, line, format!("a pattern is longer than {MAX_PATTERN} bytes")));
    }
    RegexBuilder::new(pattern)
        .case_insensitive(if re { modifiers.ignore_case } else { !modifiers.cased })
        .multi_line(modifiers.multi_line)
        .dot_matches_new_line(!re || modifiers.dot_all)
        .size_limit(PATTERN_SIZE)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                SigmaError::new(Code::TooLarge, line, "a pattern is too large when compiled")
            }
            error => {
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                SigmaError::new(Code::Pattern, line, format!("the regular expression cannot be used: {reason}"))
            }
        })
}

fn pattern(value: &str, modifiers: &Modifiers, line: usize) -> Result<Test, SigmaError> {
    let text = match modifiers.how {
        How::Re => value.to_owned(),
        how => {
            let inner = text::pattern(value, modifiers, line)?;
            match how {
                How::Contains => inner,
                How::StartsWith => format!(r"\A(?:{inner})"),
                How::EndsWith => format!(r"(?:{inner})\z"),
                _ => format!(r"\A(?:{inner})\z"),
            }
        }
    };
    build(&text, modifiers, line).map(Test::Pattern)
}

fn test(node: &Node, modifiers: &Modifiers) -> Result<Test, SigmaError> {
    let bad = |message: &str| Err(SigmaError::new(Code::BadValue, node.line, message));
    let Some(value) = node.text() else { return bad("a field's value is neither a text nor a list of texts") };
    if modifiers.reference {
        return Ok(Test::Field(value.to_owned(), modifiers.how, modifiers.cased));
    }
    match modifiers.how {
        _ if node.is_null() => Ok(Test::Null),
        How::Exists => match value {
            "true" | "yes" => Ok(Test::Exists(true)),
            "false" | "no" => Ok(Test::Exists(false)),
            _ => bad("`exists` is true or false"),
        },
        How::Cidr => {
            let (address, bits) = value.split_once('/').unwrap_or((value, ""));
            let Ok(address) = address.parse::<IpAddr>() else { return bad("no network address") };
            let whole = if address.is_ipv4() { 32 } else { 128 };
            let bits = if bits.is_empty() { Some(whole) } else { bits.parse().ok() };
            match bits.filter(|&bits| bits <= whole) {
                Some(bits) => Ok(Test::Cidr(address, bits)),
                None => bad("no network address: its prefix is too long"),
            }
        }
        How::Number(order) => {
            value.parse().map_or_else(|_| bad("not a number"), |number| Ok(Test::Number(order, number)))
        }
        _ => pattern(value, modifiers, node.line),
    }
}

fn in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            bits == 0 || (u32::from(a) ^ u32::from(n)) >> 32u32.saturating_sub(bits.into()).min(31) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            bits == 0 || (u128::from(a) ^ u128::from(n)) >> 128u32.saturating_sub(bits.into()).min(127) == 0
        }
        _ => false,
    }
}

/// One text against another, as the modifiers say.
fn alike(text: &str, other: &str, how: How, cased: bool) -> bool {
    let fold = |text: &str| if cased { text.to_owned() } else { text.to_lowercase() };
    let (text, other) = (fold(text), fold(other));
    match how {
        How::Contains => text.contains(&other),
        How::StartsWith => text.starts_with(&other),
        How::EndsWith => text.ends_with(&other),
        _ => text == other,
    }
}

impl Test {
    /// Whether it holds for one value that is there.
    fn holds(&self, text: &str, record: &Record) -> bool {
        match self {
            Self::Null => false,
            Self::Exists(wanted) => *wanted,
            Self::Pattern(regex) => regex.is_match(text),
            Self::Cidr(network, bits) => text.parse().is_ok_and(|address| in_network(address, *network, *bits)),
            Self::Number(order, bound) => text.parse::<f64>().is_ok_and(|n| match order {
                Order::Less => n < *bound,
                Order::AtMost => n <= *bound,
                Order::More => n > *bound,
                Order::AtLeast => n >= *bound,
            }),
            Self::Field(name, how, cased) => record.get(name).any(|other| alike(text, other, *how, *cased)),
        }
    }

    /// Whether it holds if there is no value.
    const fn holds_of_nothing(&self) -> bool {
        matches!(self, Self::Null | Self::Exists(false))
    }
}

impl Field {
    /// From a mapping's key and value. The caller has looked whether the field is known.
    pub(super) fn parse(key: &str, value: &Node) -> Result<Self, SigmaError> {
        let mut modifiers = modifier::parse(key, value.line)?;
        let name = key.split('|').next().unwrap_or_default();
        let keywords = name.is_empty();
        if keywords && modifiers.how == How::Equals {
            modifiers.how = How::Contains;
        }
        if keywords && (modifiers.how == How::Exists || modifiers.reference) {
            let message = format!("`{}` needs a field's name", key.escape_debug());
            return Err(SigmaError::new(Code::BadValue, value.line, message));
        }
        let single = std::slice::from_ref(value);
        let values = match &value.value {
            Value::Sequence(items) => items.as_slice(),
            _ => single,
        };
        if values.is_empty() || values.len() > MAX_VALUES {
            let message = format!("`{key}` has {} values; 1 to {MAX_VALUES} are possible", values.len());
            return Err(SigmaError::new(Code::BadValue, value.line, message));
        }
        let tests = values.iter().map(|node| test(node, &modifiers)).collect::<Result<_, _>>()?;
        let name = (!keywords).then(|| name.to_owned());
        Ok(Self { name, tests, all: modifiers.all, negated: modifiers.negated })
    }

    /// The field's name, and those of the fields that it is held against.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let others = self.tests.iter().filter_map(|test| match test {
            Test::Field(name, ..) => Some(name.as_str()),
            _ => None,
        });
        self.name.as_deref().into_iter().chain(others)
    }

    /// True if it is about that field, and holds for none of these values.
    pub(super) fn excludes<'a>(&self, name: &str, mut values: impl Iterator<Item = &'a str>) -> bool {
        if self.name.as_deref() != Some(name) || self.negated {
            return false;
        }
        let could = |text: &str| {
            let holds = |test: &Test| match test {
                Test::Pattern(regex) => regex.is_match(text),
                // What they say depends on the event.
                _ => true,
            };
            if self.all { self.tests.iter().all(holds) } else { self.tests.iter().any(holds) }
        };
        !values.any(could)
    }

    pub(super) fn holds(&self, record: &Record) -> bool {
        let holds = |test: &Test| match &self.name {
            Some(name) => {
                let mut values = record.get(name).peekable();
                if values.peek().is_none() {
                    test.holds_of_nothing()
                } else {
                    values.any(|text| test.holds(text, record))
                }
            }
            None => record.texts().any(|text| test.holds(text, record)),
        };
        let all = if self.all { self.tests.iter().all(holds) } else { self.tests.iter().any(holds) };
        all != self.negated
    }
}
