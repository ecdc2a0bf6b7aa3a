//! The end at which events come in.

use std::sync::Mutex;

use crossbeam_channel::{Sender, bounded};
use lava_event::{Action, Event, Kind, Outlet, Produced, Source};

use super::{Answer, Ending};
use crate::lock;

/// Answers whose outcome is still to be told. A disk asks for a few at a time, and settles each.
const UNSETTLED: usize = 4096;

/// What the merger gets.
pub(crate) enum Message {
    Emit(Produced),
    Ask(Produced, Sender<Answer>),
    /// Nothing comes behind this.
    End(Ending),
}

/// The outlet of disk, network and microvisor.
pub(crate) struct Feeder {
    inbox: Sender<Message>,
    origin_ns: u64,
    unsettled: Mutex<Vec<(Event, Answer)>>,
}

impl Feeder {
    pub fn new(inbox: Sender<Message>, origin_ns: u64) -> Self {
        Self { inbox, origin_ns, unsettled: Mutex::default() }
    }

    /// An event of the microvisor itself, now.
    pub fn tell(&self, kind: Kind) {
        self.emit(Event::new(self.now_ns(), Source::Microvisor, kind).into());
    }

    /// Gives the last event; nothing may be emitted after it.
    pub fn end(&self, ending: Ending) {
        // The merger is gone only if its thread panicked, which its join reports.
        let _ = self.inbox.send(Message::End(ending));
    }
}

impl Outlet for Feeder {
    fn now_ns(&self) -> u64 {
        lava_ring::monotonic_ns().wrapping_sub(self.origin_ns)
    }

    fn emit(&self, produced: Produced) {
        // Without a merger the session is over.
        let _ = self.inbox.send(Message::Emit(produced));
    }

    fn ask(&self, produced: Produced) -> Action {
        let event = produced.event.clone();
        let (send, answer) = bounded(1);
        if self.inbox.send(Message::Ask(produced, send)).is_err() {
            return Action::Deny;
        }
        let Ok(answer) = answer.recv() else { return Action::Deny };
        let action = answer.action;
        let mut unsettled = lock(&self.unsettled);
        if unsettled.len() >= UNSETTLED {
            unsettled.remove(0);
        }
        unsettled.push((event, answer));
        action
    }

    fn settle(&self, event: &Event, action: Action, outcome: &str) {
        let mut unsettled = lock(&self.unsettled);
        let Some(at) = unsettled.iter().position(|(asked, answer)| asked == event && answer.action == action) else {
            return;
        };
        let (_, Answer { seq, policy, rule, reason, .. }) = unsettled.remove(at);
        drop(unsettled);
        self.tell(Kind::VmDecision { subject: seq, action, policy, rule, reason, outcome: outcome.to_owned() });
    }
}
