//! YARA rules: read for `lava run --yara` and `lava replay --yara`, and `lava yara` over what a session kept.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lava_event::{Artifact, Event, Finding, GuestText, Produced, Sha256};
use lava_evidence::Session;
use lava_yara::{Rules, Scanned, Scanner, Sources};

use crate::terminal::Live;
use crate::{CLEAN, THREAT, replay, rules, show};

/// Extensions of YARA rules.
const YARA: [&str; 2] = ["yar", "yara"];
/// For a memory dump, however many rules there are.
const MEMORY: Duration = Duration::from_secs(600);

/// A folder's rules, and what is wrong with some.
pub struct Loaded {
    pub rules: Rules,
    /// Over each file's hash and path, in order; none if there are no rules.
    pub sha256: Option<Sha256>,
    files: Vec<(PathBuf, State)>,
}

/// What became of a file of rules.
enum State {
    Used,
    /// Good rules that can't be used here were left out; which and why.
    InPart(String),
    /// What is wrong with it.
    Malformed(String),
}

impl State {
    /// What of it can't be used.
    fn problem(&self) -> Option<&str> {
        match self {
            Self::Used => None,
            Self::InPart(problem) | Self::Malformed(problem) => Some(problem),
        }
    }
}

/// Reads and compiles the YARA rules below a folder, or of one file. There may be none.
pub fn load(dir: &Path) -> Result<Loaded> {
    let (mut sources, mut files, mut sums) = (Sources::default(), Vec::new(), String::new());
    for path in rules::files(dir, YARA)? {
        if path.extension().is_none_or(|extension| YARA.iter().all(|known| extension != *known)) {
            continue; // One file was named, and it is none.
        }
        let shown = rules::below(&path, dir);
        let text = rules::read(&path, lava_yara::MAX_FILE).with_context(|| format!("the rules {}", path.display()))?;
        sums.push_str(&format!("{}  {}\n", Sha256::of(&text), shown.display()));
        let state = match sources.add(&shown.display().to_string(), &text) {
            Ok(None) => State::Used,
            Ok(Some(left_out)) => State::InPart(left_out),
            Err(problem) => State::Malformed(problem),
        };
        files.push((path, state));
    }
    let sha256 = (!files.is_empty()).then(|| Sha256::of(sums.as_bytes()));
    Ok(Loaded { rules: sources.build(), sha256, files })
}

/// The same, if a folder is given; then there must be rules.
pub fn load_any(dir: Option<&Path>) -> Result<Option<Loaded>> {
    let Some(dir) = dir else { return Ok(None) };
    let loaded = load(dir)?;
    if loaded.is_empty() {
        bail!("the YARA rules {}: there is no *.yar or *.yara below it", dir.display());
    }
    Ok(Some(loaded))
}

impl Loaded {
    /// True if there are no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// True if something is wrong with any: not if good rules can't be used here.
    pub fn is_malformed(&self) -> bool {
        self.files.iter().any(|(_, state)| matches!(state, State::Malformed(_)))
    }

    /// True if that is one of its files.
    pub fn has(&self, path: &Path) -> bool {
        self.files.iter().any(|(known, _)| known == path)
    }

    /// `12 rules of 3 files, 1 of them with rules that can't be used`
    pub fn summary(&self) -> String {
        let bad = self.files.iter().filter(|(_, state)| state.problem().is_some()).count();
        let bad = if bad == 0 { String::new() } else { format!(", {bad} of them with rules that can't be used") };
        format!("{} rules of {} files{bad}", self.rules.len(), self.files.len())
    }

    /// Says of each file: used, or what of it can't be.
    pub fn list(&self, dir: &Path, out: &mut dyn Write) -> std::io::Result<()> {
        for (path, state) in &self.files {
            let word = match state {
                State::Used => "used",
                State::InPart(_) => "in part",
                State::Malformed(_) => "malformed",
            };
            writeln!(out, "{word:<10} {}", rules::below(path, dir).display())?;
            // Rules are often somebody else's: nothing of them reaches the terminal unescaped.
            for line in state.problem().unwrap_or_default().lines() {
                writeln!(out, "           {}", GuestText::from(line))?;
            }
        }
        if !self.is_empty() {
            writeln!(out, "{}", self.summary())?;
        }
        Ok(())
    }
}

/// What was kept with a recorded event.
pub fn recorded(session: &Session, event: Event) -> Result<Produced> {
    let mut artifacts = Vec::new();
    for sha256 in lava_yara::contents(&event.kind) {
        if let Some(bytes) = session.artifact(&sha256)? {
            artifacts.push(Artifact { sha256, bytes: bytes.into() });
        }
    }
    Ok(Produced { event, artifacts })
}

/// Searches what came with an event; what could not be searched is told.
pub fn scan(scanner: Option<&mut Scanner<'_>>, produced: &Produced, live: &Live) -> Vec<Finding> {
    let Scanned { findings, problems } = scanner.map(|scanner| scanner.scan(produced)).unwrap_or_default();
    problems.iter().for_each(|problem| live.progress(problem));
    findings
}

/// Options of `lava yara`.
#[derive(clap::Args)]
pub struct Options {
    /// A session's folder, its id, its bundle, or `latest`.
    session: String,
    /// Folder of YARA rules (*.yar, *.yara), or one file.
    rules: PathBuf,
    /// Search the session's memory dumps too (`lava ctl SESSION dump`).
    #[arg(long)]
    memory: bool,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Options {
    /// Searches, and says what matches; returns the exit code.
    pub fn run(&self) -> Result<u8> {
        let session = show::find(&self.session, self.out.as_deref())?;
        let loaded = load_any(Some(&self.rules))?.context("no rules")?;
        let live = Live::new(true);
        live.progress(&format!("YARA: {}", loaded.summary()));
        let mut out = std::io::stdout().lock();
        let (mut scanner, mut unreadable, mut found) = (Scanner::new(&loaded.rules), 0, 0);
        for event in replay::events(&session, &live, &mut unreadable)? {
            let produced = recorded(&session, event)?;
            for finding in scan(Some(&mut scanner), &produced, &live) {
                found += 1;
                writeln!(out, "{:?} {} (event {})", finding.severity, finding.title, produced.event.seq)?;
                writeln!(out, "       {}", GuestText::from(finding.why.as_str()))?;
            }
        }
        if self.memory {
            found += self.memory(&session, &loaded.rules, &mut out)?;
        }
        if found == 0 {
            writeln!(out, "no rule matches")?;
        }
        if unreadable > 0 {
            bail!("{unreadable} line(s) of the log could not be read: `lava verify` tells more");
        }
        Ok(if found > 0 { THREAT } else { CLEAN })
    }

    fn memory(&self, session: &Session, rules: &Rules, out: &mut dyn Write) -> Result<usize> {
        let (mut dumps, mut found) = (0, 0);
        for name in lava_event::memory_dumps() {
            let path = session.dir().join(&name);
            let Ok(file) = File::open(&path) else { break };
            dumps += 1;
            let matches = lava_yara::scan_memory(rules, file, MEMORY);
            for each in matches.map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))? {
                found += 1;
                writeln!(out, "{name} matches the YARA rule {}", each.rule)?;
                for (pattern, at, length) in each.places {
                    writeln!(out, "       {pattern} at byte {at:#x}, {length} bytes")?;
                }
            }
        }
        if dumps == 0 {
            bail!("session {} has no memory dump (a bundle's are not searched)", session.manifest().session);
        }
        Ok(found)
    }
}
