//! How the acting task came where it is.

use lava_event::Backtrace;

use crate::introspect::Context;

/// The backtrace of the task that runs on this vCPU.
pub fn of(_context: &Context<'_>) -> Option<Backtrace> {
    None
}
