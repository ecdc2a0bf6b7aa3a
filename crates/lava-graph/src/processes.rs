//! The processes: who forked whom, what they run, who is tainted.

use std::collections::{BTreeMap, VecDeque};

use lava_event::{GuestText, ProcessKey};

use crate::NodeId;

/// Processes kept.
const MAX_PROCESSES: usize = 1 << 18;
/// Tainted processes kept after their end, the last ones: what they wrote to the disk can come out half a minute later. Clean ones
/// are forgotten at once.
const MAX_ENDED: usize = 1 << 16;

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
    ended: VecDeque<ProcessKey>,
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
        match self.all.get(&key) {
            Some(state) if state.tainted => {
                self.ended.push_back(key);
                if self.ended.len() > MAX_ENDED
                    && let Some(oldest) = self.ended.pop_front()
                {
                    self.all.remove(&oldest);
                }
            }
            _ => {
                self.all.remove(&key);
            }
        }
    }

    /// The guest restarted: nobody runs any more.
    pub(crate) fn end_all(&mut self) {
        let all: Vec<ProcessKey> = self.all.keys().copied().collect();
        all.into_iter().for_each(|key| self.end(key));
    }
}
