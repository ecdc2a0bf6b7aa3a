//! One file system, looked at by path. It never follows a symbolic link.

use std::collections::BTreeMap;
use std::time::Instant;

use ext4_view::{Ext4, Ext4Error, Metadata};
use lava_event::{Artifact, FileType, GuestText, Sha256};
use sha2::Digest;

use crate::changes::{State, Xattr};
use crate::disk::{self, Disk, NotRead, Place};
use crate::inode::{Inode, Inodes, RawXattr};

/// Longest target of a symbolic link (PATH_MAX).
const MAX_TARGET: u64 = 4096;
/// Bytes read at once.
const PIECE: usize = 64 << 10;

pub(crate) struct Tree {
    fs: Ext4,
    /// Or why they can't be read.
    inodes: Result<Inodes, String>,
    until: Instant,
}

/// What [`Tree::content`] may spend.
pub(crate) struct Budget {
    /// Bytes of the largest file that is hashed, and in all.
    pub(crate) hashed: (u64, u64),
    /// Bytes of the largest content that is kept, and in all.
    pub(crate) kept: (u64, u64),
}

impl Tree {
    /// Opens the file system at `place` of `disk`. After `until`, every read fails.
    pub(crate) fn open(disk: Box<dyn Disk>, place: Place, until: Instant) -> Result<Self, NotRead> {
        let (fs, inodes) = disk::open(disk, place, until)?;
        Ok(Self { fs, inodes, until })
    }

    /// What is at `path`; `None` if there is nothing. Every folder on the way to it is one, and no link.
    pub(crate) fn find(&self, path: &[u8]) -> Result<Option<Metadata>, String> {
        let slashes = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in slashes {
            match self.fs.symlink_metadata(&path[..end]) {
                Ok(folder) if folder.is_dir() => {}
                Ok(_) | Err(Ext4Error::NotFound) => return Ok(None),
                Err(error) => return Err(error.to_string()),
            }
        }
        match self.fs.symlink_metadata(path) {
            Ok(found) => Ok(Some(found)),
            Err(Ext4Error::NotFound) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What lies on the disk for a path, and its extended attributes.
    pub(crate) fn inode(&self, path: &[u8]) -> Result<(Inode, Vec<RawXattr>), String> {
        self.in_time()?;
        let inodes = self.inodes.as_ref().map_err(Clone::clone)?;
        let inode = inodes.find(path)?;
        let xattrs = inodes.xattrs(&inode)?;
        Ok((inode, xattrs))
    }

    /// What is in a folder, by name: at most `max` names.
    pub(crate) fn list(&self, path: &[u8], max: usize) -> Result<BTreeMap<Vec<u8>, Metadata>, String> {
        self.must_be(path, |metadata| metadata.is_dir())?;
        let mut found = BTreeMap::new();
        for entry in self.fs.read_dir(path).map_err(|error| error.to_string())? {
            let entry = entry.map_err(|error| error.to_string())?;
            let name = entry.file_name().as_ref().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            if found.len() >= max {
                return Err("more names than are looked at".to_owned());
            }
            self.in_time()?;
            let metadata = entry.metadata().map_err(|error| error.to_string())?;
            if found.insert(name, metadata).is_some() {
                return Err("a name stands there twice".to_owned());
            }
        }
        Ok(found)
    }

    /// What is at `path` by name. The reader of ext4 follows links within a path, whatever their length: every component is
    /// looked at here before one below it is, so that there is none.
    fn must_be(&self, path: &[u8], wanted: impl Fn(&Metadata) -> bool) -> Result<(), String> {
        let found = self.fs.symlink_metadata(path).map_err(|error| error.to_string())?;
        wanted(&found).then_some(()).ok_or_else(|| "its folder has two entries of that name".to_owned())
    }

    fn in_time(&self) -> Result<(), String> {
        if Instant::now() > self.until { Err("there was no more time".to_owned()) } else { Ok(()) }
    }

    /// What an inode says, without extended attributes.
    pub(crate) fn state(&self, path: &[u8], metadata: &Metadata) -> Result<State, String> {
        let target = match metadata.is_symlink() && metadata.len() <= MAX_TARGET {
            true => {
                self.must_be(path, |found| found.is_symlink() && found.len() <= MAX_TARGET)?;
                let target = self.fs.read_link(path).map_err(|error| error.to_string())?;
                Some(GuestText::from(<_ as AsRef<[u8]>>::as_ref(&target).to_vec()))
            }
            false => None,
        };
        Ok(State {
            what: what(metadata),
            mode: format!("{:04o}", metadata.mode()),
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: metadata.len(),
            modified: time(metadata),
            sha256: None,
            kept: false,
            target,
            xattrs: Vec::new(),
        })
    }

    /// Extended attributes, as they are told; none where inodes can't be read.
    pub(crate) fn xattrs(&self, path: &[u8]) -> Result<Vec<Xattr>, String> {
        if self.inodes.is_err() {
            return Ok(Vec::new());
        }
        let (_, xattrs) = self.inode(path).map_err(|why| format!("its extended attributes: {why}"))?;
        let told = |(name, value): RawXattr| Xattr { name: name.into(), value: hex(&value) };
        Ok(xattrs.into_iter().map(told).collect())
    }

    /// Hashes a regular file; gives the content too if it is to be kept.
    pub(crate) fn content(
        &self,
        path: &[u8],
        metadata: &Metadata,
        budget: &mut Budget,
        keep: bool,
    ) -> Result<(Option<Sha256>, Option<Artifact>), String> {
        let size = metadata.len();
        if size > budget.hashed.0.min(budget.hashed.1) {
            return Ok((None, None));
        }
        let keep = keep && size > 0 && size <= budget.kept.0.min(budget.kept.1);
        budget.hashed.1 -= size;
        let mut kept = Vec::new();
        let sha256 = self.copy(path, metadata, |piece| {
            if keep {
                kept.extend_from_slice(piece);
            }
            Ok(())
        })?;
        if keep {
            budget.kept.1 -= size;
        }
        Ok((Some(sha256), keep.then(|| Artifact { sha256, bytes: kept.into() })))
    }

    /// Gives a regular file's content piece by piece; returns its hash.
    pub(crate) fn copy(
        &self,
        path: &[u8],
        metadata: &Metadata,
        mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<Sha256, String> {
        self.must_be(path, |found| found == metadata)?;
        let mut file = self.fs.open(path).map_err(|error| error.to_string())?;
        let (mut hasher, mut piece) = (sha2::Sha256::new(), vec![0; PIECE]);
        loop {
            self.in_time()?;
            let read = file.read_bytes(&mut piece).map_err(|error| error.to_string())?;
            let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.update(bytes);
            take(bytes).map_err(|error| error.to_string())?;
        }
        Ok(Sha256(hasher.finalize().into()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn what(metadata: &Metadata) -> FileType {
    match metadata.file_type() {
        ext4_view::FileType::Regular => FileType::Regular,
        ext4_view::FileType::Directory => FileType::Directory,
        ext4_view::FileType::Symlink => FileType::Symlink,
        ext4_view::FileType::BlockDevice => FileType::BlockDevice,
        ext4_view::FileType::CharacterDevice => FileType::CharacterDevice,
        ext4_view::FileType::Fifo => FileType::Fifo,
        ext4_view::FileType::Socket => FileType::Socket,
    }
}

/// RFC 3339; a time beyond the calendar as seconds since 1970.
fn time(metadata: &Metadata) -> String {
    let modified = metadata.modified();
    let nanoseconds = i32::try_from(modified.nanoseconds()).unwrap_or(0).min(999_999_999);
    jiff::Timestamp::new(modified.seconds(), nanoseconds)
        .map_or_else(|_| modified.seconds().to_string(), |time| time.to_string())
}
