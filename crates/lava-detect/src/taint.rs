//! What a detector must know of the graph, in the detector's own words.
//!
//! The `lava` command implements it over `lava_graph::Graph`, whose plain methods have the same names; neither crate
//! knows the other. All answers are as of the event that is being observed: the graph has applied it already.

use lava_event::{EventSeq, GuestText, ProcessKey};

/// The detector's view of the taint graph.
pub trait Taint {
    /// True once the launcher has forked the task's root process.
    fn task_started(&self) -> bool;
    /// True if the process descends from the task.
    fn is_tainted(&self, process: ProcessKey) -> bool;
    /// True if the path names the task's content.
    fn is_task_file(&self, path: &GuestText) -> bool;
    /// True if the process runs (or ran, before an exec) a host program of the task's profile and opened the content.
    fn is_host(&self, process: ProcessKey) -> bool;
    /// Who forked the process, where known.
    fn parent(&self, process: ProcessKey) -> Option<ProcessKey>;
    /// Who is behind a `disk.write`, where known.
    fn attributed(&self, disk_write: EventSeq) -> Option<ProcessKey>;
}
