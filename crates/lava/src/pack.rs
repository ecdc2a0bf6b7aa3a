//! `lava pack`: what defenders' tools load, from what a session's findings rest on.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::{fs, io::Write};

use anyhow::{Context, Result, bail};

use crate::show;

/// Options of `lava pack`.
#[derive(clap::Args)]
pub struct Pack {
    /// A session's folder, its id, its bundle, or `latest`.
    session: String,
    /// The folder to make; `SESSION-pack` in the current folder if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    sessions: Option<PathBuf>,
}

impl Pack {
    /// Writes it.
    pub fn run(&self) -> Result<()> {
        let session = show::find(&self.session, self.sessions.as_deref())?;
        let pack = lava_export::pack(&session)?;
        if pack.unreadable > 0 {
            bail!("{} line(s) of the log could not be read: `lava verify` tells more", pack.unreadable);
        }
        if pack.files.is_empty() {
            bail!("nothing was found in session {}: there is nothing to act on", session.manifest().session);
        }
        let dir = self.out.clone().unwrap_or_else(|| format!("{}-pack", session.manifest().session).into());
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.with_context(|| format!("cannot create {}", dir.display()))?;
        for (name, text) in &pack.files {
            let path = dir.join(name);
            let write = || -> std::io::Result<()> {
                if let Some(folder) = path.parent() {
                    fs::DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
                }
                let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
                file.write_all(text.as_bytes())
            };
            write().with_context(|| format!("cannot write {}", path.display()))?;
            println!("{}", path.display());
        }
        Ok(())
    }
}
