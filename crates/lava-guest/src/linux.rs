//! Linux objects, read from a guest's memory by address.
//!
//! Every reader takes the memory, the [`Layout`] and an address that came from the guest, and does a bounded number of
//! bounded reads. What is worth having in part comes back in part: a [`GuestPath`] says whether it is complete,
//! [`arguments`] whether it is cut, a [`Task`] leaves out what it points to. An object whose identity cannot be read is
//! an error.
//!
//! Limits: no locks are taken, so a running guest may change an object while it is read. Bytes are the guest's own and
//! not escaped: wrap them before they are shown.

mod cache;
mod path;
pub mod regs;
pub mod sock;
pub mod vma;

pub use cache::{CacheLayout, Cached, Placed, read_cached};
pub use path::{GuestPath, MAX_COMPONENTS, MAX_PATH, path_of, path_of_dentry, path_of_dentry_in};

use crate::layout::Layout;
use crate::memory::{Unreadable, Virtual};

/// Bytes in `task_struct.comm`, with its NUL (`TASK_COMM_LEN`, include/linux/sched.h).
const COMM: usize = 16;

/// A thread, as `task_struct` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Kernel virtual address of the `task_struct`.
    pub address: u64,
    /// The thread's id (what user space calls tid), in the initial PID namespace.
    pub pid: u32,
    /// The process's id (what user space calls pid), in the initial PID namespace.
    pub tgid: u32,
    /// The parent's process id; None if the parent could not be read.
    pub ppid: Option<u32>,
    /// When the thread started: nanoseconds since the guest booted.
    pub start_ns: u64,
    /// When the process (its first thread) started: nanoseconds since the guest booted; None if it could not be read.
    pub process_start_ns: Option<u64>,
    /// The thread's name, up to 15 bytes.
    pub comm: Vec<u8>,
    /// Address of the `mm_struct`; 0 for a kernel thread.
    pub mm: u64,
    /// `PF_*` flags (include/linux/sched.h).
    pub flags: u32,
    /// As `wait(2)` reports it; 0 while the thread lives.
    pub exit_code: u32,
    /// Subjective credentials; None if they could not be read.
    pub credentials: Option<Credentials>,
}

impl Task {
    /// What tells its process from an earlier one of the same id: when its first thread started or, if that could not be read, when
    /// it did itself; nanoseconds since the guest booted.
    #[must_use]
    pub fn process_start(&self) -> u64 {
        self.process_start_ns.unwrap_or(self.start_ns)
    }
}

/// Reads the `task_struct` at `address`.
///
/// # Errors
/// [`Unreadable`] if the task itself cannot be read; what it points to may be missing.
pub fn read_task(memory: &dyn Virtual, layout: &Layout, address: u64) -> Result<Task, Unreadable> {
    let at = |offset: u64| member(address, offset);
    let l = &layout.task;
    let mut comm = [0; COMM];
    memory.read(at(l.comm)?, &mut comm)?;
    let leader = memory.pointer(at(l.group_leader)?);
    let parent = memory.pointer(at(l.real_parent)?);
    let credentials = memory.pointer(at(l.cred)?);
    Ok(Task {
        address,
        pid: memory.u32(at(l.pid)?)?,
        tgid: memory.u32(at(l.tgid)?)?,
        ppid: parent.and_then(|p| memory.u32(member(p, l.tgid)?)).ok(),
        start_ns: memory.u64(at(l.start_time)?)?,
        process_start_ns: leader.and_then(|p| memory.u64(member(p, l.start_time)?)).ok(),
        comm: comm.split(|&b| b == 0).next().unwrap_or_default().to_vec(),
        mm: memory.u64(at(l.mm)?)?,
        flags: memory.u32(at(l.flags)?)?,
        exit_code: memory.u32(at(l.exit_code)?)?,
        credentials: credentials.and_then(|p| read_credentials(memory, layout, p)).ok(),
    })
}

/// Who a task is, as `struct cred` has it. Identifiers are those of the initial user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credentials {
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective user.
    pub euid: u32,
    /// Effective group.
    pub egid: u32,
    /// Saved user.
    pub suid: u32,
    /// Saved group.
    pub sgid: u32,
    /// User for file access.
    pub fsuid: u32,
    /// Group for file access.
    pub fsgid: u32,
    /// Capabilities the task may take, one bit each (include/uapi/linux/capability.h).
    pub cap_permitted: u64,
    /// Capabilities the task has now, one bit each.
    pub cap_effective: u64,
}

/// Reads the `struct cred` at `address`.
///
/// # Errors
/// [`Unreadable`] if any of it cannot be read.
pub fn read_credentials(memory: &dyn Virtual, layout: &Layout, address: u64) -> Result<Credentials, Unreadable> {
    let l = &layout.cred;
    let id = |offset: u64| memory.u32(member(address, offset)?);
    let set = |offset: u64| memory.u64(member(address, offset)?);
    Ok(Credentials {
        uid: id(l.uid)?,
        gid: id(l.gid)?,
        euid: id(l.euid)?,
        egid: id(l.egid)?,
        suid: id(l.suid)?,
        sgid: id(l.sgid)?,
        fsuid: id(l.fsuid)?,
        fsgid: id(l.fsgid)?,
        cap_permitted: set(l.cap_permitted)?,
        cap_effective: set(l.cap_effective)?,
    })
}

/// Which file it is, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FileId {
    /// Major number of the device that holds it.
    pub dev_major: u32,
    /// Minor number of the device that holds it.
    pub dev_minor: u32,
    /// Inode number on that device.
    pub inode: u64,
    /// Type and permissions, as `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// For a device file the device it stands for, in the kernel's own form: major << 20 | minor.
    pub rdev: u32,
}

/// Reads the identity out of the `struct inode` at `inode`.
///
/// # Errors
/// [`Unreadable`] if the inode or its superblock cannot be read.
pub fn file_id(memory: &dyn Virtual, layout: &Layout, inode: u64) -> Result<FileId, Unreadable> {
    /// `MINORBITS`, include/linux/kdev_t.h.
    const MINOR_BITS: u32 = 20;
    let l = &layout.inode;
    let at = |offset: u64| member(inode, offset);
    let sb = memory.pointer(at(l.i_sb)?)?;
    let dev = memory.u32(member(sb, layout.super_block.s_dev)?)?;
    Ok(FileId {
        dev_major: dev >> MINOR_BITS,
        dev_minor: dev & ((1 << MINOR_BITS) - 1),
        inode: memory.u64(at(l.i_ino)?)?,
        mode: memory.u16(at(l.i_mode)?)?,
        uid: memory.u32(at(l.i_uid)?)?,
        gid: memory.u32(at(l.i_gid)?)?,
        size: memory.u64(at(l.i_size)?)?,
        rdev: memory.u32(at(l.i_rdev)?)?,
    })
}

/// The path and identity of an open file, from its `struct file`.
///
/// # Errors
/// [`Unreadable`] if the inode cannot be read; the path may be incomplete.
pub fn read_file(memory: &dyn Virtual, layout: &Layout, file: u64) -> Result<(GuestPath, FileId), Unreadable> {
    let inode = memory.pointer(member(file, layout.file.f_inode)?)?;
    let id = file_id(memory, layout, inode)?;
    Ok((path_of(memory, layout, member(file, layout.file.f_path)?), id))
}

/// Consecutive NUL-terminated strings: an argument vector or an environment, as `execve` lays it out.
///
/// Reads at most `count` strings and `max_bytes` bytes, NULs included. The flag is set if there is less than was asked
/// for; the last string may then be cut.
pub fn arguments(memory: &dyn Virtual, start: u64, count: u64, max_bytes: usize) -> (Vec<Vec<u8>>, bool) {
    let mut strings = Vec::new();
    let mut used = 0;
    while (strings.len() as u64) < count {
        let Some(at) = start.checked_add(used as u64).filter(|_| used < max_bytes) else { return (strings, true) };
        let string = memory.read_cstr(at, max_bytes - used);
        used += string.bytes.len() + 1;
        if string.truncated {
            if !string.bytes.is_empty() {
                strings.push(string.bytes);
            }
            return (strings, true);
        }
        strings.push(string.bytes);
    }
    (strings, false)
}

/// The address of a member; no object wraps around the end of the address space.
fn member(object: u64, offset: u64) -> Result<u64, Unreadable> {
    object.checked_add(offset).ok_or(Unreadable { address: object })
}
