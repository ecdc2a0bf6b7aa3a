//! Memory as a way from process to process: files that several have mapped shared, and writes into another's memory.
//!
//! What is stored into a shared mapping, and read there, makes no event, but for the first store into a page of a file on a disk
//! (`file.map_write`). So
//! * a file of a memory file system (System V shared memory, memfd, /dev/shm) that a tainted process has mapped writable is tainted;
//! * who has a tainted file mapped shared is tainted,
//!
//! both *inferred*, whichever comes first, the mapping or the taint. Who is written into by a tainted process
//! (`memory.remote_write`) is tainted, *observed*, a daemon too: it runs what the other wants. Otherwise taint ends here where it
//! ends elsewhere ([`crate::cut`]).
//!
//! Limits: an unmapping is not told, so who has mapped a file shares it until it ends or becomes another program; nor is it that a
//! mapping to read was made writable later. Memory that no
//! file backs, shared by fork, is not followed: those who share it descend from one another. Bounded; past the bounds what was
//! mapped first is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use lava_event::{Event, FileId, FileType, Grade, GuestText, ProcessKey, ProcessRef, Protection};

use crate::files::Key;
use crate::graph::Graph;
use crate::store::Happening;
use crate::{NodeId, TaintRule, Verb, cut};

/// Files that are mapped shared.
const MAX_FILES: usize = 4096;
/// Processes that share one.
const MAX_SHARERS: usize = 64;

#[derive(Clone, Debug)]
struct Mapped {
    path: GuestText,
    file: FileId,
    /// Counted up from file to file: the lowest was mapped first.
    number: u64,
    /// Each with whether it can write there.
    sharers: BTreeMap<ProcessKey, bool>,
}

/// What has become tainted, and may taint more.
#[derive(Clone, Debug)]
enum Tainted {
    Process(ProcessKey),
    File(Key),
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    files: BTreeMap<Key, Mapped>,
    by_number: BTreeMap<u64, Key>,
    of: BTreeMap<ProcessKey, BTreeSet<Key>>,
    next: u64,
    pending: Vec<Tainted>,
}

impl Memory {
    fn map(&mut self, key: &Key, path: &GuestText, file: &FileId, process: ProcessKey, writes: bool) {
        if !self.files.contains_key(key) {
            while self.files.len() >= MAX_FILES
                && let Some((_, oldest)) = self.by_number.pop_first()
            {
                self.forget(&oldest);
            }
            self.next += 1;
            let mapped = Mapped { path: path.clone(), file: *file, number: self.next, sharers: BTreeMap::new() };
            self.by_number.insert(mapped.number, key.clone());
            self.files.insert(key.clone(), mapped);
        }
        self.share(key, process, writes);
    }

    fn share(&mut self, key: &Key, process: ProcessKey, writes: bool) {
        let Some(mapped) = self.files.get_mut(key) else { return };
        if mapped.sharers.len() < MAX_SHARERS || mapped.sharers.contains_key(&process) {
            *mapped.sharers.entry(process).or_default() |= writes;
            self.of.entry(process).or_default().insert(key.clone());
        }
    }

    fn forget(&mut self, key: &Key) {
        let Some(mapped) = self.files.remove(key) else { return };
        self.by_number.remove(&mapped.number);
        for process in mapped.sharers.keys() {
            if let Some(keys) = self.of.get_mut(process) {
                keys.remove(key);
                if keys.is_empty() {
                    self.of.remove(process);
                }
            }
        }
    }

    /// A child has what its parent has.
    pub(crate) fn forked(&mut self, parent: ProcessKey, child: ProcessKey) {
        for key in self.of.get(&parent).cloned().unwrap_or_default() {
            let writes = self.files.get(&key).and_then(|mapped| mapped.sharers.get(&parent)).copied();
            self.share(&key, child, writes.unwrap_or_default());
        }
    }

    /// The process ended or became another program.
    pub(crate) fn left(&mut self, process: ProcessKey) {
        for key in self.of.remove(&process).unwrap_or_default() {
            let Some(mapped) = self.files.get_mut(&key) else { continue };
            mapped.sharers.remove(&process);
            if mapped.sharers.is_empty() {
                self.forget(&key);
            }
        }
    }

    /// The guest restarted.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// A process has become tainted: what it shares comes with it, once the event is done.
    pub(crate) fn process_tainted(&mut self, process: ProcessKey) {
        if self.of.contains_key(&process) {
            self.pending.push(Tainted::Process(process));
        }
    }

    /// So has a file.
    pub(crate) fn file_tainted(&mut self, key: &Key) {
        if self.files.contains_key(key) {
            self.pending.push(Tainted::File(key.clone()));
        }
    }

    /// The files in memory that the process can write to.
    fn written_by(&self, process: ProcessKey) -> Vec<Key> {
        let writes = |key: &&Key| {
            let mapped = self.files.get(key);
            // Of a file on a disk the first store is told.
            mapped.is_some_and(|mapped| mapped.file.device.0 == 0 && mapped.sharers.get(&process) == Some(&true))
        };
        self.of.get(&process).into_iter().flatten().filter(writes).cloned().collect()
    }

    fn sharers(&self, key: &Key) -> Vec<ProcessKey> {
        self.files.get(key).map(|mapped| mapped.sharers.keys().copied().collect()).unwrap_or_default()
    }
}

impl Graph {
    /// A file was mapped shared.
    pub(crate) fn map_shared(
        &mut self,
        event: &Event,
        actor: ProcessKey,
        path: &GuestText,
        file: &FileId,
        protection: Protection,
    ) {
        if file.file_type() != FileType::Regular || cut::is_shared(path.bytes()) {
            return;
        }
        let key = self.files.key(path, Some(file));
        self.memory.map(&key, path, file, actor, protection.writes());
        if self.files.get(&key).is_some_and(|state| state.tainted) {
            self.take_in_mapped(event, actor, &key);
        } else if self.is_tainted(actor) {
            self.memory.process_tainted(actor);
        }
    }

    /// What became tainted with this event taints who shares memory with it, and so on. Everything is tainted once, so this ends.
    pub(crate) fn through_memory(&mut self, event: &Event) {
        while let Some(tainted) = self.memory.pending.pop() {
            match tainted {
                Tainted::Process(process) => {
                    for key in self.memory.written_by(process) {
                        self.taint_mapped(event, process, &key);
                    }
                }
                Tainted::File(key) => {
                    for sharer in self.memory.sharers(&key) {
                        if !self.is_tainted(sharer) {
                            self.take_in_mapped(event, sharer, &key);
                        }
                    }
                }
            }
        }
    }

    /// A tainted process can write into a file in memory. Who comes when it is tainted already, a child for one, adds nothing.
    fn taint_mapped(&mut self, event: &Event, process: ProcessKey, key: &Key) {
        let Some(process) = self.tainted_node(process) else { return };
        let Some(node) = self.mapped_node(event, key) else { return };
        let Some(state) = self.files.get_mut(key).filter(|state| !state.tainted) else { return };
        state.tainted = true;
        self.taint_node(event, node, TaintRule::Written, Grade::Inferred);
        self.memory.file_tainted(key);
        self.store.happen(event, Happening::observed(process, Verb::Maps, node));
    }

    /// A process has a tainted file in its memory.
    fn take_in_mapped(&mut self, event: &Event, process: ProcessKey, key: &Key) {
        let Some(state) = self.processes.get(process) else { return };
        let (from, tainted, exe) = (state.node, state.tainted, &state.exe);
        if !tainted && self.is_cut(exe.bytes()) {
            return;
        }
        let Some(node) = self.mapped_node(event, key) else { return };
        if !tainted {
            self.taint_process(event, process, TaintRule::Shared, Grade::Inferred);
        }
        self.store.happen(event, Happening::observed(from, Verb::Maps, node));
    }

    fn mapped_node(&mut self, event: &Event, key: &Key) -> Option<NodeId> {
        let mapped = self.memory.files.get(key)?;
        let (path, file) = (mapped.path.clone(), mapped.file);
        Some(self.file(event, &path, Some(&file)).0)
    }

    /// A process wrote into the memory of another.
    pub(crate) fn injected(&mut self, event: &Event, actor: ProcessKey, target: &ProcessRef, bytes: u64) {
        let Some(from) = self.tainted_node(actor) else { return };
        let target = ProcessKey { pid: target.pid, start_ns: target.start_ns };
        let Some(state) = self.processes.get(target).filter(|_| target != actor) else { return };
        let (to, tainted) = (state.node, state.tainted);
        if !tainted {
            self.taint_process(event, target, TaintRule::Injected, Grade::Observed);
        }
        self.store.happen(event, Happening::observed(from, Verb::Injects, to).of(1, bytes));
    }
}
