//! Going back: any session as it was after any of its events.
//!
//! A log is read once from its beginning; on the way moments are kept, so that the next look at another place begins near it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lava_evidence::Error;

use super::moment::{self, Moment};
use crate::lock;

/// Sessions whose moments are kept.
const SESSIONS: usize = 4;
/// Moments kept of each.
const MOMENTS: usize = 24;
/// Nodes and edges in the moments kept of one session: a graph's size is what a moment costs.
const MAX_KEPT: usize = 200_000;
/// Bytes of the log between two moments that are kept, at least: to read so many takes a blink.
const APART: u64 = 256 << 10;

/// Kept moments, by the last event of each.
type Kept = Vec<Arc<Moment>>;

/// A session's folder and its moments.
type Entry = (PathBuf, Arc<Mutex<Kept>>);

/// What was looked at last.
#[derive(Default)]
pub struct Histories(Mutex<Vec<Entry>>);

impl Histories {
    /// The session in `dir` as it was after event `until`, or as it is if it has not come so far. Takes time: not for the
    /// threads that serve.
    ///
    /// # Errors
    /// If the logs cannot be read.
    pub fn at(&self, dir: &Path, until: u64) -> Result<Arc<Moment>, Error> {
        let kept = self.of(dir);
        let mut kept = lock(&kept);
        let nearest = kept.iter().filter(|moment| moment.seq <= until).max_by_key(|moment| moment.seq).cloned();
        if let Some(there) = nearest.as_ref().filter(|moment| moment.seq == until) {
            return Ok(Arc::clone(there));
        }
        let mut moment = nearest.map_or_else(Moment::default, Arc::unwrap_or_clone);
        let findings = moment::findings(dir)?;
        // Spread over the log as it is now: to keep one takes as long as its graph is large, however few events came since the last.
        let log = dir.join("events.jsonl");
        let len = log.metadata().map_err(|source| Error::Io { doing: "read", path: log, source })?.len();
        let apart = (len / MOMENTS as u64).max(APART);
        let mut last = moment.offset();
        moment.advance(dir, until, |at| {
            if at.offset() >= last + apart {
                last = at.offset();
                let mut keep = at.clone();
                keep.apply_findings(&findings);
                insert(&mut kept, Arc::new(keep));
            }
        })?;
        moment.apply_findings(&findings);
        let moment = Arc::new(moment);
        insert(&mut kept, Arc::clone(&moment));
        Ok(moment)
    }

    fn of(&self, dir: &Path) -> Arc<Mutex<Kept>> {
        let mut all = lock(&self.0);
        let entry = match all.iter().position(|(known, _)| known == dir) {
            Some(at) => all.remove(at),
            None => (dir.to_path_buf(), Arc::default()),
        };
        let kept = Arc::clone(&entry.1);
        all.push(entry);
        if all.len() > SESSIONS {
            all.remove(0);
        }
        kept
    }
}

fn insert(kept: &mut Kept, moment: Arc<Moment>) {
    if kept.iter().any(|known| known.seq == moment.seq) {
        return;
    }
    kept.push(moment);
    kept.sort_unstable_by_key(|moment| moment.seq);
    let size = |kept: &Kept| kept.iter().map(|m| m.graph.nodes().len() + m.graph.edges().len()).sum::<usize>();
    while kept.len() > MOMENTS || (kept.len() > 1 && size(kept) > MAX_KEPT) {
        // The one whose absence makes the smallest hole.
        let hole =
            |at: usize| kept.get(at + 1).map_or(u64::MAX, |next| next.seq - if at == 0 { 0 } else { kept[at - 1].seq });
        let Some(least) = (0..kept.len()).min_by_key(|&at| hole(at)) else { return };
        kept.remove(least);
    }
}
