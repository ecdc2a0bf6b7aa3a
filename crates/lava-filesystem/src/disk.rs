//! A disk, and the file system on it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ext4_view::{Ext4, Ext4Error, Ext4Read};
use lava_disk::{BaseView, DiskView, KeptDisk};

use crate::inode::Inodes;
use crate::journal::Journal;

/// Bytes that can be read from anywhere.
pub trait Disk: Send {
    /// Bytes.
    ///
    /// # Errors
    /// What the host's files say.
    fn size(&self) -> io::Result<u64>;
    /// Fills `buffer` with what is there from byte `offset` on.
    ///
    /// # Errors
    /// If that is not all on the disk, or what the host's files say.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl<D: Disk + 'static> From<D> for Box<dyn Disk> {
    fn from(disk: D) -> Self {
        Box::new(disk)
    }
}

impl Disk for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl<D: Disk + Sync> Disk for Arc<D> {
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buffer)
    }
}

/// As the guest left it.
impl Disk for DiskView {
    fn size(&self) -> io::Result<u64> {
        Ok(Self::size(self))
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_into(offset, buffer)
    }
}

/// As the guest found it.
impl Disk for BaseView {
    fn size(&self) -> io::Result<u64> {
        Ok(Self::size(self))
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_into(offset, buffer)
    }
}

/// After the session.
impl Disk for KeptDisk {
    fn size(&self) -> io::Result<u64> {
        Ok(Self::size(self))
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_into(offset, buffer)
    }
}

/// Why a disk's file system can't be read.
#[derive(Debug, thiserror::Error)]
pub enum NotRead {
    /// The disk itself can't.
    #[error("the disk can't be read: {0}")]
    Disk(#[from] io::Error),
    /// No partition of it holds one.
    #[error("no Linux partition with an ext4 file system on it")]
    None,
    /// A superblock no kernel would mount.
    #[error("its superblock makes no sense: {0}")]
    Superblock(&'static str),
    /// A journal that can't be replayed.
    #[error("its journal can't be read: {0}")]
    Journal(&'static str),
    /// What the reader says.
    #[error("{0}")]
    Ext4(#[from] Ext4Error),
}

const SECTOR: u64 = 512;
/// Where a superblock lies in its file system, and its length.
const SUPERBLOCK: (u64, usize) = (1024, 1024);
/// MBR: four entries of 16 bytes from here, each with its type at 4, first sector at 8 and number of sectors at 12.
const TABLE: usize = 446;
/// MBR: the type of a Linux file system.
const LINUX: u8 = 0x83;

/// Where a file system lies on a disk, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Place {
    /// Fills `buffer` with what lies `offset` bytes behind its start.
    pub(crate) fn read(self, disk: &dyn Disk, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "behind the partition's end"));
        }
        disk.read_at(self.start + offset, buffer)
    }
}

/// The first file system of a disk.
pub(crate) fn find(disk: &dyn Disk) -> Result<Place, NotRead> {
    let size = disk.size()?;
    let mut mbr = [0; SECTOR as usize];
    disk.read_at(0, &mut mbr)?;
    let partitions = mbr[TABLE..510]
        .chunks_exact(16)
        .filter(|entry| entry[4] == LINUX)
        .map(|entry| Place { start: u64::from(word(entry, 8)) * SECTOR, len: u64::from(word(entry, 12)) * SECTOR });
    // A disk without a table may be a file system as it is.
    for place in partitions.chain([Place { start: 0, len: size }]) {
        let inside = place.start.checked_add(place.len).is_some_and(|end| end <= size);
        if inside && superblock(disk, place).is_ok_and(|block| block[56..58] == [0x53, 0xef]) {
            return Ok(place);
        }
    }
    Err(NotRead::None)
}

fn superblock(disk: &dyn Disk, place: Place) -> Result<[u8; SUPERBLOCK.1], NotRead> {
    let mut block = [0; SUPERBLOCK.1];
    place.read(disk, SUPERBLOCK.0, &mut block)?;
    Ok(block)
}

/// A file system that was opened: by path, and by inode if these can be read.
pub(crate) type Opened = (Ext4, Result<Inodes, String>);

/// Opens the file system at `place`. After `until`, every read fails.
pub(crate) fn open(disk: Box<dyn Disk>, place: Place, until: Instant) -> Result<Opened, NotRead> {
    let superblock = superblock(&*disk, place)?;
    check(&superblock, place.len)?;
    let journal = Journal::read(&*disk, place, &superblock)?;
    let reader = Rc::new(Reader { disk, place, journal, until });
    let fs = Ext4::load(Box::new(Shared(Rc::clone(&reader))))?;
    Ok((fs, Inodes::open(reader, &superblock)))
}

/// The reader allocates by what the superblock says: it must say no more than the partition can hold.
fn check(block: &[u8], len: u64) -> Result<(), NotRead> {
    let log_size = word(block, 24);
    if log_size > 6 {
        return Err(NotRead::Superblock("blocks of more than 64 KiB"));
    }
    let size = 1024 << log_size;
    // The high half counts only with 64-bit block numbers; without them it is refused here too if it is not zero.
    let blocks = u64::from(word(block, 4)) | u64::from(word(block, 0x150)) << 32;
    if blocks.checked_mul(size).is_none_or(|bytes| bytes > len) {
        return Err(NotRead::Superblock("it is larger than its partition"));
    }
    // mke2fs makes none below 256 (its option -g).
    if word(block, 32) < 256 {
        return Err(NotRead::Superblock("groups of fewer than 256 blocks"));
    }
    Ok(())
}

/// The number of 32 bits at `at`, little-endian as ext4 has them; 0 behind the end.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The bytes of one file system, its journal replayed.
pub(crate) struct Reader {
    disk: Box<dyn Disk>,
    place: Place,
    journal: Option<Journal>,
    until: Instant,
}

type Failure = Box<dyn std::error::Error + Send + Sync + 'static>;

impl Reader {
    /// Fills `buffer` with what lies `start` bytes behind the file system's beginning.
    pub(crate) fn read_at(&self, start: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        if Instant::now() > self.until {
            return Err("there was no more time".into());
        }
        self.place.read(&*self.disk, start, buffer)?;
        match &self.journal {
            Some(journal) => Ok(journal.patch(&*self.disk, self.place, start, buffer)?),
            None => Ok(()),
        }
    }
}

struct Shared(Rc<Reader>);

impl Ext4Read for Shared {
    fn read(&mut self, start: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        self.0.read_at(start, buffer)
    }
}
