//! What happens to files: who reads, makes and changes them, and what taint follows from it.
//!
//! A file is recorded once it or who touches it is tainted. Its taint stays through clean writes: what of the task's bytes
//! is left in it is not known.

use lava_event::{Access, Event, FileId, FileType, Grade, GuestText, ProcessKey};

use crate::files::{FileState, Key, MAX_VERSIONS};
use crate::graph::Graph;
use crate::store::{Happening, label};
use crate::{NodeId, NodeKind, TaintRule, Verb, cut};

impl Graph {
    /// The file's present version, made if there is none.
    pub(crate) fn file(&mut self, event: &Event, path: &GuestText, file: Option<&FileId>) -> (NodeId, Key) {
        let key = self.files.key(path, file);
        if let Some(state) = self.files.get(&key) {
            return (state.node, key);
        }
        let content = self.task.as_ref().and_then(|task| task.content(path.bytes()));
        let node = content.unwrap_or_else(|| self.store.add_node(event, NodeKind::File, label(path), Vec::new(), None));
        let state = FileState { node, tainted: content.is_some(), version: 0, writer: None };
        self.files.insert(path, key.clone(), state);
        (node, key)
    }

    /// Does something with a file, if either of the two is tainted.
    pub(crate) fn touch(
        &mut self,
        event: &Event,
        actor: ProcessKey,
        path: &GuestText,
        file: Option<&FileId>,
        verb: Verb,
    ) -> Option<NodeId> {
        let process = self.processes.get(actor)?;
        let (process, tainted) = (process.node, process.tainted);
        let key = self.files.key(path, file);
        if !tainted && !self.files.get(&key).is_some_and(|state| state.tainted) {
            return None;
        }
        let (node, _) = self.file(event, path, file);
        self.store.happen(event, Happening::observed(process, verb, node));
        Some(node)
    }

    pub(crate) fn open(&mut self, event: &Event, actor: ProcessKey, path: &GuestText, file: &FileId, access: Access) {
        let content = self.is_task_file(path);
        if content {
            self.file(event, path, Some(file));
        }
        if access != Access::Read {
            self.touch(event, actor, path, Some(file), Verb::OpensForWriting);
        }
        if access == Access::Write {
            return;
        }
        self.take_in(event, actor, path, file, Grade::Inferred);
    }

    /// Bytes were read. Of regular files the open has said all, unless the process was clean then, or did not open it itself.
    pub(crate) fn read(&mut self, event: &Event, actor: ProcessKey, path: &GuestText, file: &FileId) {
        match file.file_type() {
            FileType::Fifo => self.pipe_read(event, actor, path, file),
            FileType::Regular if !self.is_tainted(actor) => self.take_in(event, actor, path, file, Grade::Observed),
            _ => {}
        }
    }

    fn take_in(&mut self, event: &Event, actor: ProcessKey, path: &GuestText, file: &FileId, grade: Grade) {
        let content = self.is_task_file(path);
        let Some(node) = self.touch(event, actor, path, Some(file), Verb::Reads) else { return };
        let Some(process) = self.processes.get_mut(actor) else { return };
        let exe = process.exe.bytes().to_vec();
        let task = self.task.as_ref();
        if content && task.is_some_and(|task| task.hosts.iter().any(|host| host == cut::base_name(&exe))) {
            process.host = true;
        }
        let launcher = task.is_some_and(|task| cut::same_program(&task.launcher, &exe));
        if process.tainted || launcher || file.file_type() != FileType::Regular || cut::is_shared(path.bytes()) {
            return;
        }
        if cut::is_job_daemon(&exe) {
            process.jobs_from = Some(node);
        } else if !cut::is_daemon(&exe) {
            self.taint_process(event, actor, TaintRule::Read, grade);
        }
    }

    pub(crate) fn create(&mut self, event: &Event, actor: ProcessKey, path: &GuestText, file: Option<&FileId>) {
        let key = self.files.key(path, file);
        if !self.is_task_file(path) {
            self.files.forget(&key);
        }
        let Some(process) = self.tainted_node(actor) else { return };
        let (node, key) = self.file(event, path, file);
        if let Some(state) = self.files.get_mut(&key) {
            state.tainted = true;
            state.writer = Some(process);
        }
        self.taint_node(event, node, TaintRule::Written, Grade::Observed);
        self.store.happen(event, Happening::observed(process, Verb::Creates, node));
    }

    pub(crate) fn write(
        &mut self,
        event: &Event,
        actor: ProcessKey,
        path: &GuestText,
        file: &FileId,
        count: u64,
        bytes: u64,
    ) -> Option<NodeId> {
        if file.file_type() == FileType::Fifo {
            self.pipe_written(event, actor, path, file, (count, bytes));
            return None;
        }
        let regular = file.file_type() == FileType::Regular;
        let process = self.processes.get(actor)?;
        let (process, tainted) = (process.node, process.tainted);
        let key = self.files.key(path, Some(file));
        let known = self.files.get(&key).is_some_and(|state| state.tainted);
        // A clean process's write to a disk is kept too: it can be what a disk.write carries.
        if !tainted && !known && file.file_type() != FileType::BlockDevice {
            return None;
        }
        let (mut node, key) = self.file(event, path, Some(file));
        let state = self.files.get(&key).cloned();
        if let Some(state) = state.filter(|state| regular && state.writer != Some(process)) {
            let mut next = FileState { writer: Some(process), tainted: state.tainted || tainted, ..state };
            if state.writer.is_some() && state.version < MAX_VERSIONS {
                next.version += 1;
                let detail = vec![format!("version {}", next.version + 1)];
                next.node = self.store.add_node(event, NodeKind::File, label(path), detail, None);
                self.store.happen(event, Happening::observed(next.node, Verb::Follows, node));
                node = next.node;
            }
            if next.tainted {
                self.taint_node(event, node, TaintRule::Written, Grade::Observed);
                self.memory.file_tainted(&key);
            }
            self.files.insert(path, key, next);
        }
        self.store.happen(event, Happening::observed(process, Verb::Writes, node).of(count, bytes));
        Some(node)
    }
}
