//! What the policy does about an event.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

/// What happens to an action of the guest that waits for the policy.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It happens; the attack plays on.
    Allow,
    /// It does not happen, and the guest is told so (an I/O error, a reset).
    Deny,
    /// The guest is told that it happened, and the original state is put back.
    Remediate,
}

impl Action {
    /// A number for it, not 0: the form in which an answer goes to the tap.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Allow => 1,
            Self::Deny => 2,
            Self::Remediate => 3,
        }
    }

    /// The action of a code; anything unknown denies.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Allow,
            3 => Self::Remediate,
            _ => Self::Deny,
        }
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Remediate => "remediate",
        })
    }
}

/// An answer of the policy, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// The rule that matched; `None` if the policy's default answered.
    pub rule: Option<String>,
    /// The reason the rule gives, for the analyst.
    pub reason: Option<String>,
}
