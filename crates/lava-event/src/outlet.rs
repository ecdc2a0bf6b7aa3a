//! How a producer hands over what it saw.

use std::sync::Arc;

use crate::{Action, Event, Sha256};

/// Bytes kept as evidence, named by their hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Artifact {
    /// SHA-256 of `bytes`.
    pub sha256: Sha256,
    /// The content.
    pub bytes: Arc<[u8]>,
}

impl Artifact {
    /// Hashes and wraps `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self { sha256: Sha256::of(bytes), bytes: bytes.into() }
    }
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Artifact({}, {} bytes)", self.sha256, self.bytes.len())
    }
}

/// An event and the bytes it speaks of. `event.seq` is 0 until the streams are merged.
#[derive(Clone, Debug)]
pub struct Produced {
    /// What was seen.
    pub event: Event,
    /// The artifacts whose hashes stand in the event.
    pub artifacts: Vec<Artifact>,
}

impl From<Event> for Produced {
    fn from(event: Event) -> Self {
        Self { event, artifacts: Vec::new() }
    }
}

/// Where the disk and the network put what they see. The microvisor implements it.
pub trait Outlet: Send + Sync {
    /// The session's clock: ns since the micro-VM was started.
    fn now_ns(&self) -> u64;

    /// Hands over an event. Blocks while the queue is full: nothing is dropped.
    fn emit(&self, produced: Produced);

    /// Hands over an event that must not happen before the policy has answered, and waits for the answer. If nobody is
    /// left to answer (the session is ending) the answer is [`Action::Deny`].
    fn ask(&self, produced: Produced) -> Action;

    /// Says what became of an action that [`Outlet::ask`] returned: `outcome` is one sentence for the analyst.
    fn settle(&self, event: &Event, action: Action, outcome: &str);
}
