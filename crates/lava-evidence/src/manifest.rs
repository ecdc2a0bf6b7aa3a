//! What a session was, for somebody who was not there.

use std::collections::BTreeMap;

use lava_event::{SessionId, Sha256, Verdict};
use serde::{Deserialize, Serialize};

/// Version of the folder's layout.
pub const FORMAT: u32 = 1;

/// How far a session has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Running, or its writer died.
    #[default]
    Open,
    /// Ended as it should; everything was recorded.
    Closed,
    /// Ended early: what is there is valid, but not all.
    Aborted,
}

impl State {
    /// The state in a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Aborted => "aborted",
        }
    }
}

/// What was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TaskFacts {
    /// Its name, as the user gave it.
    pub name: String,
    /// Its content.
    pub sha256: Sha256,
    /// Bytes.
    pub size: u64,
}

/// What it was opened in.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageFacts {
    /// Hash of the recipe the image was built from.
    pub recipe: Option<Sha256>,
    /// Release of the guest kernel.
    pub kernel: String,
    /// Hash of the disk.
    pub disk: Option<Sha256>,
}

/// What decided.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PolicyFacts {
    /// Its name.
    pub name: String,
    /// Hash of its file.
    pub sha256: Option<Sha256>,
}

/// The session that this one goes on from: its log begins with that one's events.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Parent {
    /// The other session.
    pub session: SessionId,
    /// Number of the snapshot, from 1.
    pub snapshot: u32,
    /// How many of the log's first events are its.
    pub events: u64,
    /// The value of its chain behind them.
    pub chain: Sha256,
    /// Session time of the last of them, ns.
    pub until_ns: u64,
    /// When it had started, RFC 3339: what the times of these events count from.
    pub started: String,
    /// What it had gone on from itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Box<Parent>>,
}

/// `manifest.json`. The fields up to `options` and `mbr_before` are the caller's; the rest [`crate::SessionWriter`]
/// fills in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout of the folder: [`FORMAT`].
    pub format: u32,
    /// The session.
    pub session: SessionId,
    /// Version of LAVA.
    pub lava: String,
    /// What was opened.
    pub task: TaskFacts,
    /// The profile it was opened with.
    pub profile: String,
    /// What it was opened in.
    #[serde(default)]
    pub image: ImageFacts,
    /// Version of QEMU.
    #[serde(default)]
    pub qemu: String,
    /// Hash of the tap library.
    #[serde(default)]
    pub tap: Option<Sha256>,
    /// Name of the template it was cloned from, which is a hash of all that this was made from; none if it booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The session that it goes on from, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Box<Parent>>,
    /// Hashes of what else had a part in it: `lava`, `qemu`, `vmlinuz`, `disk` (the second one), and `rules` and `yara` over the files of Sigma and YARA rules.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hashes: BTreeMap<String, Sha256>,
    /// What decided.
    #[serde(default)]
    pub policy: PolicyFacts,
    /// The machine it ran on.
    #[serde(default)]
    pub host: String,
    /// RFC 3339. Of a session that goes on from another: when it would have started, had it not been interrupted.
    pub started: String,
    /// RFC 3339.
    #[serde(default)]
    pub ended: Option<String>,
    /// What else the user asked for.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Hash of the disk's first 512 bytes before the session.
    #[serde(default)]
    pub mbr_before: Option<Sha256>,
    /// The same after it.
    #[serde(default)]
    pub mbr_after: Option<Sha256>,
    /// How far it has come.
    #[serde(default)]
    pub state: State,
    /// Why it ended so, in words.
    #[serde(default)]
    pub detail: Option<String>,
    /// Is it a threat?
    #[serde(default)]
    pub verdict: Option<Verdict>,
    /// 0 to 100: malicious from 80, suspicious from 10.
    #[serde(default)]
    pub score: Option<u8>,
    /// The verdict in one sentence: by which rule, on which evidence, and what would change it.
    #[serde(default)]
    pub explanation: Option<String>,
    /// The last value of the chain.
    #[serde(default)]
    pub chain_head: Option<Sha256>,
    /// Number of events.
    #[serde(default)]
    pub events: u64,
    /// Number of findings.
    #[serde(default)]
    pub findings: u64,
    /// Number of artifacts kept.
    #[serde(default)]
    pub artifacts: u64,
    /// Artifacts not kept because they, or all together, were too large.
    #[serde(default)]
    pub artifacts_left_out: u64,
    /// Hashes of the other files of the folder, by name, when the session was closed.
    #[serde(default)]
    pub files: BTreeMap<String, Sha256>,
}

impl Manifest {
    /// A manifest of a session that begins; `started` is RFC 3339.
    #[must_use]
    pub fn new(session: SessionId, lava: &str, task: TaskFacts, profile: &str, started: &str) -> Self {
        Self {
            format: FORMAT,
            session,
            lava: lava.into(),
            task,
            profile: profile.into(),
            image: ImageFacts::default(),
            qemu: String::new(),
            tap: None,
            template: None,
            parent: None,
            hashes: BTreeMap::new(),
            policy: PolicyFacts::default(),
            host: String::new(),
            started: started.into(),
            ended: None,
            options: BTreeMap::new(),
            mbr_before: None,
            mbr_after: None,
            state: State::Open,
            detail: None,
            verdict: None,
            score: None,
            explanation: None,
            chain_head: None,
            events: 0,
            findings: 0,
            artifacts: 0,
            artifacts_left_out: 0,
            files: BTreeMap::new(),
        }
    }
}
