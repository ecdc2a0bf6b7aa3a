//! The provenance and taint graph of one session.
//!
//! [`Graph::apply`] takes every event in order and answers with the [`Delta`]s a viewer needs;
//! [`Graph::apply_finding`] takes what the detectors think of them. Out come: who descends from the task (taint), who is
//! behind a write to the disk (attribution), the kill chain and the verdict, and [`Graph::trace`], the picture small
//! enough to be read.
//!
//! What is recorded: every fork and exec; of files, sockets, rights and modules only what a tainted process does, or what
//! anybody does with a tainted file. What clean processes do among themselves leaves no edge.
//!
//! *Invariant:* no I/O, no clock, no randomness: the same log gives the same graph. Memory is bounded; where a bound is
//! reached, what comes is counted into one node that says so.
//!
//! *Limits:* taint is followed through forks, execs, files, pipes, sockets, shared memory and writes into other processes, and not byte by byte. See [`cut`]
//! for where it is held back on purpose.
#![forbid(unsafe_code)]

mod apply;
mod apply_files;
mod apply_net;
mod channels;
pub mod cut;
mod disk;
mod files;
mod graph;
mod incident;
mod lanes;
mod memory;
mod model;
mod pipes;
mod processes;
mod store;
pub mod trace;
mod verdict;

pub use disk::Attribution;
pub use graph::Graph;
pub use incident::Incident;
pub use lanes::{Exit, Lane, Timeline};
pub use model::{Delta, Edge, EdgeDecision, EdgeId, Node, NodeId, NodeKind, NodeTaint, Snapshot, TaintRule, Verb};
pub use store::EDGE_EVENTS;
pub use trace::{DecisionSummary, StageSummary, Trace, TraceEdge, TraceNode, Unfold};
