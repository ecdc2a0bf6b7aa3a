//! What is remembered of processes: the programs they run, and which of them are the task's.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use lava_event::{GuestText, Process, ProcessKey, ProcessRef};

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

/// The processes of the task: what the launcher forked, and what those forked.
#[derive(Default)]
pub struct TaskProcesses {
    launcher: String,
    started: AtomicBool,
    keys: Mutex<HashSet<ProcessKey>>,
}

impl TaskProcesses {
    /// As [`Exes::MAX`].
    const MAX: usize = 64 * 1024;

    /// `launcher`: path in the guest of the program that forks the task; empty if nobody said.
    pub fn of(launcher: String) -> Self {
        Self { launcher, ..Self::default() }
    }

    pub fn forked(&self, parent: &Process, child: &ProcessRef) {
        let Ok(mut keys) = self.keys.lock() else { return };
        let launched = !self.launcher.is_empty() && parent.exe.bytes() == self.launcher.as_bytes();
        if launched {
            self.started.store(true, Ordering::Relaxed);
        }
        if (launched || keys.contains(&parent.key())) && keys.len() < Self::MAX {
            keys.insert(ProcessKey { pid: child.pid, start_ns: child.start_ns });
        }
    }

    pub fn ended(&self, process: &Process) {
        if let Ok(mut keys) = self.keys.lock() {
            keys.remove(&process.key());
        }
    }

    /// True once the launcher has forked; always, if nobody said which program that is.
    pub fn started(&self) -> bool {
        self.launcher.is_empty() || self.started.load(Ordering::Relaxed)
    }

    /// True for a process of the task.
    pub fn contains(&self, process: &Process) -> bool {
        self.keys.lock().is_ok_and(|keys| keys.contains(&process.key()))
    }
}
