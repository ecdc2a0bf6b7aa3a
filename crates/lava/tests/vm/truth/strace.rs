//! Reading strace's output (strace 6.1, `-f -y -o FILE`).
//!
//! One call per line: `PID  name(arguments) = result`. A call that another process's line interrupts comes in two pieces,
//! `... <unfinished ...>` and `PID  <... name resumed>...`, which are put together here. What is not understood panics: ground
//! truth that is skipped in silence is none.

use std::collections::HashMap;

/// One system call that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub pid: u32,
    pub name: String,
    /// As strace prints them.
    pub arguments: Vec<String>,
    /// As strace prints it.
    pub result: String,
}

impl Call {
    pub fn succeeded(&self) -> bool {
        !self.result.starts_with(['-', '?'])
    }

    /// The error's name, if it failed.
    pub fn error(&self) -> Option<&str> {
        self.result.strip_prefix("-1 ")?.split(' ').next()
    }

    pub fn argument(&self, index: usize) -> &str {
        self.arguments.get(index).unwrap_or_else(|| panic!("argument {index} of {self:?}"))
    }

    /// The argument as the bytes of its C string.
    pub fn text(&self, index: usize) -> String {
        quoted(self.argument(index)).unwrap_or_else(|| panic!("no text in argument {index} of {self:?}"))
    }
}

/// The calls, in the order in which they came back.
pub fn calls(log: &str) -> Vec<Call> {
    let (mut calls, mut unfinished) = (Vec::new(), HashMap::<u32, String>::new());
    for line in log.lines() {
        let (pid, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no pid in `{line}`"));
        let pid = pid.parse().unwrap_or_else(|_| panic!("no pid in `{line}`"));
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(begin) = rest.strip_suffix(" <unfinished ...>") {
            assert!(unfinished.insert(pid, begin.to_owned()).is_none(), "two calls at once: `{line}`");
            continue;
        }
        let whole = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let begin = unfinished.remove(&pid).unwrap_or_else(|| panic!("nothing to resume: `{line}`"));
                let (_, end) = resumed.split_once(" resumed>").unwrap_or_else(|| panic!("resumed what: `{line}`"));
                begin + end
            }
            None => rest.to_owned(),
        };
        calls.push(call(pid, &whole).unwrap_or_else(|| panic!("not understood: `{line}`")));
    }
    assert!(unfinished.is_empty(), "calls that never came back: {unfinished:?}");
    calls
}

fn call(pid: u32, line: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, end) = split(rest)?;
    let result = rest[end..].trim_start().strip_prefix('=')?.trim().to_owned();
    Some(Call { pid, name: name.to_owned(), arguments, result })
}

/// Splits at the commas of the outermost level; also, where the rest begins behind the closing parenthesis.
fn split(text: &str) -> Option<(Vec<String>, usize)> {
    let (mut parts, mut part, mut depth, mut inside) = (Vec::new(), String::new(), 0, None);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (inside, c) {
            // strace escapes quotes within texts, and angle brackets within the paths of descriptors.
            (Some(_), '\\') => {
                part.push(c);
                part.push(chars.next()?.1);
                continue;
            }
            (Some(end), c) if c == end => inside = None,
            (Some(_), _) => {}
            (None, '"') => inside = Some('"'),
            (None, '<') => inside = Some('>'),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')') if depth == 0 => {
                if !part.trim().is_empty() {
                    parts.push(part.trim().to_owned());
                }
                return Some((parts, at + 1));
            }
            (None, ')' | ']' | '}') => depth -= 1,
            (None, ',') if depth == 0 => {
                parts.push(std::mem::take(&mut part).trim().to_owned());
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    None
}

/// The first C string in `text`, without its escapes.
pub fn quoted(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('"')?;
    let end = closing(rest, '"')?;
    assert!(!rest[end + 1..].starts_with("..."), "cut by strace: {text}");
    Some(unescape(&rest[..end]))
}

/// The path in `3</path>` or `AT_FDCWD</path>`.
pub fn descriptor(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('<')?;
    Some(unescape(&rest[..closing(rest, '>')?]))
}

fn closing(text: &str, end: char) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let found = !escaped && c == end;
        escaped = !escaped && c == '\\';
        found.then_some(at)
    })
}

fn unescape(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let digits = rest.iter().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
        if digits > 0 {
            let number = rest[..digits].iter().fold(0u32, |number, digit| number * 8 + u32::from(digit - b'0'));
            out.push(number as u8);
            rest = &rest[digits..];
        } else if let Some((&letter, after)) = rest.split_first() {
            let known = [(b'n', b'\n'), (b't', b'\t'), (b'r', b'\r'), (b'v', 11), (b'f', 12)];
            out.push(known.iter().find(|(name, _)| *name == letter).map_or(letter, |(_, byte)| *byte));
            rest = after;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let log = r#"12    openat(AT_FDCWD</a\76b>, "x,\"y\303\244\n)", O_WRONLY|O_CREAT, 0666 <unfinished ...>
13    execve("./p", ["p", "(a)"], 0x7ffd /* 8 vars */) = 0
12    <... openat resumed>)             = 3</a\76b/x>
13    connect(4<socket:[1]>, {sa_family=AF_UNIX, sun_path=@"q"}, 11) = -1 ECONNREFUSED (Connection refused)
13    +++ exited with 0 +++
"#;
        let calls = calls(log);
        assert_eq!(calls.len(), 3);
        assert_eq!((calls[0].name.as_str(), calls[0].text(0).as_str()), ("execve", "./p"));
        assert_eq!(calls[1].text(1), "x,\"yä\n)");
        assert_eq!(descriptor(calls[1].argument(0)).unwrap(), "/a>b");
        assert_eq!(descriptor(&calls[1].result).unwrap(), "/a>b/x");
        assert!(calls[1].succeeded());
        assert_eq!((calls[2].error(), calls[2].arguments.len()), (Some("ECONNREFUSED"), 3));
    }

    #[test]
    #[should_panic(expected = "never came back")]
    fn a_missing_piece_is_an_error() {
        calls("7  chdir(\"/\" <unfinished ...>\n");
    }
}
