//! The processes: who forked whom, what they run, who is tainted.

use std::collections::BTreeMap;

use lava_event::{GuestText, ProcessKey};

use crate::NodeId;

/// Processes kept; clean ones are forgotten when they end.
const MAX_PROCESSES: usize = 1 << 18;

#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The node of its present generation.
    pub(crate) node: NodeId,
    pub(crate) parent: Option<ProcessKey>,
    pub(crate) exe: GuestText,
    pub(crate) tainted: bool,
    /// Ran a host program of the profile when it opened the content.
    pub(crate) host: bool,
    /// A job daemon that has read this tainted file.
    pub(crate) jobs_from: Option<NodeId>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Processes {
    all: BTreeMap<ProcessKey, State>,
    by_pid: BTreeMap<u32, ProcessKey>,
}

impl Processes {
    pub(crate) fn get(&self, key: ProcessKey) -> Option<&State> {
        self.all.get(&key)
    }

    pub(crate) fn get_mut(&mut self, key: ProcessKey) -> Option<&mut State> {
        self.all.get_mut(&key)
    }

    /// The process that has that number now.
    pub(crate) fn running(&self, pid: u32) -> Option<ProcessKey> {
        self.by_pid.get(&pid).copied()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.all.len() >= MAX_PROCESSES
    }

    pub(crate) fn insert(&mut self, key: ProcessKey, state: State) {
        self.by_pid.insert(key.pid, key);
        self.all.insert(key, state);
    }

    pub(crate) fn end(&mut self, key: ProcessKey) {
        if self.by_pid.get(&key.pid) == Some(&key) {
            self.by_pid.remove(&key.pid);
        }
        if self.all.get(&key).is_some_and(|state| !state.tainted) {
            self.all.remove(&key);
        }
    }

    /// The guest restarted: nobody runs any more.
    pub(crate) fn end_all(&mut self) {
        self.by_pid.clear();
        self.all.retain(|_, state| state.tainted);
    }
}
