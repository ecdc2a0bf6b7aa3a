//! What goes when there is too much: the rule, what it says now, and doing it.
//!
//! The rule, in this order, each time the one that ended first: sessions that ended longer ago than so many days; while all sessions
//! take more than so many bytes; while less than so many bytes are free. Never one that runs, is held, or cannot be read (somebody must
//! look at it first). Each removal stands in the audit log.
//!
//! *Limits:* a session's size is what its files take on the disk. Dumps, bundles and exports that lie elsewhere are not counted.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::error::Answer;
use crate::lock;
use crate::sessions::folder;
use crate::store::{Retention, now, shown};

/// Folders of sessions that are being removed begin so: hidden, so none is taken for a session.
const GOING: &str = ".removed-";
/// Who removes, in the audit log.
const WHO: &str = "retention";
/// Deepest folder below a session's.
const MAX_DEPTH: usize = 16;

/// A session that the rule takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Removal {
    /// Its id.
    pub session: String,
    /// RFC 3339.
    pub ended: String,
    /// What it takes.
    pub bytes: u64,
    /// By which part of the rule.
    pub why: String,
}

/// What the rule says now.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Plan {
    /// What goes, the first one first.
    pub removals: Vec<Removal>,
    /// Sessions there are.
    pub sessions: usize,
    /// What all of them take, bytes.
    pub bytes: u64,
    /// What is free on their disk, bytes.
    pub free: u64,
    /// What would stay above or below the rule although all that may go has gone.
    pub unmet: Vec<String>,
}

/// A session as the rule sees it.
struct Candidate {
    session: String,
    /// Seconds since 1970; none: it may not go.
    ended: Option<i64>,
    bytes: u64,
}

/// What is remembered between two looks.
#[derive(Default)]
pub struct Keeper {
    /// Sizes of sessions that change no more.
    sizes: Mutex<HashMap<String, u64>>,
    /// Whoever holds or releases a session, or removes one, has this: never both at a time.
    pub doors: Mutex<()>,
}

fn plan(rule: &Retention, now: i64, free: u64, mut all: Vec<Candidate>) -> Plan {
    let mut plan = Plan { sessions: all.len(), bytes: all.iter().map(|one| one.bytes).sum(), free, ..Plan::default() };
    all.sort_by(|a, b| (a.ended, &a.session).cmp(&(b.ended, &b.session)));
    let (mut bytes, mut left) = (plan.bytes, free);
    for one in &all {
        let Some(ended) = one.ended else { continue };
        let age = now.saturating_sub(ended);
        let why = match rule {
            Retention { days: Some(days), .. } if age > i64::from(*days) * 86_400 => {
                format!("it ended more than {days} days ago")
            }
            Retention { bytes: Some(most), .. } if bytes > *most => format!("all sessions take more than {most} bytes"),
            Retention { free: Some(least), .. } if left < *least => format!("less than {least} bytes are free"),
            _ => continue,
        };
        bytes = bytes.saturating_sub(one.bytes);
        left = left.saturating_add(one.bytes);
        plan.removals.push(Removal { session: one.session.clone(), ended: shown(ended), bytes: one.bytes, why });
    }
    let rest = "what is left runs, is held or cannot be read";
    if rule.bytes.is_some_and(|most| bytes > most) {
        plan.unmet.push(format!("{bytes} bytes would still be taken: {rest}"));
    }
    if rule.free.is_some_and(|least| left < least) {
        plan.unmet.push(format!("only {left} bytes would be free: {rest}, or others fill the disk"));
    }
    plan
}

/// Bytes that are free where sessions are kept.
pub fn free(sessions: &Path) -> u64 {
    rustix::fs::statvfs(sessions).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What a folder's files take on the disk. Links are not followed.
fn size(dir: &Path, depth: usize) -> io::Result<u64> {
    let mut sum = 0u64;
    for entry in fs::read_dir(dir)? {
        let facts = entry.as_ref().map_err(|error| io::Error::from(error.kind()))?.metadata()?;
        // In blocks of 512 bytes (stat(2)).
        sum = sum.saturating_add(facts.blocks().saturating_mul(512));
        if facts.is_dir() && depth < MAX_DEPTH {
            sum = sum.saturating_add(size(&entry?.path(), depth + 1)?);
        }
    }
    Ok(sum)
}

/// What this rule says now. Reads the folders: not for the threads that serve.
///
/// # Errors
/// If the store fails.
pub fn look(app: &App, rule: &Retention) -> Answer<Plan> {
    let root = &app.config.sessions;
    let holds = app.store.holds()?;
    let ids = folder::list(root, usize::MAX, None);
    let all = ids.into_iter().map(|session| {
        let over = over(app, &session);
        let bytes = sized(app, &session, over.is_some());
        Candidate { ended: over.filter(|_| !holds.contains_key(&session)), bytes, session }
    });
    let all = all.collect();
    Ok(plan(rule, now(), free(root), all))
}

/// When the session ended; none if it runs, or cannot be read.
fn over(app: &App, session: &str) -> Option<i64> {
    let facts = app.facts.of(&app.config.sessions, session).ok().filter(|facts| facts.is_over())?;
    // One whose writer died has no end: it was begun then.
    let time = facts.ended.as_ref().unwrap_or(&facts.started);
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

fn sized(app: &App, session: &str, over: bool) -> u64 {
    let known = lock(&app.keeper.sizes).get(session).copied();
    if let Some(known) = known.filter(|_| over) {
        return known;
    }
    let Some(dir) = folder::find(&app.config.sessions, session) else { return 0 };
    let bytes = size(&dir, 0).unwrap_or(0);
    if over {
        lock(&app.keeper.sizes).insert(session.to_owned(), bytes);
    }
    bytes
}

/// Does what the rule says.
///
/// # Errors
/// If the store fails, or a folder cannot be removed.
pub fn enforce(app: &App) -> Answer<()> {
    sweep(&app.config.sessions)?;
    let rule = app.store.retention()?;
    if rule == Retention::default() {
        return Ok(());
    }
    // One that cannot be removed keeps no other.
    let done: Vec<Answer<()>> = look(app, &rule)?.removals.iter().map(|removal| remove(app, removal)).collect();
    done.into_iter().collect()
}

fn remove(app: &App, removal: &Removal) -> Answer<()> {
    let (root, session) = (&app.config.sessions, removal.session.as_str());
    let doors = lock(&app.keeper.doors);
    // It may have been held since the rule was asked.
    let Some(dir) = folder::find(root, session).filter(|_| over(app, session).is_some()) else { return Ok(()) };
    if app.store.holds()?.contains_key(session) {
        return Ok(());
    }
    // In one step it is no session any more; then its files go.
    let going = root.join(format!("{GOING}{session}"));
    fs::rename(&dir, &going)?;
    app.store.note(WHO, "session.remove", &format!("{session}: {} ({} bytes)", removal.why, removal.bytes), "-")?;
    drop(doors);
    app.store.forget_job(session)?;
    app.index.forget(session)?;
    app.facts.forget(session);
    lock(&app.keeper.sizes).remove(session);
    fs::remove_dir_all(&going)?;
    Ok(())
}

/// Removes what a server that died in the middle has left.
fn sweep(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)?.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.strip_prefix(GOING).is_some_and(folder::is_id));
        if ours && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn check(rule: Retention, free: u64, expect: &str) -> Plan {
        let one = |session: &str, ended, bytes| Candidate { session: session.to_owned(), ended, bytes };
        // Which ended when says nothing of their ids.
        let all = vec![
            one("d", Some(9 * DAY), 10),
            one("a", Some(7 * DAY), 10),
            one("held", None, 100),
            one("c", Some(DAY), 10),
            one("b", Some(5 * DAY), 10),
        ];
        let plan = plan(&rule, 10 * DAY, free, all);
        let ids: Vec<&str> = plan.removals.iter().map(|removal| removal.session.as_str()).collect();
        assert_eq!(ids.join(" "), expect, "{rule:?}");
        plan
    }

    #[test]
    fn who_ended_first_goes_first() {
        let none = Retention::default();
        check(none, 0, "");
        check(Retention { days: Some(4), ..none }, 0, "c b");
        check(Retention { days: Some(5), ..none }, 0, "c");
        check(Retention { bytes: Some(139), ..none }, 0, "c");
        check(Retention { bytes: Some(115), ..none }, 0, "c b a");
        check(Retention { free: Some(30), ..none }, 15, "c b");
        let plan = check(Retention { days: Some(4), bytes: Some(110), free: Some(1) }, 50, "c b a");
        assert_eq!(plan.removals[0].why, "it ended more than 4 days ago");
        assert_eq!(plan.removals[2].why, "all sessions take more than 110 bytes");
        assert!(plan.unmet.is_empty());
        let plan = check(Retention { bytes: Some(50), ..none }, 0, "c b a d");
        assert_eq!((plan.bytes, plan.unmet.len()), (140, 1), "{:?}", plan.unmet);
        let plan = check(Retention { free: Some(1000), ..none }, 0, "c b a d");
        assert!(plan.unmet[0].contains("only 40 bytes"), "{:?}", plan.unmet);
    }
}
