//! Reading a session that somebody hands us: everything in it may be broken.
//!
//! Nothing is read whole that has no bound: a line of the log is at most [`MAX_LINE`], a manifest 1 MiB, a trace 64 MiB.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use lava_event::{Event, Finding, Sha256};
use lava_graph::{Timeline, Trace};
use serde::de::DeserializeOwned;

use crate::chain::{self, Check};
use crate::place::Place;
use crate::{ChainReport, Error, MAX_ARTIFACT, Manifest, State, files};

/// Longest line of a log, bytes.
pub const MAX_LINE: usize = 4 << 20;
/// The guest's disk, as differences: from the image to what the session found, and from there to what it left.
pub const DISK: [&str; 2] = ["vda.before", "vda.after"];
/// The processes of the whole session.
pub(crate) const TIMELINE: &str = "processes.json";

/// The files whose hashes stand in the manifest.
pub(crate) fn hashed() -> impl Iterator<Item = String> {
    const ALWAYS: [&str; 10] = [
        "events.jsonl",
        "chain.txt",
        "findings.jsonl",
        "trace.json",
        "trace.svg",
        "report.html",
        "filesystem.json",
        TIMELINE,
        "traffic.pcapng",
        "console.log",
    ];
    ALWAYS
        .into_iter()
        .map(str::to_owned)
        .chain(lava_event::memory_dumps())
        .chain(DISK.map(str::to_owned))
        .chain(lava_event::snapshots::paths())
}

/// A session: its folder, or its bundle, which is read without being unpacked.
#[derive(Clone, Debug)]
pub struct Session {
    place: Place,
    manifest: Manifest,
}

/// An entry of [`Session::list`].
#[derive(Debug)]
pub struct Listed {
    /// Its folder.
    pub dir: PathBuf,
    /// The session, or why it cannot be read.
    pub session: Result<Session, Error>,
}

impl Session {
    /// Opens a session's folder.
    ///
    /// # Errors
    /// If there is no manifest that this LAVA reads.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::at(Place::Folder(dir.to_path_buf()))
    }

    pub(crate) fn at(place: Place) -> Result<Self, Error> {
        let path = place.path("manifest.json");
        let manifest = place.open("manifest.json")?.ok_or_else(|| Error::NotASession(place.root().to_path_buf()))?;
        let manifest: Manifest = parse_json(manifest, &path, 1 << 20)?;
        if manifest.format != crate::manifest::FORMAT {
            let problem = format!("layout {} is not known here: read it with LAVA {}", manifest.format, manifest.lava);
            return Err(Error::Malformed { path, problem });
        }
        Ok(Self { place, manifest })
    }

    pub(crate) fn assume(dir: &Path, manifest: Manifest) -> Self {
        Self { place: Place::Folder(dir.to_path_buf()), manifest }
    }

    /// All sessions below `root`, by name (so by time). A broken one is listed with its error.
    ///
    /// # Errors
    /// If `root` cannot be read.
    pub fn list(root: &Path) -> Result<Vec<Listed>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(root).map_err(|error| Error::io("read", root, error))? {
            let dir = entry.map_err(|error| Error::io("read", root, error))?.path();
            // The console keeps what it needs in a hidden folder among them.
            let hidden = dir.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if dir.is_dir() && !hidden {
                found.push(Listed { session: Self::open(&dir), dir });
            }
        }
        found.sort_by(|a, b| a.dir.cmp(&b.dir));
        Ok(found)
    }

    /// Its folder, or its bundle's file.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.place.root()
    }

    /// Where its files are read from.
    pub(crate) const fn place(&self) -> &Place {
        &self.place
    }

    /// What it was.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// True while whoever writes it lives: it holds a lock on the log.
    #[must_use]
    pub fn is_being_written(&self) -> bool {
        files::is_locked(&self.place.path("events.jsonl"))
    }

    /// Its events, one by one.
    ///
    /// # Errors
    /// If the log cannot be opened.
    pub fn events(&self) -> Result<Events, Error> {
        Ok(Events { lines: Lines::open(&self.place, "events.jsonl")?, failed: false })
    }

    /// Its findings.
    ///
    /// # Errors
    /// If they cannot be read; a torn last line is left out.
    pub fn findings(&self) -> Result<Vec<Finding>, Error> {
        let mut lines = Lines::open(&self.place, "findings.jsonl")?;
        let mut found = Vec::new();
        while let Some(line) = lines.next()? {
            found.push(lines.parse(&line)?);
        }
        Ok(found)
    }

    /// Its trace, written when it was closed.
    ///
    /// # Errors
    /// If there is none (build it anew from the events) or it is broken.
    pub fn trace(&self) -> Result<Trace, Error> {
        let path = self.place.path("trace.json");
        let trace = self.place.open("trace.json")?;
        let missing = || Error::io("read", &path, std::io::ErrorKind::NotFound.into());
        parse_json(trace.ok_or_else(missing)?, &path, 64 << 20)
    }

    /// What it changed in the guest's file system, in the shape that its writer gave ([`crate::SessionWriter::filesystem`]); `None` if
    /// that was not compared.
    ///
    /// # Errors
    /// If it can't be read or is broken.
    pub fn filesystem<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        let name = "filesystem.json";
        self.place.open(name)?.map(|file| parse_json(file, &self.place.path(name), 64 << 20)).transpose()
    }

    /// Its processes, written when it was closed; `None` if there are none, or other ones than the manifest tells of: then they are to
    /// be made anew from the events.
    ///
    /// # Errors
    /// If they can't be read or are broken.
    pub fn timeline(&self) -> Result<Option<Timeline>, Error> {
        let path = self.place.path(TIMELINE);
        let (Some(mut file), Some(known)) = (self.place.open(TIMELINE)?, self.manifest.files.get(TIMELINE)) else {
            return Ok(None);
        };
        let bytes = files::read_all(&mut file, &path, 64 << 20)?;
        if Sha256::of(&bytes) != *known {
            return Ok(None);
        }
        parse_json(Box::new(std::io::Cursor::new(bytes)), &path, 64 << 20).map(Some)
    }

    /// An artifact's bytes; `None` if it was not kept.
    ///
    /// # Errors
    /// If it cannot be read, or its bytes do not have its hash.
    pub fn artifact(&self, sha256: &Sha256) -> Result<Option<Vec<u8>>, Error> {
        let name = format!("artifacts/{sha256}");
        let path = self.place.path(&name);
        let Some(mut file) = self.place.open(&name)? else { return Ok(None) };
        let bytes = files::read_all(&mut file, &path, MAX_ARTIFACT)?;
        if Sha256::of(&bytes) == *sha256 {
            Ok(Some(bytes))
        } else {
            Err(Error::Malformed {
                path,
                problem: "its bytes do not have the hash that is its name: changed later".into(),
            })
        }
    }

    /// The chain's value behind the log's first `events` lines, as it was written; `None` if there are not so many.
    ///
    /// # Errors
    /// If the chain can't be read.
    pub fn chain_behind(&self, events: u64) -> Result<Option<Sha256>, Error> {
        let mut links = Lines::open(&self.place, "chain.txt")?;
        while let Some(link) = links.next()? {
            if links.number == events {
                return Ok(std::str::from_utf8(&link).ok().and_then(|link| link.parse().ok()));
            }
        }
        Ok(None)
    }

    /// Holds the log against its chain, and the chain and the other files against the manifest.
    ///
    /// # Errors
    /// If a file cannot be read at all; what is wrong with them is in the report.
    pub fn verify_chain(&self) -> Result<ChainReport, Error> {
        let mut check = Check::default();
        let mut events = Lines::open(&self.place, "events.jsonl")?;
        let mut links = Lines::open(&self.place, "chain.txt")?;
        let mut head = chain::start(&self.manifest.session);
        let mut before = self.manifest.parent.as_deref().map(|parent| (parent, chain::start(&parent.session)));
        let (mut sealed, mut unsealed) = (0, 0);
        let (mut broken, mut unreadable) = (false, false);
        loop {
            let line = match events.next() {
                Ok(line) => line,
                Err(error @ Error::Line { .. }) => {
                    check.add("events.jsonl", Some(events.number), &error.to_string(), true);
                    Some(Vec::new())
                }
                Err(error) => {
                    check.add(
                        "events.jsonl",
                        Some(events.number + 1),
                        &format!("can't be read from here on: {error}"),
                        true,
                    );
                    unreadable = true;
                    break;
                }
            };
            let Some(line) = line else { break };
            let Ok(link) = links.next() else {
                check.add("chain.txt", Some(links.number + 1), "can't be read from here on", true);
                unreadable = true;
                break;
            };
            let Some(link) = link else {
                unsealed += 1;
                continue;
            };
            head = chain::next(&head, &line);
            if let Some((parent, head)) = &mut before {
                *head = chain::next(head, &line);
                if events.number == parent.events {
                    check.parent(parent, *head);
                    before = None;
                }
            }
            if link == head.to_string().as_bytes() {
                sealed += u64::from(!broken);
            } else if !broken {
                broken = true;
                check.add(
                    "events.jsonl",
                    Some(events.number),
                    "this line, or one cut out before it, is not as it was written",
                    true,
                );
            }
            if let Ok(event) = serde_json::from_slice::<Event>(&line) {
                check.seq(event.seq, events.number);
            } else {
                check.add("events.jsonl", Some(events.number), "is no event", true);
            }
        }
        if let Some((parent, _)) = before.filter(|(_, _)| !broken && !unreadable && self.manifest.chain_head.is_some())
        {
            check.parent(parent, head);
        }
        let mut cut = 0u64;
        while !unreadable && matches!(links.next(), Ok(Some(_))) {
            cut += 1;
        }
        self.check_ends(&mut check, unsealed, cut, (&events, &links));
        if let Some(known) = self.manifest.chain_head
            && known != head
            && !(broken || unreadable)
            && cut == 0
        {
            check.add(
                "manifest.json",
                None,
                "the chain's head is another one: the log was cut, or the manifest changed",
                true,
            );
        }
        self.check_files(&mut check)?;
        Ok(ChainReport { sealed, head, problems: check.problems })
    }

    fn check_ends(&self, check: &mut Check, unsealed: u64, cut: u64, (events, links): (&Lines, &Lines)) {
        let closed = self.manifest.chain_head.is_some();
        if unsealed > 0 {
            check.add(
                "events.jsonl",
                None,
                &format!("{unsealed} event(s) at the end are not sealed"),
                closed || unsealed > 1,
            );
        }
        if cut > 0 {
            check.add("events.jsonl", None, &format!("{cut} event(s) are missing at the end"), true);
        }
        for (name, lines) in [("events.jsonl", events), ("chain.txt", links)] {
            if let Some(line) = lines.torn {
                check.add(
                    name,
                    Some(line),
                    "the last line is torn: LAVA or the machine stopped while writing it",
                    closed,
                );
            }
        }
        if !closed && self.manifest.state == State::Open {
            check.add("manifest.json", None, "the session was not closed: it is running, or its writer died", false);
        }
    }

    fn check_files(&self, check: &mut Check) -> Result<(), Error> {
        // Only names that we write: a manifest from elsewhere must not make us read elsewhere.
        for name in hashed() {
            let Some(known) = self.manifest.files.get(&name) else { continue };
            match self.place.hash(&name) {
                Ok(None) => check.add(&name, None, "is missing", true),
                Ok(Some(now)) if now != *known => {
                    check.add(&name, None, "is not as it was when the session was closed", true);
                }
                Ok(Some(_)) => {}
                Err(error) => check.add(&name, None, &error.to_string(), true),
            }
        }
        let mut artifacts = self.place.artifacts()?;
        artifacts.retain(|(name, _)| !name.ends_with(".part"));
        let (kept, there) = (self.manifest.artifacts, artifacts.len() as u64);
        if self.manifest.chain_head.is_some() && kept != there {
            check.add("artifacts", None, &format!("{kept} were kept, {there} are there"), true);
        }
        for (name, _) in &artifacts {
            let path = format!("artifacts/{name}");
            if !self.place.hash(&path).is_ok_and(|hash| hash.is_some_and(|hash| hash.to_string() == *name)) {
                check.add(&path, None, "its bytes do not have the hash that is its name", true);
            }
        }
        Ok(())
    }
}

/// The lines of a file, bounded.
#[derive(Debug)]
pub(crate) struct Lines<R = Box<dyn Read + Send>> {
    pub(crate) path: PathBuf,
    pub(crate) reader: BufReader<R>,
    pub(crate) number: u64,
    pub(crate) torn: Option<u64>,
    /// Bytes of the whole lines so far.
    pub(crate) offset: u64,
}

impl Lines {
    fn open(place: &Place, name: &str) -> Result<Self, Error> {
        let path = place.path(name);
        let missing = || Error::io("read", &path, std::io::ErrorKind::NotFound.into());
        let file = place.open(name)?.ok_or_else(missing)?;
        Ok(Self::over(path, file))
    }
}

impl<R: Read> Lines<R> {
    pub(crate) fn over(path: PathBuf, file: R) -> Self {
        Self { path, reader: BufReader::with_capacity(64 * 1024, file), number: 0, torn: None, offset: 0 }
    }

    /// The next line without its end; `None` at the end and before a torn last line.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut line = Vec::new();
        let read = (&mut self.reader).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line);
        let read = read.map_err(|error| Error::io("read", &self.path, error))?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if line.last() == Some(&b'\n') {
            self.offset += read as u64;
            line.pop();
            return Ok(Some(line));
        }
        if line.len() <= MAX_LINE {
            self.torn = Some(self.number);
            return Ok(None);
        }
        let rest = self.reader.skip_until(b'\n').map_err(|error| Error::io("read", &self.path, error))?;
        self.offset += (read + rest) as u64;
        Err(self.wrong(format!("longer than {} MiB: LAVA writes no such line; it is left out", MAX_LINE >> 20)))
    }

    fn wrong(&self, problem: String) -> Error {
        Error::Line { path: self.path.clone(), line: self.number, problem }
    }

    pub(crate) fn parse<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(line)
            .map_err(|error| self.wrong(format!("{error}; `lava verify` tells what else is wrong")))
    }
}

/// The events of a log, in order. An `Err` with [`Error::Line`] is about one line; the next call goes on behind it. Any other is
/// the last item.
pub struct Events {
    lines: Lines,
    failed: bool,
}

impl Events {
    /// The number of the torn last line, if the log ends in one. Known once the iterator has ended.
    #[must_use]
    pub const fn torn(&self) -> Option<u64> {
        self.lines.torn
    }
}

impl Iterator for Events {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.lines.next() {
            Ok(None) => None,
            Ok(Some(line)) => Some(self.lines.parse(&line)),
            Err(error) => {
                self.failed = !matches!(error, Error::Line { .. });
                Some(Err(error))
            }
        }
    }
}

fn parse_json<T: DeserializeOwned>(mut file: Box<dyn Read + Send>, path: &Path, max: usize) -> Result<T, Error> {
    serde_json::from_slice(&files::read_all(&mut file, path, max)?).map_err(|error| {
        let problem =
            format!("is not what LAVA writes there ({error}); the events can still be read with `lava replay`");
        Error::Malformed { path: path.to_path_buf(), problem }
    })
}
