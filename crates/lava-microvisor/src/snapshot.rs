//! Snapshots: a running session's micro-VM as it was at one moment, so that other sessions go on from there.
//!
//! A snapshot is a folder in the session's (names: [`lava_event::snapshots`]): `state`, the guest's memory and its devices' state as QEMU writes
//! them (mapped-ram, sparse); of each disk what the session had found and what it had made of that, as differences from the image
//! ([`lava_disk::DiskView::keep`]); and `snapshot.json`, which has the others' sizes and hashes and is written last: a folder without it is no
//! snapshot. It needs the image, and no template.
//!
//! *Invariant:* a snapshot is never changed. It is made in a folder beside its place and moved there whole. The session's log tells the hash of
//! its manifest, so the log vouches for every byte of it.
//!
//! *Boundary:* a session's folder may come from somebody else: sizes and hashes are checked before anything of it reaches QEMU or a disk.
//! What QEMU restores it parses itself, in its cage.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lava_disk::DiskView;
use lava_event::snapshots::{self, FILES, FOLDER, MANIFEST, MAX_SNAPSHOTS, STATE};
use lava_event::{ProcessKey, SessionId, Sha256};
use serde::{Deserialize, Serialize};

use crate::template::KernelPlace;

/// Counted up when snapshots are made or restored in another way.
const FORMAT: u32 = 1;
/// Longest manifest that is read, bytes.
const MANIFEST_LIMIT: u64 = 64 << 10;
/// Where one is made.
const PART: &str = "part";
/// What has to be left free on the file system, bytes: the session's log goes on.
const SPARE: u64 = 256 << 20;

/// What the machine is made of; one that goes on has the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Shape {
    /// Version of QEMU: the devices' state is its own.
    pub qemu: String,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// It has a VGA.
    pub display: bool,
    /// The address of its network card, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<[u8; 6]>,
    /// Number of disks.
    pub disks: usize,
    /// Key of the authority that the guest trusts, PKCS#8 as PEM: made for the session, of no use elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Kept {
    bytes: u64,
    sha256: Sha256,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    shape: Shape,
    files: BTreeMap<String, Kept>,
}

/// A snapshot that is as it was made.
#[derive(Clone, Debug)]
pub struct Snapshot {
    dir: PathBuf,
    /// What the machine is made of.
    pub shape: Shape,
}

/// What a session goes on from.
#[derive(Clone, Debug)]
pub struct Continuation {
    /// The session whose micro-VM it was.
    pub session: SessionId,
    /// The snapshot's number there.
    pub number: u32,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Number of the last event before: the stream goes on behind it.
    pub seq: u64,
    /// Where the kernel lies.
    pub place: KernelPlace,
    /// The task's processes that live.
    pub processes: Vec<ProcessKey>,
}

/// Why there is no snapshot to be made, or to go on from.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There are enough.
    #[error("{MAX_SNAPSHOTS} snapshots are kept of a session, and there are as many")]
    Enough,
    /// No room.
    #[error("a snapshot may take {needed_mib} MiB in {}, where {free_mib} MiB can be used: make room", path.display())]
    Room {
        /// Where it would lie.
        path: PathBuf,
        /// What it may take.
        needed_mib: u64,
        /// What is free, without what is left for the session itself.
        free_mib: u64,
    },
    /// A file of it is not as it was made.
    #[error("the snapshot {}: {what}: it can't be gone on from", dir.display())]
    Damaged {
        /// Its folder.
        dir: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Where a session's next snapshot is made, until it is whole.
#[derive(Debug)]
pub(crate) struct Draft {
    session: PathBuf,
    dir: PathBuf,
    pub number: u32,
}

/// The folder in which a session's snapshot is made: of no use if the session's supervisor is killed meanwhile.
#[must_use]
pub fn scratch(session_dir: &Path) -> PathBuf {
    session_dir.join(FOLDER).join(PART)
}

impl Draft {
    /// Begins one, if there is room for the memory and what is on the disks.
    pub fn new(session_dir: &Path, memory_mib: u32, disks: &[DiskView]) -> Result<Self, SnapshotError> {
        let io = |path: &Path, source| SnapshotError::Io { path: path.into(), source };
        let free_number = |number: &u32| !session_dir.join(snapshots::folder(*number)).exists();
        let number = (1..=MAX_SNAPSHOTS).find(free_number).ok_or(SnapshotError::Enough)?;
        let room = rustix::fs::statvfs(session_dir).map_err(|error| io(session_dir, error.into()))?;
        let free = room.f_bavail.saturating_mul(room.f_frsize).saturating_sub(SPARE);
        let needed = (u64::from(memory_mib) << 20) + disks.iter().map(DiskView::kept_at_most).sum::<u64>();
        if free < needed {
            return Err(SnapshotError::Room {
                path: session_dir.into(),
                needed_mib: needed >> 20,
                free_mib: free >> 20,
            });
        }
        let dir = scratch(session_dir);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(&dir, error)),
            _ => {}
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| io(&dir, error))?;
        Ok(Self { session: session_dir.into(), dir, number })
    }

    /// The file for memory and devices, to hand to QEMU.
    pub fn state(&self) -> Result<File, SnapshotError> {
        let path = self.dir.join(STATE);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        file.map_err(|source| SnapshotError::Io { path, source })
    }

    /// Keeps a disk; the guest is held.
    pub fn keep(&self, name: &str, disk: &DiskView) -> Result<(), SnapshotError> {
        let [before, after] = ["before", "after"].map(|end| self.dir.join(format!("{name}.{end}")));
        match disk.keep(&before, &after, u64::MAX) {
            Ok(_) => Ok(()),
            Err(source) => Err(SnapshotError::Io { path: after, source }),
        }
    }

    /// Seals it and puts it in its place: the bytes it takes, and its manifest's hash.
    pub fn finish(self, shape: Shape) -> Result<(u64, Sha256), SnapshotError> {
        let io = |path: &Path, source| SnapshotError::Io { path: path.into(), source };
        let mut files = BTreeMap::new();
        let mut taken = 0;
        for name in FILES {
            let path = self.dir.join(name);
            match hash(&path) {
                Ok((kept, blocks)) => {
                    files.insert(name.to_owned(), kept);
                    taken += blocks;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io(&path, error)),
            }
        }
        let manifest = Manifest { format: FORMAT, shape, files };
        let path = self.dir.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| io(&path, error.into()))?;
        let place = self.session.join(snapshots::folder(self.number));
        let written = File::options().write(true).create_new(true).mode(0o600).open(&path).and_then(|mut file| {
            io::Write::write_all(&mut file, &text)?;
            file.sync_all()?;
            fs::rename(&self.dir, &place)
        });
        written.map_err(|error| io(&path, error))?;
        Ok((taken, Sha256::of(&text)))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // One that is whole lies elsewhere. Half of one is none.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Size and hash of a file that is on the disk now, and the bytes that it takes there.
fn hash(path: &Path) -> io::Result<(Kept, u64)> {
    use std::os::unix::fs::MetadataExt;
    // A link or a device would make us read elsewhere, or forever.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no ordinary file"));
    }
    let mut file = File::open(path)?;
    file.sync_all()?;
    let sha256 = Sha256::of_reader(&mut file)?;
    let facts = file.metadata()?;
    Ok((Kept { bytes: facts.len(), sha256 }, facts.blocks() * 512))
}

impl Snapshot {
    /// Opens a session's snapshot, whose manifest the session's log says has this hash, and checks all of it.
    ///
    /// # Errors
    /// If there is none, or a byte of it is another one.
    pub fn open(session_dir: &Path, number: u32, manifest: Sha256) -> Result<Self, SnapshotError> {
        let dir = session_dir.join(snapshots::folder(number));
        let damaged = |what: String| SnapshotError::Damaged { dir: dir.clone(), what };
        let text = read_manifest(&dir).map_err(|error| damaged(format!("{MANIFEST}: {error}")))?;
        if Sha256::of(&text) != manifest {
            return Err(damaged(format!("{MANIFEST} is not the one that the session's log tells of")));
        }
        let Manifest { format, shape, files } =
            serde_json::from_slice(&text).map_err(|error| damaged(format!("{MANIFEST}: {error}")))?;
        if format != FORMAT {
            return Err(damaged(format!("it has format {format}, this LAVA has {FORMAT}")));
        }
        for name in FILES.into_iter().take(shape.disks.saturating_mul(2).saturating_add(1)) {
            let known = files.get(name).ok_or_else(|| damaged(format!("{name} is missing in {MANIFEST}")))?;
            let (now, _) = hash(&dir.join(name)).map_err(|error| damaged(format!("{name}: {error}")))?;
            if now != *known {
                return Err(damaged(format!("{name} is not as it was made")));
            }
        }
        Ok(Self { dir, shape })
    }

    /// Memory and devices.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn state(&self) -> io::Result<File> {
        File::open(self.dir.join(STATE))
    }

    /// What the session had found on the disk `name` (`vda`, `vdb`), and what it had made of that.
    #[must_use]
    pub fn disk(&self, name: &str) -> [PathBuf; 2] {
        ["before", "after"].map(|end| self.dir.join(format!("{name}.{end}")))
    }
}

fn read_manifest(dir: &Path) -> io::Result<Vec<u8>> {
    let path = dir.join(MANIFEST);
    if !fs::symlink_metadata(&path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no ordinary file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(MANIFEST_LIMIT).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            qemu: "10.0.2".into(),
            memory_mib: 1,
            vcpus: 2,
            display: false,
            mac: Some([2, 0, 0, 0, 0, 7]),
            disks: 1,
            authority: None,
        }
    }

    fn make(session: &Path) -> (u32, Sha256) {
        let draft = Draft::new(session, 1, &[]).expect("draft");
        let number = draft.number;
        let mut state = draft.state().expect("state");
        io::Write::write_all(&mut state, b"memory").expect("write");
        for name in ["vda.before", "vda.after"] {
            fs::write(draft.dir.join(name), name).expect("disk");
        }
        let (bytes, manifest) = draft.finish(shape()).expect("finish");
        assert!(bytes > 0 && !scratch(session).exists());
        (number, manifest)
    }

    #[test]
    fn what_was_made_is_opened_and_damage_is_told() {
        let session = tempfile::tempdir().expect("folder");
        let (number, manifest) = make(session.path());
        let open = || Snapshot::open(session.path(), number, manifest);
        let snapshot = open().expect("snapshot");
        assert_eq!((number, &snapshot.shape), (1, &shape()));
        let mut state = String::new();
        snapshot.state().expect("state").read_to_string(&mut state).expect("read");
        assert_eq!(state, "memory");
        assert_eq!(fs::read(&snapshot.disk("vda")[1]).expect("disk"), b"vda.after");

        let refused = |open: &dyn Fn() -> Result<Snapshot, SnapshotError>, why: &str| {
            let error = open().expect_err(why).to_string();
            assert!(error.contains(why) && error.contains("snapshots/1"), "{error}");
        };
        let dir = session.path().join("snapshots/1");
        let with = |name: &str, bytes: &[u8], why: &str| {
            let whole = fs::read(dir.join(name)).expect("read");
            fs::write(dir.join(name), bytes).expect("write");
            refused(&open, why);
            fs::write(dir.join(name), whole).expect("write");
        };
        with("state", b"Memory", "state is not as it was made");
        with("vda.after", b"", "vda.after is not as it was made");
        with(MANIFEST, b"{}", "is not the one that the session's log tells of");
        fs::remove_file(dir.join("vda.before")).expect("remove");
        refused(&open, "vda.before");
        std::os::unix::fs::symlink(dir.join("state"), dir.join("vda.before")).expect("link");
        refused(&open, "no ordinary file");
        refused(&|| Snapshot::open(session.path(), 1, Sha256::of(b"other")), "log tells of");
        assert!(Snapshot::open(session.path(), 2, manifest).is_err());
    }

    #[test]
    fn there_are_only_so_many_and_half_a_one_is_none() {
        let session = tempfile::tempdir().expect("folder");
        for number in 1..=MAX_SNAPSHOTS {
            let draft = Draft::new(session.path(), 1, &[]).expect("draft");
            draft.state().expect("state");
            assert!(scratch(session.path()).exists());
            drop(draft);
            assert!(!scratch(session.path()).exists());
            assert_eq!(make(session.path()).0, number);
        }
        let error = Draft::new(session.path(), 1, &[]).expect_err("enough").to_string();
        assert!(error.contains("4 snapshots"), "{error}");
        let other = tempfile::tempdir().expect("folder");
        let error = Draft::new(other.path(), u32::MAX, &[]).expect_err("no room").to_string();
        assert!(error.contains("4294967295 MiB") && error.contains("make room"), "{error}");
        assert!(!scratch(other.path()).exists());
    }
}
