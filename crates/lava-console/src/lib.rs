//! The threat management console: `lava serve`.
//!
//! It learns of sessions by reading their folders, also while they grow: `events.jsonl` and `findings.jsonl` are followed
//! ([`lava_evidence::Follow`]), and the graph is built from them. Tasks are started as `lava run` processes of their own, which outlive
//! the server; running sessions are answered through the control socket that `lava ctl` uses. So a session is the same whoever
//! started it, and nothing is lost when the server ends.
//!
//! *Boundary:* requests, uploads and session folders are hostile. Every route but the login needs a user (`auth`); ids become paths in
//! one place (`sessions::folder`); what came from a guest leaves as JSON text, as a download, or in a sandbox.
//!
//! *Limits:* one host. What a session shows of the past is built from its log when somebody looks, a million events in some seconds.
#![forbid(unsafe_code)]

mod app;
mod assets;
mod auth;
mod error;
mod policies;
mod queue;
mod retention;
mod routes;
mod server;
mod sessions;
mod store;

pub use app::{Config, ProfileFacts, Tls};
pub use auth::password;
pub use error::ApiError;
pub use routes::account::checked_name;
pub use server::{ServeError, Server, openapi};
pub use store::{Role, Store, StoreError, User};

/// Locks; a thread that died while it held the lock left nothing half-done that matters here.
fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
