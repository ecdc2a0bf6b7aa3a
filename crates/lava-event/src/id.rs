//! Identifiers.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

/// A session: one task opened in one micro-VM. A ULID in its 26-character text form, so it sorts by time and is unique
/// across hosts. The microvisor makes it; this crate has neither clock nor randomness.
#[derive(
    Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SessionId(pub String);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A process within one session. The start time tells two processes apart that were given the same number.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct ProcessKey {
    /// Thread group id: what user space calls the process id.
    pub pid: u32,
    /// Start of the thread group leader, ns since the guest's boot (`task_struct.start_boottime`).
    pub start_ns: u64,
}
