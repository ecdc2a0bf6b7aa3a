//! Reads and writes of open files, summed up per open file and process.
//!
//! The first read, the first write and the first page stored to through a mapping are told at once, with their range: the graph is
//! live and the order true. Later ones are added up and told when the file is closed, another process uses it, the guest is stopped from
//! outside or restarts, or the session ends. Writes to block devices are told one by one: they are what the disk's decisions are about.
//!
//! Limits: regular files, block devices and pipes, named or not; no character devices and sockets, and of the kernel's own
//! file systems (/proc, /sys...) the writes, not the reads. Sizes are those asked for (ranges read end at the end of the file), also
//! where the file system then gives less or fails; an io_uring request that had to wait may count twice. What is spliced is in
//! [`super::splice`]. A page of tmpfs that is mapped shared and was read before it is stored to makes no fault of its own: its
//! range is missing in `file.map_write`, its content is kept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use lava_event::{FileId, FileType, GuestText, Kind, Process, Range};
use lava_guest::btf::{TypeError, Types};
use lava_guest::kernel::Kernel;
use lava_guest::memory::{Unreadable, Virtual};

use super::content::{Content, Places};
use super::files::FOR_EXEC;
use crate::emit::Emitter;
use crate::introspect::Context;
use crate::missing::Missing;

/// `READ` and `WRITE` as `rw_verify_area` gets them (include/linux/kernel.h).
const READ: u64 = 0;
const WRITE: u64 = 1;
/// `O_APPEND` (include/uapi/asm-generic/fcntl.h).
const APPEND: u32 = 0x400;
/// `VM_WRITE` and `VM_SHARED` (include/linux/mm.h).
const VM_WRITE_SHARED: u64 = 0x2 | 0x8;
/// Bytes of a page.
const PAGE: u64 = 4096;
/// Ranges kept per event.
const MAX_RANGES: usize = 64;
/// Open files kept; beyond that the sums are told early.
const MAX_OPEN: usize = 32 * 1024;
/// Tasks within a splice at once.
const MAX_INSIDE: usize = 64 * 1024;
/// `s_magic` of file systems that the kernel makes up (include/uapi/linux/magic.h): proc, sysfs, debugfs, tracefs, securityfs,
/// cgroup, cgroup2, bpf, selinux.
const MADE_UP: [u64; 9] =
    [0x9fa0, 0x6265_6572, 0x6462_6720, 0x7472_6163, 0x7363_6673, 0x0027_e0eb, 0x6367_7270, 0xcafe_4a11, 0xf97c_ff8c];

/// Offsets that only this module needs, bytes.
#[derive(Clone, Copy)]
pub struct Offsets {
    fault_vma: u64,
    fault_page: u64,
    vma_file: u64,
    vma_flags: u64,
    magic: u64,
    pub files: u64,
    pub table: u64,
    pub slots: u64,
    pub slot_count: u64,
}

impl Offsets {
    fn resolve(types: &Types) -> Result<Self, TypeError> {
        let of = |strukt: &str, member: &str| types.offset(strukt, member);
        Ok(Self {
            fault_vma: of("vm_fault", "vma")?,
            fault_page: of("vm_fault", "pgoff")?,
            vma_file: of("vm_area_struct", "vm_file")?,
            vma_flags: of("vm_area_struct", "vm_flags")?,
            magic: of("super_block", "s_magic")?,
            files: of("task_struct", "files")?,
            table: of("files_struct", "fdt")?,
            slots: of("fdtable", "fd")?,
            slot_count: of("fdtable", "max_fds")?,
        })
    }
}

/// What happens to an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Read,
    Write,
    /// Through a shared mapping.
    Store,
}

/// Where in a file it happens.
#[derive(Clone, Copy)]
pub enum Position {
    /// There.
    At(u64),
    /// At a `loff_t` in kernel memory; 0: the file has no positions.
    Pointer(u64),
}

/// What came together since it was last told.
#[derive(Default)]
struct Sum {
    ranges: Vec<Range>,
    bytes: u64,
    count: u64,
    told: bool,
}

impl Sum {
    fn add(&mut self, range: Option<Range>, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.count += 1;
        let Some(range) = range else { return };
        let touching = self.ranges.iter().position(|known| known.start <= range.end && range.start <= known.end);
        // Too many ranges: the last one grows to cover it, so that no byte is outside what is told.
        let full = (self.ranges.len() >= MAX_RANGES).then(|| self.ranges.len() - 1);
        match touching.or(full).and_then(|index| self.ranges.get_mut(index)) {
            Some(known) => *known = Range { start: known.start.min(range.start), end: known.end.max(range.end) },
            None => self.ranges.push(range),
        }
    }
}

/// An open file in use by a process.
struct Open {
    /// The thread that used it last: address and start of its `task_struct`.
    thread: (u64, u64),
    process: Process,
    of_task: bool,
    path: GuestText,
    file: FileId,
    inode: u64,
    /// False where reads are not told.
    reads: bool,
    read: Sum,
    write: Sum,
    store: Sum,
}

impl Open {
    fn sum(&mut self, way: Way) -> &mut Sum {
        match way {
            Way::Read => &mut self.read,
            Way::Write => &mut self.write,
            Way::Store => &mut self.store,
        }
    }

    /// Tells what came together, if anything did.
    fn tell(&mut self, way: Way, emitter: &Emitter, vcpu: u32) {
        let (path, file) = (self.path.clone(), self.file);
        let sum = self.sum(way);
        if sum.count == 0 {
            return;
        }
        let Sum { mut ranges, bytes, count, .. } = std::mem::replace(sum, Sum { told: true, ..Sum::default() });
        ranges.sort_unstable();
        let kind = match way {
            Way::Read => Kind::FileRead { path, file, ranges, bytes, count },
            Way::Write => Kind::FileWrite { path, file, ranges, bytes, count },
            Way::Store => Kind::FileMapWrite { path, file, ranges },
        };
        emitter.emit(vcpu, Some(self.process.clone()), kind);
    }

    fn tell_all(&mut self, emitter: &Emitter, vcpu: u32) {
        [Way::Read, Way::Write, Way::Store].into_iter().for_each(|way| self.tell(way, emitter, vcpu));
    }
}

/// Files that are open and in use, by the address of their `struct file`.
pub struct OpenFiles {
    pub offsets: Option<Offsets>,
    pub content: Content,
    open: Mutex<HashMap<u64, Open>>,
    /// Threads within a splice, which counts for itself, and how many splices deep.
    inside: Mutex<HashMap<u64, u32>>,
}

impl OpenFiles {
    /// For this kernel; what it lacks goes to `missing`.
    pub fn resolve(kernel: &Kernel, missing: &mut Missing) -> Self {
        Self {
            offsets: missing.unless("reads and writes", Offsets::resolve(&kernel.types)),
            content: Content::new(missing.unless("content of files", Places::resolve(kernel))),
            open: Mutex::default(),
            inside: Mutex::default(),
        }
    }

    /// Tells all sums and forgets the files: the guest is gone or restarts.
    pub fn flush_all(&self, emitter: &Emitter) {
        if let Ok(mut open) = self.open.lock() {
            let mut all: Vec<_> = open.drain().collect();
            all.sort_unstable_by_key(|(address, _)| *address);
            all.iter_mut().for_each(|(_, open)| open.tell_all(emitter, 0));
        }
        if let Ok(mut inside) = self.inside.lock() {
            inside.clear();
        }
        self.content.forget_all();
    }

    /// Tells all sums: the guest is being stopped. Who holds the files just now is in a hook, and comes to rest later.
    pub fn tell_sums(&self, emitter: &Emitter, vcpu: u32) {
        if let Ok(mut open) = self.open.try_lock() {
            let mut all: Vec<_> = open.iter_mut().collect();
            all.sort_unstable_by_key(|(address, _)| **address);
            all.into_iter().for_each(|(_, open)| open.tell_all(emitter, vcpu));
        }
    }

    /// From here on the thread's reads and writes are parts of a splice.
    pub fn enter(&self, thread: u64) {
        if let Ok(mut inside) = self.inside.lock() {
            if inside.len() >= MAX_INSIDE {
                inside.clear();
            }
            *inside.entry(thread).or_default() += 1;
        }
    }

    pub fn leave(&self, thread: u64) {
        if let Ok(mut inside) = self.inside.lock()
            && let Some(depth) = inside.get_mut(&thread)
        {
            *depth -= 1;
            if *depth == 0 {
                inside.remove(&thread);
            }
        }
    }

    fn is_inside(&self, thread: u64) -> bool {
        self.inside.lock().is_ok_and(|inside| !inside.is_empty() && inside.contains_key(&thread))
    }
}

/// `rw_verify_area(read_write, file, ppos, count)`: every way to read or write a file by a system call passes here.
pub fn verify(context: &Context<'_>) -> Result<(), Unreadable> {
    let way = match context.argument(0)? & 0xffff_ffff {
        READ => Way::Read,
        WRITE => Way::Write,
        _ => return Ok(()),
    };
    let thread = context.current_address()?;
    if context.tap.open_files.is_inside(thread) {
        return Ok(());
    }
    let (file, position) = (context.argument(1)?, Position::Pointer(context.argument(2)?));
    used(context, thread, file, way, position, context.argument(3)?)
}

/// The thread used an open file.
pub fn used(
    context: &Context<'_>,
    thread: u64,
    address: u64,
    way: Way,
    position: Position,
    bytes: u64,
) -> Result<(), Unreadable> {
    let (memory, layout, files) = (context.memory(), context.layout(), &context.tap.open_files);
    // A task_struct's memory is used again for other threads: its start tells them apart.
    let thread = (thread, memory.u64(thread.wrapping_add(layout.task.start_time))?);
    let Ok(mut map) = files.open.lock() else { return Ok(()) };
    if map.get(&address).is_none_or(|open| open.thread != thread) && !meet(context, &mut map, address, thread, way)? {
        return Ok(());
    }
    let Some(open) = map.get_mut(&address) else { return Ok(()) };
    if way == Way::Read && !open.reads {
        return Ok(());
    }
    let range = match (open.file.file_type(), position) {
        (FileType::Fifo, _) | (_, Position::Pointer(0)) => None,
        (_, Position::At(start)) => Some(start),
        (_, Position::Pointer(pointer)) => {
            let append = way == Way::Write && memory.u32(address.wrapping_add(layout.file.f_flags))? & APPEND != 0;
            Some(memory.u64(if append { open.inode.wrapping_add(layout.inode.i_size) } else { pointer })?)
        }
    };
    let mut range = range.map(|start| Range { start, end: start.saturating_add(bytes) });
    if way == Way::Read && open.file.file_type() == FileType::Regular {
        let size = memory.u64(open.inode.wrapping_add(layout.inode.i_size))?;
        range = range.map(|range| Range { end: range.end.min(size).max(range.start), ..range });
    }
    if way != Way::Read && open.of_task && open.file.file_type() == FileType::Regular {
        files.content.written(open.inode, &open.process);
    }
    let sum = open.sum(way);
    sum.add(range, bytes);
    if !sum.told || (way == Way::Write && open.file.file_type() == FileType::BlockDevice) {
        open.tell(way, &context.tap.emitter, context.vcpu);
    }
    Ok(())
}

/// Looks at an open file, or a thread with it, that is not known. False if what it does with the file is not told.
fn meet(
    context: &Context<'_>,
    map: &mut MutexGuard<'_, HashMap<u64, Open>>,
    address: u64,
    thread: (u64, u64),
    way: Way,
) -> Result<bool, Unreadable> {
    let (memory, layout, emitter) = (context.memory(), context.layout(), &context.tap.emitter);
    let inode = memory.pointer(address.wrapping_add(layout.file.f_inode))?;
    let mode = memory.u16(inode.wrapping_add(layout.inode.i_mode))? & 0o170_000;
    let pipe = mode == 0o010_000;
    if !pipe && mode != 0o100_000 && mode != 0o060_000 {
        return Ok(false);
    }
    let reads = pipe || is_told_when_read(context, address, inode)?;
    if way == Way::Read && !reads {
        return Ok(false);
    }
    let process = context.process(&context.current()?);
    if let Some(open) = map.get_mut(&address)
        && open.process.key() == process.key()
        && open.inode == inode
    {
        open.thread = thread;
        return Ok(true);
    }
    if let Some(mut other) = map.remove(&address) {
        other.tell_all(emitter, context.vcpu);
    }
    if map.len() >= MAX_OPEN {
        map.values_mut().for_each(|open| open.tell_all(emitter, context.vcpu));
        map.clear();
    }
    let (path, file) = context.file(address)?;
    let of_task = context.tap.task.contains(&process);
    let (read, write, store) = Default::default();
    map.insert(address, Open { thread, process, of_task, path, file, inode, reads, read, write, store });
    Ok(true)
}

/// Whether reads of a file with this inode are told: not what an exec reads of its program, nor what the kernel makes up.
fn is_told_when_read(context: &Context<'_>, address: u64, inode: u64) -> Result<bool, Unreadable> {
    let (memory, layout) = (context.memory(), context.layout());
    if memory.u32(address.wrapping_add(layout.file.f_flags))? & FOR_EXEC != 0 {
        return Ok(false);
    }
    let Some(offsets) = context.tap.open_files.offsets else { return Ok(true) };
    let sb = memory.pointer(inode.wrapping_add(layout.inode.i_sb))?;
    Ok(!MADE_UP.contains(&memory.u64(sb.wrapping_add(offsets.magic))?))
}

/// `fault_dirty_shared_page(vmf)`: a page of a file was made writable in a shared mapping.
pub fn fault(context: &Context<'_>) -> Result<(), Unreadable> {
    let (memory, vmf) = (context.memory(), context.argument(0)?);
    let Some(offsets) = context.tap.open_files.offsets else { return Ok(()) };
    let vma = memory.pointer(vmf.wrapping_add(offsets.fault_vma))?;
    let page = memory.u64(vmf.wrapping_add(offsets.fault_page))?;
    // Without a file: special mappings of drivers.
    let Ok(file) = memory.pointer(vma.wrapping_add(offsets.vma_file)) else { return Ok(()) };
    let position = Position::At(page.saturating_mul(PAGE));
    used(context, context.current_address()?, file, Way::Store, position, PAGE)
}

/// `shmem_mmap(file, vma)`: tmpfs does not notice every store, so a file that a task's process maps to write to counts as written.
pub fn map(context: &Context<'_>) -> Result<(), Unreadable> {
    let (memory, layout) = (context.memory(), context.layout());
    let Some(offsets) = context.tap.open_files.offsets else { return Ok(()) };
    let flags = memory.u64(context.argument(1)?.wrapping_add(offsets.vma_flags))?;
    if flags & VM_WRITE_SHARED != VM_WRITE_SHARED {
        return Ok(());
    }
    let inode = memory.pointer(context.argument(0)?.wrapping_add(layout.file.f_inode))?;
    let process = context.process(&context.current()?);
    if context.tap.task.contains(&process) {
        context.tap.open_files.content.written(inode, &process);
    }
    Ok(())
}

/// `__fput(file)`: the last reference to the open file is gone; its inode and content are still there.
pub fn close(context: &Context<'_>) -> Result<(), Unreadable> {
    let (address, files) = (context.argument(0)?, &context.tap.open_files);
    let known = files.open.lock().ok().and_then(|mut open| open.remove(&address));
    if let Some(mut open) = known {
        open.tell_all(&context.tap.emitter, context.vcpu);
    }
    super::content::closed(context, address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let mut sum = Sum::default();
        for start in [0, 10, 5, 100] {
            sum.add(Some(Range { start, end: start + 10 }), 10);
        }
        sum.add(None, 7);
        assert_eq!(sum.ranges, [Range { start: 0, end: 20 }, Range { start: 100, end: 110 }]);
        assert_eq!((sum.bytes, sum.count), (47, 5));
        // No more than 64, and nothing outside them.
        for at in 0..200 {
            sum.add(Some(Range { start: 1000 * at, end: 1000 * at + 1 }), 1);
        }
        assert!(sum.ranges.len() <= MAX_RANGES);
        assert!((0..200).all(|at| sum.ranges.iter().any(|known| known.start <= 1000 * at && 1000 * at < known.end)));
    }
}
