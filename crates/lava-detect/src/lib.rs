//! Behaviours: from events to findings.
//!
//! A [`Detector`] is shown every event of a session in order, together with what the graph knows of taint ([`Taint`]),
//! and answers with [`lava_event::Finding`]s. It looks only at what descends from the task, only after the task began,
//! and says each thing once.
//!
//! Each behaviour is a small struct in its own file under `behaviour/`; [`behaviours`] lists what each looks for, why
//! that matters, and which honest programs do it too. The names of ATT&CK techniques stand in `data/attack.toml`, the
//! places from which Linux starts programs by itself in `data/asep.toml`. The user's own rules are Sigma rules ([`sigma`]).
//!
//! *Invariant:* no I/O, no clock, no randomness; the same events and the same taint give the same findings.
//!
//! *Limits:* what is remembered is bounded ([`Detector::is_saturated`]); a guest that fills the bound is no longer
//! watched for new files. Byte-level evidence (the *proven* grade) is not made here.
#![forbid(unsafe_code)]

mod about;
mod attack;
mod behaviour;
mod detector;
mod glob;
mod memory;
mod path;
pub mod sigma;
mod taint;

pub use about::About;
pub use attack::{attack_version, technique, unnamed_technique};
pub use behaviour::{autostart, behaviours};
pub use detector::{Detector, MAX_EVENTS_OF_FINDING, MAX_FINDINGS};
pub use taint::Taint;
