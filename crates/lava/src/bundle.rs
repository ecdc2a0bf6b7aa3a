//! `lava bundle`, `lava verify`, `lava key`: a session as one signed file.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use lava_evidence::bundle::{self, BundleReport, PublicKey, Signer};
use lava_evidence::{ChainReport, Problem, Session, State};

use crate::{CLEAN, FAILED, UNKNOWN_KEY, places, show};

/// Options of `lava bundle`.
#[derive(clap::Args)]
pub struct Bundle {
    /// A session's folder, its id, or `latest`.
    session: String,
    /// The file to write; `SESSION.lava.zip` in the current folder if not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A secret key of minisign's to sign with, instead of your own.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    sessions: Option<PathBuf>,
}

impl Bundle {
    /// Writes it.
    pub fn run(&self) -> Result<()> {
        let session = show::find(&self.session, self.sessions.as_deref())?;
        let manifest = session.manifest();
        if session.dir().is_file() {
            bail!("{} is a bundle already", session.dir().display());
        }
        if manifest.state == State::Open && places::state(manifest) == State::Open.name() {
            bail!("session {} is still running: bundle it when it has ended", manifest.session);
        }
        let signer = match &self.key {
            Some(path) => Signer::load(path)?,
            None => own_key()?,
        };
        let out = self.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.lava.zip", manifest.session)));
        let written = bundle::write(&session, &signer, &out)?;
        println!("bundle:   {} ({} members, {} bytes)", out.display(), written.members, written.bytes);
        println!("root:     {}", written.root);
        println!("signed:   with key {}, minisign -P {}", signer.public().id(), signer.public().base64());
        for name in &written.left_out {
            eprintln!("lava: {name:?} was left out: no ordinary file, or a name with odd characters");
        }
        Ok(())
    }
}

/// The user's own key; made when there is none.
fn own_key() -> Result<Signer> {
    let path = places::key()?;
    if path.exists() {
        return Ok(Signer::load(&path)?);
    }
    let signer = Signer::create(&path)?;
    eprintln!(
        "lava: made a key without a password, {}; its public half, .pub beside it, is for those who verify",
        path.display()
    );
    Ok(signer)
}

/// `lava key`
pub fn key() -> Result<()> {
    let signer = own_key()?;
    println!("id:     {}\npublic: {}", signer.public().id(), signer.public().base64());
    Ok(())
}

/// Opens the session in a bundle that is intact. By whom it is signed is said if it is not the user.
pub fn open(path: &Path) -> Result<Session> {
    let (report, session) = bundle::check(path, None)?;
    let Some(session) = session.filter(|_| report.intact()) else {
        for problem in report.problems.iter().filter(|problem| problem.tampering) {
            eprintln!("lava:   {problem}");
        }
        bail!("{} is not as it was signed: `lava verify` tells more", path.display());
    };
    if let Some(key) = report.signed.as_ref().filter(|key| !is_own(key)) {
        eprintln!(
            "lava: {} is signed with key {}, which is not yours: `lava verify --key` checks whose",
            path.display(),
            key.id()
        );
    }
    Ok(session)
}

fn is_own(key: &PublicKey) -> bool {
    let file = places::key().ok().map(|path| path.with_extension("pub"));
    file.and_then(|file| PublicKey::load(file.to_str()?).ok()).is_some_and(|own| own == *key)
}

/// Options of `lava verify`.
#[derive(clap::Args)]
pub struct Verify {
    /// A session's folder, its id, its bundle, or `latest`.
    session: String,
    /// The public key that a bundle has to be signed with: a file of minisign's, or its text (RW...).
    #[arg(long, value_name = "PUB")]
    key: Option<String>,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Verify {
    /// Verifies it, and says all that is wrong.
    pub fn run(&self) -> Result<u8> {
        let path = Path::new(&self.session);
        let key = self.key.as_deref().map(PublicKey::load).transpose()?;
        if path.is_file() {
            return file(path, key.as_ref());
        }
        if key.is_some() {
            bail!("only a bundle is signed; {} is a session's folder", self.session);
        }
        let session = show::find(&self.session, self.out.as_deref())?;
        let report = session.verify_chain()?;
        let out = &mut std::io::stdout().lock();
        writeln!(out, "session:  {}", session.dir().display())?;
        sealed(&report, out)?;
        verdict((report.intact(), report.tampered()), &report.problems, out)?;
        Ok(if report.intact() { CLEAN } else { FAILED })
    }
}

fn file(path: &Path, key: Option<&PublicKey>) -> Result<u8> {
    let (report, session) = bundle::check(path, key)?;
    let out = &mut std::io::stdout().lock();
    writeln!(out, "bundle:   {} ({} members, {} bytes)", path.display(), report.members, report.bytes)?;
    writeln!(out, "session:  {}", report.session)?;
    if let Some(session) = session {
        let manifest = session.manifest();
        let name = lava_evidence::text::line(&manifest.task.name, 100);
        writeln!(out, "task:     {name} (sha256 {}), opened {}", manifest.task.sha256, manifest.started)?;
    }
    writeln!(out, "root:     {}", report.root)?;
    let known = key.is_some() || report.signed.as_ref().is_some_and(is_own);
    writeln!(out, "signed:   {}", by(&report, key.is_some()))?;
    if let Some(chain) = &report.chain {
        sealed(chain, out)?;
    }
    verdict((report.intact(), !report.intact()), &report.problems, out)?;
    Ok(match (report.intact(), known) {
        (true, true) => CLEAN,
        (true, false) => UNKNOWN_KEY,
        (false, _) => FAILED,
    })
}

fn by(report: &BundleReport, given: bool) -> String {
    match &report.signed {
        None => "NOT, or the signature does not fit".to_owned(),
        Some(key) if given => format!("with the given key, {}", key.id()),
        Some(key) if is_own(key) => format!("with your own key, {}", key.id()),
        Some(key) => format!(
            "with key {} ({}), which is not known here: anybody can have a key; ask whose it is, and give it with --key",
            key.id(),
            key.base64()
        ),
    }
}

fn sealed(report: &ChainReport, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "sealed:   {} events, head {}", report.sealed, report.head)
}

fn verdict((intact, tampered): (bool, bool), problems: &[Problem], out: &mut impl Write) -> std::io::Result<()> {
    let word = match (intact, tampered) {
        (true, _) => "intact",
        (false, true) => "CHANGED since it was written",
        (false, false) => "incomplete, as a crash leaves it; no sign that somebody changed it",
    };
    writeln!(out, "evidence: {word}")?;
    problems.iter().try_for_each(|problem| writeln!(out, "  {problem}"))
}
