//! What is remembered of processes: the programs they run, and which of them are the task's.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use lava_event::{GuestText, Process, ProcessKey, ProcessRef, TaskTree};

/// Paths of running programs, by (pid, start time).
#[derive(Default)]
pub struct Exes(Mutex<HashMap<(u32, u64), GuestText>>);

impl Exes {
    /// A guest that makes processes without end does not make this table grow without end.
    const MAX: usize = 16 * 1024;

    pub fn get_or(&self, key: (u32, u64), read: impl FnOnce() -> GuestText) -> GuestText {
        let Ok(mut map) = self.0.lock() else { return read() };
        if map.len() >= Self::MAX {
            map.clear();
        }
        map.entry(key).or_insert_with(read).clone()
    }

    pub fn forget(&self, key: (u32, u64)) {
        if let Ok(mut map) = self.0.lock() {
            map.remove(&key);
        }
    }

    pub fn clear(&self) {
        if let Ok(mut map) = self.0.lock() {
            map.clear();
        }
    }
}

/// The processes of the task, for hooks on several vCPUs.
pub struct TaskProcesses {
    /// As the tree has it, without its lock.
    started: AtomicBool,
    tree: Mutex<TaskTree>,
}

impl TaskProcesses {
    /// `launcher`: path in the guest of the program that forks the task; empty if nobody said. `known`: the task has started, and these of its
    /// processes live.
    pub fn of(launcher: &str, known: Option<Vec<ProcessKey>>) -> Self {
        let tree = TaskTree::of(launcher);
        let tree = match known {
            Some(known) => tree.with(known),
            None => tree,
        };
        Self { started: AtomicBool::new(tree.started()), tree: Mutex::new(tree) }
    }

    pub fn forked(&self, parent: &Process, child: &ProcessRef) {
        let Ok(mut tree) = self.tree.lock() else { return };
        tree.forked(parent, child);
        self.started.store(tree.started(), Ordering::Relaxed);
    }

    pub fn ended(&self, process: &Process) {
        if let Ok(mut tree) = self.tree.lock() {
            tree.ended(&process.key());
        }
    }

    /// True once the launcher has forked; always, if nobody said which program that is.
    pub fn started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// True for a process of the task.
    pub fn contains(&self, process: &Process) -> bool {
        self.tree.lock().is_ok_and(|tree| tree.contains(&process.key()))
    }
}

/// Reads the task's processes that live, as the supervisor writes them: a line each, `PID START_NS`.
pub fn read(file: &Path) -> Result<Vec<ProcessKey>, String> {
    let told = |why: &dyn std::fmt::Display| format!("the task's processes {}: {why}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| told(&error))?;
    let key = |line: &str| {
        let (pid, start_ns) = line.split_once(' ')?;
        Some(ProcessKey { pid: pid.parse().ok()?, start_ns: start_ns.parse().ok()? })
    };
    text.lines().map(|line| key(line).ok_or_else(|| told(&format!("`{line}` names no process")))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_live_already() {
        let folder = std::env::temp_dir().join(format!("lava-tap-processes-{}", std::process::id()));
        std::fs::write(&folder, "7 8000\n9 18446744073709551615\n").unwrap();
        let known = read(&folder).unwrap();
        assert_eq!(known, [ProcessKey { pid: 7, start_ns: 8000 }, ProcessKey { pid: 9, start_ns: u64::MAX }]);
        std::fs::write(&folder, "7 8000\nx\n").unwrap();
        let refused = read(&folder).unwrap_err();
        std::fs::remove_file(&folder).unwrap();
        assert!(refused.contains("`x` names no process") && read(&folder).is_err(), "{refused}");
        assert!(TaskProcesses::of("/l", Some(known)).started() && !TaskProcesses::of("/l", None).started());
    }
}
