//! Snapshots in a session's folder: their names, and how the log speaks of one. For who writes, who seals and who goes on from them.

use crate::{Kind, Sha256};

/// Snapshots kept of one session: each takes what the guest uses of its memory, and what it wrote to its disks.
pub const MAX_SNAPSHOTS: u32 = 4;
/// Their folder in the session's.
pub const FOLDER: &str = "snapshots";
/// What a snapshot says of itself; the file that is written last.
pub const MANIFEST: &str = "snapshot.json";
/// The guest's memory and the state of its devices, as QEMU writes them (mapped-ram).
pub const STATE: &str = "state";

/// The folder of snapshot `number`, below the session's.
#[must_use]
pub fn folder(number: u32) -> String {
    format!("{FOLDER}/{number}")
}

/// Names of the files that snapshots may have beside their manifest: the state, and of each disk what the session had found and what it
/// had made of that.
pub const FILES: [&str; 5] = [STATE, "vda.before", "vda.after", "vdb.before", "vdb.after"];

/// The paths that files of snapshots may have in a session's folder.
pub fn paths() -> impl Iterator<Item = String> {
    let of = |number| FILES.into_iter().chain([MANIFEST]).map(move |name| format!("{}/{name}", folder(number)));
    (1..=MAX_SNAPSHOTS).flat_map(of)
}

/// The `command` of the `vm.response` that tells of a snapshot.
#[must_use]
pub fn command(number: u32) -> String {
    format!("snapshot {number}")
}

/// What came of it, as that event tells it: where it lies, how much the files take, and the hash of the manifest, which has theirs.
#[must_use]
pub fn done(number: u32, bytes: u64, manifest: Sha256) -> String {
    format!("done: {}, {} MiB, manifest {manifest}", folder(number), bytes >> 20)
}

/// Number and manifest of the snapshot that the event tells of, if it tells that one was taken.
#[must_use]
pub fn told(kind: &Kind) -> Option<(u32, Sha256)> {
    let Kind::VmResponse { command, outcome, .. } = kind else { return None };
    let number: u32 = command.strip_prefix("snapshot ")?.parse().ok()?;
    let manifest = outcome.strip_prefix("done: ")?.rsplit_once("manifest ")?.1.parse().ok()?;
    (1..=MAX_SNAPSHOTS).contains(&number).then_some((number, manifest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_told_and_what_failed_is_none() {
        let event =
            |command: &str, outcome: String| Kind::VmResponse { command: command.into(), outcome, by: "x".into() };
        let manifest = Sha256::of(b"manifest");
        assert_eq!(told(&event(&command(3), done(3, 5 << 20, manifest))), Some((3, manifest)));
        for (command, outcome) in [
            ("snapshot 3", "failed: no room".to_owned()),
            ("snapshot 0", done(0, 1, manifest)),
            ("snapshot 5", done(5, 1, manifest)),
            ("type \"snapshot 1\"", done(1, 1, manifest)),
            ("snapshot 1", "done: manifest 12".to_owned()),
        ] {
            assert_eq!(told(&event(command, outcome)), None, "{command}");
        }
        assert_eq!(paths().count(), 24);
        assert!(paths().any(|path| path == "snapshots/4/vda.after"));
    }
}
