//! What the task's processes wrote into files, kept when the file is closed, out of the guest's page cache.
//!
//! A file is read when an open file of it that could write is closed and a process of the task wrote to it (by write, splice, a
//! shared mapping, truncate, fallocate) since it was last read: also if it has no name any more. Cut by name and not open, it is
//! read at once.
//!
//! Limits: 16 MiB of a file, 256 MiB of a session, 64 times the same file; where a limit is reached the event says that it is not
//! complete, and without anything left it still comes, with nothing kept. Pages that are not in memory (holes, evicted) are zeros,
//! and the content is then not complete. Shared anonymous memory is not a file. What is still open when the guest's power goes is
//! not read.

use std::collections::HashMap;
use std::sync::Mutex;

use lava_event::{FileType, GuestText, Kind, Process, Sha256};
use lava_guest::kernel::Kernel;
use lava_guest::linux::{CacheLayout, Placed, read_cached};
use lava_guest::memory::{Unreadable, Virtual};

use crate::introspect::Context;

/// Bytes kept of one file, and of all together.
const MAX_FILE: u64 = 16 << 20;
const MAX_ALL: u64 = 256 << 20;
/// How often one file is kept.
const MAX_VERSIONS: u32 = 64;
/// Files known to be written, or to have been kept.
const MAX_KNOWN: usize = 32 * 1024;
/// `FMODE_WRITE` and `FMODE_OPENED` (include/linux/fs.h): what a failed open leaves has no inode.
const WRITABLE: u32 = 2;
const OPENED: u32 = 1 << 19;
/// The name of shared anonymous memory's file (`shmem_zero_setup`, mm/shmem.c).
const ANONYMOUS: &[u8] = b"/dev/zero";

/// What is needed to read a file's content.
#[derive(Clone, Copy)]
pub struct Places {
    cache: CacheLayout,
    /// Link address of the variable `vmemmap_base`.
    pages: u64,
}

impl Places {
    pub fn resolve(kernel: &Kernel) -> Result<Self, String> {
        let pages = kernel.symbols.address("vmemmap_base").ok_or("no symbol vmemmap_base")?;
        Ok(Self { cache: CacheLayout::resolve(&kernel.types).map_err(|error| error.to_string())?, pages })
    }
}

/// Device and inode number.
type Identity = ((u32, u32), u64);

#[derive(Default)]
struct Known {
    /// Written by a process of the task since it was last read, by the address of the inode: by whom last.
    written: HashMap<u64, Process>,
    versions: HashMap<Identity, u32>,
    bytes: u64,
}

impl Known {
    /// How many bytes of a file of this size are to be kept now.
    fn allow(&mut self, file: Identity, size: u64) -> u64 {
        if self.versions.len() >= MAX_KNOWN && !self.versions.contains_key(&file) {
            return 0;
        }
        let versions = self.versions.entry(file).or_default();
        if *versions >= MAX_VERSIONS {
            return 0;
        }
        *versions += 1;
        let kept = size.min(MAX_FILE).min(MAX_ALL - self.bytes.min(MAX_ALL));
        self.bytes += kept;
        kept
    }
}

/// What was written and not yet kept.
pub struct Content {
    places: Option<Places>,
    known: Mutex<Known>,
}

impl Content {
    pub fn new(places: Option<Places>) -> Self {
        Self { places, known: Mutex::default() }
    }

    /// A process of the task wrote to the file with this `struct inode`.
    pub fn written(&self, inode: u64, by: &Process) {
        let Ok(mut known) = self.known.lock() else { return };
        let full = known.written.len() >= MAX_KNOWN;
        match known.written.get_mut(&inode) {
            Some(last) if last.key() == by.key() => {}
            Some(last) => last.clone_from(by),
            None if full => {}
            None => {
                known.written.insert(inode, by.clone());
            }
        }
    }

    fn take(&self, inode: u64) -> Option<Process> {
        self.known.lock().ok()?.written.remove(&inode)
    }

    /// The guest restarts: nothing is open.
    pub fn forget_all(&self) {
        if let Ok(mut known) = self.known.lock() {
            known.written.clear();
        }
    }
}

/// The size of a file was changed by the acting process; `open`: a close of it will follow.
pub fn resized(context: &Context<'_>, inode: u64, path: GuestText, open: bool) -> Result<(), Unreadable> {
    let process = context.process(&context.current()?);
    if !context.tap.task.contains(&process) {
        return Ok(());
    }
    if open {
        context.tap.open_files.content.written(inode, &process);
        return Ok(());
    }
    keep(context, inode, process, path)
}

/// An open file is gone.
pub fn closed(context: &Context<'_>, address: u64) -> Result<(), Unreadable> {
    let (memory, layout) = (context.memory(), context.layout());
    if memory.u32(address.wrapping_add(layout.file.f_mode))? & (WRITABLE | OPENED) != WRITABLE | OPENED {
        return Ok(());
    }
    let inode = memory.pointer(address.wrapping_add(layout.file.f_inode))?;
    let Some(process) = context.tap.open_files.content.take(inode) else { return Ok(()) };
    let (path, _) = context.file(address)?;
    keep(context, inode, process, path)
}

fn keep(context: &Context<'_>, inode: u64, process: Process, path: GuestText) -> Result<(), Unreadable> {
    let (memory, content) = (context.memory(), &context.tap.open_files.content);
    let (Some(places), Some(placement)) = (content.places, context.tap.placement()) else { return Ok(()) };
    let file = context.inode_file(inode)?;
    if file.file_type() != FileType::Regular || path.bytes() == ANONYMOUS {
        return Ok(());
    }
    let Ok(mut known) = content.known.lock() else { return Ok(()) };
    let kept = known.allow((file.device, file.inode), file.size);
    drop(known);
    let pages = memory.pointer(places.pages.wrapping_add(context.slide))?;
    let placed = Placed { pages, direct_map: placement.direct_map };
    let cached = read_cached(&memory, &places.cache, placed, inode, usize::try_from(kept).unwrap_or(0))?;
    let complete = kept == file.size && cached.missing == 0;
    // The supervisor puts the hash in: it has it to compute anyway.
    let kind = Kind::FileContent { path, file, sha256: Sha256::default(), kept, complete };
    let emitter = &context.tap.emitter;
    emitter.emit_content(context.vcpu, emitter.event(context.vcpu, Some(process), kind), &cached.bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let mut known = Known::default();
        let file = |inode| ((8, 1), inode);
        assert_eq!(known.allow(file(1), 10), 10);
        assert_eq!(known.allow(file(2), u64::MAX), MAX_FILE);
        for _ in 1..MAX_VERSIONS {
            assert_eq!(known.allow(file(1), 10), 10);
        }
        assert_eq!(known.allow(file(1), 10), 0);
        let kept: u64 = (3..100).map(|inode| known.allow(file(inode), MAX_FILE)).sum();
        assert_eq!(kept + MAX_FILE + 10 * u64::from(MAX_VERSIONS), MAX_ALL);
        assert_eq!(known.allow(file(100), 1), 0);
    }
}
