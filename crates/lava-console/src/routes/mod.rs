//! What can be asked, one file a subject.

pub mod account;
pub mod admin;
pub mod artifacts;
pub mod events;
pub mod exports;
pub mod policies;
pub mod respond;
pub mod retention;
pub mod screen;
pub mod searches;
pub mod sessions;
pub mod start;
pub mod stream;

use serde::Deserialize;
use utoipa::IntoParams;

/// Up to which event.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Until {
    /// As it was after this event; all, if not given.
    pub until: Option<u64>,
}
