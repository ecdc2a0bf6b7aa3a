//! What all conversations of a session share, and what one of them is told with each frame.

use std::time::Duration;

use lava_event::{Action, Artifact, Kind, NetEndpoint};

use crate::authority::Authority;
use crate::content::Content;
use crate::dns;
use crate::gate::{Gate, Outcomes, Waits};

/// Bytes that a session keeps of what its guest said and was told, beside the capture: 128 MiB. They are in memory only until
/// their conversation has ended.
const KEPT_LIMIT: usize = 128 << 20;
/// What an artifact costs on top of its bytes, so that a guest cannot make millions of tiny ones.
const KEPT_EACH: usize = 4096;

/// An event, and the bytes it names.
pub type Told = (Kind, Vec<Artifact>);

/// The world beyond the guest's network card.
#[derive(Debug, Default)]
pub struct World {
    /// Who has which address.
    pub names: dns::Names,
    /// What the web has.
    pub content: Content,
    /// Who signs for TLS; nobody: TLS fails.
    pub authority: Option<Authority>,
    /// Keys of TLS that are not in the capture yet, in Wireshark's format.
    pub secrets: String,
    /// How much may still be kept.
    pub budget: Budget,
    /// Only what the policy diverts comes here, all else is refused.
    pub sinkhole: bool,
}

/// The two ends of a conversation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ends {
    /// The guest's.
    pub origin: NetEndpoint,
    /// Ours.
    pub destination: NetEndpoint,
}

/// When and where in the capture something happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct At {
    /// Since the micro-VM was started.
    pub now: Duration,
    /// The frame's number in the capture.
    pub frame: u64,
}

/// What a service is given with each step.
pub struct Context<'a, 'g> {
    pub at: At,
    pub world: &'a mut World,
    pub report: &'a mut Report<'g>,
}

/// Who is told what happens, and asked before it does.
pub struct Report<'g> {
    /// What is to be told, in this order.
    pub told: Vec<Told>,
    gate: &'g mut dyn Gate,
}

impl<'g> Report<'g> {
    pub fn new(gate: &'g mut dyn Gate) -> Self {
        Self { told: Vec::new(), gate }
    }

    /// What waits for the policy.
    pub fn waits(&self) -> Waits {
        self.gate.waits()
    }

    /// Waits for the policy.
    pub fn ask(&mut self, kind: Kind, outcomes: Outcomes) -> Action {
        self.gate.ask(kind, outcomes)
    }
}

impl World {
    /// A web with this content, and TLS signed by this authority.
    pub fn new(content: Content, authority: Authority) -> Self {
        Self { content, authority: Some(authority), ..Self::default() }
    }
}

impl Context<'_, '_> {
    /// Tells an event with its artifacts.
    pub fn tell(&mut self, kind: Kind, artifacts: impl IntoIterator<Item = Artifact>) {
        self.report.told.push((kind, artifacts.into_iter().collect()));
    }
}

/// What may still be kept, bytes.
#[derive(Debug)]
pub struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(KEPT_LIMIT)
    }
}

impl Budget {
    fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// The first of the bytes that went one way.
#[derive(Debug)]
pub struct Kept {
    bytes: Vec<u8>,
    limit: usize,
    total: u64,
}

impl Kept {
    /// Keeps at most `limit` bytes.
    pub const fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, total: 0 }
    }

    /// Counts all and keeps what there is room for.
    pub fn add(&mut self, bytes: &[u8], budget: &mut Budget) {
        let whole = self.is_whole();
        self.total = self.total.saturating_add(bytes.len() as u64);
        let cost = if self.bytes.is_empty() { KEPT_EACH } else { 0 };
        let room = bytes.len().min(self.limit - self.bytes.len());
        // What is kept has no holes: after the first byte that was not, none is.
        if whole && room > 0 && budget.take(room + cost) {
            self.bytes.extend_from_slice(&bytes[..room]);
        }
    }

    /// Bytes that were counted.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// True if every byte was kept.
    pub fn is_whole(&self) -> bool {
        self.total == self.bytes.len() as u64
    }

    /// What was kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was kept, if anything was.
    pub fn artifact(&self) -> Option<Artifact> {
        (!self.bytes.is_empty()).then(|| Artifact::new(&self.bytes))
    }
}
