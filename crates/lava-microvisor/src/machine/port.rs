//! What the launcher in the guest says over its port. Hostile: the guest may have been taken over.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;

use lava_event::GuestText;
use serde_json::Value;

const LINE_LIMIT: u64 = 64 << 10;
/// The longest reason kept, bytes.
const REASON: usize = 4096;

/// One line of the launcher's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Said {
    Ready,
    Exit(i64),
    Signal(i64),
    Error(GuestText),
}

/// Reads lines until the port ends or `take` says no. What makes no sense is passed over.
pub(super) fn read(stream: UnixStream, take: &dyn Fn(Said) -> bool) {
    let mut from = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        if !matches!(from.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line), Ok(1..)) {
            return;
        }
        if parse(&line).is_some_and(|said| !take(said)) {
            return;
        }
    }
}

fn parse(line: &[u8]) -> Option<Said> {
    // A reset may have cut the line before it in two.
    let start = line.windows(8).rposition(|window| window == b"{\"ready\"").unwrap_or(0);
    let value: Value = serde_json::from_slice(&line[start..]).ok()?;
    let number = |key: &str| value.get(key).and_then(Value::as_i64);
    if number("ready").is_some() {
        return Some(Said::Ready);
    }
    if let Some(why) = value.get("error").and_then(Value::as_str) {
        return Some(Said::Error(why.as_bytes()[..why.len().min(REASON)].to_vec().into()));
    }
    number("exit").map(Said::Exit).or_else(|| number("signal").map(Said::Signal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_or_passed_over() {
        assert_eq!(parse(b"{\"ready\":1}\n"), Some(Said::Ready));
        assert_eq!(parse(b"{\"exi{\"ready\":1}\n"), Some(Said::Ready));
        assert_eq!(parse(b"{\"exit\":3}\n"), Some(Said::Exit(3)));
        assert_eq!(parse(b"{\"signal\":9}"), Some(Said::Signal(9)));
        assert_eq!(parse(b"{\"error\":\"no\"}"), Some(Said::Error("no".into())));
        for line in [&b"[]"[..], b"{}", b"\xff", b"", b"{\"exit\":\"3\"}", b"{\"ready\"{"] {
            assert_eq!(parse(line), None);
        }
    }
}
