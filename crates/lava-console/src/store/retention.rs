//! What is kept how long, and which sessions are held whatever that says.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Store, now, shown};

/// How much is kept. What is not given bounds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Sessions that ended longer ago go, days.
    #[schema(minimum = 1, maximum = 36_500)]
    pub days: Option<u32>,
    /// All sessions together take no more, bytes.
    #[schema(minimum = 1)]
    pub bytes: Option<u64>,
    /// So much stays free on the disk, bytes.
    #[schema(minimum = 1)]
    pub free: Option<u64>,
}

/// A session that stays whatever its age and size.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Hold {
    /// Who said so.
    pub user: String,
    /// Why: a case's number, a request.
    pub reason: String,
    /// RFC 3339: since when.
    pub time: String,
}

impl Store {
    /// How much is kept.
    ///
    /// # Errors
    /// As SQLite says; so for all of these.
    pub fn retention(&self) -> rusqlite::Result<Retention> {
        let db = self.db();
        let mut rule = db.prepare_cached("SELECT days, bytes, free FROM retention")?;
        let rule = rule.query_row([], |row| Ok(Retention { days: row.get(0)?, bytes: row.get(1)?, free: row.get(2)? }));
        Ok(rule.optional()?.unwrap_or_default())
    }

    /// Sets how much is kept.
    ///
    /// # Errors
    /// As above; numbers above 2^63 are too large for it.
    pub fn set_retention(&self, rule: &Retention) -> rusqlite::Result<()> {
        let db = self.db();
        let mut set =
            db.prepare_cached("INSERT OR REPLACE INTO retention (id, days, bytes, free) VALUES (1, ?1, ?2, ?3)")?;
        set.execute(params![rule.days, rule.bytes, rule.free]).map(drop)
    }

    /// The sessions that are held.
    ///
    /// # Errors
    /// As above.
    pub fn holds(&self) -> rusqlite::Result<BTreeMap<String, Hold>> {
        let db = self.db();
        let mut all = db.prepare_cached("SELECT session, user, reason, time FROM holds")?;
        all.query_map([], |row| {
            Ok((row.get(0)?, Hold { user: row.get(1)?, reason: row.get(2)?, time: shown(row.get(3)?) }))
        })?
        .collect()
    }

    /// Holds a session.
    ///
    /// # Errors
    /// As above.
    pub fn hold(&self, session: &str, user: &str, reason: &str) -> rusqlite::Result<()> {
        let db = self.db();
        let mut hold =
            db.prepare_cached("INSERT OR REPLACE INTO holds (session, user, reason, time) VALUES (?1, ?2, ?3, ?4)")?;
        hold.execute(params![session, user, reason, now()]).map(drop)
    }

    /// Holds a session no more; false if it was not held.
    ///
    /// # Errors
    /// As above.
    pub fn release(&self, session: &str) -> rusqlite::Result<bool> {
        Ok(self.db().execute("DELETE FROM holds WHERE session = ?1", [session])? > 0)
    }
}
