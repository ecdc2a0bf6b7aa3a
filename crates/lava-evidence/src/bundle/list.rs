//! `SHA256SUMS`: the signed list of what is in a bundle.
//!
//! `sha256sum -c` reads it. Lines that begin with `#` are comments to that program, and say what it does not need:
//!
//! ```text
//! #lava-bundle 1
//! #session 01M88QMT0DFH6PE5AV4DAJ3987
//! #written-by lava 0.1.0
//! #key RWS...                                         the public key, as minisign writes it
//! #merkle-root 9f3c...                                over the lines that have no `#`
//! bbfb1983...  artifacts/bbfb1983...                   content's SHA-256, name; in the order of the names' bytes
//! #packed 546008 501033 1c291ca3 77ab...              bytes, bytes deflated, CRC-32, SHA-256 of the deflated bytes
//! ```
//!
//! There is one form: what was read must give the same text again.

use std::fmt::Write as _;

use lava_event::{SessionId, Sha256};

use super::layout::{Member, Method};
use super::merkle;

/// Longest name of a member, bytes.
pub(super) const MAX_NAME: usize = 200;
/// Longest list, bytes.
pub(super) const MAX_LIST: usize = 64 << 20;
/// Largest content of one member, bytes: a bound for arithmetic, and for what a hostile list can claim.
const MAX_MEMBER: u64 = 1 << 42;
/// All contents together, bytes.
pub(super) const MAX_TOTAL: u64 = 1 << 43;
/// First line of every list.
pub(super) const FIRST_LINE: &str = "#lava-bundle 1\n";

/// A member, as the list tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listed {
    /// What its headers say.
    pub(super) member: Member,
    /// Hash of its content.
    pub(super) sha256: Sha256,
    /// Hash of its bytes in the file.
    pub(super) packed_sha256: Sha256,
}

impl Listed {
    /// The line that `sha256sum` reads: the Merkle tree's leaf.
    fn line(&self) -> String {
        format!("{}  {}\n", self.sha256, self.member.name)
    }
}

/// The list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct List {
    pub(super) session: SessionId,
    /// Name and version of what wrote it.
    pub(super) written_by: String,
    /// The public key that it is signed with, base64.
    pub(super) key: String,
    pub(super) root: Sha256,
    /// By name.
    pub(super) members: Vec<Listed>,
}

impl List {
    /// A list of these members, which are sorted by name.
    pub(super) fn new(session: SessionId, written_by: String, key: String, members: Vec<Listed>) -> Self {
        let mut list = Self { session, written_by, key, root: Sha256::default(), members };
        list.root = list.computed_root();
        list
    }

    /// The root over its lines, whatever it says itself.
    pub(super) fn computed_root(&self) -> Sha256 {
        let leaves: Vec<Sha256> = self.members.iter().map(|listed| merkle::leaf(listed.line().as_bytes())).collect();
        merkle::root(&leaves)
    }

    /// The member of a name.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.members.binary_search_by(|listed| listed.member.name.as_str().cmp(name)).ok()
    }

    /// Its text.
    pub(super) fn text(&self) -> String {
        let mut out = String::from(FIRST_LINE);
        let _ = write!(
            out,
            "#session {}\n#written-by {}\n#key {}\n#merkle-root {}\n",
            self.session, self.written_by, self.key, self.root
        );
        for listed in &self.members {
            let Member { size, packed, crc, .. } = listed.member;
            let _ = writeln!(out, "{}#packed {size} {packed} {crc:08x} {}", listed.line(), listed.packed_sha256);
        }
        out
    }

    /// Reads a list.
    ///
    /// # Errors
    /// The number of the line that is not as LAVA writes it, and why.
    pub(super) fn parse(text: &str) -> Result<Self, (u64, String)> {
        let mut lines = text.lines().zip(1u64..);
        let mut fact = |what: &str| {
            let (line, number) = lines.next().unwrap_or(("", 0));
            let value = line.strip_prefix('#').and_then(|line| line.strip_prefix(what)?.strip_prefix(' '));
            let plain = |value: &&str| value.len() <= 200 && value.bytes().all(|b| (b' '..0x7f).contains(&b));
            value.filter(plain).map(|value| (value.to_owned(), number)).ok_or((number, format!("`#{what} ...` is due")))
        };
        fact("lava-bundle")?;
        let session = SessionId(fact("session")?.0);
        let written_by = fact("written-by")?.0;
        let key = fact("key")?.0;
        let (root, number) = fact("merkle-root")?;
        let root = root.parse().map_err(|_| (number, "no SHA-256".to_owned()))?;
        let mut members: Vec<Listed> = Vec::new();
        let mut total = 0u64;
        while let Some((line, number)) = lines.next() {
            let packed = lines.next().map_or("", |(line, _)| line);
            let listed = member(line, packed).ok_or((number, "no member as LAVA writes them".to_owned()))?;
            if members.last().is_some_and(|last| last.member.name >= listed.member.name) {
                return Err((number, "the names are not in order, or one is there twice".into()));
            }
            total = total.saturating_add(listed.member.size);
            if total > MAX_TOTAL {
                return Err((number, format!("the members have more than {} TiB together", MAX_TOTAL >> 40)));
            }
            members.push(listed);
        }
        let list = Self { session, written_by, key, root, members };
        let again = list.text();
        match again == text {
            true => Ok(list),
            false => {
                let same = again.lines().zip(text.lines()).take_while(|(a, b)| a == b).count();
                Err((same as u64 + 1, "not in the form in which LAVA writes it".into()))
            }
        }
    }
}

/// True for a path that is safe to make on any system: parts of letters, digits, `-`, `_` and `.`, none of which begins with a dot.
pub(super) fn is_plain(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    name.len() <= MAX_NAME && name.split('/').count() <= 4 && name.split('/').all(part)
}

fn member(line: &str, packed: &str) -> Option<Listed> {
    let (sha256, name) = line.split_once("  ").filter(|(_, name)| is_plain(name))?;
    let words: Vec<&str> = packed.strip_prefix("#packed ")?.split(' ').collect();
    let [size, packed, crc, packed_sha256] = words.as_slice() else { return None };
    let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number <= MAX_MEMBER);
    let member = Member {
        name: name.to_owned(),
        method: Method::Deflated,
        size: number(size)?,
        packed: number(packed)?,
        crc: u32::from_str_radix(crc, 16).ok()?,
    };
    Some(Listed { member, sha256: sha256.parse().ok()?, packed_sha256: packed_sha256.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_pass() {
        for name in ["events.jsonl", "artifacts/0af", "memory/dump-1.elf"] {
            assert!(is_plain(name), "{name}");
        }
        let long = "a".repeat(MAX_NAME + 1);
        for name in
            ["", "/etc/passwd", "../x", "a/../b", "a//b", ".ssh", "a\\b", "C:x", "a\nb", "a b", "é", "a/", &long]
        {
            assert!(!is_plain(name), "{name}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let member = |name: &str| Listed {
            member: Member { name: name.into(), method: Method::Deflated, size: 7, packed: 9, crc: 0xab },
            sha256: Sha256::of(b"1"),
            packed_sha256: Sha256::of(b"2"),
        };
        let list = List::new(SessionId("01A".into()), "lava 0.1.0".into(), "RW".into(), vec![member("a"), member("b")]);
        let text = list.text();
        assert_eq!(List::parse(&text), Ok(list));
        let cases = [
            (text.replace("#packed 7", "#packed 07"), 7, "form"),
            (text.replace("  b\n", "  a\n"), 8, "twice"),
            (text.replace("  b\n", "  ../b\n"), 8, "no member"),
            (text.replace("000000ab", "+00000ab"), 7, "form"),
            (text.trim_end().to_owned(), 10, "form"),
            (text.replace("#key", "#kex"), 4, "`#key"),
            (text.replace("#packed 7", "#packed 5000000000000"), 6, "no member"),
            (String::new(), 0, "lava-bundle"),
        ];
        for (text, line, why) in cases {
            let (at, said) = List::parse(&text).unwrap_err();
            assert!(at == line && said.contains(why), "{at} {said}\n{text}");
        }
    }
}
