//! One ordered stream out of four sources.
//!
//! The tap's rings are drained *before* an event of the disk or the network is taken up: what a vCPU pushed before its
//! device request comes before it. Within a window of 2 ms events are ordered by time; then each gets its `seq`. An event
//! that waits for the policy does not wait for the window: everything up to its time goes first, then it.
//!
//! *Invariant:* nothing is dropped. Every queue is bounded, and a full one holds its producer back, in the end the vCPU.
//!
//! *Invariant:* `seq` is 1, 2, 3... without gaps, and `vm.ended` is the last event.
//!
//! Limits: what arrives later than the window (a vCPU's thread was held up on the host) keeps its `time_ns` but stands
//! behind: `seq` is the order, `time_ns` nearly so.

mod feeder;
mod merge;
#[cfg(test)]
mod tests;

use crossbeam_channel::{Receiver, Sender};
use lava_event::{Action, Produced};

pub(crate) use feeder::{Feeder, Message};
pub(crate) use merge::{Ending, Merger, Summary, Trouble};

/// Events that wait to be merged, and merged ones that wait for the consumer.
pub(crate) const QUEUE: usize = 4096;

/// What the consumer gets, in order. The end of the iteration is the end of the session.
pub type Items = Receiver<Item>;

/// One step of the stream.
#[derive(Debug)]
pub enum Item {
    /// Something was seen.
    Event(Produced),
    /// Something was seen that does not happen before the reply. The guest's disk waits: answer soon.
    Ask(Produced, Reply),
}

/// The answer to an [`Item::Ask`]. Dropping it without an answer denies.
#[derive(Debug)]
pub struct Reply {
    seq: u64,
    to: Option<Sender<Answer>>,
}

impl Reply {
    /// Says what happens. `rule` is the one that matched, `None` if the policy's default answered.
    pub fn answer(mut self, action: Action, policy: &str, rule: Option<String>, reason: Option<String>) {
        self.send(action, policy, rule, reason);
    }

    fn send(&mut self, action: Action, policy: &str, rule: Option<String>, reason: Option<String>) {
        if let Some(to) = self.to.take() {
            // Nobody waits any more if the disk has gone.
            let _ = to.send(Answer { seq: self.seq, action, policy: policy.to_owned(), rule, reason });
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(Action::Deny, "none", None, Some("nobody was left to answer".to_owned()));
    }
}

/// What the policy said about the event `seq`.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub seq: u64,
    pub action: Action,
    pub policy: String,
    pub rule: Option<String>,
    pub reason: Option<String>,
}
