//! Reading a log while it grows, from any event on.
//!
//! A line that is not whole yet is not there yet: [`Follow::next`] says `None` and tries again when it is called again.
//! Nothing is kept of what was read, and a place in the log is found by halving it, so opening a long one costs little.

use std::fs::File;
use std::io::{BufRead, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::reader::Lines;

/// A log (`events.jsonl`, `findings.jsonl`) that may still grow.
#[derive(Debug)]
pub struct Follow(Lines<File>);

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

impl Follow {
    /// Opens the log from its beginning.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|error| Error::io("read", path, error))?;
        Ok(Self(Lines::over(path.to_path_buf(), file)))
    }

    /// Opens the log from a place that [`Follow::offset`] gave.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn from_offset(path: &Path, offset: u64) -> Result<Self, Error> {
        let mut follow = Self::open(path)?;
        follow.seek(offset)?;
        Ok(follow)
    }

    /// Opens an event log from the first event whose `seq` is at least this.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn from_seq(path: &Path, seq: u64) -> Result<Self, Error> {
        let mut follow = Self::open(path)?;
        let (mut low, mut high) = (0, follow.len()?);
        // Below `low` all are smaller; the line that begins at or behind `high` is not, or there is none.
        while high - low > 16 * 1024 {
            let middle = low + (high - low) / 2;
            follow.seek(middle)?;
            let rest = follow.skip_line()?;
            match follow.numbered()? {
                Some(at) if at < seq => low = middle + rest,
                _ => high = middle,
            }
        }
        follow.seek(low)?;
        loop {
            let begin = follow.offset();
            match follow.read::<Numbered>() {
                Ok(Some(line)) if line.seq < seq => {}
                Err(Error::Line { .. }) => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    follow.seek(begin)?;
                    return Ok(follow);
                }
            }
        }
    }

    /// `seq` of the log's last whole event; 0 if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn last_seq(path: &Path) -> Result<u64, Error> {
        let mut follow = Self::open(path)?;
        let len = follow.len()?;
        let mut back = 64 * 1024;
        loop {
            let begin = len.saturating_sub(back);
            follow.seek(begin)?;
            if begin > 0 {
                follow.skip_line()?;
            }
            let mut last = None;
            while let Some(seq) = follow.numbered()? {
                last = Some(seq);
            }
            if last.is_some() || begin == 0 {
                return Ok(last.unwrap_or(0));
            }
            back *= 4;
        }
    }

    /// The next whole line; `None` if there is none yet.
    ///
    /// # Errors
    /// [`Error::Line`] is about one line, and the next call goes on behind it; any other is the file's.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let line = self.0.next()?;
        if line.is_none() && self.0.torn.take().is_some() {
            self.seek(self.0.offset)?;
        }
        Ok(line)
    }

    /// The next whole line, understood.
    ///
    /// # Errors
    /// As [`Follow::next_line`]; a line that is not understood is an [`Error::Line`].
    pub fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        self.next_line()?.map(|line| self.0.parse(&line)).transpose()
    }

    /// Where the next line begins, bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.0.offset
    }

    /// The next line's `seq`; a line that has none is passed over.
    fn numbered(&mut self) -> Result<Option<u64>, Error> {
        loop {
            match self.read::<Numbered>() {
                Ok(line) => return Ok(line.map(|line| line.seq)),
                Err(Error::Line { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn skip_line(&mut self) -> Result<u64, Error> {
        let skipped = self.0.reader.skip_until(b'\n').map_err(|error| Error::io("read", &self.0.path, error))?;
        self.0.offset += skipped as u64;
        Ok(skipped as u64)
    }

    fn seek(&mut self, to: u64) -> Result<(), Error> {
        self.0.reader.seek(SeekFrom::Start(to)).map_err(|error| Error::io("read", &self.0.path, error))?;
        self.0.offset = to;
        Ok(())
    }

    fn len(&self) -> Result<u64, Error> {
        let facts = self.0.reader.get_ref().metadata().map_err(|error| Error::io("read", &self.0.path, error))?;
        Ok(facts.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn log(lines: &[String]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        lines.iter().for_each(|line| writeln!(file, "{line}").expect("write"));
        file
    }

    fn next(follow: &mut Follow) -> Option<u64> {
        follow.read::<Numbered>().expect("line").map(|line| line.seq)
    }

    #[test]
    fn every_event_is_found_by_its_number() {
        let lines: Vec<String> =
            (1..=5000).map(|seq| format!("{{\"seq\":{seq},\"x\":\"{}\"}}", "y".repeat(seq % 97))).collect();
        let file = log(&lines);
        for seq in (0..=5002).step_by(7).chain([1, 5000]) {
            let mut follow = Follow::from_seq(file.path(), seq as u64).expect("open");
            let expect = (seq <= 5000).then_some(seq.max(1) as u64);
            assert_eq!(next(&mut follow), expect, "from {seq}");
        }
        assert_eq!(Follow::last_seq(file.path()).expect("last"), 5000);
        assert_eq!(Follow::last_seq(log(&[]).path()).expect("last"), 0);
    }

    #[test]
    fn a_line_is_there_when_it_is_whole() {
        let mut file = log(&["{\"seq\":1}".to_owned()]);
        let mut follow = Follow::open(file.path()).expect("open");
        assert_eq!((next(&mut follow), next(&mut follow)), (Some(1), None));
        write!(file, "{{\"se").expect("write");
        assert_eq!(next(&mut follow), None);
        assert_eq!(Follow::last_seq(file.path()).expect("last"), 1);
        writeln!(file, "q\":2}}").expect("write");
        assert_eq!((next(&mut follow), next(&mut follow)), (Some(2), None));
        let mut later = Follow::from_offset(file.path(), follow.offset()).expect("open");
        writeln!(file, "[]\n{{\"seq\":3}}").expect("write");
        assert!(matches!(later.read::<Numbered>(), Err(Error::Line { .. })));
        assert_eq!(next(&mut later), Some(3));
    }

    #[test]
    fn what_is_no_event_hides_none() {
        let mut lines: Vec<String> = (1..=300).map(|seq| format!("{{\"seq\":{seq}}}")).collect();
        lines.insert(150, "z".repeat(200_000));
        let file = log(&lines);
        for seq in [1, 149, 150, 151, 300] {
            assert_eq!(next(&mut Follow::from_seq(file.path(), seq).expect("open")), Some(seq));
        }
        assert_eq!(Follow::last_seq(file.path()).expect("last"), 300);
    }
}
