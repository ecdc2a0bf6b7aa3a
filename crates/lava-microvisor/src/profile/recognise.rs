//! What a condition on a file's content means.
//!
//! All of it reads bounded parts of hostile bytes: 64 KiB of text, one line, a ZIP archive's directory.

/// How much of a text is looked at, bytes.
const TEXT: usize = 64 << 10;
/// The longest first line, bytes (Linux's `BINPRM_BUF_SIZE` is 256).
const LINE: usize = 256;
/// A ZIP archive's end record (APPNOTE.TXT 4.3.16) is 22 bytes and a comment of up to 65535.
const ZIP_END: usize = 22;
const ZIP_TAIL: usize = ZIP_END + 65535;
/// A directory entry (APPNOTE.TXT 4.3.12) without its name.
const ZIP_ENTRY: usize = 46;

/// Everything that is given must hold.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub magic: Option<Vec<u8>>,
    pub offset: usize,
    pub shebang: Option<Vec<String>>,
    pub zip_entry: Option<String>,
    pub text: bool,
    pub extension: Option<Vec<String>>,
}

impl Condition {
    pub(super) fn holds(&self, name: &str, content: &[u8]) -> bool {
        let magic = |magic: &Vec<u8>| content.get(self.offset..).is_some_and(|rest| rest.starts_with(magic));
        self.magic.as_ref().is_none_or(magic)
            && self.shebang.as_ref().is_none_or(|programs| shebang(content, programs))
            && self.zip_entry.as_ref().is_none_or(|entry| has_entry(content, entry.as_bytes()))
            && (!self.text || is_text(content))
            && self.extension.as_ref().is_none_or(|known| extension(name, known))
    }
}

fn extension(name: &str, known: &[String]) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    extension.is_some_and(|extension| known.iter().any(|known| known.eq_ignore_ascii_case(extension)))
}

fn is_text(content: &[u8]) -> bool {
    let head = &content[..content.len().min(TEXT)];
    let valid = match std::str::from_utf8(head) {
        Ok(_) => true,
        // A character may be cut in two where the head ends.
        Err(error) => content.len() > TEXT && error.error_len().is_none(),
    };
    valid && !head.is_empty() && !head.contains(&0)
}

/// True if the first line names one of the programs; an empty list is any.
fn shebang(content: &[u8], programs: &[String]) -> bool {
    let Some(rest) = content.strip_prefix(b"#!") else { return false };
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(&line[..line.len().min(LINE)]) else { return false };
    let mut words = line.split_ascii_whitespace();
    let Some(mut program) = words.next() else { return false };
    if base(program) == "env" {
        let Some(next) = words.find(|word| !word.starts_with('-') && !word.contains('=')) else { return false };
        program = next;
    }
    let name = base(program).trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    !name.is_empty() && (programs.is_empty() || programs.iter().any(|known| known == name))
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn has_entry(content: &[u8], wanted: &[u8]) -> bool {
    let tail = content.len().saturating_sub(ZIP_TAIL);
    let Some(end) = content[tail..].windows(ZIP_END).rposition(|window| window.starts_with(b"PK\x05\x06")) else {
        return false;
    };
    let end = tail + end;
    let size = content.get(end + 12..end + 16).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    // The directory lies right in front of its end, also if the archive has something glued to its front.
    let Some(start) = end.checked_sub(size as usize) else { return false };
    let mut rest = &content[start..end];
    // Each turn takes at least 46 bytes away.
    while rest.starts_with(b"PK\x01\x02") && rest.len() >= ZIP_ENTRY {
        let length = |at: usize| usize::from(u16::from_le_bytes([rest[at], rest[at + 1]]));
        let (name, extra, comment) = (length(28), length(30), length(32));
        if rest.get(ZIP_ENTRY..ZIP_ENTRY + name) == Some(wanted) {
            return true;
        }
        let Some(next) = rest.get(ZIP_ENTRY + name + extra + comment..) else { return false };
        rest = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_known_through_env_and_without_version() {
        let python = ["python".to_owned()];
        for line in ["#!/usr/bin/python3.11", "#! /usr/bin/env -S python3 -u\nx", "#!/usr/bin/env A=1 python"] {
            assert!(shebang(line.as_bytes(), &python), "{line}");
        }
        for line in ["#!/bin/sh", "#!", "#!/usr/bin/env", "python", "#!\n/usr/bin/python"] {
            assert!(!shebang(line.as_bytes(), &python), "{line}");
        }
        assert!(shebang(b"#!/bin/x", &[]));
    }

    #[test]
    fn text_may_be_cut_within_a_character() {
        let mut long = vec![b'a'; TEXT - 1];
        long.extend("ü".as_bytes());
        assert!(is_text(&long));
        assert!(!is_text(b"") && !is_text(b"a\0") && !is_text(b"\xc3"));
    }
}
