//! Pipes, named or not: what a tainted process writes into one taints who reads from it.
//!
//! A pipe is a carrier. It gets a node, of a file's kind, once both a writer and another process that reads are tainted. A read is
//! told when it is asked for, and may wait for what is written later: who read before the taint came in is tainted with it,
//! *inferred*; who reads afterwards, *observed*. Where taint ends ([`crate::cut`]) holds here too.
//!
//! Limits: the ends of a pipe that are only inherited and not used are not known; a pipe that a tainted process once wrote to
//! stays tainted.

use std::collections::{BTreeMap, BTreeSet};

use lava_event::{Event, FileId, Grade, GuestText, ProcessKey};

use crate::graph::Graph;
use crate::store::{Happening, label};
use crate::{NodeId, NodeKind, TaintRule, Verb};

/// Pipes kept; the ones longest unused by number go first.
const MAX_PIPES: usize = 16 * 1024;
/// Processes kept at each end of a pipe.
const MAX_ENDS: usize = 64;

/// Device and inode number. The kernel numbers pipes upwards.
type Key = ((u32, u32), u64);

#[derive(Clone, Debug, Default)]
struct Pipe {
    node: Option<NodeId>,
    /// Tainted processes that wrote.
    writers: BTreeSet<ProcessKey>,
    readers: BTreeSet<ProcessKey>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Pipes(BTreeMap<Key, Pipe>);

impl Pipes {
    fn meet(&mut self, key: Key) -> &mut Pipe {
        if self.0.len() >= MAX_PIPES && !self.0.contains_key(&key) {
            self.0.pop_first();
        }
        self.0.entry(key).or_default()
    }

    /// The guest restarted.
    pub(crate) fn reset(&mut self) {
        self.0.clear();
    }
}

impl Graph {
    pub(crate) fn pipe_read(&mut self, event: &Event, actor: ProcessKey, path: &GuestText, file: &FileId) {
        let key = (file.device, file.inode);
        let pipe = self.pipes.meet(key);
        if pipe.readers.len() < MAX_ENDS {
            pipe.readers.insert(actor);
        }
        let writers: Vec<_> = pipe.writers.iter().copied().filter(|&writer| writer != actor).collect();
        self.pipe_carries(event, key, path, &writers, &[actor], Grade::Observed);
    }

    pub(crate) fn pipe_written(
        &mut self,
        event: &Event,
        actor: ProcessKey,
        path: &GuestText,
        file: &FileId,
        (count, bytes): (u64, u64),
    ) {
        let Some(process) = self.tainted_node(actor) else { return };
        let key = (file.device, file.inode);
        let pipe = self.pipes.meet(key);
        if pipe.writers.len() < MAX_ENDS {
            pipe.writers.insert(actor);
        }
        let readers: Vec<_> = pipe.readers.iter().copied().filter(|&reader| reader != actor).collect();
        match pipe.node {
            Some(node) => {
                self.store.happen(event, Happening::observed(process, Verb::Writes, node).of(count, bytes));
            }
            None => self.pipe_carries(event, key, path, &[actor], &readers, Grade::Inferred),
        }
        // Those who read before and were still clean.
        if self.pipes.meet(key).node.is_some() {
            self.pipe_carries(event, key, path, &[], &readers, Grade::Inferred);
        }
    }

    /// What the writers (tainted) put in comes out at the readers.
    fn pipe_carries(
        &mut self,
        event: &Event,
        key: Key,
        path: &GuestText,
        writers: &[ProcessKey],
        readers: &[ProcessKey],
        grade: Grade,
    ) {
        let known = self.pipes.meet(key).node;
        if writers.is_empty() && known.is_none() {
            return;
        }
        for &reader in readers {
            let Some(state) = self.processes.get(reader) else { continue };
            let (clean, exe) = (!state.tainted, state.exe.bytes().to_vec());
            if clean && self.is_cut(&exe) {
                continue;
            }
            let node = match self.pipes.meet(key).node {
                Some(node) => node,
                None => {
                    let node = self.store.add_node(event, NodeKind::File, label(path), Vec::new(), None);
                    self.taint_node(event, node, TaintRule::Written, Grade::Observed);
                    self.pipes.meet(key).node = Some(node);
                    node
                }
            };
            if clean {
                self.taint_process(event, reader, TaintRule::Read, grade);
            }
            for &writer in writers {
                if let Some(writer) = self.processes.get(writer) {
                    self.store.happen(event, Happening::observed(writer.node, Verb::Writes, node));
                }
            }
            if let Some(state) = self.processes.get(reader) {
                self.store.happen(event, Happening::observed(state.node, Verb::Reads, node));
            }
        }
    }
}
