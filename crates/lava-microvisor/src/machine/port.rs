//! What the launcher in the guest says over its port. Hostile: the guest may have been taken over.

use std::io::{BufRead, BufReader, Read};

use lava_event::GuestText;
use serde_json::Value;

const LINE_LIMIT: u64 = 64 << 10;
/// Files that are taken of an archive, and the bytes of each: the launcher sends no more (`images/launcher/src/members.rs`).
pub(super) const MAX_FILES: usize = 256;
const MAX_SENT: u64 = 32 << 20;
/// The longest reason kept, bytes.
const REASON: usize = 4096;

/// One line of the launcher's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Said {
    Ready,
    Exit(i64),
    Signal(i64),
    Error(GuestText),
    /// A file that came out of an archive.
    Member(Member),
    /// There are no more but as many that are left out.
    Members(u64),
}

/// A file below the directory that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Member {
    pub path: String,
    pub size: u64,
    /// All of it, or its beginning.
    pub content: Vec<u8>,
}

/// A line, understood.
#[derive(PartialEq, Eq, Debug)]
enum Line {
    Said(Said),
    /// So many bytes of the file follow.
    File {
        path: String,
        size: u64,
        sent: u64,
    },
}

/// Reads lines until the port ends or `take` says no. What makes no sense is passed over.
pub(super) fn read(stream: impl Read, take: &dyn Fn(Said) -> bool) {
    let mut from = BufReader::new(stream);
    let (mut line, mut files) = (Vec::new(), 0);
    loop {
        line.clear();
        if !matches!(from.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line), Ok(1..)) {
            return;
        }
        let said = match parse(&line) {
            Some(Line::File { path, size, sent }) => {
                let mut content = Vec::new();
                if !matches!(from.by_ref().take(sent).read_to_end(&mut content), Ok(read) if read as u64 == sent) {
                    return;
                }
                files += 1;
                (files <= MAX_FILES).then_some(Said::Member(Member { path, size, content }))
            }
            Some(Line::Said(said)) => {
                files = 0;
                Some(said)
            }
            None => None,
        };
        if said.is_some_and(|said| !take(said)) {
            return;
        }
    }
}

fn parse(line: &[u8]) -> Option<Line> {
    // A reset may have cut the line before it in two.
    let start = line.windows(8).rposition(|window| window == b"{\"ready\"").unwrap_or(0);
    let value: Value = serde_json::from_slice(&line[start..]).ok()?;
    let number = |key: &str| value.get(key).and_then(Value::as_i64);
    let count = |key: &str| value.get(key).and_then(Value::as_u64);
    if number("ready").is_some() {
        return Some(Line::Said(Said::Ready));
    }
    if let Some(why) = value.get("error").and_then(Value::as_str) {
        return Some(Line::Said(Said::Error(why.as_bytes()[..why.len().min(REASON)].to_vec().into())));
    }
    if let Some(path) = value.get("member").and_then(Value::as_str) {
        let (size, sent) = (count("size")?, count("sent").filter(|sent| *sent <= MAX_SENT)?);
        return Some(Line::File { path: path.to_owned(), size, sent });
    }
    let ended = || number("exit").map(Said::Exit).or_else(|| number("signal").map(Said::Signal));
    ended().or_else(|| count("members").map(Said::Members)).map(Line::Said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_or_passed_over() {
        let parse = |line: &[u8]| match parse(line)? {
            Line::Said(said) => Some(said),
            file @ Line::File { .. } => panic!("{file:?}"),
        };
        assert_eq!(parse(b"{\"ready\":1}\n"), Some(Said::Ready));
        assert_eq!(parse(b"{\"exi{\"ready\":1}\n"), Some(Said::Ready));
        assert_eq!(parse(b"{\"exit\":3}\n"), Some(Said::Exit(3)));
        assert_eq!(parse(b"{\"signal\":9}"), Some(Said::Signal(9)));
        assert_eq!(parse(b"{\"error\":\"no\"}"), Some(Said::Error("no".into())));
        for line in [&b"[]"[..], b"{}", b"\xff", b"", b"{\"exit\":\"3\"}", b"{\"ready\"{"] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn files_come_with_their_bytes() {
        let sent = b"{\"member\":\"/a\",\"size\":9,\"sent\":4}\n\n{\"r{\"members\":2}\n{\"member\":\"/b\",\"size\":1,\"sent\":99999999}\nx\n\
            {\"exit\":0}\n{\"member\":\"/c\",\"size\":1,\"sent\":7}\nshort";
        let told = std::cell::RefCell::new(Vec::new());
        read(sent.as_slice(), &|said| {
            told.borrow_mut().push(said);
            true
        });
        let member = Member { path: "/a".into(), size: 9, content: b"\n{\"r".to_vec() };
        assert_eq!(told.into_inner(), [Said::Member(member), Said::Members(2), Said::Exit(0)]);
    }
}
