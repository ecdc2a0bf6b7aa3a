//! Both trees at once, folder by folder.

use std::collections::BTreeMap;
use std::time::Instant;

use ext4_view::Metadata;
use lava_event::Artifact;

use crate::changes::{Change, Changes, Entry, State};
use crate::disk::{self, Disk, NotRead};
use crate::tree::{Budget, Tree};
use crate::{Limits, usual};

/// Problems that are told.
const PROBLEMS: usize = 50;

/// Where a folder is to be looked at.
#[derive(Clone, Copy)]
enum Side {
    Both,
    Before,
    After,
}

struct Comparison<K> {
    before: Tree,
    after: Tree,
    limits: Limits,
    budget: Budget,
    folders: Vec<(Vec<u8>, Side)>,
    changes: Changes,
    keep: K,
}

pub(crate) fn run(
    before: Box<dyn Disk>,
    after: Box<dyn Disk>,
    limits: Limits,
    until: Instant,
    keep: impl FnMut(Artifact) -> bool,
) -> Changes {
    // Where it was: a table that the session changed must not lead elsewhere.
    let opened = disk::find(&*before).map_err(|error| ("before", error)).and_then(|place| {
        let open = |disk, when| Tree::open(disk, place, until).map_err(|error: NotRead| (when, error));
        Ok((open(before, "before")?, open(after, "after")?))
    });
    let (before, after) = match opened {
        Ok(trees) => trees,
        Err((when, error)) => {
            return Changes::failed(format!("the file system as it was {when} the session: {error}"));
        }
    };
    let budget = Budget { hashed: (limits.hashed_file, limits.hashed), kept: (limits.kept_file, limits.kept) };
    let changes = Changes { complete: true, ..Changes::default() };
    let folders = vec![(b"/".to_vec(), Side::Both)];
    let mut comparison = Comparison { before, after, limits, budget, folders, changes, keep };
    while let Some((path, side)) = comparison.folders.pop() {
        if !comparison.folder(&path, side) {
            break;
        }
    }
    let mut changes = comparison.changes;
    changes.entries.sort_by(|a, b| (a.usual, a.path.bytes()).cmp(&(b.usual, b.path.bytes())));
    changes
}

impl<K: FnMut(Artifact) -> bool> Comparison<K> {
    /// False if a bound is reached.
    fn folder(&mut self, path: &[u8], side: Side) -> bool {
        let left = self.limits.entries.saturating_sub(usize::try_from(self.changes.looked_at).unwrap_or(usize::MAX));
        let list = |tree: &Tree, wanted: bool| if wanted { tree.list(path, left) } else { Ok(BTreeMap::new()) };
        let before = list(&self.before, !matches!(side, Side::After));
        let after = list(&self.after, !matches!(side, Side::Before));
        let (mut before, after) = match (before, after) {
            (Ok(before), Ok(after)) => (before, after),
            // One side alone would look like a folder that was emptied.
            (Err(why), _) => return self.problem(path, "before", &why),
            (_, Err(why)) => return self.problem(path, "after", &why),
        };
        self.changes.looked_at += (before.len() + after.len()) as u64;
        for (name, after) in after {
            let old = before.remove(&name);
            if !self.name(&join(path, &name), old.as_ref(), Some(&after)) {
                return false;
            }
        }
        before.into_iter().all(|(name, before)| self.name(&join(path, &name), Some(&before), None))
    }

    /// One name; false if a bound is reached.
    fn name(&mut self, path: &[u8], before: Option<&Metadata>, after: Option<&Metadata>) -> bool {
        match (before.is_some_and(Metadata::is_dir), after.is_some_and(Metadata::is_dir)) {
            (true, true) => self.folders.push((path.to_vec(), Side::Both)),
            (true, false) => self.folders.push((path.to_vec(), Side::Before)),
            (false, true) => self.folders.push((path.to_vec(), Side::After)),
            // All that the inode says, the time of its change among it, which no system call sets.
            (false, false) if before == after => return true,
            (false, false) => {}
        }
        let entry = match self.entry(path, before, after) {
            Ok(None) => return true,
            Ok(Some(entry)) => entry,
            Err((when, why)) => return self.problem(path, when, &why),
        };
        if self.changes.entries.len() >= self.limits.changes {
            self.changes.complete = false;
            self.changes.problems.push(format!("only the first {} changes are told", self.limits.changes));
            return false;
        }
        self.changes.entries.push(entry);
        true
    }

    fn entry(
        &mut self,
        path: &[u8],
        before: Option<&Metadata>,
        after: Option<&Metadata>,
    ) -> Result<Option<Entry>, (&'static str, String)> {
        // Links and names within it change a folder's times and size: they are told as themselves.
        if let (Some(old), Some(new)) = (before, after)
            && old.is_dir()
            && new.is_dir()
            && rights(old) == rights(new)
            && (old == new || self.same_xattrs(path)?)
        {
            return Ok(None);
        }
        let usual = usual::is(path);
        let (old, old_content) =
            state(&self.before, path, before, &mut self.budget, !usual).map_err(|why| ("before", why))?;
        let (new, new_content) =
            state(&self.after, path, after, &mut self.budget, !usual).map_err(|why| ("after", why))?;
        let (old, new) = (self.with_xattrs(path, old, "before"), self.with_xattrs(path, new, "after"));
        let change = match (&old, &new) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            (Some(old), Some(new)) if same_content(old, new) => Change::Attributes,
            _ => Change::Changed,
        };
        let only_read = before.zip(after).is_some_and(|(old, new)| {
            old.accessed() != new.accessed() && rights(old) == rights(new) && old.modified() == new.modified()
        });
        let same_xattrs = old.as_ref().map(|state| &state.xattrs) == new.as_ref().map(|state| &state.xattrs);
        if change == Change::Attributes && only_read && same_xattrs {
            return Ok(None);
        }
        let mut entry = Entry { path: path.to_vec().into(), change, usual, before: old, after: new };
        if change != Change::Attributes {
            for (state, content) in [(&mut entry.before, old_content), (&mut entry.after, new_content)] {
                if let (Some(state), Some(content)) = (state, content) {
                    state.kept = (self.keep)(content);
                }
            }
        }
        Ok(Some(entry))
    }

    /// What can't be read of them is a problem, and hides nothing else.
    fn with_xattrs(&mut self, path: &[u8], state: Option<State>, when: &str) -> Option<State> {
        let mut state = state?;
        let tree = if when == "before" { &self.before } else { &self.after };
        match tree.xattrs(path) {
            Ok(xattrs) => state.xattrs = xattrs,
            Err(why) => drop(self.problem(path, when, &why)),
        }
        Some(state)
    }

    fn same_xattrs(&self, path: &[u8]) -> Result<bool, (&'static str, String)> {
        let before = self.before.xattrs(path).map_err(|why| ("before", why))?;
        Ok(before == self.after.xattrs(path).map_err(|why| ("after", why))?)
    }

    /// Notes what can't be compared; false if there is too much of it.
    fn problem(&mut self, path: &[u8], when: &str, why: &str) -> bool {
        self.changes.complete = false;
        let path = lava_event::GuestText::from(path.to_vec());
        self.changes.problems.push(format!("{path} as it was {when} the session: {why}"));
        self.changes.problems.len() < PROBLEMS
    }
}

fn state(
    tree: &Tree,
    path: &[u8],
    metadata: Option<&Metadata>,
    budget: &mut Budget,
    keep: bool,
) -> Result<(Option<State>, Option<Artifact>), String> {
    let Some(metadata) = metadata else { return Ok((None, None)) };
    let mut state = tree.state(path, metadata)?;
    let (sha256, content) = match state.what {
        lava_event::FileType::Regular => tree.content(path, metadata, budget, keep)?,
        _ => (None, None),
    };
    state.sha256 = sha256;
    Ok((Some(state), content))
}

/// True if both are of one type, and have the same content or target. Files too large to be hashed have not, whatever their size.
fn same_content(old: &State, new: &State) -> bool {
    let hashed = old.what != lava_event::FileType::Regular || old.sha256.is_some();
    old.what == new.what && hashed && old.sha256 == new.sha256 && old.target == new.target
}

fn rights(metadata: &Metadata) -> (u16, u32, u32) {
    (metadata.mode(), metadata.uid(), metadata.gid())
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if folder == b"/" { b"" } else { b"/" };
    [folder, slash, name].concat()
}
