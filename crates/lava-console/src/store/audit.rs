//! Who did what.

use rusqlite::params;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Store, now, shown};

/// Entries kept; the oldest go.
const MAX_ENTRIES: i64 = 1_000_000;

/// Something that a user did.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    /// RFC 3339.
    pub time: String,
    /// Who.
    pub user: String,
    /// What: `login`, `task.start`, `session.stop`...
    pub what: String,
    /// On what.
    pub on: String,
    /// From which address.
    pub from: String,
}

impl Store {
    /// Notes it.
    ///
    /// # Errors
    /// As SQLite says.
    pub fn note(&self, user: &str, what: &str, on: &str, from: &str) -> rusqlite::Result<()> {
        let db = self.db();
        let mut note =
            db.prepare_cached("INSERT INTO audit (time, user, what, subject, origin) VALUES (?1, ?2, ?3, ?4, ?5)")?;
        note.execute(params![now(), user, what, on, from])?;
        let mut old = db.prepare_cached("DELETE FROM audit WHERE id <= ?1 - ?2")?;
        old.execute(params![db.last_insert_rowid(), MAX_ENTRIES]).map(drop)
    }

    /// The newest first.
    ///
    /// # Errors
    /// As SQLite says.
    pub fn audit(&self, limit: u32) -> rusqlite::Result<Vec<AuditEntry>> {
        let db = self.db();
        let mut all =
            db.prepare_cached("SELECT time, user, what, subject, origin FROM audit ORDER BY id DESC LIMIT ?1")?;
        all.query_map([limit], |row| {
            Ok(AuditEntry {
                time: shown(row.get(0)?),
                user: row.get(1)?,
                what: row.get(2)?,
                on: row.get(3)?,
                from: row.get(4)?,
            })
        })?
        .collect()
    }
}
