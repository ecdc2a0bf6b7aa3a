//! A rule's text as a regular expression: wildcards, escapes, and the encodings it may be looked for in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::{Code, SigmaError};
use super::modifier::{Base64, Modifiers, Wide};

/// Dashes of one value that `windash` stands for; as pySigma bounds them.
const MAX_DASHES: usize = 3;
/// Windows' ways to begin an option: `-`, `/`, en dash, em dash, horizontal bar.
const DASHES: &str = "[-/\u{2013}\u{2014}\u{2015}]";

/// A text's parts: what it says, or a wildcard.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Letter(char),
    /// `?`
    One,
    /// `*`
    Any,
}

/// Sigma's escapes: `\*`, `\?`, `\\`; a backslash before anything else is a backslash.
fn parts(text: &str) -> Vec<Part> {
    let mut out = Vec::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => Part::Letter(chars.next_if(|next| matches!(next, '*' | '?' | '\\')).unwrap_or('\\')),
            c => Part::Letter(c),
        });
    }
    out
}

/// The regular expression of what the value stands for, without anchors.
pub(super) fn pattern(value: &str, modifiers: &Modifiers, line: usize) -> Result<String, SigmaError> {
    let parts = parts(value);
    if modifiers.wide.is_some() || modifiers.base64.is_some() {
        return encoded(&parts, modifiers, line);
    }
    let dashes = if modifiers.windash { dashes(&parts) } else { Vec::new() };
    if dashes.len() > MAX_DASHES {
        let message = format!("`windash` stands for at most {MAX_DASHES} dashes of a value");
        return Err(SigmaError::new(Code::BadValue, line, message));
    }
    let mut out = String::with_capacity(value.len() + 8);
    for (i, part) in parts.iter().enumerate() {
        match part {
            _ if dashes.contains(&i) => out.push_str(DASHES),
            Part::Any => out.push_str(".*"),
            Part::One => out.push('.'),
            Part::Letter(c) => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    Ok(out)
}

/// Places of the dashes and slashes that begin a word and end none (`\B[-/]\b`).
fn dashes(parts: &[Part]) -> Vec<usize> {
    let word = |part: Option<&Part>| matches!(part, Some(Part::Letter(c)) if c.is_alphanumeric() || *c == '_');
    let before = |i: usize| i.checked_sub(1).and_then(|i| parts.get(i));
    let is = |&i: &usize| {
        matches!(parts.get(i), Some(Part::Letter('-' | '/'))) && !word(before(i)) && word(parts.get(i + 1))
    };
    (0..parts.len()).filter(is).collect()
}

fn encoded(parts: &[Part], modifiers: &Modifiers, line: usize) -> Result<String, SigmaError> {
    let bad = |message: &str| SigmaError::new(Code::BadValue, line, message);
    let letter = |part: &Part| match part {
        Part::Letter(c) => Some(*c),
        _ => None,
    };
    let text: Option<String> = parts.iter().map(letter).collect();
    let text = text.ok_or_else(|| bad("a text with wildcards cannot be encoded"))?;
    let units = || text.encode_utf16();
    let bytes: Vec<u8> = match modifiers.wide {
        None => text.into_bytes(),
        Some(Wide::Little) => units().flat_map(u16::to_le_bytes).collect(),
        Some(Wide::Big) => units().flat_map(u16::to_be_bytes).collect(),
        Some(Wide::Marked) => [0xff, 0xfe].into_iter().chain(units().flat_map(u16::to_le_bytes)).collect(),
    };
    match modifiers.base64 {
        Some(Base64::Whole) => Ok(regex::escape(&STANDARD.encode(bytes))),
        Some(Base64::Offset) => {
            let ways: Vec<String> = (0..3).map(|offset| regex::escape(&at_offset(&bytes, offset))).collect();
            Ok(format!("(?:{})", ways.join("|")))
        }
        // What is no UTF-8 stands in a record as `\xNN`: what cannot stand there is not looked for.
        None => String::from_utf8(bytes)
            .map(|text| regex::escape(&text))
            .map_err(|_| bad("this text in UTF-16 is no text any more: only `base64` and `base64offset` can follow")),
    }
}

/// The characters of base64 that do not depend on what stands before and behind the bytes.
fn at_offset(bytes: &[u8], offset: usize) -> String {
    let shifted: Vec<u8> = std::iter::repeat_n(b' ', offset).chain(bytes.iter().copied()).collect();
    let encoded = STANDARD.encode(&shifted);
    let start = [0, 2, 3].get(offset).copied().unwrap_or_default();
    let cut = [0, 3, 2].get(shifted.len() % 3).copied().unwrap_or_default();
    encoded.get(start..encoded.len().saturating_sub(cut)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_at_each_offset() {
        // The three of SigmaHQ's rule on coin miners for `--donate-level=`.
        let expect = ["LS1kb25hdGUtbGV2ZWw9", "0tZG9uYXRlLWxldmVsP", "tLWRvbmF0ZS1sZXZlbD"];
        for (offset, expect) in expect.into_iter().enumerate() {
            assert_eq!(at_offset(b"--donate-level=", offset), expect);
        }
    }

    #[test]
    fn dashes_that_begin_a_word() {
        let at = |text: &str| dashes(&parts(text));
        assert_eq!(at(" -param-name /x - a-b"), [1, 13]);
        assert_eq!(at("-a"), [0]);
        assert_eq!(at("--a"), [1]);
    }
}
