//! `lava remediate`: what a session changed in the guest's file system, undone on a copy of its disk and proven. docs/remediate.md.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use lava_disk::{DiskView, KeptDisk};
use lava_event::GuestText;
use lava_evidence::{DISK, Session};
use lava_filesystem::undo::{self, Proof, Tools, Undone};
use lava_filesystem::{Changes, Entry, Limits, State};
use lava_microvisor::qemu::CagedTools;
use serde_json::json;

use crate::{CLEAN, FAILED, Format, files, prepare, show};

/// Bytes of the longest difference that is kept of a session's disk.
const MOST_KEPT: u64 = 256 << 20;
/// How long undoing may take.
const TIME: Duration = Duration::from_secs(600);

/// Options of `lava remediate`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub struct Remediate {
    /// A session's folder, its id, or `latest`.
    session: String,
    /// Say what the session changed, and what undoing each change means.
    #[arg(long, group = "what")]
    list: bool,
    /// Undo it on a copy of the disk that the session left, and prove that each path is as it was.
    #[arg(long, group = "what")]
    apply: bool,
    /// Only these: a path in the guest with what is below it, or a pattern: /etc/cron.d, '/home/*/.bashrc', '/tmp/**'.
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// Also what every session changes, whatever the task is: journals, identity.
    #[arg(long)]
    all: bool,
    /// Where the copy is made; `SESSION-remediated.raw` in the current folder if not given. It must not exist.
    #[arg(long, value_name = "FILE", requires = "apply")]
    to: Option<PathBuf>,
    /// As lines to read, or one JSON object a line.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Remediate {
    /// Lists or undoes; returns the exit code.
    pub fn run(&self) -> Result<u8> {
        let session = show::find(&self.session, self.out.as_deref())?;
        let changes = files::changes(&session)?;
        let chosen = Chosen::new(self, &session, &changes)?;
        if self.list { self.list(&session, &changes, &chosen) } else { self.apply(&session, &chosen) }
    }

    fn list(&self, session: &Session, changes: &Changes, chosen: &Chosen) -> Result<u8> {
        let out = &mut io::BufWriter::new(io::stdout().lock());
        let mut count = 0;
        for entry in changes.entries.iter().filter(|entry| chosen.is(entry)) {
            count += 1;
            let action = undo::action(entry.change).name();
            match self.format {
                Format::Text => writeln!(out, "{action:<8} {}  {}", entry.path, files::told(entry))?,
                Format::Jsonl => {
                    let mut value = json!(entry);
                    value["action"] = action.into();
                    writeln!(out, "{value}")?;
                }
            }
        }
        if self.format == Format::Text {
            let left = changes.entries.len() - count;
            let kept = match disk(session) {
                Ok(_) => "`--apply` undoes these on a copy of the disk".to_owned(),
                Err(why) => format!("`--apply` can't: {why:#}"),
            };
            writeln!(out, "{count} changes would be undone, {left} would stay; {kept}")?;
        }
        out.flush()?;
        told(&changes.problems);
        Ok(CLEAN)
    }

    fn apply(&self, session: &Session, chosen: &Chosen) -> Result<u8> {
        let id = &session.manifest().session;
        let (before, after) = disk(session)?;
        let tampered = session.verify_chain()?;
        if let Some(problem) = tampered.problems.iter().find(|problem| problem.tampering) {
            bail!("session {id} is not as it was recorded: {problem}");
        }
        let to = self.to.clone().unwrap_or_else(|| PathBuf::from(format!("{id}-remediated.raw")));
        if to.symlink_metadata().is_ok() {
            bail!("{} exists: choose another file with --to", to.display());
        }
        let work = WorkFolder::beside(&to)?;
        let tools = Caged(CagedTools::new(&work.path, after.size().saturating_add(1 << 20))?);
        let limits = Limits { time: TIME, ..Limits::default() };
        let whole = self.paths.is_empty();
        let done = undo::undo((&before, &after), &work.path, |entry| chosen.is(entry), whole, limits, &tools)?;
        if done.proofs.is_empty() && done.outside.is_empty() {
            bail!("there is nothing to undo: see `lava remediate {} --list`", self.session);
        }
        drop(tools);
        work.give_out(&work.path.join(undo::IMAGE), &to)?;
        self.report(&done, &to)
    }

    fn report(&self, done: &Undone, to: &Path) -> Result<u8> {
        let out = &mut io::BufWriter::new(io::stdout().lock());
        for proof in &done.proofs {
            match self.format {
                Format::Text => writeln!(out, "{}", line(proof))?,
                Format::Jsonl => writeln!(out, "{}", object(proof))?,
            }
        }
        for (start, long) in &done.outside {
            match self.format {
                Format::Text => writeln!(out, "ok       bytes {start}-{} of the disk: put back", start + long)?,
                Format::Jsonl => {
                    writeln!(out, "{}", json!({ "disk": { "start": start, "end": start + long }, "same": true }))?
                }
            }
        }
        let wrong = done.proofs.iter().filter(|proof| !proof.same).count();
        if self.format == Format::Text {
            let right = done.proofs.len() - wrong;
            writeln!(out, "{right} paths are as they were before the session, {wrong} are not; e2fsck finds no error")?;
            writeln!(out, "disk:    {}", to.display())?;
        }
        out.flush()?;
        told(&done.problems);
        // What could not be compared is not proven either.
        Ok(if wrong == 0 && done.problems.is_empty() { CLEAN } else { FAILED })
    }
}

fn told(problems: &[String]) {
    for problem in problems {
        eprintln!("lava: {problem}");
    }
}

/// Keeps what a session's disk is made of. Returns what could not be done.
pub fn keep(disks: &[DiskView], dir: &Path) -> Option<String> {
    let [before, after] = DISK.map(|name| dir.join(name));
    match disks.first()?.keep(&before, &after, MOST_KEPT) {
        Ok(true) => None,
        Ok(false) => {
            Some(format!("the guest's disk is not kept: more than {} MiB were written to it", MOST_KEPT >> 20))
        }
        Err(error) => Some(format!("the guest's disk is not kept: {error}")),
    }
}

/// The disk as the session found it, and as it left it.
fn disk(session: &Session) -> Result<(KeptDisk, KeptDisk)> {
    let manifest = session.manifest();
    if session.dir().is_file() {
        bail!("{} is a bundle: this needs the session's folder", session.dir().display());
    }
    let [before, after] = DISK.map(|name| session.dir().join(name));
    if !is_file(&before) || !is_file(&after) {
        bail!("the disk of session {} was not kept", manifest.session);
    }
    let (image, kernel) = prepare::recorded_image(manifest)?;
    let image = image.disk(&kernel).context("the guest image has no such disk")?;
    Ok((KeptDisk::open(&image, &[&before])?, KeptDisk::open(&image, &[&before, &after])?))
}

/// A link in a folder from elsewhere must not lead elsewhere.
fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|facts| facts.is_file())
}

/// Which changes are undone.
struct Chosen {
    patterns: Option<GlobSet>,
    usual: HashSet<GuestText>,
}

impl Chosen {
    fn new(options: &Remediate, session: &Session, changes: &Changes) -> Result<Self> {
        let usual = if options.all { HashSet::new() } else { files::usual(session, &changes.entries)? };
        let patterns = (!options.paths.is_empty()).then(|| patterns(&options.paths)).transpose()?;
        Ok(Self { patterns, usual })
    }

    fn is(&self, entry: &Entry) -> bool {
        let named = |patterns: &GlobSet| {
            let path = Path::new(std::ffi::OsStr::from_bytes(entry.path.bytes()));
            path.ancestors().any(|path| path != Path::new("/") && patterns.is_match(path))
        };
        self.patterns.as_ref().is_none_or(named) && !self.usual.contains(&entry.path)
    }
}

fn patterns(paths: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for path in paths {
        if !path.starts_with('/') {
            bail!("{path}: a path in the guest begins with /");
        }
        let plain = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        set.add(
            GlobBuilder::new(plain).literal_separator(true).build().with_context(|| format!("the pattern {path}"))?,
        );
    }
    Ok(set.build()?)
}

/// Where the tools work: beside the result, on the same file system.
struct WorkFolder {
    path: PathBuf,
}

impl WorkFolder {
    fn beside(to: &Path) -> Result<Self> {
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = parent.canonicalize().with_context(|| parent.display().to_string())?;
        let path = parent.join(format!(".lava-remediate-{}", ulid::Ulid::new()));
        fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path })
    }

    /// Moves the result to its place, ours again.
    fn give_out(&self, image: &Path, to: &Path) -> Result<()> {
        let shown = || format!("cannot write {}", to.display());
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        chown(image, Some(user), Some(group)).with_context(shown)?;
        fs::set_permissions(image, fs::Permissions::from_mode(0o600)).with_context(shown)?;
        // Refuses to take the place of a file that has come there meanwhile.
        fs::hard_link(image, to).with_context(shown)
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("lava: {} could not be removed: {error}", self.path.display());
        }
    }
}

/// The host's own tools, in a cage.
struct Caged(CagedTools);

impl Tools for Caged {
    fn run(&self, program: &str, arguments: &[String], input: &[u8]) -> io::Result<(i32, String)> {
        let places = ["/usr/sbin", "/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(program));
        let found = places.iter().find(|path| path.is_file()).ok_or_else(|| {
            io::Error::other(format!("{program} is not installed (package e2fsprogs; `cargo xtask setup` installs it)"))
        })?;
        self.0.run(found, arguments, input).map_err(io::Error::other)
    }
}

fn line(proof: &Proof) -> String {
    let state = if proof.same { "ok" } else { "DIFFERS" };
    let hash = |state: &Option<State>| match state {
        None => "nothing there".to_owned(),
        Some(State { sha256: Some(sha256), .. }) => format!("sha256 {sha256}"),
        Some(state) => format!("{:?} {}", state.what, state.mode).to_lowercase(),
    };
    let what = match &proof.now {
        Ok(_) if proof.same => format!("{}, as before", hash(&proof.before)),
        Ok(now) => format!("{}, before: {}", hash(now), hash(&proof.before)),
        Err(why) => format!("can't be read: {why}"),
    };
    format!("{state:<8} {:<8} {}  {what}", proof.action.name(), proof.path)
}

fn object(proof: &Proof) -> serde_json::Value {
    json!({
        "path": proof.path,
        "action": proof.action.name(),
        "same": proof.same,
        "before": proof.before,
        "now": proof.now.as_ref().ok(),
        "problem": proof.now.as_ref().err(),
    })
}
