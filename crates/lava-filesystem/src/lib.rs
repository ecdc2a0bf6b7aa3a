//! What a session changed in the guest's file system, told from the disk and not from events.
//!
//! The ext4 file system of the disk as the session found it is compared with the one it left: a kernel that hides files from
//! its own system calls still has to keep them on the disk. Nothing is mounted; both are read by `ext4-view`, their
//! journals replayed in memory (`journal`).
//!
//! Entries are compared by path. One whose inode says the same as before (type, rights, owner, size, all times) counts as
//! unchanged and is not read; of the others, both contents are hashed. Only they cost more than a look at an inode.
//!
//! # Limits
//! * The first Linux partition (MBR), or a disk that is one file system. Memory file systems (`/run`, `/dev/shm`) are on no disk.
//! * What was still in the guest's page cache when it was killed never came to the disk.
//! * Somebody who writes to the block device can change a file's blocks and leave its inode as it was: that shows among the
//!   `disk.write` events, not here. Through the file system it can't be done: the kernel sets the change time.
//! * Extended attributes are not read of file systems that `inode` can't read: that one was set shows as an inode that changed
//!   (`attributes`), without its name.
//! * A name that is renamed is a removed one and an added one with the same hash.
//!
//! *Invariants:* the guest made every byte that is read here. Entries, paths, hashed and kept bytes and time are bounded
//! ([`Limits`]); where a bound or an unreadable place was met, [`Changes::problems`] says so. It runs in a thread of its own: should
//! the reader of ext4 fail beyond its errors, the session goes on.
#![forbid(unsafe_code)]

mod changes;
mod compare;
mod disk;
mod inode;
mod journal;
mod tree;
pub mod undo;
mod usual;

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use lava_event::Artifact;

pub use changes::{Change, Changes, Entry, State, Xattr};
pub use disk::{Disk, NotRead};

/// What a comparison may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In all. A reader that takes no notice is left behind a few seconds later.
    pub time: Duration,
    /// Entries looked at, both sides together.
    pub entries: usize,
    /// Changes that are told.
    pub changes: usize,
    /// Bytes of the largest file that is hashed.
    pub hashed_file: u64,
    /// Bytes hashed in all.
    pub hashed: u64,
    /// Bytes of the largest content that is kept.
    pub kept_file: u64,
    /// Bytes kept in all.
    pub kept: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(20),
            entries: 2_000_000,
            changes: 20_000,
            hashed_file: 256 << 20,
            hashed: 1 << 30,
            kept_file: 16 << 20,
            kept: 256 << 20,
        }
    }
}

/// How much longer than [`Limits::time`] the reader is waited for.
const GRACE: Duration = Duration::from_secs(5);

enum Told {
    Content(Artifact),
    Done(Changes),
}

/// Compares. `keep` is given the contents of files that were added, changed or removed, as far as they are to be kept; what
/// is usual for every session is not.
pub fn compare(
    before: impl Disk + 'static,
    after: impl Disk + 'static,
    limits: Limits,
    mut keep: impl FnMut(Artifact),
) -> Changes {
    let begun = Instant::now();
    let until = begun + limits.time;
    let (tell, told) = sync_channel(2);
    let work = move || {
        let content = tell.clone();
        let mut changes = compare::run(before.into(), after.into(), limits, until, |artifact| {
            // Nobody takes it any more: it was waited for long enough.
            content.send(Told::Content(artifact)).is_ok()
        });
        changes.milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let _ = tell.send(Told::Done(changes));
    };
    if let Err(error) = std::thread::Builder::new().name("lava-filesystem".into()).spawn(work) {
        return Changes::failed(format!("no thread to read the file system in: {error}"));
    }
    loop {
        let left = (until + GRACE).saturating_duration_since(Instant::now());
        match told.recv_timeout(left) {
            Ok(Told::Content(artifact)) => keep(artifact),
            Ok(Told::Done(changes)) => return changes,
            Err(RecvTimeoutError::Timeout) => {
                return Changes::failed(format!("the file system was not read within {} s", limits.time.as_secs()));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Changes::failed("the reader of the file system stopped: this file system is beyond it".into());
            }
        }
    }
}
