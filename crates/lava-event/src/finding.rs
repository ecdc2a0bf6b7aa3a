//! What a detector thinks of events.

use serde::{Deserialize, Serialize};

use crate::ProcessKey;

/// The `seq` of an event in its session.
pub type EventSeq = u64;

/// The stages of the kill chain, in their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The opened content takes control of the program that opened it.
    Exploit,
    /// The attacker's own code runs.
    Execute,
    /// It gains rights it was not given.
    Escalate,
    /// It arranges to survive the end of the task or a restart.
    Persist,
    /// It reaches for other machines.
    Propagate,
}

impl Stage {
    /// All stages, first to last.
    pub const ALL: [Self; 5] = [Self::Exploit, Self::Execute, Self::Escalate, Self::Persist, Self::Propagate];

    /// The stage's name, lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exploit => "exploit",
            Self::Execute => "execute",
            Self::Escalate => "escalate",
            Self::Persist => "persist",
            Self::Propagate => "propagate",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// How much it matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; no threat by itself.
    Info,
    /// Seldom seen in honest work.
    Low,
    /// Suspicious.
    Medium,
    /// An attack, unless somebody can explain it.
    High,
    /// An attack.
    Critical,
}

impl Severity {
    /// True if it counts for the verdict and for the stage of the kill chain: honest tasks do not do it. What is below is listed.
    #[must_use]
    pub fn counts(self) -> bool {
        self >= Self::Medium
    }
}

/// How we know something. Nothing inferred is ever shown as observed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// From order in time, or from likeness, only.
    Inferred,
    /// A kernel object or a device request, seen at the hook.
    Observed,
    /// The bytes themselves were followed.
    Proven,
}

impl std::fmt::Display for Grade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Inferred => "inferred",
            Self::Observed => "observed",
            Self::Proven => "proven",
        })
    }
}

/// A technique of MITRE ATT&CK.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Technique {
    /// `T1542.003`
    pub id: String,
    /// `Bootkit`
    pub name: String,
}

/// How far something is from what opening honest tasks of a profile was seen to lead to: its baseline. The order is that of the distance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// It is in the baseline.
    Usual,
    /// The program does this in the same folder, or another program does exactly this.
    Near,
    /// The program does this, to other things.
    OtherObject,
    /// The program is known, but not to do this.
    OtherAct,
    /// The program is not known.
    OtherProgram,
    /// No baseline holds such events: it is never usual.
    Never,
}

impl Distance {
    /// 0 (usual) to 5.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// For the analyst, in a few words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Usual => "usual for this profile",
            Self::Near => "close to what is usual for this profile",
            Self::OtherObject => "never seen: the program usually does this to other things",
            Self::OtherAct => "never seen: the program usually does not do this",
            Self::OtherProgram => "never seen: the program is not usual here",
            Self::Never => "never usual",
        }
    }
}

/// An opinion on one or more events, with its reasons.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// Identifier of the detector: `persist.mbr_boot_code`.
    pub detector: String,
    /// One line: what happened.
    pub title: String,
    /// Why that is worth saying, in a sentence or two.
    pub why: String,
    /// Kill-chain stage.
    pub stage: Stage,
    /// ATT&CK technique.
    pub technique: Technique,
    /// How much it matters.
    pub severity: Severity,
    /// How we know.
    pub grade: Grade,
    /// Session time of the last event it rests on, ns.
    pub time_ns: u64,
    /// The process that did it, where known.
    pub process: Option<ProcessKey>,
    /// The events it rests on, ascending. Never empty.
    pub events: Vec<EventSeq>,
    /// How far the farthest of these events is from what is usual for the profile; none if it was held against no baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance: Option<Distance>,
}

/// The answer to "is it a threat?".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing found.
    Clean,
    /// Something seldom seen in honest work.
    Suspicious,
    /// An attack.
    Malicious,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::Suspicious => "suspicious",
            Self::Malicious => "malicious",
        })
    }
}
