//! What is undone, and how.

use std::collections::BTreeSet;

use lava_event::FileType;

use crate::{Change, Changes, Entry, State};

/// What undoing a change means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It was added: it is deleted.
    Delete,
    /// It was removed: it is put back.
    PutBack,
    /// Its content was changed: it is written anew, as it was.
    Restore,
    /// Its rights, owner, times or attributes were changed: they are set as they were.
    Reset,
}

impl Action {
    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::PutBack => "put back",
            Self::Restore => "restore",
            Self::Reset => "reset",
        }
    }
}

/// How a change is undone.
#[must_use]
pub const fn action(change: Change) -> Action {
    match change {
        Change::Added => Action::Delete,
        Change::Removed => Action::PutBack,
        Change::Changed => Action::Restore,
        Change::Attributes => Action::Reset,
    }
}

/// One change that is undone.
#[derive(Clone, Debug)]
pub struct Step {
    /// The change.
    pub entry: Entry,
}

impl Step {
    pub(crate) fn path(&self) -> &[u8] {
        self.entry.path.bytes()
    }

    /// What there is now is taken out.
    pub(crate) fn takes_out(&self) -> bool {
        self.entry.after.is_some() && !self.is_folder_still()
    }

    /// What there was is made anew.
    pub(crate) fn makes(&self) -> bool {
        self.entry.before.is_some() && !self.is_folder_still()
    }

    /// It was a folder and is one: it is kept, with what is in it.
    fn is_folder_still(&self) -> bool {
        is_folder(self.entry.before.as_ref()) && is_folder(self.entry.after.as_ref())
    }
}

fn is_folder(state: Option<&State>) -> bool {
    state.is_some_and(|state| state.what == FileType::Directory)
}

/// The chosen changes by path, and what can't be left out beside them: what is in a folder that goes, and the folders that what comes back lies in.
pub(crate) fn steps(changes: &Changes, chosen: impl Fn(&Entry) -> bool) -> Vec<Step> {
    let entries = &changes.entries;
    let mut wanted: BTreeSet<usize> = (0..entries.len()).filter(|&at| chosen(&entries[at])).collect();
    let goes = |entry: &Entry| is_folder(entry.after.as_ref()) && !is_folder(entry.before.as_ref());
    let comes = |entry: &Entry| is_folder(entry.before.as_ref()) && !is_folder(entry.after.as_ref());
    let folders: BTreeSet<&[u8]> =
        wanted.iter().filter(|&&at| goes(&entries[at])).map(|&at| entries[at].path.bytes()).collect();
    let below = |path: &[u8]| parents(path).any(|parent| folders.contains(parent));
    wanted.extend((0..entries.len()).filter(|&at| below(entries[at].path.bytes())));
    let needed: BTreeSet<&[u8]> = wanted.iter().flat_map(|&at| parents(entries[at].path.bytes())).collect();
    let more = (0..entries.len()).filter(|&at| comes(&entries[at]) && needed.contains(entries[at].path.bytes()));
    let more: Vec<usize> = more.collect();
    wanted.extend(more);
    let mut steps: Vec<Step> = wanted.into_iter().map(|at| Step { entry: entries[at].clone() }).collect();
    steps.sort_by(|a, b| a.path().cmp(b.path()));
    steps
}

/// The folders that a path lies in, without the root.
pub(crate) fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}
