//! One line of a selection: `CommandLine|contains|all: [...]`.
//!
//! Texts with wildcards become regular expressions, matched in time linear in the guest's text; their compiled size is bounded.

use std::net::IpAddr;

use base64::Engine as _;
use regex::{Regex, RegexBuilder};

use super::error::{Code, SigmaError};
use super::record::Record;
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
    /// Not there, or empty.
    Null,
    Exists(bool),
    Cidr(IpAddr, u8),
    Number(Order, f64),
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Less,
    AtMost,
    More,
    AtLeast,
}

/// A field and what it is held against. Without a name (keywords) any field will do.
#[derive(Debug)]
pub(super) struct Field {
    name: Option<String>,
    tests: Vec<Test>,
    all: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Equals,
    Contains,
    StartsWith,
    EndsWith,
    Re,
    Cidr,
    Exists,
    Number(OrderTag),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OrderTag {
    Lt,
    Lte,
    Gt,
    Gte,
}

/// What the modifiers say.
struct Modifiers {
    how: How,
    all: bool,
    cased: bool,
    multi_line: bool,
    dot_all: bool,
    ignore_case: bool,
    base64: bool,
}

fn modifiers(text: &str, line: usize) -> Result<Modifiers, SigmaError> {
    let mut out = Modifiers {
        how: How::Equals,
        all: false,
        cased: false,
        multi_line: false,
        dot_all: false,
        ignore_case: false,
        base64: false,
    };
    for modifier in text.split('|').skip(1) {
        let how = match modifier {
            "contains" => How::Contains,
            "startswith" => How::StartsWith,
            "endswith" => How::EndsWith,
            "re" => How::Re,
            "cidr" => How::Cidr,
            "exists" => How::Exists,
            "lt" => How::Number(OrderTag::Lt),
            "lte" => How::Number(OrderTag::Lte),
            "gt" => How::Number(OrderTag::Gt),
            "gte" => How::Number(OrderTag::Gte),
            "i" | "m" | "s" if out.how == How::Re => {
                match modifier {
                    "i" => out.ignore_case = true,
                    "m" => out.multi_line = true,
                    _ => out.dot_all = true,
                }
                continue;
            }
            "all" => {
                out.all = true;
                continue;
            }
            "cased" => {
                out.cased = true;
                continue;
            }
            "base64" => {
                out.base64 = true;
                continue;
            }
            // Windows' ways to write a dash; a Linux program knows one.
            "windash" => continue,
            "base64offset" | "utf16" | "utf16le" | "utf16be" | "wide" | "expand" | "fieldref" | "neq" | "minute"
            | "hour" | "day" | "week" | "month" | "year" => {
                return Err(SigmaError::new(
                    Code::Modifier,
                    line,
                    format!("the modifier `{modifier}` is not supported"),
                ));
            }
            _ => {
                return Err(SigmaError::new(Code::UnknownModifier, line, format!("there is no modifier `{modifier}`")));
            }
        };
        if out.how != How::Equals {
            let message = format!("`{modifier}` cannot be combined with the modifier before it");
            return Err(SigmaError::new(Code::UnknownModifier, line, message));
        }
        out.how = how;
    }
    Ok(out)
}

/// Sigma's escapes: `\*`, `\?`, `\\`; a backslash before anything else is a backslash.
fn wildcards(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '\\' => match chars.next_if(|next| matches!(next, '*' | '?' | '\\')) {
                Some(escaped) => out.push_str(&regex::escape(escaped.encode_utf8(&mut [0; 4]))),
                None => out.push_str("\\\\"),
            },
            c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    out
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
            let inner = match modifiers.base64 {
                true => regex::escape(&base64::engine::general_purpose::STANDARD.encode(value)),
                false => wildcards(value),
            };
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
        How::Number(tag) => {
            let order = match tag {
                OrderTag::Lt => Order::Less,
                OrderTag::Lte => Order::AtMost,
                OrderTag::Gt => Order::More,
                OrderTag::Gte => Order::AtLeast,
            };
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

impl Test {
    fn holds(&self, text: Option<&str>) -> bool {
        match self {
            Self::Null => text.is_none_or(str::is_empty),
            Self::Exists(wanted) => text.is_some() == *wanted,
            Self::Pattern(regex) => text.is_some_and(|text| regex.is_match(text)),
            Self::Cidr(network, bits) => {
                text.and_then(|text| text.parse().ok()).is_some_and(|address| in_network(address, *network, *bits))
            }
            Self::Number(order, bound) => text.and_then(|text| text.parse::<f64>().ok()).is_some_and(|n| match order {
                Order::Less => n < *bound,
                Order::AtMost => n <= *bound,
                Order::More => n > *bound,
                Order::AtLeast => n >= *bound,
            }),
        }
    }
}

impl Field {
    /// From a mapping's key and value. The caller has looked whether the field is known.
    pub(super) fn parse(key: &str, value: &Node) -> Result<Self, SigmaError> {
        let mut modifiers = modifiers(key, value.line)?;
        let name = key.split('|').next().unwrap_or_default();
        let keywords = name.is_empty();
        if keywords && modifiers.how == How::Equals {
            modifiers.how = How::Contains;
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
        Ok(Self { name: (!keywords).then(|| name.to_owned()), tests, all: modifiers.all })
    }

    pub(super) fn holds(&self, record: &Record) -> bool {
        let holds = |test: &Test| match &self.name {
            Some(name) => test.holds(record.get(name)),
            None => record.texts().any(|text| test.holds(Some(text))),
        };
        if self.all { self.tests.iter().all(holds) } else { self.tests.iter().any(holds) }
    }
}
