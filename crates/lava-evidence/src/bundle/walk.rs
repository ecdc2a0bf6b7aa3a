//! From member to member through a bundle's file, holding each byte against the signed list.
//!
//! The list says what has to stand where. Where something else stands, the walk says what, and finds the next place that it knows: so
//! one change hides no other.

use std::fs::File;
use std::io;
use std::sync::Arc;

use flate2::Crc;
use lava_event::Sha256;
use sha2::Digest;

use super::archive::{Kept, Piece, inflated};
use super::head::{self, Head, peek};
use super::layout::{self, Found, LONGEST_HEADER};
use super::list::{List, Listed};
use crate::chain::Check;
use crate::{files, text};

/// So many strange places are looked into; what has more is no bundle with a change, but something else.
const MAX_STRANGE: usize = 100;

/// A walk.
pub(super) struct Walk<'a> {
    file: &'a Arc<File>,
    len: u64,
    list: &'a List,
    check: &'a mut Check,
    /// Where it stands.
    at: u64,
    /// What was found of the list's members.
    found: Vec<Option<Kept>>,
    /// The first that was not met yet, or their number.
    due: usize,
    strange: usize,
}

impl<'a> Walk<'a> {
    /// Walks over a whole file. Returns the members that were found, by name.
    pub(super) fn over(
        file: &'a Arc<File>,
        len: u64,
        list: &'a List,
        head: &Head,
        check: &'a mut Check,
    ) -> io::Result<Vec<Kept>> {
        let found = vec![None; list.members.len()];
        let mut walk = Self { file, len, list, check, at: head.end, found, due: 0, strange: 0 };
        walk.members()?;
        walk.tail(head)?;
        Ok(walk.found.into_iter().flatten().collect())
    }

    fn members(&mut self) -> io::Result<()> {
        let mut highest = None;
        loop {
            let bytes = peek(self.file, self.at, LONGEST_HEADER)?;
            while self.found.get(self.due).is_some_and(Option::is_some) {
                self.due += 1;
            }
            let due = (self.due < self.found.len()).then_some(self.due);
            match self.listed(&bytes) {
                Some(n) => {
                    self.in_order(n, &mut highest);
                    self.body(n)?;
                }
                None if bytes.is_empty() || layout::look(&bytes) == Found::Directory => break,
                None if due.is_none() && layout::look(&bytes) == Found::Nothing => break,
                None => {
                    self.strange += 1;
                    if self.strange > MAX_STRANGE {
                        self.check.add(
                            "(file)",
                            None,
                            &format!("from byte {} on nothing is as it was written", self.at),
                            true,
                        );
                        break;
                    }
                    self.strange(&bytes, due)?;
                }
            }
        }
        for (listed, _) in self.list.members.iter().zip(&self.found).filter(|(_, found)| found.is_none()) {
            self.check.add(&listed.member.name, None, "is missing", true);
        }
        Ok(())
    }

    /// The member whose header these bytes are, exactly.
    fn listed(&self, bytes: &[u8]) -> Option<usize> {
        let Found::Local { name, .. } = layout::look(bytes) else { return None };
        let n = self.list.position(&name)?;
        bytes.starts_with(&self.list.members.get(n)?.member.local()).then_some(n)
    }

    fn in_order(&mut self, n: usize, highest: &mut Option<usize>) {
        let name = &self.list.members[n].member.name;
        if self.found[n].is_some() {
            self.check.add(name, None, &format!("is there twice: again at byte {}", self.at), true);
        } else if let Some(before) = highest.filter(|highest| n < *highest) {
            let other = &self.list.members[before].member.name;
            self.check.add(name, None, &format!("was reordered: it stands behind {other}"), true);
        }
        *highest = (*highest).max(Some(n));
    }

    /// Something stands here that is no header of the list's. Says what, and goes on behind it.
    fn strange(&mut self, bytes: &[u8], due: Option<usize>) -> io::Result<()> {
        if let Some(n) = due {
            let member = &self.list.members[n].member;
            let behind = self.at.saturating_add(member.span());
            if self.is_known(behind)? && self.holds(n)? {
                self.check.add(&member.name, None, "its header is not as it was written", true);
                return self.body(n);
            }
        }
        if let Found::Local { name, span } = layout::look(bytes) {
            let behind = self.at.saturating_add(span);
            if self.is_known(behind)? {
                let what = format!("was added: {span} bytes at byte {}", self.at);
                self.check.add(&text::line(&name, 200), None, &what, true);
                self.at = behind;
                return Ok(());
            }
        }
        if let Some(n) = due {
            let member = &self.list.members[n].member;
            let behind = self.at.saturating_add(member.span());
            if self.is_known(behind)? {
                self.check.add(&member.name, None, "its header is not as it was written", true);
                return self.body(n);
            }
        }
        let next = self.next_known(self.at + 1)?;
        let what = format!("{} bytes at byte {} belong to no member", next - self.at, self.at);
        self.check.add("(file)", None, &what, true);
        self.at = next;
        Ok(())
    }

    /// Does a member's content stand where it would if only its header were changed?
    fn holds(&self, n: usize) -> io::Result<bool> {
        let listed = &self.list.members[n];
        let at = self.at + listed.member.local().len() as u64;
        let hash = Sha256::of_reader(Piece::new(self.file, at, listed.member.packed))?;
        Ok(hash == listed.packed_sha256)
    }

    /// Does something stand here that is known: a member, the directory, the end?
    fn is_known(&self, at: u64) -> io::Result<bool> {
        if at >= self.len {
            return Ok(at == self.len);
        }
        let bytes = peek(self.file, at, LONGEST_HEADER)?;
        Ok(self.listed(&bytes).is_some() || layout::look(&bytes) == Found::Directory)
    }

    /// The next place where something known stands; the file's end is one.
    fn next_known(&self, from: u64) -> io::Result<u64> {
        const PIECE: usize = 1 << 16;
        let mut at = from;
        while at < self.len {
            let bytes = peek(self.file, at, PIECE + 1)?;
            for (n, _) in bytes.windows(2).enumerate().filter(|(_, pair)| pair == b"PK") {
                if self.is_known(at + n as u64)? {
                    return Ok(at + n as u64);
                }
            }
            at += PIECE as u64;
        }
        Ok(self.len)
    }

    /// A member's bytes, which begin behind its header. The walk goes on behind them.
    fn body(&mut self, n: usize) -> io::Result<()> {
        let listed = &self.list.members[n];
        let name = &listed.member.name;
        let at = self.at + listed.member.local().len() as u64;
        let there = self.len.saturating_sub(at).min(listed.member.packed);
        let mut kept = Kept { name: name.clone(), at, packed: there, size: listed.member.size };
        self.at = at.saturating_add(there).min(self.len);
        let hash = Sha256::of_reader(Piece::new(self.file, at, there))?;
        if there < listed.member.packed {
            let missing = listed.member.packed - there;
            self.check.add(name, None, &format!("was cut: the file ends {missing} bytes before its end"), true);
        } else if hash != listed.packed_sha256 {
            let next = if self.is_known(self.at)? { self.at } else { self.next_known(at)? };
            if next != self.at && next < self.len {
                kept.packed = next - at;
                self.at = next;
            }
            let what = match kept.packed.cmp(&there) {
                std::cmp::Ordering::Less => format!("{} bytes were cut out of it", there - kept.packed),
                std::cmp::Ordering::Greater => format!("{} bytes were put into it", kept.packed - there),
                std::cmp::Ordering::Equal => "its bytes are not as they were written".to_owned(),
            };
            self.check.add(name, None, &format!("was changed: {what}"), true);
        }
        if let Err(what) = content(self.file, &kept, listed) {
            self.check.add(name, None, &what, true);
        }
        if self.found[n].is_none() {
            self.found[n] = Some(kept);
        }
        Ok(())
    }

    /// What stands behind the members: the directory and the file's end.
    fn tail(&mut self, head: &Head) -> io::Result<()> {
        let heads = head::members(&head.list, &head.signature);
        let expected = layout::tail(heads.iter().chain(self.list.members.iter().map(|listed| &listed.member)));
        let rest = self.len.saturating_sub(self.at);
        let there = peek(self.file, self.at, expected.len())?;
        let what = match there == expected {
            true if rest == expected.len() as u64 => return Ok(()),
            true => format!("{} bytes stand behind the bundle's end", rest - expected.len() as u64),
            false if expected.starts_with(&there) => {
                format!("the directory at the end is cut: {} bytes are missing", expected.len() - there.len())
            }
            false => {
                let same = there.iter().zip(&expected).take_while(|(a, b)| a == b).count();
                format!("the directory at the end is not as it was written, from byte {} on", self.at + same as u64)
            }
        };
        self.check.add("(file)", None, &what, true);
        Ok(())
    }
}

/// Inflates a member, and holds what comes out against the list.
fn content(file: &Arc<File>, kept: &Kept, listed: &Listed) -> Result<(), String> {
    use std::io::Read as _;
    let (mut hasher, mut crc, mut size) = (sha2::Sha256::new(), Crc::new(), 0u64);
    let mut reader = inflated(file, kept).take(listed.member.size.saturating_add(1));
    let read = files::pieces(&mut reader, |piece| {
        hasher.update(piece);
        crc.update(piece);
        size += piece.len() as u64;
    });
    let used = reader.into_inner().total_in();
    let whole = read.map_err(|error| format!("its content can't be inflated ({error}) beyond byte {size}"));
    if size > listed.member.size {
        return Err(format!("its content is longer than the {} bytes that the list says", listed.member.size));
    }
    whole?;
    if Sha256(hasher.finalize().into()) != listed.sha256 || size != listed.member.size || crc.sum() != listed.member.crc
    {
        return Err("its content is not as it was written".into());
    }
    if used != kept.packed {
        return Err(format!("{} bytes behind its content belong to nothing", kept.packed.saturating_sub(used)));
    }
    Ok(())
}
