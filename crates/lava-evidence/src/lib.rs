//! The evidence of a session: a folder that a third party can check and an analyst can read.
//!
//! | file | what |
//! |---|---|
//! | `manifest.json` | what was opened, in what, by which LAVA; how it ended; hashes of the other files |
//! | `events.jsonl` | every event, one JSON object a line |
//! | `chain.txt` | one SHA-256 a line, each over the one before and the event's line: see [`chain`] |
//! | `findings.jsonl` | what the detectors thought |
//! | `artifacts/<sha256>` | bytes that events speak of |
//! | `trace.json`, `trace.svg`, `report.html` | the simplified graph; it drawn; everything for a reader |
//! | `processes.json` | the processes, for a timeline: what it takes no reading of the log to show |
//! | `filesystem.json` | what is different on the guest's disk, file by file |
//! | `traffic.pcapng`, `console.log`, `memory-N.elf`, `vda.before`, `vda.after` | written by others into the same folder |
//!
//! [`SessionWriter`] writes it while the session runs, [`Session`] reads it, [`Follow`] reads its logs while they grow, [`svg`] and [`report`] draw it.
//!
//! *Invariants:* a crash or a full disk leaves a valid prefix. Nothing from the guest reaches SVG or HTML unescaped.
//! The report fetches nothing and runs no script. The same folder gives the same picture, byte by byte.
//!
//! *Limits:* the chain shows changes to whoever holds its head. Somebody who rewrites the whole folder, manifest
//! included, makes a consistent other one: keep the head elsewhere too.
#![forbid(unsafe_code)]

pub mod bundle;
pub mod chain;
mod error;
mod files;
mod follow;
mod manifest;
mod place;
mod reader;
pub mod report;
pub mod svg;
pub mod text;
mod writer;

pub use chain::{ChainReport, Problem};
pub use error::Error;
pub use follow::Follow;
pub use manifest::{ImageFacts, Manifest, Parent, PolicyFacts, State, TaskFacts};
pub use reader::{DISK, Events, Listed, MAX_LINE, Session};
pub use writer::{MAX_ARTIFACT, MAX_ARTIFACTS_TOTAL, Outcome, SessionWriter};
