//! Base and overlay: where the bytes are.
//!
//! The overlay is a sparse file as long as the disk; a bitmap in memory tells which clusters of 4 KiB are in it. 4 KiB
//! is the guest's page and block size, so that hardly any write has to copy the rest of a cluster first.
//!
//! Bits are only ever set, and only under the `allocating` lock, after the cluster's bytes are in place. Whoever sees all
//! bits of a range set may therefore read and write the overlay without a lock. Overlapping requests in flight are the
//! client's affair, as on every disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use lava_event::Range;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::base::{self, Base, CLUSTER};
use crate::kept::Difference;
use crate::{kept, lock};

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// What a request puts into a range.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fill<'a> {
    /// These bytes, exactly as many as the range is long.
    Bytes(&'a [u8]),
    /// Zeroes; `hole` if the space may be given back.
    Zeroes { hole: bool },
}

impl Fill<'_> {
    /// The part that falls on `part`, if the whole falls on `whole`.
    pub(crate) fn part(&self, whole: Range, part: Range) -> Self {
        match *self {
            Self::Bytes(bytes) => {
                Self::Bytes(&bytes[(part.start - whole.start) as usize..(part.end - whole.start) as usize])
            }
            zeroes @ Self::Zeroes { .. } => zeroes,
        }
    }

    /// Copies itself over `buffer`, which is as long as the range.
    pub(crate) fn copy_to(&self, buffer: &mut [u8]) {
        match self {
            Self::Bytes(bytes) => buffer.copy_from_slice(bytes),
            Self::Zeroes { .. } => buffer.fill(0),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Storage {
    base: Base,
    overlay: File,
    overlay_path: PathBuf,
    size: u64,
    present: Vec<AtomicU64>,
    allocating: Mutex<()>,
    fault: OnceLock<String>,
}

impl Storage {
    /// Makes the overlay, readable for its owner only. It must not exist: a mistaken path never overwrites anything.
    pub(crate) fn create(base: Base, overlay: &Path) -> io::Result<Self> {
        let (size, overlay_path) = (base.size(), overlay.to_owned());
        let overlay = File::options().read(true).write(true).create_new(true).mode(0o600).open(overlay)?;
        overlay.set_len(size)?;
        let words = size.div_ceil(CLUSTER).div_ceil(64);
        let present = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { base, overlay, overlay_path, size, present, allocating: Mutex::new(()), fault: OnceLock::new() })
    }

    /// Bytes, a multiple of [`SECTOR`].
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Makes the overlay a layer that other disks can lie on. Nothing may be written any more.
    pub(crate) fn seal(&self) -> io::Result<()> {
        if !self.base.layer_is_none() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "an overlay on a sealed overlay cannot be sealed"));
        }
        self.overlay.sync_all()?;
        base::write_map(&self.overlay_path, self.size, self.present.iter().map(|word| word.load(Ordering::Acquire)))
    }

    /// Keeps, as differences, what the session found and what it left. False, and no file, if these would be longer than `most`
    /// together. Nothing is written meanwhile.
    pub(crate) fn keep(&self, before: &Path, after: &Path, most: u64) -> io::Result<bool> {
        let found = base::set_bits(self.base.layer_words().iter().copied(), self.size);
        let left = base::set_bits(self.present.iter().map(|word| word.load(Ordering::Acquire)), self.size);
        if !kept::write(before, self.size, &found, most, |offset, buffer| self.base.read(offset, buffer))? {
            return Ok(false);
        }
        let most = most.saturating_sub(std::fs::metadata(before)?.len());
        let written = kept::write(after, self.size, &left, most, |offset, buffer| self.read(offset, buffer));
        if !matches!(written, Ok(true)) {
            std::fs::remove_file(before)?;
        }
        written
    }

    /// Bytes that [`Storage::keep`] would write now at most, but for the clusters' numbers.
    pub(crate) fn kept_at_most(&self) -> u64 {
        let bits = |words: &mut dyn Iterator<Item = u64>| words.map(|word| u64::from(word.count_ones())).sum::<u64>();
        let found = bits(&mut self.base.layer_words().iter().copied());
        let left = bits(&mut self.present.iter().map(|word| word.load(Ordering::Acquire)));
        (found + left) * CLUSTER
    }

    /// Makes what a session had written its own, as the difference tells that was kept of it: the guest goes on from there. Nobody uses
    /// the disk yet.
    pub(crate) fn take_over(&self, left: &Path) -> io::Result<()> {
        let difference = Difference::open(left, self.size)?;
        let mut buffer = [0; CLUSTER as usize];
        for (cluster, has_bytes) in difference.clusters() {
            let start = cluster * CLUSTER;
            let end = (start + CLUSTER).min(self.size);
            // Zeroes: the new overlay has nothing else.
            if has_bytes {
                let bytes = &mut buffer[..(end - start) as usize];
                difference.read(cluster, 0, bytes)?;
                self.overlay.write_all_at(bytes, start)?;
            }
            self.mark_present(Range { start, end });
        }
        Ok(())
    }

    /// The first failure of the host's files, if there was one.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.get().cloned()
    }

    /// Reads; the caller has checked that it ends before [`Storage::size`].
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_merged(offset, buffer).inspect_err(|error| self.remember("reading", offset, error))
    }

    /// Reads what is below the overlay; the caller has checked that it ends before [`Storage::size`].
    pub(crate) fn read_base(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.base.read(offset, buffer)
    }

    /// Writes; the caller has checked that `range` ends before [`Storage::size`].
    pub(crate) fn change(&self, range: Range, fill: Fill<'_>) -> io::Result<()> {
        self.change_merged(range, fill).inspect_err(|error| self.remember("writing", range.start, error))
    }

    fn remember(&self, what: &str, offset: u64, error: &io::Error) {
        self.fault.get_or_init(|| format!("{what} at byte {offset} of the disk failed on the host: {error}"));
    }

    fn is_present(&self, cluster: u64) -> bool {
        self.present[(cluster / 64) as usize].load(Ordering::Acquire) >> (cluster % 64) & 1 == 1
    }

    fn all_present(&self, range: Range) -> bool {
        (range.start / CLUSTER..range.end.div_ceil(CLUSTER)).all(|cluster| self.is_present(cluster))
    }

    fn mark_present(&self, range: Range) {
        for cluster in range.start / CLUSTER..range.end.div_ceil(CLUSTER) {
            self.present[(cluster / 64) as usize].fetch_or(1 << (cluster % 64), Ordering::Release);
        }
    }

    fn read_merged(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        let mut at = offset;
        while at < end {
            let mut cluster = at / CLUSTER;
            let present = self.is_present(cluster);
            while (cluster + 1) * CLUSTER < end && self.is_present(cluster + 1) == present {
                cluster += 1;
            }
            let run_end = ((cluster + 1) * CLUSTER).min(end);
            let part = &mut buffer[(at - offset) as usize..(run_end - offset) as usize];
            if present {
                self.overlay.read_exact_at(part, at)?;
            } else {
                self.base.read(at, part)?;
            }
            at = run_end;
        }
        Ok(())
    }

    fn change_merged(&self, range: Range, fill: Fill<'_>) -> io::Result<()> {
        if self.all_present(range) {
            return self.put(range, fill);
        }
        let mut at = range.start;
        while at < range.end {
            let cluster = at - at % CLUSTER;
            let cluster_end = (cluster + CLUSTER).min(self.size);
            let part = if at == cluster && range.end >= cluster_end {
                let end = if range.end == self.size { self.size } else { range.end - range.end % CLUSTER };
                Range { start: at, end }
            } else {
                Range { start: at, end: range.end.min(cluster_end) }
            };
            let whole = part.start == cluster && part.end >= cluster_end;
            let part_fill = fill.part(range, part);
            if whole {
                self.replace(part, part_fill)?
            } else {
                self.patch(cluster, cluster_end, part, part_fill)?
            }
            at = part.end;
        }
        Ok(())
    }

    /// Whole clusters.
    fn replace(&self, range: Range, fill: Fill<'_>) -> io::Result<()> {
        if self.all_present(range) {
            return self.put(range, fill);
        }
        let _allocating = lock(&self.allocating);
        self.put(range, fill)?;
        self.mark_present(range);
        Ok(())
    }

    /// Part of one cluster: the rest comes from the base, the first time.
    fn patch(&self, cluster: u64, cluster_end: u64, range: Range, fill: Fill<'_>) -> io::Result<()> {
        let _allocating = lock(&self.allocating);
        if self.is_present(cluster / CLUSTER) {
            return self.put(range, fill);
        }
        let mut buffer = [0; CLUSTER as usize];
        let bytes = &mut buffer[..(cluster_end - cluster) as usize];
        self.base.read(cluster, bytes)?;
        fill.copy_to(&mut bytes[(range.start - cluster) as usize..(range.end - cluster) as usize]);
        self.overlay.write_all_at(bytes, cluster)?;
        self.mark_present(Range { start: cluster, end: cluster_end });
        Ok(())
    }

    fn put(&self, range: Range, fill: Fill<'_>) -> io::Result<()> {
        let hole = match fill {
            Fill::Bytes(bytes) => return self.overlay.write_all_at(bytes, range.start),
            Fill::Zeroes { hole } => hole,
        };
        let how = if hole { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        match fallocate(&self.overlay, how | FallocateFlags::KEEP_SIZE, range.start, range.len()) {
            // Not every file system can (tmpfs has no ZERO_RANGE).
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                let mut at = range.start;
                while at < range.end {
                    let len = (range.end - at).min(ZEROES.len() as u64);
                    self.overlay.write_all_at(&ZEROES[..len as usize], at)?;
                    at += len;
                }
                Ok(())
            }
            done => Ok(done?),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 5 clusters, the last one short, and the base not even a whole number of sectors.
    const LEN: usize = 4 * CLUSTER as usize + 700;

    fn storage(folder: &Path) -> (Storage, Vec<u8>) {
        let mut bytes: Vec<u8> = (0..LEN).map(|at| (at % 251) as u8 + 1).collect();
        std::fs::write(folder.join("base"), &bytes).unwrap();
        let base = Base::open(&folder.join("base"), None).unwrap();
        let storage = Storage::create(base, &folder.join("overlay")).unwrap();
        bytes.resize(storage.size() as usize, 0);
        (storage, bytes)
    }

    #[test]
    fn an_overlay_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        storage(folder.path());
        let base = Base::open(&folder.path().join("base"), None).unwrap();
        let error = Storage::create(base, &folder.path().join("base")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_sealed_overlay_is_a_base() {
        let folder = tempfile::tempdir().unwrap();
        let (storage, mut model) = storage(folder.path());
        let change = |storage: &Storage, at: u64, byte: u8, model: &mut Vec<u8>| {
            storage.change(Range { start: at, end: at + 10 }, Fill::Bytes(&[byte; 10])).unwrap();
            model[at as usize..at as usize + 10].fill(byte);
        };
        change(&storage, 5000, 1, &mut model);
        storage.seal().unwrap();
        let open = |layer: &str| Base::open(&folder.path().join("base"), Some(&folder.path().join(layer)));
        let above = Storage::create(open("overlay").unwrap(), &folder.path().join("above")).unwrap();
        change(&above, 5008, 2, &mut model);
        change(&above, 20, 3, &mut model);
        let mut all = vec![0; model.len()];
        above.read(0, &mut all).unwrap();
        assert!(all == model);
        assert!(above.seal().is_err());
        std::fs::write(folder.path().join("overlay.map"), b"LAVAMAP1 and more").unwrap();
        assert_eq!(open("overlay").unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(open("none").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    proptest! {
        #[test]
        fn behaves_like_memory(writes in prop::collection::vec((0..LEN, 1usize..9_000, 0u8..6), 0..20)) {
            let folder = tempfile::tempdir().unwrap();
            let (storage, mut model) = storage(folder.path());
            for (number, &(start, len, how)) in writes.iter().enumerate() {
                let end = (start + len).min(model.len());
                model[start..end].fill(if how < 2 { 0 } else { number as u8 });
                let bytes = model[start..end].to_vec();
                let fill = if how < 2 { Fill::Zeroes { hole: how == 0 } } else { Fill::Bytes(&bytes) };
                storage.change(Range { start: start as u64, end: end as u64 }, fill).unwrap();
            }
            let mut all = vec![0; model.len()];
            storage.read(0, &mut all).unwrap();
            prop_assert!(all == model);
            let base = std::fs::read(folder.path().join("base")).unwrap();
            prop_assert!(base.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8 + 1));
        }
    }
}
