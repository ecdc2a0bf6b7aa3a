//! A disk that was kept after its session: what lies between the image and what the guest left, in small files.
//!
//! A *difference* is one file: the magic number, the disk's size, the number of its clusters of 4 KiB, their numbers in
//! ascending order (each with [`ZEROES`] set if the cluster is all zeroes, which has no content in the file), then the contents. All
//! numbers are of 64 bits, little-endian. Two are kept of a session: from the image to what the session found (what a template's boot had
//! changed), and from there to what it left.
//!
//! *Boundary:* a difference may come from somebody else, with a session's folder. Its numbers are bounded by the image's size, and what is not
//! as described is an error.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use crate::base::{Base, CLUSTER, invalid};

const MAGIC: &[u8; 8] = b"LAVADIF1";
/// Bytes before the numbers.
const HEAD: u64 = 24;
/// In a cluster's number: it is all zeroes. A disk of this many clusters does not exist.
const ZEROES: u64 = 1 << 63;

/// Clusters that a disk has otherwise than what is below it.
#[derive(Debug)]
pub(crate) struct Difference {
    file: File,
    /// Number, and where in the file it lies; `None`: zeroes.
    clusters: Vec<(u64, Option<u64>)>,
}

impl Difference {
    pub(crate) fn open(path: &Path, size: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut head = [0; HEAD as usize];
        file.read_exact(&mut head)?;
        let (magic, numbers) = head.split_at(8);
        let count = word(&numbers[8..]);
        if magic != MAGIC || word(numbers) != size {
            return Err(invalid("it is no difference to this image"));
        }
        if count > size.div_ceil(CLUSTER) {
            return Err(invalid("it has more clusters than the disk"));
        }
        let mut numbers = Vec::new();
        (&file).take(count * 8).read_to_end(&mut numbers)?;
        let mut at = HEAD + count * 8;
        let mut clusters: Vec<(u64, Option<u64>)> = Vec::with_capacity(numbers.len() / 8);
        for number in numbers.chunks_exact(8).map(word) {
            let cluster = number & !ZEROES;
            if cluster >= size.div_ceil(CLUSTER) || clusters.last().is_some_and(|(last, _)| *last >= cluster) {
                return Err(invalid("its clusters are not in order"));
            }
            clusters.push((cluster, (number & ZEROES == 0).then_some(at)));
            at += if number & ZEROES == 0 { CLUSTER } else { 0 };
        }
        if clusters.len() as u64 != count || file.metadata()?.len() != at {
            return Err(invalid("it is not as long as it says"));
        }
        Ok(Self { file, clusters })
    }

    /// The clusters' numbers, ascending; false for those that are all zeroes.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = (u64, bool)> + '_ {
        self.clusters.iter().map(|(number, place)| (*number, place.is_some()))
    }

    /// Fills `buffer`, part of cluster `cluster` from its byte `within` on; false if it is not here.
    pub(crate) fn read(&self, cluster: u64, within: u64, buffer: &mut [u8]) -> io::Result<bool> {
        let Ok(found) = self.clusters.binary_search_by_key(&cluster, |(number, _)| *number) else { return Ok(false) };
        match self.clusters.get(found).and_then(|(_, place)| *place) {
            Some(place) => self.file.read_exact_at(buffer, place + within)?,
            None => buffer.fill(0),
        }
        Ok(true)
    }
}

/// Writes a difference of a disk of `size` bytes. `clusters` are those that may differ, in ascending order; `read` gives a cluster's bytes. False, and
/// no file, if it would be longer than `most`.
pub(crate) fn write(
    path: &Path,
    size: u64,
    clusters: &[u64],
    most: u64,
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<bool> {
    let mut buffer = [0; CLUSTER as usize];
    let mut numbers = Vec::with_capacity(clusters.len());
    let mut long = HEAD + 8 * clusters.len() as u64;
    for &cluster in clusters {
        let bytes = &mut buffer[..(size - cluster * CLUSTER).min(CLUSTER) as usize];
        read(cluster * CLUSTER, bytes)?;
        let zeroes = bytes.iter().all(|byte| *byte == 0);
        long += if zeroes { 0 } else { CLUSTER };
        numbers.push(if zeroes { cluster | ZEROES } else { cluster });
    }
    if long > most {
        return Ok(false);
    }
    let mut file = BufWriter::new(File::options().write(true).create_new(true).mode(0o600).open(path)?);
    file.write_all(MAGIC)?;
    for number in [size, numbers.len() as u64].iter().chain(&numbers) {
        file.write_all(&number.to_le_bytes())?;
    }
    for &cluster in numbers.iter().filter(|&number| number & ZEROES == 0) {
        buffer.fill(0);
        read(cluster * CLUSTER, &mut buffer[..(size - cluster * CLUSTER).min(CLUSTER) as usize])?;
        file.write_all(&buffer)?;
    }
    file.flush()?;
    file.get_ref().sync_all()?;
    Ok(true)
}

/// A disk of a session that is over: its image, and differences on it. Read-only.
#[derive(Clone, Debug)]
pub struct KeptDisk {
    image: Arc<Base>,
    /// The lowest first.
    differences: Arc<Vec<Difference>>,
}

impl KeptDisk {
    /// Opens an image and the differences that lie on it, the lowest first.
    ///
    /// # Errors
    /// What the host's files say, and if a difference is none, or belongs to another image.
    pub fn open(image: &Path, differences: &[&Path]) -> io::Result<Self> {
        let named = |path: &Path| {
            let shown = path.display().to_string();
            move |error: io::Error| io::Error::new(error.kind(), format!("{shown}: {error}"))
        };
        let base = Base::open(image, None).map_err(named(image))?;
        let open = |path: &&Path| Difference::open(path, base.size()).map_err(named(path));
        let differences = differences.iter().map(open).collect::<io::Result<_>>()?;
        Ok(Self { image: Arc::new(base), differences: Arc::new(differences) })
    }

    /// Size of the disk, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.image.size()
    }

    /// Fills `buffer` with the bytes from byte `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if that is not all inside the disk; what the host's files say otherwise.
    pub fn read_into(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        crate::view::inside(offset, buffer.len(), self.size())?;
        self.image.read(offset, buffer)?;
        let mut at = offset;
        for piece in pieces(offset, buffer) {
            let (cluster, within) = (at / CLUSTER, at % CLUSTER);
            at += piece.len() as u64;
            for difference in self.differences.iter().rev() {
                if difference.read(cluster, within, piece)? {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// `buffer`, whose first byte lies at `offset`, cut where clusters end.
pub(crate) fn pieces(offset: u64, buffer: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    let first = (CLUSTER - offset % CLUSTER).min(buffer.len() as u64) as usize;
    let (head, rest) = buffer.split_at_mut(first);
    std::iter::once(head).chain(rest.chunks_mut(CLUSTER as usize))
}

fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::{Fill, Storage};

    /// Not a whole number of clusters, nor of sectors.
    const LEN: usize = 9 * CLUSTER as usize + 700;

    fn range(start: u64, len: u64) -> lava_event::Range {
        lava_event::Range { start, end: start + len }
    }

    /// A session's disk over a template's over an image; returns what the guest would read in the end, and had found.
    fn disks(folder: &Path, writes: &[(u64, u64, u8)]) -> (Storage, Vec<u8>, Vec<u8>) {
        std::fs::write(folder.join("image"), vec![7; LEN]).unwrap();
        let template =
            Storage::create(Base::open(&folder.join("image"), None).unwrap(), &folder.join("layer")).unwrap();
        template.change(range(5000, 100), Fill::Bytes(&[8; 100])).unwrap();
        template.seal().unwrap();
        let base = Base::open(&folder.join("image"), Some(&folder.join("layer"))).unwrap();
        let session = Storage::create(base, &folder.join("overlay")).unwrap();
        let read = |storage: &Storage| {
            let mut all = vec![0; storage.size() as usize];
            storage.read(0, &mut all).unwrap();
            all
        };
        let found = read(&session);
        for &(start, len, byte) in writes {
            let end = (start + len).min(session.size());
            let bytes = vec![byte; (end - start) as usize];
            session.change(range(start, end - start), Fill::Bytes(&bytes)).unwrap();
        }
        let left = read(&session);
        (session, found, left)
    }

    fn all(disk: &KeptDisk) -> Vec<u8> {
        let mut all = vec![0; disk.size() as usize];
        disk.read_into(0, &mut all).unwrap();
        all
    }

    /// As a snapshot does, and a session that goes on from it.
    #[test]
    fn a_disk_goes_on_where_it_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (session, found, mut left) =
            disks(folder.path(), &[(5050, 20, 1), (9000, 9000, 0), (LEN as u64 - 10, 10, 9)]);
        assert!(session.keep(&at("before"), &at("after"), u64::MAX).unwrap());
        assert_eq!(session.kept_at_most(), 6 * CLUSTER, "the template's cluster, and those written since");
        let base = Base::open_kept(&at("image"), &at("before")).unwrap();
        let next = Storage::create(base, &at("next")).unwrap();
        next.take_over(&at("after")).unwrap();
        let read = |storage: &Storage| {
            let (mut now, mut below) = (vec![0; storage.size() as usize], vec![0; storage.size() as usize]);
            storage.read(0, &mut now).unwrap();
            storage.read_base(0, &mut below).unwrap();
            (now, below)
        };
        assert!(read(&next) == (left.clone(), found.clone()));
        next.change(range(5055, 5), Fill::Bytes(&[3; 5])).unwrap();
        left[5055..5060].fill(3);
        assert!(read(&next) == (left.clone(), found), "what was found stays");
        // And once more: what was kept of the second is whole too.
        assert!(next.keep(&at("before2"), &at("after2"), u64::MAX).unwrap());
        let again = KeptDisk::open(&at("image"), &[&at("before2"), &at("after2")]).unwrap();
        assert!(all(&again) == left);
        std::fs::write(at("after"), b"LAVADIF1").unwrap();
        assert!(next.take_over(&at("after")).is_err() && Base::open_kept(&at("image"), &at("after")).is_err());
    }

    proptest! {
        #[test]
        fn what_was_kept_is_what_was_there(writes in prop::collection::vec((0..LEN as u64, 1u64..9_000, 0u8..3), 0..12)) {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            let (session, found, left) = disks(folder.path(), &writes);
            prop_assert!(session.keep(&at("before"), &at("after"), u64::MAX).unwrap());
            let before = KeptDisk::open(&at("image"), &[&at("before")]).unwrap();
            let after = KeptDisk::open(&at("image"), &[&at("before"), &at("after")]).unwrap();
            prop_assert!(all(&before) == found);
            prop_assert!(all(&after) == left);
            let mut part = vec![0; 5000];
            after.read_into(4095, &mut part).unwrap();
            prop_assert!(part == left[4095..9095]);
        }
    }

    #[test]
    fn a_difference_from_elsewhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (session, ..) = disks(folder.path(), &[(0, 10, 1), (9000, 9000, 0)]);
        assert!(!session.keep(&at("b"), &at("a"), 100).unwrap() && !at("b").exists() && !at("a").exists());
        assert!(session.keep(&at("before"), &at("after"), 1 << 20).unwrap());
        assert_eq!(
            session.keep(&at("before"), &at("after"), 1 << 20).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        let whole = std::fs::read(at("after")).unwrap();
        let disk = KeptDisk::open(&at("image"), &[&at("after")]).unwrap();
        assert!(disk.read_into(disk.size() - 1, &mut [0; 2]).is_err());
        let refused = |bytes: &[u8]| {
            std::fs::write(at("bad"), bytes).unwrap();
            KeptDisk::open(&at("image"), &[&at("bad")]).unwrap_err().to_string()
        };
        assert!(refused(&whole[..whole.len() - 1]).contains("as long as it says"));
        assert!(refused(b"LAVADIF1").contains("bad"));
        for (place, value) in [(0, 0), (8, 4096), (16, u64::MAX), (16, 200), (24, 100), (32, 0)] {
            let mut bytes = whole.clone();
            bytes[place..place + 8].copy_from_slice(&value.to_le_bytes());
            refused(&bytes);
        }
    }
}
