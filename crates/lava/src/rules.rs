//! `lava rules`, and the reading of a folder of Sigma rules, or of YARA rules (`yara.rs`).
//!
//! Every `*.yml` and `*.yaml` (`*.yar` and `*.yara`) below the folder is read, in the order of their paths. Symbolic links below it are not followed: no
//! loops, and nothing outside of what was named.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use lava_analysis::Analysis;
use lava_detect::sigma::{self, Outcome, Recorder, RuleSet};
use lava_event::{GuestText, Sha256};

use crate::terminal::Live;
use crate::{CLEAN, FAILED, replay, show, yara};

/// Extensions of Sigma rules.
const SIGMA: [&str; 2] = ["yml", "yaml"];
/// Files that are read at most.
const MAX_FILES: usize = 20_000;
/// Deepest folder below the one that was named.
const MAX_DEPTH: usize = 16;

/// What can be done with rules.
#[derive(Subcommand)]
pub enum Command {
    /// Say of each Sigma rule, and of each file of YARA rules, below a folder: used, or why it can't be.
    ///
    /// Exit code: 0 all rules are well-formed (a good rule that cannot be used here is told, and no failure), 1 one is malformed, or
    /// the folder cannot be read.
    Check {
        /// The folder, or one file.
        dir: PathBuf,
    },
    /// Print what Sigma rules see of a recorded session: a JSON object a line, with log source, fields and event.
    ///
    /// For who writes rules. Of processes that descend from the task, once it has started.
    Fields {
        /// A session's folder, its id, its bundle, or `latest`.
        session: String,
        /// Folder of Sigma rules, or one file: say of each event which of them match it.
        #[arg(long, value_name = "DIR")]
        rules: Option<PathBuf>,
        /// Folder of sessions, if not the usual one.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// A folder's rules, and what became of each.
#[derive(Default)]
pub struct Checked {
    pub rules: RuleSet,
    /// Over each file's hash and path, in order; none if there are no rules.
    pub sha256: Option<Sha256>,
    outcomes: Vec<(PathBuf, Outcome)>,
}

impl Checked {
    fn malformed(&self) -> usize {
        self.outcomes.iter().filter(|(_, o)| o.result.as_ref().is_err_and(|error| error.code.is_malformed())).count()
    }

    /// `12 used (2 of them in part), 3 can't be used, 1 malformed`
    pub fn summary(&self) -> String {
        let malformed = self.malformed();
        let in_part =
            self.outcomes.iter().filter(|(_, o)| o.result.as_ref().is_ok_and(|notes| !notes.is_empty())).count();
        let in_part = if in_part == 0 { String::new() } else { format!(" ({in_part} of them in part)") };
        let unusable = self.outcomes.len().saturating_sub(self.rules.len() + malformed);
        format!("{} used{in_part}, {unusable} can't be used, {malformed} malformed", self.rules.len())
    }
}

/// Reads and compiles the rules below a folder, or of one file.
pub fn load(dir: &Path) -> Result<Checked> {
    let files = files(dir, SIGMA)?;
    if files.is_empty() {
        bail!("the rules {}: there is no *.yml or *.yaml below it", dir.display());
    }
    let mut checked = Checked::default();
    let mut sums = String::new();
    for path in files {
        let bytes = read(&path, sigma::MAX_FILE).with_context(|| format!("the rules {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let below = path.strip_prefix(dir).unwrap_or(&path);
        sums.push_str(&format!("{}  {}\n", Sha256::of(text.as_bytes()), below.display()));
        let outcomes = checked.rules.add(&text);
        checked.outcomes.extend(outcomes.into_iter().map(|outcome| (path.clone(), outcome)));
    }
    checked.sha256 = Some(Sha256::of(sums.as_bytes()));
    Ok(checked)
}

/// The files of rules below a folder, by extension, in the order of their paths; of a file, itself.
pub fn files(dir: &Path, extensions: [&str; 2]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    match fs::metadata(dir).with_context(|| format!("the rules {}", dir.display()))?.is_dir() {
        true => collect(dir, extensions, 0, &mut files)?,
        false => files.push(dir.to_path_buf()),
    }
    files.sort();
    Ok(files)
}

/// A file of rules as it is told: below the folder that was named, or itself if it was named.
pub fn below<'a>(path: &'a Path, dir: &Path) -> &'a Path {
    path.strip_prefix(dir).ok().filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(path)
}

/// The same, where no folder need be given: no rules.
pub fn load_any(dir: Option<&Path>) -> Result<Checked> {
    dir.map_or_else(|| Ok(Checked::default()), load)
}

fn collect(dir: &Path, extensions: [&str; 2], depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        bail!("the rules {}: folders nested deeper than {MAX_DEPTH}", dir.display());
    }
    for entry in fs::read_dir(dir).with_context(|| format!("the rules {}", dir.display()))? {
        let entry = entry?;
        // Of the entry itself: a link is neither file nor folder here.
        let what = entry.file_type()?;
        let path = entry.path();
        if what.is_dir() {
            collect(&path, extensions, depth + 1, files)?;
        } else if what.is_file() && path.extension().is_some_and(|e| extensions.iter().any(|known| e == *known)) {
            if files.len() >= MAX_FILES {
                bail!("the rules {}: more than {MAX_FILES} files", dir.display());
            }
            files.push(path);
        }
    }
    Ok(())
}

/// Reads one byte more than is taken, so that a file that is too large is known to be.
pub fn read(path: &Path, most: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Runs `lava rules`; returns the exit code.
pub fn command(command: &Command) -> Result<u8> {
    match command {
        Command::Check { dir } => check(dir),
        Command::Fields { session, rules, out } => fields(session, rules.as_deref(), out.as_deref()).map(|()| CLEAN),
    }
}

fn check(dir: &Path) -> Result<u8> {
    let yara = yara::load(dir)?;
    yara.list(dir, &mut std::io::stdout().lock())?;
    let sigma = yara.is_empty() || !files(dir, SIGMA)?.iter().all(|path| yara.has(path));
    let checked = if sigma { load(dir)? } else { Checked::default() };
    let mut out = std::io::stdout().lock();
    for (path, outcome) in &checked.outcomes {
        list(below(path, dir), outcome, &mut out)?;
    }
    if sigma {
        writeln!(out, "{}", checked.summary())?;
    }
    Ok(if checked.malformed() > 0 || yara.is_malformed() { FAILED } else { CLEAN })
}

/// Says of a rule: used, and what of it never matches, or why it can't be used.
fn list(shown: &Path, outcome: &Outcome, out: &mut dyn Write) -> std::io::Result<()> {
    // Rules are often somebody else's: nothing of them reaches the terminal unescaped.
    let escaped = |text: &str| GuestText::from(text).to_string();
    let title = if outcome.title.is_empty() { String::new() } else { format!(" ({})", escaped(&outcome.title)) };
    let (word, reason) = match &outcome.result {
        Ok(notes) => (if notes.is_empty() { "used" } else { "in part" }, String::new()),
        Err(error) => {
            let word = if error.code.is_malformed() { "malformed" } else { "not used" };
            (word, format!(": {}", escaped(&error.to_string())))
        }
    };
    writeln!(out, "{word:<10} {}{title}{reason}", shown.display())?;
    for note in outcome.result.iter().flatten() {
        writeln!(out, "           {}", escaped(note))?;
    }
    Ok(())
}

/// Prints a session's events as Sigma rules see them.
fn fields(session: &str, rules: Option<&Path>, out: Option<&Path>) -> Result<()> {
    let session = show::find(session, out)?;
    let rules = load_any(rules)?.rules;
    let (mut analysis, mut recorder) = (Analysis::new(), Recorder::default());
    let (live, mut unreadable) = (Live::new(true), 0);
    let mut out = std::io::stdout().lock();
    for event in replay::events(&session, &live, &mut unreadable)? {
        analysis.observe(&event);
        for record in analysis.records(&mut recorder, &event) {
            let fields: Vec<(&str, &str)> = record.fields().collect();
            let matches: Vec<&str> = rules.matching(&record).map(|(_, id)| id).collect();
            let line = serde_json::json!({
                "event": event.seq,
                "logsource": record.log_source(),
                "subject": record.subject(),
                "read": record.is_read(),
                "fields": fields,
                "text": record.full_text(),
                "matches": matches,
            });
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}
