//! The tasks that were asked for: waiting, running, over. They outlive the server.

use rusqlite::{OptionalExtension, Row, params};

use super::{Store, now, shown};
use crate::sessions::facts::{SessionFacts, TaskFacts};

/// Jobs that are over and kept; the oldest go.
const MAX_OVER: u32 = 10_000;

/// How far a job has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobState {
    /// It waits.
    Queued,
    /// Its `lava run` was started.
    Running,
    /// That has ended, or will never start.
    Over,
}

impl JobState {
    const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Over => "over",
        }
    }
}

/// A task that was asked for.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its session's id, which it has from the beginning.
    pub id: String,
    /// Who asked.
    pub user: String,
    /// The task's name.
    pub name: String,
    /// SHA-256 of its content, hex digits.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// What `lava run` is given beside the task, its id and its folder.
    pub arguments: Vec<String>,
    /// When, seconds since 1970.
    pub queued: i64,
    /// When it was over.
    pub ended: Option<i64>,
    /// Process number of its `lava run`, and when that process began, in the kernel's ticks since boot.
    pub process: Option<(u32, u64)>,
    /// Why nothing came of it.
    pub detail: Option<String>,
    state: String,
}

impl Job {
    /// A new one.
    pub fn new(id: String, user: String, task: (String, String, u64), arguments: Vec<String>) -> Self {
        let (name, sha256, size) = task;
        let state = JobState::Queued.name().to_owned();
        Self { id, user, name, sha256, size, arguments, queued: now(), ended: None, process: None, detail: None, state }
    }

    /// What a list says of it while it has no folder.
    pub fn facts(&self) -> SessionFacts {
        let given = |option: &str| {
            let at = self.arguments.iter().position(|argument| argument == option);
            at.and_then(|at| self.arguments.get(at + 1)).cloned().unwrap_or_default()
        };
        SessionFacts {
            id: self.id.clone(),
            task: TaskFacts { name: self.name.clone(), sha256: self.sha256.parse().ok(), size: self.size },
            profile: given("--profile"),
            policy: given("--policy"),
            state: match self.state.as_str() {
                "queued" => "queued",
                "running" => "starting",
                _ => "failed",
            }
            .into(),
            verdict: None,
            started: shown(self.queued),
            ended: self.ended.map(shown),
            stages: Vec::new(),
            events: 0,
            findings: 0,
            severity: None,
            detail: self.detail.clone(),
        }
    }
}

const JOB: &str = "id, user, name, sha256, size, arguments, queued, ended, pid, pid_start, detail, state";

fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    let arguments: String = row.get(5)?;
    let (pid, start): (Option<u32>, Option<u64>) = (row.get(8)?, row.get(9)?);
    Ok(Job {
        id: row.get(0)?,
        user: row.get(1)?,
        name: row.get(2)?,
        sha256: row.get(3)?,
        size: row.get(4)?,
        arguments: serde_json::from_str(&arguments).unwrap_or_default(),
        queued: row.get(6)?,
        ended: row.get(7)?,
        process: pid.zip(start),
        detail: row.get(10)?,
        state: row.get(11)?,
    })
}

impl Store {
    /// Puts a job at the end of the queue, unless that has `most` already; false then.
    ///
    /// # Errors
    /// As SQLite says; so for all of these.
    pub fn enqueue(&self, job: &Job, most: u32) -> rusqlite::Result<bool> {
        let arguments = serde_json::to_string(&job.arguments).unwrap_or_default();
        let added = self.db().execute(
            "INSERT INTO jobs (id, state, user, name, sha256, size, arguments, queued)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE (SELECT count(*) FROM jobs WHERE state = ?2) < ?9",
            params![
                job.id,
                JobState::Queued.name(),
                job.user,
                job.name,
                job.sha256,
                job.size,
                arguments,
                job.queued,
                most
            ],
        )?;
        Ok(added > 0)
    }

    /// Forgets a job whose session was removed.
    ///
    /// # Errors
    /// As above.
    pub fn forget_job(&self, id: &str) -> rusqlite::Result<()> {
        let over = JobState::Over.name();
        self.db().execute("DELETE FROM jobs WHERE id = ?1 AND state = ?2", params![id, over]).map(drop)
    }

    /// The jobs in this state, the oldest first.
    ///
    /// # Errors
    /// As above.
    pub fn jobs(&self, state: JobState) -> rusqlite::Result<Vec<Job>> {
        let db = self.db();
        let mut all = db.prepare_cached(&format!("SELECT {JOB} FROM jobs WHERE state = ?1 ORDER BY id"))?;
        all.query_map([state.name()], job)?.collect()
    }

    /// Ids of the newest jobs before this one, at most so many.
    ///
    /// # Errors
    /// As above.
    pub fn jobs_before(&self, before: Option<&str>, limit: usize) -> rusqlite::Result<Vec<String>> {
        let db = self.db();
        let mut all = db.prepare_cached("SELECT id FROM jobs WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2")?;
        all.query_map(params![before, limit as u64], |row| row.get(0))?.collect()
    }

    /// The job of this id.
    ///
    /// # Errors
    /// As above.
    pub fn job(&self, id: &str) -> rusqlite::Result<Option<Job>> {
        let db = self.db();
        let mut one = db.prepare_cached(&format!("SELECT {JOB} FROM jobs WHERE id = ?1"))?;
        one.query_row([id], job).optional()
    }

    /// Notes that the job's `lava run` was started: its number and when that process began.
    ///
    /// # Errors
    /// As above.
    pub fn job_started(&self, id: &str, process: (u32, u64)) -> rusqlite::Result<()> {
        self.db()
            .execute(
                "UPDATE jobs SET state = ?2, started = ?3, pid = ?4, pid_start = ?5 WHERE id = ?1",
                params![id, JobState::Running.name(), now(), process.0, process.1],
            )
            .map(drop)
    }

    /// Notes that the job is over; false if it was already.
    ///
    /// # Errors
    /// As above.
    pub fn job_over(&self, id: &str, detail: Option<&str>) -> rusqlite::Result<bool> {
        let db = self.db();
        let over = JobState::Over.name();
        let changed = db.execute(
            "UPDATE jobs SET state = ?2, ended = ?3, detail = ?4, pid = NULL WHERE id = ?1 AND state <> ?2",
            params![id, over, now(), detail],
        )?;
        db.execute(
            "DELETE FROM jobs WHERE state = ?1 AND id NOT IN (SELECT id FROM jobs WHERE state = ?1 ORDER BY id DESC LIMIT ?2)",
            params![over, MAX_OVER],
        )?;
        Ok(changed > 0)
    }
}
