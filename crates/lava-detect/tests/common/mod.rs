//! A graph of nothing but what a test says of processes.

use lava_detect::Taint;
use lava_event::{EventSeq, GuestText, ProcessKey};

/// What the detectors ask of the graph.
pub struct Fake {
    /// Who descends from the task.
    pub tainted: fn(ProcessKey) -> bool,
    /// Who forked whom.
    pub parent: fn(ProcessKey) -> Option<ProcessKey>,
}

impl Default for Fake {
    /// Everybody descends from the task, nobody knows how.
    fn default() -> Self {
        Self { tainted: |_| true, parent: |_| None }
    }
}

impl Taint for Fake {
    fn task_started(&self) -> bool {
        true
    }
    fn is_tainted(&self, process: ProcessKey) -> bool {
        (self.tainted)(process)
    }
    fn is_task_file(&self, _: &GuestText) -> bool {
        false
    }
    fn is_host(&self, _: ProcessKey) -> bool {
        false
    }
    fn parent(&self, process: ProcessKey) -> Option<ProcessKey> {
        (self.parent)(process)
    }
    fn attributed(&self, _: EventSeq) -> Option<ProcessKey> {
        None
    }
}
