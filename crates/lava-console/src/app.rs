//! What the server is given, and what its handlers share.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use lava_evidence::Session;
use serde::Serialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::auth::limits::Tries;
use crate::error::{Answer, ApiError};
use crate::queue::Queue;
use crate::retention::Keeper;
use crate::sessions::facts::{FactsCache, SessionFacts};
use crate::sessions::folder;
use crate::sessions::history::Histories;
use crate::sessions::live::Hub;
use crate::store::Store;
use crate::store::index::Index;

/// Requests at a time that read whole logs or hash passwords.
const HEAVY: usize = 2;
/// Live viewers at a time, of all sessions.
pub const MAX_VIEWERS: usize = 256;
/// Live views of screens at a time, of all sessions: each costs its QEMU the encoding.
const MAX_SCREENS: usize = 32;

/// A way to open a task.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProfileFacts {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
}

/// Certificate chain and key, PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The chain's file.
    pub certificate: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

/// What the server is given.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The folder of sessions.
    pub sessions: PathBuf,
    /// The console's own folder: store, uploads, output of runs.
    pub state: PathBuf,
    /// How it proves who it is; without it, it speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Names it goes by, beside the address it listens on.
    pub hosts: Vec<String>,
    /// The program whose `run` opens a task.
    pub program: PathBuf,
    /// Ways to open a task.
    pub profiles: Vec<ProfileFacts>,
    /// Micro-VMs at a time.
    pub max_running: usize,
}

impl Config {
    /// Whether a `Host` header names this server.
    pub fn is_our_name(&self, host: &str) -> bool {
        let port = self.listen.port();
        let (name, given) = split(host);
        let standard = if self.tls.is_some() { 443 } else { 80 };
        if given.unwrap_or(standard) != port {
            // Behind a proxy the port is the proxy's: then the name must have been given, as the browser writes it.
            return self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
        }
        let address: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        // An address is no name: nobody can make it lead elsewhere.
        let anywhere = self.listen.ip().is_unspecified();
        let ours = address.is_some_and(|address| anywhere || address == self.listen.ip() || address.is_loopback());
        ours || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// The cookie's name: a browser takes one with this prefix only over TLS, for this host and for all paths.
    pub const fn cookie_name(&self) -> &'static str {
        if self.tls.is_some() { "__Host-lava" } else { "lava" }
    }
}

/// Name and port of a `Host` header.
fn split(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
        _ => (host, None),
    }
}

/// What handlers share.
pub struct App {
    /// What the server was given.
    pub config: Config,
    /// Users, queue, audit log.
    pub store: Store,
    /// What can be searched.
    pub index: Index,
    /// What a list says of sessions.
    pub facts: Arc<FactsCache>,
    /// Sessions that are looked at while they run.
    pub hub: Hub,
    /// Moments of sessions.
    pub histories: Histories,
    /// The tasks that wait or run.
    pub queue: Queue,
    /// What is kept how long.
    pub keeper: Keeper,
    /// Tries to log in.
    pub tries: Tries,
    /// Places for live viewers.
    pub viewers: Arc<Semaphore>,
    /// Places for live views of screens.
    pub screens: Arc<Semaphore>,
    heavy: Semaphore,
}

impl App {
    /// Opens the store.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn new(config: Config) -> Result<Self, crate::store::StoreError> {
        Ok(Self {
            store: Store::open(&config.state)?,
            index: Index::open(&config.state)?,
            facts: Arc::default(),
            hub: Hub::default(),
            histories: Histories::default(),
            queue: Queue::default(),
            keeper: Keeper::default(),
            tries: Tries::default(),
            viewers: Arc::new(Semaphore::new(MAX_VIEWERS)),
            screens: Arc::new(Semaphore::new(MAX_SCREENS)),
            heavy: Semaphore::new(HEAVY),
            config,
        })
    }

    /// Does what reads files, away from the threads that serve.
    ///
    /// # Errors
    /// Its own.
    pub async fn read<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        tokio::task::spawn_blocking(move || work(&self)).await.map_err(ApiError::internal)?
    }

    /// Does what takes long; only a few of these at a time.
    ///
    /// # Errors
    /// Its own.
    pub async fn heavy<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let app = Arc::clone(&self);
        let _place = app.heavy.acquire().await.map_err(ApiError::internal)?;
        self.read(work).await
    }

    /// What a list says of this session, from its folder, or from the queue while it has none.
    ///
    /// # Errors
    /// If there is no such session.
    pub fn session(&self, id: &str) -> Answer<Arc<SessionFacts>> {
        if self.has_begun(id) {
            return self.facts.of(&self.config.sessions, id);
        }
        let job = folder::is_id(id).then(|| self.store.job(id)).transpose()?.flatten();
        job.map(|job| Arc::new(job.facts())).ok_or_else(|| ApiError::not_found("such session"))
    }

    /// The session of this id; none while its task waits to begin: there is nothing to tell of it yet.
    ///
    /// # Errors
    /// If there is no such session, or its folder cannot be read.
    pub fn begun(&self, id: &str) -> Answer<Option<Session>> {
        if self.has_begun(id) {
            return folder::open(&self.config.sessions, id).map(Some);
        }
        self.session(id).map(|_| None)
    }

    fn has_begun(&self, id: &str) -> bool {
        folder::find(&self.config.sessions, id).is_some_and(|dir| dir.join("manifest.json").exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_answered() {
        let config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            sessions: PathBuf::new(),
            state: PathBuf::new(),
            tls: None,
            hosts: vec!["lava.example".into(), "soc.example:443".into()],
            program: PathBuf::new(),
            profiles: Vec::new(),
            max_running: 1,
        };
        for ours in [
            "127.0.0.1:8080",
            "localhost:8080",
            "[::1]:8080",
            "lava.example:8080",
            "LAVA.example:8080",
            "lava.example",
            "soc.example:443",
        ] {
            assert!(config.is_our_name(ours), "{ours}");
        }
        for other in ["", "evil.example:8080", "127.0.0.1", "localhost:8081", "10.0.0.1:8080", "lava.example.evil:8080"]
        {
            assert!(!config.is_our_name(other), "{other}");
        }
    }
}
