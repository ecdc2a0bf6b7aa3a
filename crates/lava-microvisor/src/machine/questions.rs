//! Questions that wait for an analyst: what the policy answered with *ask*.
//!
//! The guest's disk or its vCPU stands still meanwhile; the stream goes on, and other questions are answered. *Invariant:* every
//! question ends: an analyst answers it, its time runs out, or the session ends, which denies it.
//!
//! *Limits:* a vCPU that waits cannot be stopped, so the guest is not paused while a question waits. The task's time runs on.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use lava_control::{Answer, Question};
use lava_event::Action;

use crate::lock;
use crate::stream::Reply;

/// Questions at a time: each vCPU has one, the disks a few. More are answered as if nobody did.
const MAX_WAITING: usize = 64;

struct Waiting {
    question: Question,
    reply: Reply,
    within: Duration,
    until: Instant,
}

impl Waiting {
    fn answer(self, action: Action, how: &str) {
        let Question { policy, rule, reason, .. } = self.question;
        let reason = reason.map_or_else(|| how.to_owned(), |reason| format!("{reason} ({how})"));
        self.reply.answer(action, &policy, rule, Some(reason));
    }

    fn unanswered(self, how: &str) {
        let otherwise = self.question.otherwise;
        self.answer(otherwise, how);
    }
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<u64, Waiting>,
    /// The guest is about to be paused, or is: what asks now would hold up its stop.
    held: bool,
    over: bool,
}

/// All of a session's.
#[derive(Default)]
pub struct Questions {
    state: Mutex<State>,
    changed: Condvar,
}

impl std::fmt::Debug for Questions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Questions").field("waiting", &lock(&self.state).waiting.len()).finish_non_exhaustive()
    }
}

impl Questions {
    /// Lets a question wait for an analyst, `within` from now.
    pub fn put(&self, reply: Reply, question: Question, within: Duration) {
        let waiting = Waiting { question, reply, within, until: Instant::now() + within };
        let mut state = lock(&self.state);
        match (state.over, state.held || state.waiting.len() >= MAX_WAITING) {
            (true, _) => waiting.answer(Action::Deny, "the session is ending"),
            (_, true) => waiting.unanswered("the analyst could not be asked now"),
            _ => drop(state.waiting.insert(waiting.question.seq, waiting)),
        }
        self.changed.notify_all();
    }

    /// Those that wait, in their order.
    #[must_use]
    pub fn waiting(&self) -> Vec<Question> {
        lock(&self.state).waiting.values().map(|waiting| waiting.question.clone()).collect()
    }

    /// The analyst's answer.
    ///
    /// # Errors
    /// If the question does not wait any more.
    pub fn decide(&self, seq: u64, action: Action) -> Answer {
        let waiting = lock(&self.state).waiting.remove(&seq);
        let waiting = waiting.ok_or_else(|| format!("event {seq} does not wait for an answer, or not any more"))?;
        waiting.answer(action, "answered by the analyst");
        Ok(action.to_string())
    }

    /// Lets nothing wait from now on, so that the guest can be stopped; false if something waits already.
    pub(super) fn hold(&self) -> bool {
        let mut state = lock(&self.state);
        state.held |= state.waiting.is_empty();
        state.held
    }

    /// Ends what [`Questions::hold`] began.
    pub(super) fn release(&self) {
        lock(&self.state).held = false;
    }

    /// Denies what waits, and whatever comes.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.over = true;
        for (_, waiting) in std::mem::take(&mut state.waiting) {
            waiting.answer(Action::Deny, "the session is ending");
        }
        self.changed.notify_all();
    }

    /// Answers those whose time has run out, until [`Questions::close`].
    pub(super) fn watch(self: &Arc<Self>) -> std::io::Result<()> {
        let questions = Arc::clone(self);
        std::thread::Builder::new().name("questions".into()).spawn(move || questions.run()).map(drop)
    }

    fn run(&self) {
        let mut state = lock(&self.state);
        while !state.over {
            let now = Instant::now();
            let due: Vec<u64> = state.waiting.iter().filter(|(_, w)| w.until <= now).map(|(&seq, _)| seq).collect();
            for waiting in due.iter().filter_map(|seq| state.waiting.remove(seq)).collect::<Vec<_>>() {
                let how = format!("nobody answered within {} s", waiting.within.as_secs());
                waiting.unanswered(&how);
            }
            let next = state.waiting.values().map(|waiting| waiting.until).min();
            let most = next.map_or(Duration::from_secs(3600), |next| next.saturating_duration_since(now));
            let waited = self.changed.wait_timeout(state, most);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, bounded};

    use super::*;
    use crate::stream::Answer as Given;

    fn ask(questions: &Questions, seq: u64, otherwise: Action, within: Duration) -> Receiver<Given> {
        let (to, given) = bounded(1);
        let question =
            Question { seq, policy: "p".into(), rule: Some("r".into()), reason: None, otherwise, deadline_ns: 0 };
        questions.put(Reply::to_thread(seq, to), question, within);
        given
    }

    fn check(given: &Receiver<Given>, action: Action, reason: &str) {
        let given = given.recv().expect("an answer");
        assert_eq!((given.action, given.rule.as_deref(), given.reason.as_deref()), (action, Some("r"), Some(reason)));
    }

    #[test]
    fn every_question_is_answered() {
        const LONG: Duration = Duration::from_secs(3000);
        let questions = Arc::new(Questions::default());
        questions.watch().expect("thread");
        let first = ask(&questions, 1, Action::Allow, LONG);
        let second = ask(&questions, 2, Action::Allow, LONG);
        let late = ask(&questions, 3, Action::Remediate, Duration::ZERO);
        check(&late, Action::Remediate, "nobody answered within 0 s");
        assert_eq!(questions.waiting().iter().map(|q| q.seq).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(questions.decide(2, Action::Deny), Ok("deny".into()));
        check(&second, Action::Deny, "answered by the analyst");
        assert!(questions.decide(2, Action::Deny).is_err(), "once");
        assert!(!questions.hold(), "one waits");
        questions.close();
        check(&first, Action::Deny, "the session is ending");
        check(&ask(&questions, 4, Action::Allow, LONG), Action::Deny, "the session is ending");
    }

    #[test]
    fn nothing_waits_while_the_guest_is_held() {
        const LONG: Duration = Duration::from_secs(3000);
        let questions = Questions::default();
        assert!(questions.hold());
        check(&ask(&questions, 1, Action::Allow, LONG), Action::Allow, "the analyst could not be asked now");
        questions.release();
        let given = ask(&questions, 2, Action::Allow, LONG);
        assert!(given.is_empty());
        drop(questions);
        let last = given.recv().expect("a dropped question is answered");
        assert_eq!(last.action, Action::Deny);
    }
}
