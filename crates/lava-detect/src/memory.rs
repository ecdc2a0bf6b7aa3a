//! What the detector remembers of the session: the files that the task's processes made or changed.
//!
//! A file is known by device and inode, and by its path where a script's path is all there is. Bounded: past
//! [`MAX_FILES`] files no new ones are taken in, and the detector says so.

use std::collections::BTreeMap;

use lava_event::{Event, EventSeq, FileId, FileType, GuestText, Kind, ProcessKey};

use crate::Taint;

/// Files remembered.
const MAX_FILES: usize = 1 << 18;
/// Events remembered of each.
const EVENTS: usize = 8;

/// A file that a tainted process made or changed.
#[derive(Clone, Debug)]
pub(crate) struct Dropped {
    /// Its latest path.
    pub(crate) path: Vec<u8>,
    /// Its create, write and attribute events, ascending.
    pub(crate) events: Vec<EventSeq>,
}

/// The files, by identity and by path.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// By a number that is given once, so that an old name of a forgotten file leads nowhere.
    files: BTreeMap<u64, Dropped>,
    next: u64,
    by_inode: BTreeMap<((u32, u32), u64), u64>,
    by_path: BTreeMap<Vec<u8>, u64>,
    /// When each tainted process opened the task's content first, and running which program.
    opened: BTreeMap<ProcessKey, (EventSeq, Vec<u8>)>,
    saturated: bool,
}

fn inode(file: &FileId) -> ((u32, u32), u64) {
    (file.device, file.inode)
}

impl Memory {
    pub(crate) const fn is_saturated(&self) -> bool {
        self.saturated
    }

    /// The dropped file of that identity.
    pub(crate) fn by_inode(&self, file: &FileId) -> Option<&Dropped> {
        self.by_inode.get(&inode(file)).and_then(|id| self.files.get(id))
    }

    /// The dropped file of that resolved path.
    pub(crate) fn by_path(&self, path: &[u8]) -> Option<&Dropped> {
        self.by_path.get(path).and_then(|id| self.files.get(id))
    }

    /// The event with which a process opened the task's content, and the program it was running.
    pub(crate) fn opened_content(&self, process: ProcessKey) -> Option<&(EventSeq, Vec<u8>)> {
        self.opened.get(&process)
    }

    /// Takes an event in; `actor` is who did it, if tainted. Called after the behaviours have seen it.
    pub(crate) fn remember(&mut self, event: &Event, actor: Option<ProcessKey>, taint: &dyn Taint) {
        match (&event.kind, actor) {
            (Kind::FileOpen { path, .. }, Some(actor)) if taint.is_task_file(path) && self.opened.len() < MAX_FILES => {
                let exe = event.process.as_ref().map(|process| process.exe.bytes().to_vec()).unwrap_or_default();
                self.opened.entry(actor).or_insert((event.seq, exe));
            }
            (Kind::FileCreate { path, file, what: FileType::Regular, target }, Some(_)) => {
                let other_name = target.as_ref().and_then(|t| self.by_path.get(t.bytes()).copied());
                match (other_name, file) {
                    (Some(known), _) => {
                        self.by_path.insert(path.bytes().to_vec(), known);
                    }
                    (None, file) => {
                        self.forget(path, file.as_ref());
                        self.touch(event.seq, path, file.as_ref());
                    }
                }
            }
            // A clean process made a file: if its inode was that of a dropped one, that one is gone.
            (Kind::FileCreate { path, file, target: None, .. }, None) => self.forget(path, file.as_ref()),
            (Kind::FileWrite { path, file, .. }, Some(_)) if file.file_type() == FileType::Regular => {
                self.touch(event.seq, path, Some(file));
            }
            (Kind::FileAttributes { path, file, .. }, Some(_)) => {
                let known = self.find(path, Some(file));
                if let Some(dropped) = known.and_then(|id| self.files.get_mut(&id)) {
                    note(&mut dropped.events, event.seq);
                }
            }
            (Kind::FileRename { from, to, file }, _) => {
                if let Some(known) = self.find(from, Some(file)) {
                    self.by_path.remove(from.bytes());
                    self.by_path.insert(to.bytes().to_vec(), known);
                    if let Some(dropped) = self.files.get_mut(&known) {
                        dropped.path = to.bytes().to_vec();
                        if actor.is_some() {
                            note(&mut dropped.events, event.seq);
                        }
                    }
                } else {
                    self.by_path.remove(to.bytes());
                }
            }
            // The inode stays: what is running, open or linked can still be executed.
            (Kind::FileUnlink { path, .. }, _) => {
                self.by_path.remove(path.bytes());
            }
            // Anonymous devices (tmpfs) are empty after a restart, and their inode numbers begin anew.
            (Kind::VmReset { .. }, _) => self.by_inode.retain(|(device, _), _| device.0 != 0),
            _ => {}
        }
    }

    fn find(&self, path: &GuestText, file: Option<&FileId>) -> Option<u64> {
        let by_inode = file.and_then(|file| self.by_inode.get(&inode(file)));
        by_inode.or_else(|| self.by_path.get(path.bytes())).copied()
    }

    fn forget(&mut self, path: &GuestText, file: Option<&FileId>) {
        let by_inode = file.and_then(|file| self.by_inode.remove(&inode(file)));
        self.by_path.remove(path.bytes());
        if let Some(id) = by_inode {
            self.files.remove(&id);
        }
    }

    fn touch(&mut self, seq: EventSeq, path: &GuestText, file: Option<&FileId>) {
        let id = match self.find(path, file).filter(|id| self.files.contains_key(id)) {
            Some(id) => id,
            None if self.files.len() >= MAX_FILES => {
                self.saturated = true;
                return;
            }
            None => {
                self.next += 1;
                self.files.insert(self.next, Dropped { path: path.bytes().to_vec(), events: Vec::new() });
                self.next
            }
        };
        if let Some(file) = file {
            self.by_inode.insert(inode(file), id);
        }
        if self.by_path.len() < 2 * MAX_FILES {
            self.by_path.insert(path.bytes().to_vec(), id);
        }
        if let Some(dropped) = self.files.get_mut(&id) {
            note(&mut dropped.events, seq);
        }
    }
}

/// Keeps the first events and the latest.
fn note(events: &mut Vec<EventSeq>, seq: EventSeq) {
    if events.len() >= EVENTS {
        events.pop();
    }
    if let Err(at) = events.binary_search(&seq) {
        events.insert(at, seq);
    }
}
