//! What a behaviour says of itself.

use lava_event::{Severity, Stage};

/// One kind of finding that a behaviour makes.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// `execute.dropped_file`; [`lava_event::Finding::detector`].
    pub id: &'static str,
    /// ATT&CK technique; a finding can carry a more precise one.
    pub technique: &'static str,
    /// Kill-chain stage.
    pub stage: Stage,
    /// How much it matters; a finding can differ where the behaviour's documentation says so.
    pub severity: Severity,
    /// Why it is worth saying; [`lava_event::Finding::why`].
    pub why: &'static str,
    /// Which honest programs do it too.
    pub false_positives: &'static str,
}
