//! Writing a session while it runs.
//!
//! Each event goes to the system before [`SessionWriter::event`] returns; what the system has, a dying LAVA does not
//! lose. A line that could not be written whole is taken back, so the log stays valid on a full disk.
//!
//! *Limits:* power loss may cost what the system had not yet put on the disk (a prefix stays valid). An artifact larger
//! than [`MAX_ARTIFACT`], or beyond [`MAX_ARTIFACTS_TOTAL`], is counted and not kept.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use lava_event::{Artifact, Finding, Produced, SessionId, Sha256};
use lava_graph::{Timeline, Trace};
use serde::Serialize;

use crate::place::Place;
use crate::reader::TIMELINE;
use crate::{Error, Manifest, Session, State, chain, files, report, svg};

/// Largest artifact kept, bytes.
pub const MAX_ARTIFACT: usize = 64 << 20;
/// All artifacts of a session together, bytes.
pub const MAX_ARTIFACTS_TOTAL: u64 = 4 << 30;

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// [`State::Closed`] if everything was recorded, else [`State::Aborted`].
    pub state: State,
    /// RFC 3339.
    pub ended: String,
    /// Hash of the disk's first 512 bytes now.
    pub mbr_after: Option<Sha256>,
    /// Why it ended so, in words.
    pub detail: Option<String>,
}

/// A file that only grows by whole lines.
struct Lines {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Lines {
    fn create(path: PathBuf) -> Result<Self, Error> {
        Ok(Self { file: files::create(&path)?, path, len: 0 })
    }

    fn append(&mut self, line: &[u8]) -> Result<(), Error> {
        if let Err(error) = self.file.write_all(line) {
            self.cut(self.len);
            return Err(Error::io("write", &self.path, error));
        }
        self.len += line.len() as u64;
        Ok(())
    }

    /// Takes back what is behind `len`. If even that fails, readers report a torn last line.
    fn cut(&mut self, len: u64) {
        if self.file.set_len(len).is_ok() {
            self.len = len;
        }
    }
}

/// Writes one session's folder.
pub struct SessionWriter {
    dir: PathBuf,
    manifest: Manifest,
    events: Lines,
    chain: Lines,
    findings: Lines,
    head: Sha256,
    kept: BTreeSet<Sha256>,
    artifact_bytes: u64,
}

impl SessionWriter {
    /// Makes `root/<id>` with an open manifest. `root` is made if need be.
    ///
    /// # Errors
    /// If the id is none, the folder exists, or the system refuses.
    pub fn create(root: &Path, id: &SessionId, mut manifest: Manifest) -> Result<Self, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if id.0.is_empty() || id.0.len() > 64 || !id.0.bytes().all(plain) {
            return Err(Error::BadId(id.0.chars().take(80).collect()));
        }
        fs::create_dir_all(root).map_err(|error| Error::io("create", root, error))?;
        let dir = root.join(&id.0);
        files::create_dir(&dir)?;
        files::create_dir(&dir.join("artifacts"))?;
        manifest.session = id.clone();
        manifest.state = State::Open;
        let writer = Self {
            events: Lines::create(dir.join("events.jsonl"))?,
            chain: Lines::create(dir.join("chain.txt"))?,
            findings: Lines::create(dir.join("findings.jsonl"))?,
            head: chain::start(id),
            kept: BTreeSet::new(),
            artifact_bytes: 0,
            manifest,
            dir,
        };
        files::lock(&writer.events.path, &writer.events.file)?;
        writer.write_json("manifest.json", &writer.manifest)?;
        Ok(writer)
    }

    /// The session's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifest as it is now; what is learned late (QEMU's version, the kernel) may be filled in.
    pub const fn manifest_mut(&mut self) -> &mut Manifest {
        &mut self.manifest
    }

    /// The chain's value behind the last event.
    #[must_use]
    pub const fn head(&self) -> Sha256 {
        self.head
    }

    /// Keeps an event and its artifacts.
    ///
    /// # Errors
    /// If the system refuses; the event is then not in the log, and the log is valid.
    pub fn event(&mut self, produced: &Produced) -> Result<(), Error> {
        for artifact in &produced.artifacts {
            self.artifact(artifact)?;
        }
        let mut line = json(&self.events.path, &produced.event)?;
        let head = chain::next(&self.head, &line);
        line.push(b'\n');
        let before = self.events.len;
        self.events.append(&line)?;
        if let Err(error) = self.chain.append(format!("{head}\n").as_bytes()) {
            self.events.cut(before);
            return Err(error);
        }
        self.head = head;
        self.manifest.events += 1;
        Ok(())
    }

    /// Keeps bytes that no event speaks of.
    ///
    /// # Errors
    /// If the system refuses, or the bytes do not have their hash.
    pub fn artifact(&mut self, artifact: &Artifact) -> Result<(), Error> {
        if self.kept.contains(&artifact.sha256) {
            return Ok(());
        }
        let size = artifact.bytes.len();
        if size > MAX_ARTIFACT || self.artifact_bytes.saturating_add(size as u64) > MAX_ARTIFACTS_TOTAL {
            self.manifest.artifacts_left_out += 1;
            return Ok(());
        }
        if Sha256::of(&artifact.bytes) != artifact.sha256 {
            return Err(Error::WrongArtifact(artifact.sha256));
        }
        files::write_whole(&self.dir.join("artifacts").join(artifact.sha256.to_string()), &artifact.bytes)?;
        self.kept.insert(artifact.sha256);
        self.artifact_bytes += size as u64;
        self.manifest.artifacts += 1;
        Ok(())
    }

    /// Keeps a finding.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn finding(&mut self, finding: &Finding) -> Result<(), Error> {
        let mut line = json(&self.findings.path, finding)?;
        line.push(b'\n');
        self.findings.append(&line)?;
        self.manifest.findings += 1;
        Ok(())
    }

    /// Writes what the session changed in the guest's file system, before it is closed.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn filesystem(&self, changes: &impl Serialize) -> Result<(), Error> {
        self.write_json("filesystem.json", changes)
    }

    /// Writes the processes of the whole session, before it is closed: who opens it later need not read its log for them.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn timeline(&self, timeline: &Timeline) -> Result<(), Error> {
        self.write_json(TIMELINE, timeline)
    }

    /// Writes trace, picture, report and the final manifest.
    ///
    /// # Errors
    /// If the system refuses. The manifest then says so where it could be written, and the log stays valid.
    pub fn close(mut self, trace: &Trace, outcome: Outcome) -> Result<Session, Error> {
        let manifest = &mut self.manifest;
        manifest.state = if outcome.state == State::Open { State::Aborted } else { outcome.state };
        manifest.ended = Some(outcome.ended);
        manifest.mbr_after = outcome.mbr_after.or(manifest.mbr_after);
        manifest.detail = outcome.detail;
        manifest.verdict = Some(trace.verdict);
        manifest.score = Some(trace.score);
        manifest.explanation = Some(trace.explanation.clone());
        manifest.chain_head = Some(self.head);
        let drawn = self.draw(trace);
        if let Err(error) = &drawn {
            self.manifest.state = State::Aborted;
            self.manifest.detail = Some(format!("closing failed: {error}"));
        }
        let listed = self.list_files();
        let saved = self.write_json("manifest.json", &self.manifest);
        drawn.and(listed).and(saved)?;
        Session::open(&self.dir)
    }

    fn draw(&self, trace: &Trace) -> Result<(), Error> {
        for lines in [&self.events, &self.chain, &self.findings] {
            lines.file.sync_all().map_err(|error| Error::io("write", &lines.path, error))?;
        }
        self.write_json("trace.json", trace)?;
        files::write_whole(&self.dir.join("trace.svg"), svg::render(trace).as_bytes())?;
        let session = Session::assume(&self.dir, self.manifest.clone());
        files::write_whole(&self.dir.join("report.html"), report::render(&session, trace)?.as_bytes())
    }

    fn list_files(&mut self) -> Result<(), Error> {
        for name in crate::reader::hashed() {
            if let Some(hash) = Place::Folder(self.dir.clone()).hash(&name)? {
                self.manifest.files.insert(name, hash);
            }
        }
        Ok(())
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.dir.join(name);
        let mut text = serde_json::to_vec_pretty(value).map_err(|error| malformed(&path, &error))?;
        text.push(b'\n');
        files::write_whole(&path, &text)
    }
}

fn json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| malformed(path, &error))
}

fn malformed(path: &Path, error: &serde_json::Error) -> Error {
    Error::Malformed { path: path.to_path_buf(), problem: format!("cannot be written as JSON: {error}") }
}
