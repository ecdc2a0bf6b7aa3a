//! What every session of our images changes, whatever the task does: seen by comparing sessions of a task that does nothing.
//!
//! It is told too, only behind the rest, and its content is not kept. A task can change the same files: who reads the list with the
//! events at hand (`lava files`) takes only those for usual that the launcher or the journal's daemon wrote last.

/// What the launcher writes: the clone's name, and the certificate authority of its session.
const FILES: &[&[u8]] = &[
    b"/etc/hostname",
    b"/etc/ssl/certs/ca-certificates.crt",
    b"/etc/ssl/certs/java/cacerts",
    b"/usr/local/share/ca-certificates/network-root-ca.crt",
];

/// Folders; everything below.
const FOLDERS: &[&[u8]] = &[b"/var/log/journal/"];

/// True if every session changes it.
pub(crate) fn is(path: &[u8]) -> bool {
    FILES.contains(&path) || FOLDERS.iter().any(|folder| path.starts_with(folder))
}
