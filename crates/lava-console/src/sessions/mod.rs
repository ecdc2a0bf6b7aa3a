//! Sessions, as their folders tell.

pub mod facts;
pub mod folder;
pub mod history;
pub mod live;
pub mod moment;
pub mod pending;
pub mod rfb;
