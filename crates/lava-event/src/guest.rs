//! Values that came out of the guest.
//!
//! A guest can put terminal escapes, HTML, right-to-left marks or bytes that are no UTF-8 into every name it chooses.
//! [`Guest`] makes that visible in the type: formatting it escapes, and reading the value out is an explicit call.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A value read from guest memory, guest disk or the guest's network: not to be trusted, not to be printed as it is.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Guest<T>(T);

/// Text from the guest: bytes, mostly UTF-8, never guaranteed to be.
pub type GuestText = Guest<Vec<u8>>;

impl<T> Guest<T> {
    /// Marks a value as coming from the guest.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Reads the value out. The caller takes over the duty of escaping and bounding it.
    pub const fn untrusted(&self) -> &T {
        &self.0
    }
}

impl From<&str> for GuestText {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<Vec<u8>> for GuestText {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl GuestText {
    /// The raw bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// True if there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text for *matching* (rules, detectors): UTF-8 as it is, each byte that is none as `\xNN`, each backslash that
    /// stands before an `x` as `\x5c`. Lossless, but control characters are kept: not for display.
    #[must_use]
    pub fn matchable(&self) -> String {
        let mut out = String::with_capacity(self.0.len());
        let mut rest = self.0.as_slice();
        while !rest.is_empty() {
            let (valid, bad) = match std::str::from_utf8(rest) {
                Ok(text) => (text, 0),
                Err(error) => {
                    let (good, _) = rest.split_at(error.valid_up_to());
                    let bad = error.error_len().unwrap_or(rest.len() - good.len());
                    (std::str::from_utf8(good).unwrap_or_default(), bad)
                }
            };
            let mut chars = valid.chars().peekable();
            while let Some(c) = chars.next() {
                match (c, chars.peek()) {
                    ('\\', Some('x')) => out.push_str("\\x5c"),
                    _ => out.push(c),
                }
            }
            rest = &rest[valid.len()..];
            for byte in &rest[..bad.min(rest.len())] {
                out.push_str(&format!("\\x{byte:02x}"));
            }
            rest = &rest[bad.min(rest.len())..];
        }
        out
    }

    /// The inverse of [`GuestText::matchable`].
    #[must_use]
    pub fn from_matchable(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let code = (bytes[at] == b'\\' && bytes.get(at + 1) == Some(&b'x'))
                .then(|| bytes.get(at + 2..at + 4))
                .flatten()
                .and_then(|hex| std::str::from_utf8(hex).ok())
                .and_then(|hex| u8::from_str_radix(hex, 16).ok());
            if let Some(byte) = code {
                out.push(byte);
                at += 4;
            } else {
                out.push(bytes[at]);
                at += 1;
            }
        }
        Self(out)
    }
}

/// Characters that could change what a reader sees around them: controls, bidirectional marks, invisible separators.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' | '\u{061c}')
}

impl fmt::Display for GuestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.matchable().chars() {
            if is_deceptive(c) {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for GuestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guest(\"{self}\")")
    }
}

impl Serialize for GuestText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.matchable())
    }
}

impl<'de> Deserialize<'de> for GuestText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = GuestText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<GuestText, E> {
                Ok(GuestText::from_matchable(text))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(bytes: &[u8]) -> String {
        GuestText::from(bytes.to_vec()).to_string()
    }

    #[test]
    fn display_escapes_what_deceives() {
        assert_eq!(shown(b"/tmp/plain name"), "/tmp/plain name");
        assert_eq!(shown(b"\x1b[2Jx\n"), "\\u{1b}[2Jx\\u{a}");
        assert_eq!(shown("evil\u{202e}gpj.exe".as_bytes()), "evil\\u{202e}gpj.exe");
        assert_eq!(shown(b"\xff\xfe"), "\\xff\\xfe");
    }

    proptest! {
        #[test]
        fn json_keeps_every_byte(bytes: Vec<u8>) {
            let text = GuestText::from(bytes);
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(serde_json::from_str::<GuestText>(&json).unwrap(), text);
        }

        #[test]
        fn backslashes_survive(text in "[\\\\x0-9a-f]{0,12}") {
            let text = GuestText::from(text.as_str());
            prop_assert_eq!(GuestText::from_matchable(&text.matchable()), text);
        }
    }
}
