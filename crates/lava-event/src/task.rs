//! Names of tasks.

/// Whether a task's name is an address that a browser goes to, and no file's.
#[must_use]
pub fn is_address(name: &str) -> bool {
    name.starts_with("http://") || name.starts_with("https://")
}
