//! `lava screen`: the picture on a guest's screen, now or as it was last seen.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lava_control::Command;
use lava_event::{Kind, Sha256};
use lava_evidence::Session;

use crate::{ctl, show};

/// For the running session to put the picture among its artifacts.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Options of `lava screen`.
#[derive(clap::Args)]
pub struct Screen {
    /// A session's folder, its id, or `latest`.
    session: String,
    /// The PNG to write.
    #[arg(default_value = "screen.png", value_name = "FILE")]
    file: PathBuf,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Screen {
    /// Writes the picture.
    pub fn run(&self) -> Result<()> {
        let session = show::find(&self.session, self.out.as_deref())?;
        let (picture, when) = match ctl::send(&session, Command::Screen) {
            Ok(told) => (kept(&session, told?.trim().parse().context("the session's answer is no picture")?)?, "now"),
            // It is over, or its supervisor is.
            Err(_) => (last(&session)?, "as last seen"),
        };
        write(&self.file, &picture)?;
        println!("{} ({when})", self.file.display());
        Ok(())
    }
}

/// The artifact, once the running session has written all of it.
fn kept(session: &Session, sha256: Sha256) -> Result<Vec<u8>> {
    let begun = Instant::now();
    loop {
        match session.artifact(&sha256)? {
            Some(bytes) if Sha256::of(&bytes) == sha256 => return Ok(bytes),
            _ if begun.elapsed() > PATIENCE => {
                bail!("the session did not keep the picture {sha256}: is its disk full?")
            }
            _ => std::thread::sleep(POLL),
        }
    }
}

/// The last picture that was recorded.
fn last(session: &Session) -> Result<Vec<u8>> {
    let mut found = None;
    for event in session.events()? {
        if let Kind::VmScreen { picture } = event?.kind {
            found = Some(picture);
        }
    }
    let id = &session.manifest().session;
    let sha256 = found
        .with_context(|| format!("session {id} does not run, and recorded no picture: its profile wants no screen"))?;
    session.artifact(&sha256)?.with_context(|| format!("session {id} did not keep the picture {sha256}"))
}

fn write(file: &Path, picture: &[u8]) -> Result<()> {
    std::fs::write(file, picture).with_context(|| format!("the picture could not be written to {}", file.display()))
}
