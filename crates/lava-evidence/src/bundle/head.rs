//! The beginning of a bundle: the list and its signature. They stand first, so that a file that was cut can still be checked.

use std::fs::File;
use std::os::unix::fs::FileExt;

use flate2::Crc;

use super::layout::{LOCAL, Member, Method};
use super::list::{FIRST_LINE, List, MAX_LIST};
use super::{LIST, SIGNATURE};
use crate::chain::Check;

/// Longest signature file, bytes.
const MAX_SIGNATURE: usize = 1024;
/// How far into a file its list is looked for: something may have been put in front.
const MAX_BEFORE: u64 = 64 << 20;

/// The headers of list and signature.
pub(super) fn members(list: &str, signature: &str) -> [Member; 2] {
    [(LIST, list), (SIGNATURE, signature)].map(|(name, content)| {
        let mut crc = Crc::new();
        crc.update(content.as_bytes());
        let size = content.len() as u64;
        Member { name: name.into(), method: Method::Stored, size, packed: size, crc: crc.sum() }
    })
}

/// What is signed beside the list, and minisign shows.
pub(super) fn trusted_comment(list: &List, ended: Option<&str>) -> String {
    let ended = ended.map_or(String::new(), |ended| format!(" ended {ended}"));
    let plain = ended.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(60);
    format!("LAVA session {} merkle-root {}{}", list.session, list.root, plain.collect::<String>())
}

/// List and signature as they were found.
pub(super) struct Head {
    pub(super) list: String,
    pub(super) signature: String,
    /// Where the members begin.
    pub(super) end: u64,
}

/// Why list and signature could not be found.
pub(super) enum Lost {
    /// The system refused.
    Io(std::io::Error),
    /// What is wrong with the file.
    Broken(String),
}

impl From<std::io::Error> for Lost {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<&str> for Lost {
    fn from(what: &str) -> Self {
        Self::Broken(what.into())
    }
}

/// Finds them. Headers that are not as they should be are problems.
pub(super) fn read(file: &File, check: &mut Check) -> Result<Head, Lost> {
    let before = (LOCAL + LIST.len()) as u64;
    let at = find(file, FIRST_LINE.as_bytes())?.ok_or_else(|| {
        Lost::Broken(format!("is no LAVA bundle: `{}` is not at its beginning, or was changed", FIRST_LINE.trim()))
    })?;
    if at > before {
        check.add(LIST, None, &format!("{} bytes stand before the bundle", at - before), true);
    }
    let bytes = peek(file, at, MAX_LIST + LOCAL + SIGNATURE.len() + MAX_SIGNATURE)?;
    let list_end = bytes
        .windows(LOCAL + SIGNATURE.len())
        .position(|window| window.starts_with(b"PK\x03\x04") && window.ends_with(SIGNATURE.as_bytes()))
        .ok_or("its list of members, SHA256SUMS, is cut, or its signature is missing: nothing can be checked")?;
    let text =
        |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| "its list of members, SHA256SUMS, is no text");
    let list = text(&bytes[..list_end])?;
    let rest = &bytes[list_end + LOCAL + SIGNATURE.len()..];
    let length = signature_length(rest).ok_or("its signature, SHA256SUMS.minisig, is cut: nothing can be checked")?;
    let signature = String::from_utf8_lossy(&rest[..length]).into_owned();
    let [list_member, signature_member] = members(&list, &signature);
    let found = peek(file, at.saturating_sub(before), at.min(before) as usize)?;
    if found != list_member.local() {
        check.add(LIST, None, "its header is not as it was written", true);
    }
    let header = signature_member.local();
    if bytes[list_end..].get(..header.len()) != Some(&header) {
        check.add(SIGNATURE, None, "its header is not as it was written", true);
    }
    let end = at + (list_end + header.len() + length) as u64;
    Ok(Head { list, signature, end })
}

/// Bytes of a signature: four lines; if its line ends were changed, up to the next header.
fn signature_length(bytes: &[u8]) -> Option<usize> {
    let bytes = &bytes[..bytes.len().min(MAX_SIGNATURE)];
    let lines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).nth(3);
    let header = || bytes.windows(4).position(|four| four == b"PK\x03\x04" || four == b"PK\x01\x02");
    // Of a header behind the lines one byte may have been changed.
    let alike = |end: &usize| bytes[*end..].iter().zip(b"PK\x03\x04").filter(|(a, b)| a == b).count() >= 2;
    lines.filter(alike).or_else(header).or(lines)
}

/// At most `most` bytes from a place on; fewer at the file's end.
pub(super) fn peek(file: &File, at: u64, most: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; most.min(1 << 12)];
    let mut filled = 0;
    while filled < most {
        if filled == bytes.len() {
            bytes.resize(most.min(bytes.len() * 4), 0);
        }
        match file.read_at(&mut bytes[filled..], at + filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Where some bytes stand first.
fn find(file: &File, wanted: &[u8]) -> std::io::Result<Option<u64>> {
    const PIECE: usize = 1 << 20;
    for at in (0..MAX_BEFORE).step_by(PIECE) {
        let bytes = peek(file, at, PIECE + wanted.len())?;
        if let Some(found) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            return Ok(Some(at + found as u64));
        }
        if bytes.len() < PIECE {
            break;
        }
    }
    Ok(None)
}
