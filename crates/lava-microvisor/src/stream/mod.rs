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
mod owners;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};
use lava_event::{Action, Produced};

use crate::lock;

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
    /// Something was seen that does not happen before the reply. The guest's disk or its vCPU waits: answer soon.
    Ask(Produced, Reply),
}

/// The answer to an [`Item::Ask`]. Dropping it without an answer denies.
#[derive(Debug)]
pub struct Reply {
    seq: u64,
    to: Option<Asker>,
}

impl Reply {
    /// The event that waits for it.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    #[cfg(test)]
    pub(crate) const fn to_thread(seq: u64, to: Sender<Answer>) -> Self {
        Self { seq, to: Some(Asker::Thread(to)) }
    }

    /// Says what happens. `rule` is the one that matched, `None` if the policy's default answered.
    pub fn answer(mut self, action: Action, policy: &str, rule: Option<String>, reason: Option<String>) {
        self.send(action, policy, rule, reason);
    }

    fn send(&mut self, action: Action, policy: &str, rule: Option<String>, reason: Option<String>) {
        if let Some(to) = self.to.take() {
            to.answer(Answer { seq: self.seq, action, policy: policy.to_owned(), rule, reason });
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(Action::Deny, "none", None, Some("nobody was left to answer".to_owned()));
    }
}

/// Who waits for a reply.
#[derive(Debug)]
pub(crate) enum Asker {
    /// A thread of ours.
    Thread(Sender<Answer>),
    /// A vCPU's thread in QEMU.
    Tap { ring: u32, question: u64, answers: TapAnswers },
}

impl Asker {
    fn answer(self, answer: Answer) {
        match self {
            // Nobody waits any more if the disk has gone.
            Self::Thread(to) => drop(to.send(answer)),
            Self::Tap { ring, question, answers } => answers.give(ring, question, answer),
        }
    }
}

/// The way back to the tap, and the answers whose outcome it has still to tell.
#[derive(Clone)]
pub(crate) struct TapAnswers {
    /// Ring, number of the question, code of the answer.
    send: Arc<dyn Fn(u32, u64, u8) + Send + Sync>,
    /// By ring: each has one vCPU, which waits for one answer at a time.
    unsettled: Arc<Mutex<BTreeMap<u32, Answer>>>,
}

impl TapAnswers {
    pub fn new(send: impl Fn(u32, u64, u8) + Send + Sync + 'static) -> Self {
        Self { send: Arc::new(send), unsettled: Arc::default() }
    }

    fn give(&self, ring: u32, question: u64, answer: Answer) {
        let code = answer.action.code();
        lock(&self.unsettled).insert(ring, answer);
        (self.send)(ring, question, code);
    }

    fn settled(&self, ring: u32) -> Option<Answer> {
        lock(&self.unsettled).remove(&ring)
    }
}

impl std::fmt::Debug for TapAnswers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TapAnswers")
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
