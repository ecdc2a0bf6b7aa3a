//! Writes to files, summed up per open file.
//!
//! The first write of a process to an open file is told at once, with its range: the graph is live and the order true.
//! Later writes are added up and told when the file is closed, another process writes to it, the guest restarts or the
//! session ends. Writes to block devices are told one by one: they are what the disk's decisions are about.
//!
//! Limits: regular files and block devices; a write that the file system cuts short or refuses counts with the size that
//! was asked for; writes through shared mappings are not seen here.

use std::collections::HashMap;
use std::sync::Mutex;

use lava_event::{FileId, FileType, GuestText, Kind, Process, Range};
use lava_guest::memory::{Unreadable, Virtual};

use crate::emit::Emitter;
use crate::introspect::Context;

/// `WRITE` as `rw_verify_area` gets it (include/linux/kernel.h).
const WRITE: u64 = 1;
/// `O_APPEND` (include/uapi/asm-generic/fcntl.h).
const APPEND: u32 = 0x400;
/// Ranges kept per event.
const MAX_RANGES: usize = 64;
/// Open files kept; beyond that the sums are told early.
const MAX_OPEN: usize = 32 * 1024;

/// What was written through one `struct file` since it was last told.
struct Written {
    process: Process,
    path: GuestText,
    file: FileId,
    ranges: Vec<Range>,
    bytes: u64,
    count: u64,
}

impl Written {
    fn add(&mut self, range: Range) {
        self.bytes = self.bytes.saturating_add(range.len());
        self.count += 1;
        let touching = self.ranges.iter().position(|known| known.start <= range.end && range.start <= known.end);
        // Too many ranges: the last one grows to cover it, so that no written byte is outside what is told.
        let full = (self.ranges.len() >= MAX_RANGES).then(|| self.ranges.len() - 1);
        match touching.or(full).and_then(|index| self.ranges.get_mut(index)) {
            Some(known) => *known = Range { start: known.start.min(range.start), end: known.end.max(range.end) },
            None => self.ranges.push(range),
        }
    }

    /// Tells what came together, if anything did.
    fn tell(&mut self, emitter: &Emitter, vcpu: u32) {
        if self.count == 0 {
            return;
        }
        let mut ranges = std::mem::take(&mut self.ranges);
        ranges.sort_unstable();
        let kind = Kind::FileWrite {
            path: self.path.clone(),
            file: self.file,
            ranges,
            bytes: std::mem::take(&mut self.bytes),
            count: std::mem::take(&mut self.count),
        };
        emitter.emit(vcpu, Some(self.process.clone()), kind);
    }
}

/// Open files that were written to, by the address of their `struct file`.
#[derive(Default)]
pub struct OpenFiles(Mutex<HashMap<u64, Written>>);

impl OpenFiles {
    /// Tells all sums and forgets the files.
    pub fn flush_all(&self, emitter: &Emitter) {
        if let Ok(mut map) = self.0.lock() {
            let mut all: Vec<_> = map.drain().collect();
            all.sort_unstable_by_key(|(address, _)| *address);
            all.iter_mut().for_each(|(_, written)| written.tell(emitter, 0));
        }
    }
}

/// `rw_verify_area(read_write, file, ppos, count)`: every way to read or write a file by a system call passes here.
pub fn write(context: &Context<'_>) -> Result<(), Unreadable> {
    if context.argument(0)? & 0xffff_ffff != WRITE {
        return Ok(());
    }
    let (memory, layout, emitter) = (context.memory(), context.layout(), &context.tap.emitter);
    let address = context.argument(1)?;
    let inode = memory.pointer(address.wrapping_add(layout.file.f_inode))?;
    let mode = memory.u16(inode.wrapping_add(layout.inode.i_mode))? & 0o170_000;
    if !matches!(mode, 0o100_000 | 0o060_000) {
        return Ok(());
    }
    let task = context.current()?;
    let process = context.process(&task);
    let size = memory.u64(inode.wrapping_add(layout.inode.i_size))?;
    let append = memory.u32(address.wrapping_add(layout.file.f_flags))? & APPEND != 0;
    let position = match context.argument(2)? {
        0 => 0,
        _ if append => size,
        pointer => memory.u64(pointer)?,
    };
    let range = Range { start: position, end: position.saturating_add(context.argument(3)?) };

    let Ok(mut map) = context.tap.open_files.0.lock() else { return Ok(()) };
    if map.len() >= MAX_OPEN {
        map.values_mut().for_each(|written| written.tell(emitter, context.vcpu));
        map.clear();
    }
    let known = map.get(&address).is_some_and(|written| {
        written.file.inode == memory.u64(inode.wrapping_add(layout.inode.i_ino)).unwrap_or(0)
            && written.process.key() == process.key()
    });
    if !known {
        if let Some(mut other) = map.remove(&address) {
            other.tell(emitter, context.vcpu);
        }
        let (path, file) = context.file(address)?;
        map.insert(address, Written { process, path, file, ranges: Vec::new(), bytes: 0, count: 0 });
    }
    if let Some(written) = map.get_mut(&address) {
        written.add(range);
        if !known || written.file.file_type() == FileType::BlockDevice {
            written.tell(emitter, context.vcpu);
        }
    }
    Ok(())
}

/// `security_file_free(file)`: the last reference to the open file is gone.
pub fn close(context: &Context<'_>) -> Result<(), Unreadable> {
    let address = context.argument(0)?;
    if let Ok(mut map) = context.tap.open_files.0.lock()
        && let Some(mut written) = map.remove(&address)
    {
        written.tell(&context.tap.emitter, context.vcpu);
    }
    Ok(())
}
