//! Which flows were seen already.
//!
//! Limits: at most [`CAPACITY`] flows are remembered; the one that was silent longest is forgotten first, and reported
//! again if it comes back. A guest that floods us costs bounded memory, and each report costs the guest its time.

use std::collections::{BTreeMap, HashMap};

use lava_event::{Action, NetEndpoint, Protocol};

/// Flows that are remembered.
pub const CAPACITY: usize = 4096;

/// Protocol, guest's end, other end.
pub type Flow = (Protocol, NetEndpoint, NetEndpoint);

/// What a packet means for its flow.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Step {
    /// It asks for a connection (SYN).
    pub opens: bool,
    /// Nothing is left of the connection behind it (it was reset).
    pub closes: bool,
}

#[derive(Debug)]
struct Entry {
    closed: bool,
    used: u64,
    ruling: Option<Action>,
}

/// The table.
#[derive(Default, Debug)]
pub struct Flows {
    entries: HashMap<Flow, Entry>,
    /// By last use.
    order: BTreeMap<u64, Flow>,
    clock: u64,
}

impl Flows {
    /// What the policy said when it was asked about the flow; `None`: it was not, as far as is known.
    pub fn ruling(&self, flow: &Flow) -> Option<Action> {
        self.entries.get(flow).and_then(|entry| entry.ruling)
    }

    /// Notes a packet, and what the policy says of its flow. True if its flow is new: never seen, forgotten, or opened again after it was closed.
    pub fn see(&mut self, flow: Flow, step: Step, ruling: Option<Action>) -> bool {
        self.clock += 1;
        self.order.insert(self.clock, flow);
        let fresh = match self.entries.get_mut(&flow) {
            Some(entry) => {
                self.order.remove(&entry.used);
                let reopened = entry.closed && step.opens;
                let closed = step.closes || (entry.closed && !reopened);
                *entry = Entry { closed, used: self.clock, ruling: ruling.or(entry.ruling) };
                reopened
            }
            None => {
                self.entries.insert(flow, Entry { closed: step.closes, used: self.clock, ruling });
                true
            }
        };
        while self.entries.len() > CAPACITY {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.entries.remove(&oldest);
        }
        fresh
    }

    #[cfg(test)]
    pub fn sizes(&self) -> (usize, usize) {
        (self.entries.len(), self.order.len())
    }
}
