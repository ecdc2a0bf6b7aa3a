//! `lava baseline`: learning, showing and comparing with what is usual for a profile; and the baseline that an analysis uses.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lava_analysis::{Analysis, Compared, Unknown, compare};
use lava_baseline::{Baseline, MAX_ACTS, MAX_FILE};
use lava_event::{GuestText, Sha256, Verdict};
use lava_evidence::{Session, State};

use crate::run::{self, Run};
use crate::terminal::{Live, Style};
use crate::{CLEAN, FAILED, places, replay, show};

/// The user's own, below the configuration's folder.
const OWN: &str = "baselines";
/// What stands for "no baseline".
const NONE: &str = "none";
/// Acts that are told of each program.
const TOLD: usize = 20;
/// The session did what the baseline does not know.
const DIFFERS: u8 = 3;

/// Which baseline findings are ranked by.
#[derive(clap::Args, Default)]
pub struct Choice {
    /// What findings are ranked by: a baseline's file, or `none`. Default: your own for the profile
    /// (~/.config/lava/baselines/PROFILE.toml), or the one that comes with LAVA.
    #[arg(long, value_name = "FILE|none")]
    baseline: Option<String>,
}

/// A baseline, where it comes from, and the hash of its text.
pub struct Chosen {
    pub baseline: Baseline,
    source: String,
    pub sha256: Sha256,
}

impl Choice {
    /// The baseline for sessions of that profile.
    pub fn load(&self, profile: &str) -> Result<Option<Chosen>> {
        let chosen = match self.baseline.as_deref() {
            Some(NONE) => None,
            Some(file) => Some(read(Path::new(file))?),
            None => default(profile)?,
        };
        if let Some(is) = chosen.as_ref().map(|chosen| chosen.baseline.profile()).filter(|is| *is != profile) {
            let (is, profile) = (is.escape_debug(), profile.escape_debug());
            bail!("the baseline is for the profile {is}, not for {profile}: give another with --baseline");
        }
        Ok(chosen)
    }
}

/// The baseline for sessions of that profile, if nothing else is asked for.
pub fn usual(profile: &str) -> Result<Option<Baseline>> {
    Ok(Choice::default().load(profile)?.map(|chosen| chosen.baseline))
}

/// The user's own, or else the shipped one.
fn default(profile: &str) -> Result<Option<Chosen>> {
    // The name can come from a folder that somebody handed to us: only a plain one is a file's.
    let plain = !profile.is_empty() && profile.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let own = places::configuration().map(|folder| folder.join(OWN).join(format!("{profile}.toml")));
    if let Some(file) = own.filter(|file| plain && file.is_file()) {
        return read(&file).map(Some);
    }
    let shipped = lava_baseline::shipped(profile);
    shipped.map(|text| parse(text, format!("the baseline that comes with LAVA for {profile}"))).transpose()
}

fn read(path: &Path) -> Result<Chosen> {
    let source = format!("the baseline {}", path.display());
    let mut text = String::new();
    // One byte more than is taken, so that a file that is too large is known to be.
    let file = std::fs::File::open(path).with_context(|| source.clone())?;
    file.take(MAX_FILE as u64 + 1).read_to_string(&mut text).with_context(|| source.clone())?;
    parse(&text, source)
}

fn parse(text: &str, source: String) -> Result<Chosen> {
    let baseline = Baseline::parse(text).with_context(|| source.clone())?;
    Ok(Chosen { baseline, source, sha256: Sha256::of(text.as_bytes()) })
}

/// What is done with baselines.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Open honest tasks, each in a micro-VM, and write down what they did: docs/baselines.md.
    Learn(Learn),
    /// Show what a baseline holds and what it was learned from.
    Show {
        /// A profile's name, or a baseline's file.
        profile: String,
    },
    /// List what a session did that the baseline of its profile does not know: most distant first, by program.
    ///
    /// Exit code: 0 nothing, 3 something, 1 the session or the baseline cannot be read.
    Diff {
        /// A session's folder, its id, its bundle, or `latest`.
        session: String,
        #[command(flatten)]
        choice: Choice,
        /// Folder of sessions, if not the usual one.
        #[arg(long, value_name = "DIR")]
        sessions: Option<PathBuf>,
    },
}

/// Options of `lava baseline learn`.
#[derive(clap::Args)]
pub struct Learn {
    /// The profile that the tasks are opened as.
    profile: String,
    /// Honest tasks. Each is played as `lava run` does, and its session is kept.
    #[arg(value_name = "TASK")]
    tasks: Vec<PathBuf>,
    /// Recorded sessions of that profile to learn from, too: folders, ids, bundles.
    #[arg(long, value_name = "SESSION", num_args = 1..)]
    sessions: Vec<String>,
    /// Where the baseline is written, anew; standard output if not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The date that the baseline bears, if not today's.
    #[arg(long, value_name = "DATE")]
    date: Option<String>,
    /// Learn even from sessions whose verdict is malicious: what an attack does becomes usual.
    #[arg(long)]
    even_malicious: bool,
}

/// Runs it; returns the exit code.
pub fn command(command: &Command) -> Result<u8> {
    match command {
        Command::Learn(learn) => learn.run().map(|()| CLEAN),
        Command::Show { profile } => show_baseline(profile).map(|()| CLEAN),
        Command::Diff { session, choice, sessions } => diff(session, choice, sessions.as_deref()),
    }
}

impl Learn {
    fn run(&self) -> Result<()> {
        if self.tasks.is_empty() && self.sessions.is_empty() {
            bail!("nothing to learn from: name tasks, or sessions with --sessions");
        }
        let today = || run::now().split('T').next().unwrap_or_default().to_owned();
        let mut baseline = Baseline::new(&self.profile, &self.date.clone().unwrap_or_else(today));
        for name in &self.sessions {
            self.learn(&show::find(name, None)?, &mut baseline)?;
        }
        for task in &self.tasks {
            let session = self.play(task)?;
            self.learn(&session, &mut baseline)?;
        }
        let text = baseline.to_text()?;
        match &self.out {
            Some(file) => std::fs::write(file, text).with_context(|| format!("the baseline {}", file.display()))?,
            None => std::io::stdout().write_all(text.as_bytes())?,
        }
        eprintln!("lava: {} acts of {} tasks", baseline.acts(), baseline.learned().tasks.len());
        Ok(())
    }

    /// Plays one task; the session it left.
    fn play(&self, task: &Path) -> Result<Session> {
        let (id, root) = (ulid::Ulid::new(), places::sessions(None)?);
        let shown = || format!("learning from {}", task.display());
        if Run::to_learn(task, &self.profile, id)?.run().with_context(shown)? == FAILED {
            bail!("learning from {}: it was not opened to its end", task.display());
        }
        Ok(Session::open(&root.join(id.to_string()))?)
    }

    fn learn(&self, session: &Session, baseline: &mut Baseline) -> Result<()> {
        let manifest = session.manifest();
        let id = &manifest.session;
        if manifest.profile != self.profile {
            bail!("the session {id} is of the profile {}, not of {}", manifest.profile.escape_debug(), self.profile);
        }
        if manifest.state != State::Closed {
            bail!("the session {id} is not whole ({}): what is usual can't be told from it", manifest.state.name());
        }
        // Of today's detectors, without a baseline; what was recorded can be milder.
        let mut analysis = Analysis::new();
        for event in session.events()? {
            analysis.observe(&event?);
        }
        let verdict = analysis.graph().verdict().max(manifest.verdict.unwrap_or(Verdict::Clean));
        if verdict == Verdict::Malicious && !self.even_malicious {
            bail!("the session {id} is malicious: nothing is learned from it, unless with --even-malicious");
        }
        let (compared, task) = (against(session, baseline)?, GuestText::from(manifest.task.name.as_str()).to_string());
        let recipe = manifest.image.recipe.map(|hash| hash.to_string());
        baseline
            .learn(&manifest.lava, recipe, &task, compared.acts)
            .with_context(|| format!("learning from the session {id}"))
    }
}

/// Holds a recorded session against a baseline. A line of its log that can't be read is an error: what it said is not known.
fn against(session: &Session, baseline: &Baseline) -> Result<Compared> {
    let mut unreadable = 0;
    let live = Live::new(true);
    let compared = compare(baseline, replay::events(session, &live, &mut unreadable)?);
    if unreadable > 0 {
        bail!("{unreadable} line(s) of the log could not be read: `lava verify` tells more");
    }
    Ok(compared)
}

fn show_baseline(wanted: &str) -> Result<()> {
    let chosen = match default(wanted)? {
        Some(chosen) => chosen,
        None if Path::new(wanted).is_file() => read(Path::new(wanted))?,
        None => bail!("there is no baseline for the profile {}, and no such file", wanted.escape_debug()),
    };
    let Chosen { baseline, source, sha256 } = chosen;
    let (out, shown) = (&mut std::io::stdout().lock(), |text: &str| GuestText::from(text).to_string());
    let list = |texts: &mut dyn Iterator<Item = &String>| texts.map(|text| shown(text)).collect::<Vec<_>>().join(", ");
    let learned = baseline.learned();
    writeln!(out, "{source} (sha256 {sha256})")?;
    writeln!(out, "profile:  {}, {} acts", shown(baseline.profile()), baseline.acts())?;
    writeln!(out, "learned:  {} by LAVA {}", shown(&learned.date), list(&mut learned.lava.iter()))?;
    writeln!(out, "image:    {}", list(&mut learned.recipes.iter()))?;
    writeln!(out, "tasks:    {}", list(&mut learned.tasks.iter()))?;
    let mut last = "";
    for (program, act, object) in baseline.iter() {
        if program != last {
            writeln!(out, "{}", shown(program))?;
            last = program;
        }
        writeln!(out, "  {:<27} {}", act.name(), shown(object))?;
    }
    Ok(())
}

fn diff(name: &str, choice: &Choice, sessions: Option<&Path>) -> Result<u8> {
    let session = show::find(name, sessions)?;
    let profile = &session.manifest().profile;
    let Some(Chosen { baseline, .. }) = choice.load(profile)? else {
        bail!("there is no baseline for the profile {}: give one with --baseline", profile.escape_debug());
    };
    let compared = against(&session, &baseline)?;
    let (out, style) = (&mut std::io::stdout().lock(), Style::of_stdout());
    for (program, acts) in compared.by_program() {
        writeln!(out, "{}", style.bold(program))?;
        for Unknown { distance, act, object, seq } in acts.iter().take(TOLD) {
            writeln!(out, "  {} {:<27} {object}  (event {seq})", distance.number(), act.name())?;
        }
        if let Some(more) = acts.len().checked_sub(TOLD).filter(|&more| more > 0) {
            writeln!(out, "  and {more} more, none more distant")?;
        }
    }
    let (unknown, all) = (compared.unknown.len(), compared.acts.len());
    writeln!(out, "{unknown} of {all} acts are not in the baseline of {}", baseline.profile().escape_debug())?;
    if all > MAX_ACTS {
        writeln!(out, "the session did more; only so many were compared")?;
    }
    Ok(if unknown == 0 { CLEAN } else { DIFFERS })
}
