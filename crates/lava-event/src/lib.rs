//! The vocabulary of LAVA: what every other crate speaks.
//!
//! * [`Event`]: what was **seen**. Never an opinion.
//! * [`Finding`]: what a detector **thinks** of it, with ATT&CK technique and kill-chain stage.
//! * [`Action`] and [`Decision`]: what the policy **does** about it.
//! * [`Outlet`]: how a producer (tap, disk, network) hands over what it saw, and asks before it goes on.
//! * [`Guest`]: the wrapper in which everything that came from the guest travels.
//!
//! The dotted kind names (`process.exec`) and the field names in the JSON form are a contract: JSONL, policies, rules and
//! exports rely on them. The binary form ([`codec`]) is private to one version of LAVA and travels only between the tap
//! and the microvisor.
//!
//! *Invariant:* no I/O, no clock, no randomness in here.
#![forbid(unsafe_code)]

pub mod codec;
mod decision;
mod dump;
mod event;
mod finding;
mod guest;
mod hash;
mod id;
pub mod kill;
mod kind;
mod object;
mod outlet;
mod sentence;
pub mod snapshots;
mod task;
mod task_tree;

pub use decision::{Action, Decision};
pub use dump::{MAX_DUMPS, memory_dumps};
pub use event::{Backtrace, Event, Frame, Process, REGISTERS, Registers, Source};
pub use finding::{Distance, EventSeq, Finding, Grade, Severity, Stage, Technique, Verdict};
pub use guest::{Guest, GuestText};
pub use hash::Sha256;
pub use id::{ProcessKey, SessionId};
pub use kind::Kind;
pub use object::{
    Access, ApiArgument, Credentials, DiskRegion, FileId, FileType, GapCause, ImmutableArea, NetEndpoint, ProcessRef,
    Protection, Protocol, Range, Writer, dns_type,
};
pub use outlet::{Artifact, Outlet, Produced};
pub use task::is_address;
pub use task_tree::TaskTree;
