//! The files that the task has touched, and which versions of them it made.

use std::collections::BTreeMap;

use lava_event::{FileId, GuestText};

use crate::NodeId;

/// Files kept.
const MAX_FILES: usize = 1 << 18;
/// Versions of one file that get a node each.
pub(crate) const MAX_VERSIONS: u32 = 32;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Key {
    Inode((u32, u32), u64),
    /// A file whose inode is not known yet.
    Path(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(crate) struct FileState {
    /// The node of its present version.
    pub(crate) node: NodeId,
    pub(crate) tainted: bool,
    pub(crate) version: u32,
    /// The process node that made the present version.
    pub(crate) writer: Option<NodeId>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    all: BTreeMap<Key, FileState>,
    paths: BTreeMap<Vec<u8>, Key>,
}

impl Files {
    /// The key a file has, or would get.
    pub(crate) fn key(&mut self, path: &GuestText, file: Option<&FileId>) -> Key {
        let Some(file) = file else {
            return self.paths.get(path.bytes()).cloned().unwrap_or_else(|| Key::Path(path.bytes().to_vec()));
        };
        let key = Key::Inode(file.device, file.inode);
        // Known by its path until now: from here on by its inode.
        let by_path = Key::Path(path.bytes().to_vec());
        if !self.all.contains_key(&key)
            && let Some(state) = self.all.remove(&by_path)
        {
            self.insert(path, key.clone(), state);
        }
        key
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&FileState> {
        self.all.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &Key) -> Option<&mut FileState> {
        self.all.get_mut(key)
    }

    pub(crate) fn by_path(&self, path: &[u8]) -> Option<&FileState> {
        self.paths.get(path).and_then(|key| self.all.get(key))
    }

    pub(crate) fn insert(&mut self, path: &GuestText, key: Key, state: FileState) {
        if self.all.len() < MAX_FILES || self.all.contains_key(&key) {
            self.paths.insert(path.bytes().to_vec(), key.clone());
            self.all.insert(key, state);
        }
    }

    pub(crate) fn rename(&mut self, from: &GuestText, to: &GuestText) {
        match self.paths.remove(from.bytes()) {
            Some(key) => {
                self.paths.insert(to.bytes().to_vec(), key);
            }
            None => {
                self.paths.remove(to.bytes());
            }
        }
    }

    pub(crate) fn unlink(&mut self, path: &GuestText) {
        self.paths.remove(path.bytes());
    }

    /// Its inode was given to a new file.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.all.remove(key);
    }

    /// The guest restarted: what lay in memory file systems is gone, and their inode numbers begin anew.
    pub(crate) fn reset(&mut self) {
        self.all.retain(|key, _| !matches!(key, Key::Inode(device, _) if device.0 == 0));
    }
}
