//! Searches that a user keeps to ask again.

use rusqlite::params;
use serde::Serialize;
use utoipa::ToSchema;

use super::index::What;
use super::{Store, User, now, shown};

/// Searches that one user keeps.
pub const MAX_SEARCHES: u32 = 100;

/// A search that is kept.
#[derive(Debug, Serialize, ToSchema)]
pub struct SavedSearch {
    /// What its user calls it.
    pub name: String,
    /// What is looked for.
    pub q: String,
    /// Only of this kind; `text`: all.
    #[schema(inline)]
    pub kind: What,
    /// RFC 3339: when it was kept.
    pub time: String,
}

impl Store {
    /// The user's searches, by name.
    ///
    /// # Errors
    /// As SQLite says; so for all of these.
    pub fn searches(&self, of: &User) -> rusqlite::Result<Vec<SavedSearch>> {
        let db = self.db();
        let mut all = db.prepare_cached("SELECT name, q, kind, time FROM searches WHERE user = ?1 ORDER BY name")?;
        all.query_map([of.id], |row| {
            let kind: String = row.get(2)?;
            let kind = What::ALL.into_iter().find(|known| known.name() == kind).unwrap_or(What::Text);
            Ok(SavedSearch { name: row.get(0)?, q: row.get(1)?, kind, time: shown(row.get(3)?) })
        })?
        .collect()
    }

    /// Keeps a search under a name, in the place of one that has it; false if the user keeps [`MAX_SEARCHES`] others.
    ///
    /// # Errors
    /// As above.
    pub fn keep_search(&self, of: &User, name: &str, q: &str, kind: What) -> rusqlite::Result<bool> {
        let kept = self.db().execute(
            "INSERT OR REPLACE INTO searches (user, name, q, kind, time) SELECT ?1, ?2, ?3, ?4, ?5
             WHERE (SELECT count(*) FROM searches WHERE user = ?1 AND name <> ?2) < ?6",
            params![of.id, name, q, kind.name(), now(), MAX_SEARCHES],
        )?;
        Ok(kept > 0)
    }

    /// Removes a search; false if the user has none of that name.
    ///
    /// # Errors
    /// As above.
    pub fn remove_search(&self, of: &User, name: &str) -> rusqlite::Result<bool> {
        Ok(self.db().execute("DELETE FROM searches WHERE user = ?1 AND name = ?2", params![of.id, name])? > 0)
    }
}
