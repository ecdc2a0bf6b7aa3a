//! What can be searched over all sessions: SQLite's FTS5, filled once for each session that is over.
//!
//! It is a file of its own, because it can be made anew from the sessions at any time. Its tokens are all triples of letters, so any
//! part of a path, a hash or a command line of three letters or more is found.
//!
//! *Limits:* of a session at most [`MAX_ITEMS`] different things, each at most [`MAX_TEXT`] bytes, in the order of its log. Files:
//! those that the task wrote. Sessions that run are not searched.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;

use lava_event::{Event, Kind, NetEndpoint};
use lava_evidence::{Error, Session};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{StoreError, now};
use crate::lock;
use crate::sessions::moment::{self, Moment};

/// Different things of a session that are found.
const MAX_ITEMS: usize = 20_000;
/// Bytes of one of them.
const MAX_TEXT: usize = 2_048;
/// Shortest text to look for, characters.
pub const SHORTEST: usize = 3;

const MIGRATIONS: &[&str] = &["
CREATE VIRTUAL TABLE hits USING fts5(text, session UNINDEXED, kind UNINDEXED, seq UNINDEXED, tokenize = 'trigram');
CREATE TABLE done (session TEXT PRIMARY KEY, first INTEGER NOT NULL, behind INTEGER NOT NULL, time INTEGER NOT NULL) STRICT;
"];

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// SHA-256 of a task, of a file it wrote, of a disk's part.
    Hash,
    /// A task's name, or the path of a file that it wrote.
    Name,
    /// An address and port, or a name that was asked for.
    Address,
    /// A command line.
    Command,
    /// An ATT&CK technique, by number or name.
    Technique,
    /// What a finding says. To look for: all of these.
    Text,
}

impl What {
    /// All there are.
    pub const ALL: [Self; 6] = [Self::Hash, Self::Name, Self::Address, Self::Command, Self::Technique, Self::Text];

    /// As in requests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Name => "name",
            Self::Address => "address",
            Self::Command => "command",
            Self::Technique => "technique",
            Self::Text => "text",
        }
    }
}

/// Something that was found.
#[derive(Debug, Serialize, ToSchema)]
pub struct Hit {
    /// In which session.
    pub session: String,
    /// What it is: `hash`, `name`, `address`, `command`, `technique` or `text`.
    pub what: String,
    /// The whole of it; guest text.
    #[serde(rename = "where")]
    pub text: String,
    /// The first event that speaks of it.
    pub seq: Option<u64>,
}

/// The index.
pub struct Index(Mutex<Connection>);

impl Index {
    /// Opens the index in this folder.
    ///
    /// # Errors
    /// If the file refuses.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        super::open(&folder.join("index.db"), MIGRATIONS).map(|connection| Self(Mutex::new(connection)))
    }

    /// The sessions that can be searched.
    ///
    /// # Errors
    /// As SQLite says; so for all of these.
    pub fn done(&self) -> rusqlite::Result<HashSet<String>> {
        let db = lock(&self.0);
        let mut all = db.prepare_cached("SELECT session FROM done")?;
        all.query_map([], |row| row.get(0))?.collect()
    }

    /// Adds what was gathered of a session, which becomes searchable.
    ///
    /// # Errors
    /// As above.
    pub fn add(&self, session: &str, gathered: &Gathered) -> rusqlite::Result<()> {
        let mut db = lock(&self.0);
        let change = db.transaction()?;
        let first: i64 = change.query_row("SELECT coalesce(max(behind), 1) FROM done", [], |row| row.get(0))?;
        let mut row = first;
        {
            let mut insert = change
                .prepare_cached("INSERT INTO hits (rowid, text, session, kind, seq) VALUES (?1, ?2, ?3, ?4, ?5)")?;
            for (what, text, seq) in &gathered.items {
                insert.execute(params![row, text, session, what.name(), seq])?;
                row += 1;
            }
        }
        change.execute("INSERT INTO done VALUES (?1, ?2, ?3, ?4)", params![session, first, row, now()])?;
        change.commit()
    }

    /// Forgets a session that is there no more.
    ///
    /// # Errors
    /// As above.
    pub fn forget(&self, session: &str) -> rusqlite::Result<()> {
        let mut db = lock(&self.0);
        let change = db.transaction()?;
        change.execute(
            "DELETE FROM hits WHERE rowid >= (SELECT first FROM done WHERE session = ?1)
             AND rowid < (SELECT behind FROM done WHERE session = ?1)",
            [session],
        )?;
        change.execute("DELETE FROM done WHERE session = ?1", [session])?;
        change.commit()
    }

    /// Looks for a text; the sessions searched last come first.
    ///
    /// # Errors
    /// As above.
    pub fn find(&self, text: &str, what: What, limit: u32) -> rusqlite::Result<Vec<Hit>> {
        let db = lock(&self.0);
        let mut find = db.prepare_cached(
            "SELECT session, kind, text, seq FROM hits WHERE hits MATCH ?1 AND (?2 = 'text' OR kind = ?2)
             ORDER BY rowid DESC LIMIT ?3",
        )?;
        // Quoted, it is a text and no query.
        let quoted = format!("text : \"{}\"", text.replace('"', "\"\""));
        find.query_map(params![quoted, what.name(), limit], |row| {
            Ok(Hit { session: row.get(0)?, what: row.get(1)?, text: row.get(2)?, seq: row.get(3)? })
        })?
        .collect()
    }
}

/// What there is to find in a session.
#[derive(Default)]
pub struct Gathered {
    items: Vec<(What, String, Option<u64>)>,
    known: HashSet<(&'static str, String)>,
}

impl Gathered {
    /// Of this session, which is over.
    ///
    /// # Errors
    /// If its logs cannot be read; a line that is no event is passed over.
    pub fn of(session: &Session) -> Result<Self, Error> {
        let mut gathered = Self::default();
        let task = &session.manifest().task;
        gathered.put(What::Name, &task.name, None);
        gathered.put(What::Hash, &task.sha256.to_string(), None);
        for finding in moment::findings(session.dir())? {
            let seq = finding.events.first().copied();
            gathered.put(What::Technique, &format!("{} {}", finding.technique.id, finding.technique.name), seq);
            gathered.put(What::Text, &finding.title, seq);
        }
        let mut moment = Moment::default();
        for event in session.events()?.flatten() {
            moment.apply(&event);
            gathered.event(&event, &moment);
        }
        Ok(gathered)
    }

    fn event(&mut self, event: &Event, moment: &Moment) {
        let seq = Some(event.seq);
        let tainted = event.actor().is_some_and(|process| moment.graph.is_tainted(process));
        match &event.kind {
            Kind::ProcessExec { argv, .. } if moment.graph.task_started() => {
                let words: Vec<String> = argv.iter().map(ToString::to_string).collect();
                self.put(What::Command, &words.join(" "), seq);
            }
            Kind::FileContent { path, sha256, .. } => {
                self.put(What::Hash, &sha256.to_string(), seq);
                self.put(What::Name, &path.to_string(), seq);
            }
            Kind::FileCreate { path, .. } | Kind::FileWrite { path, .. } | Kind::FileRename { to: path, .. }
                if tainted =>
            {
                self.put(What::Name, &path.to_string(), seq);
            }
            Kind::NetConnect { destination: Some(destination), .. } | Kind::NetFlow { destination, .. } => {
                self.put(What::Address, &shown(destination), seq);
            }
            Kind::NetDns { question, .. } => self.put(What::Address, &question.to_string(), seq),
            Kind::DiskWrite { before, after, .. } => {
                for hash in [before, after].into_iter().flatten() {
                    self.put(What::Hash, &hash.to_string(), seq);
                }
            }
            _ => {}
        }
    }

    fn put(&mut self, what: What, text: &str, seq: Option<u64>) {
        let text = match text.char_indices().find(|(at, c)| at + c.len_utf8() > MAX_TEXT) {
            Some((end, _)) => &text[..end],
            None => text,
        };
        if !text.is_empty() && self.items.len() < MAX_ITEMS && self.known.insert((what.name(), text.to_owned())) {
            self.items.push((what, text.to_owned(), seq));
        }
    }
}

fn shown(endpoint: &NetEndpoint) -> String {
    std::net::SocketAddr::new(endpoint.address, endpoint.port).to_string()
}
