//! Names of the memory dumps in a session's folder: for who writes, who seals and who searches them.

/// Dumps kept of one session: each is as large as the guest's memory.
pub const MAX_DUMPS: usize = 4;

/// The names that dumps have, the first one's first.
pub fn memory_dumps() -> impl Iterator<Item = String> {
    (1..=MAX_DUMPS).map(|number| format!("memory-{number}.elf"))
}
