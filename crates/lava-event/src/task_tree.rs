//! Which processes are the task's: what the launcher forked, and what those forked.

use std::collections::HashSet;

use crate::{Event, Kind, Process, ProcessKey, ProcessRef};

/// The processes of the task that live.
///
/// Limits: [`TaskTree::MAX`] are known at a time: a guest that makes processes without end does not make this grow without end.
#[derive(Clone, Default, Debug)]
pub struct TaskTree {
    launcher: Vec<u8>,
    started: bool,
    keys: HashSet<ProcessKey>,
}

impl TaskTree {
    /// Processes that are known at a time.
    pub const MAX: usize = 64 * 1024;

    /// `launcher`: path in the guest of the program that forks the task; empty if nobody said.
    #[must_use]
    pub fn of(launcher: &str) -> Self {
        Self { launcher: launcher.as_bytes().to_vec(), ..Self::default() }
    }

    /// The same, where the task was started before and these of its processes live.
    #[must_use]
    pub fn with(self, keys: impl IntoIterator<Item = ProcessKey>) -> Self {
        Self { started: true, keys: keys.into_iter().take(Self::MAX).collect(), ..self }
    }

    /// A process, or one of its threads, was forked.
    pub fn forked(&mut self, parent: &Process, child: &ProcessRef) {
        let launched = !self.launcher.is_empty() && parent.exe.bytes() == self.launcher;
        self.started |= launched;
        if (launched || self.keys.contains(&parent.key())) && self.keys.len() < Self::MAX {
            self.keys.insert(ProcessKey { pid: child.pid, start_ns: child.start_ns });
        }
    }

    /// A process ended.
    pub fn ended(&mut self, process: &ProcessKey) {
        self.keys.remove(process);
    }

    /// Takes what a log tells, event by event.
    pub fn take(&mut self, event: &Event) {
        match (&event.kind, &event.process) {
            (Kind::ProcessFork { child, .. }, Some(parent)) => self.forked(parent, child),
            (Kind::ProcessExit { .. }, Some(process)) => self.ended(&process.key()),
            _ => {}
        }
    }

    /// True once the launcher has forked; always, if nobody said which program that is.
    #[must_use]
    pub fn started(&self) -> bool {
        self.launcher.is_empty() || self.started
    }

    /// True for a process of the task.
    #[must_use]
    pub fn contains(&self, process: &ProcessKey) -> bool {
        self.keys.contains(process)
    }

    /// All of them.
    pub fn processes(&self) -> impl Iterator<Item = ProcessKey> + '_ {
        self.keys.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GuestText, Source};

    #[test]
    fn what_the_launcher_forked_and_what_that_forked() {
        let process = |pid: u32, exe: &str| Process {
            pid,
            tid: pid,
            start_ns: u64::from(pid),
            ppid: 1,
            uid: 0,
            comm: GuestText::from("x"),
            exe: exe.into(),
        };
        let fork = |parent: Process, pid: u32| {
            let child = ProcessRef { pid, tid: pid, start_ns: u64::from(pid), comm: GuestText::from("x") };
            let kind = Kind::ProcessFork { child, thread: false, flags: 0 };
            Event { process: Some(parent), ..Event::new(0, Source::Tap, kind) }
        };
        let mut tree = TaskTree::of("/launcher");
        tree.take(&fork(process(5, "/bin/sh"), 6));
        assert!(!tree.started() && tree.processes().next().is_none());
        for event in
            [fork(process(2, "/launcher"), 10), fork(process(10, "/bin/sh"), 11), fork(process(11, "/bin/a"), 12)]
        {
            tree.take(&event);
        }
        let exit = Kind::ProcessExit { code: Some(0), signal: None };
        tree.take(&Event { process: Some(process(11, "/bin/a")), ..Event::new(0, Source::Tap, exit) });
        let mut left: Vec<u32> = tree.processes().map(|key| key.pid).collect();
        left.sort_unstable();
        assert!(tree.started());
        assert_eq!(left, [10, 12]);

        let again = TaskTree::of("/launcher").with(tree.processes());
        assert!(again.started() && again.contains(&ProcessKey { pid: 12, start_ns: 12 }));
        assert!(TaskTree::of("").started());
    }
}
