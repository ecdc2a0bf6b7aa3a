//! What the console itself has to remember: users, tokens, logins, the queue, kept searches, what is kept how long, and who did what. One SQLite file.
//!
//! Secrets are kept as SHA-256 of random 256 bits, passwords as argon2 hashes; neither can be read back.

mod accounts;
mod audit;

pub mod index;
mod queue;
mod retention;
mod searches;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

pub use accounts::{NewToken, Role, TokenFacts, User};
pub use audit::AuditEntry;
pub use queue::{Job, JobState};
pub use retention::{Hold, Retention};
pub use searches::{MAX_SEARCHES, SavedSearch};

/// How long one process waits for the other (`lava serve user` beside the server).
const BUSY: Duration = Duration::from_secs(5);

/// Each is run once, in order; the number of those that were is SQLite's `user_version`.
const MIGRATIONS: &[&str] = &["
CREATE TABLE users (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, password TEXT, created INTEGER NOT NULL
) STRICT;
CREATE TABLE links (
    hash BLOB PRIMARY KEY, user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE, expires INTEGER NOT NULL
) STRICT;
CREATE TABLE logins (
    hash BLOB PRIMARY KEY, user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    csrf TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL
) STRICT;
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    name TEXT NOT NULL, created INTEGER NOT NULL, used INTEGER
) STRICT;
CREATE TABLE audit (
    id INTEGER PRIMARY KEY, time INTEGER NOT NULL, user TEXT NOT NULL, what TEXT NOT NULL, subject TEXT NOT NULL,
    origin TEXT NOT NULL
) STRICT;
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, user TEXT NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    arguments TEXT NOT NULL, queued INTEGER NOT NULL, started INTEGER, ended INTEGER, pid INTEGER, pid_start INTEGER,
    detail TEXT
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, id);
", "
CREATE TABLE searches (
    user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE, name TEXT NOT NULL, q TEXT NOT NULL, kind TEXT NOT NULL,
    time INTEGER NOT NULL, PRIMARY KEY (user, name)
) STRICT;
CREATE TABLE retention (id INTEGER PRIMARY KEY CHECK (id = 1), days INTEGER, bytes INTEGER, free INTEGER) STRICT;
CREATE TABLE holds (session TEXT PRIMARY KEY, user TEXT NOT NULL, reason TEXT NOT NULL, time INTEGER NOT NULL) STRICT;
"];

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder.
    #[error("the console's folder {}: {source}", path.display())]
    Folder {
        /// Which.
        path: std::path::PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The database.
    #[error("the console's store {}: {source}", path.display())]
    Database {
        /// Which.
        path: std::path::PathBuf,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// Written by a later LAVA.
    #[error("the console's store {} was written by a newer LAVA: use that, or another --state folder", .0.display())]
    Newer(std::path::PathBuf),
}

/// The store. Every call is short.
pub struct Store(Mutex<Connection>);

impl Store {
    /// Opens the store in this folder; both are made if need be, for their owner alone.
    ///
    /// # Errors
    /// If the folder or the file refuses, or is of a newer LAVA.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| StoreError::Folder { path: folder.to_path_buf(), source })?;
        open(&folder.join("console.db"), MIGRATIONS).map(|connection| Self(Mutex::new(connection)))
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        crate::lock(&self.0)
    }
}

/// Opens a database and brings it to the latest form.
fn open(path: &Path, migrations: &[&str]) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::Database { path: path.to_path_buf(), source };
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;")
        .map_err(failed)?;
    let change = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
    let done: usize = change.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if done > migrations.len() {
        return Err(StoreError::Newer(path.to_path_buf()));
    }
    for migration in &migrations[done..] {
        change.execute_batch(migration).map_err(failed)?;
    }
    change.pragma_update(None, "user_version", migrations.len()).map_err(failed)?;
    change.commit().map_err(failed)?;
    Ok(connection)
}

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

/// Such a time as RFC 3339.
pub fn shown(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}
