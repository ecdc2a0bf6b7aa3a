//! Memory: what is mapped or made executable, and writes into other processes.
//!
//! Registers and backtrace go with what is unusual: executable memory that no file backs or that can be written, memory made
//! executable, writes into another process. A library's code that is mapped is told plainly.
//!
//! Limits: a write through /proc/PID/mem is told once per write, with the size asked for, when its first page has been written;
//! one into the process's own memory is not told (it is no other's). `process_vm_writev` is told with the first of its remote
//! addresses, as the process's memory has them when the call returns, and with the bytes it wrote. `PTRACE_POKEDATA` writes a word,
//! and each is told. A debugger's changes of registers are not memory.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use lava_event::{Kind, ProcessRef, Protection, Range};
use lava_guest::kernel::Kernel;
use lava_guest::linux::vma::{VM_EXEC, VM_MAYSHARE, VM_WRITE, Vma, read_vma};
use lava_guest::memory::{Unreadable, Virtual};

use crate::areas::Areas;
use crate::introspect::Context;
use crate::returns::Then;

/// `PROT_EXEC`; `MAP_SHARED` and `MAP_SHARED_VALIDATE` both have this bit (include/uapi/asm-generic/mman-common.h,
/// include/uapi/linux/mman.h).
const PROT_EXEC: u64 = 4;
const MAP_SHARED: u64 = 1;
/// `FOLL_WRITE` (include/linux/mm.h, mm_types.h).
const FOLL_WRITE: u64 = 1;
/// Calls under way that are remembered.
const MAX_PENDING: usize = 4096;
/// `__USER32_CS` (arch/x86/include/asm/segment.h).
const USER32_CS: u64 = 0x23;

/// `do_mmap(file, addr, len, prot, flags, ..)`: told with the mapping that was made.
pub fn map(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let tap = context.tap;
    let (file, prot, flags) = (context.argument(0)?, context.argument(2)?, context.argument(3)?);
    let executable = prot & PROT_EXEC != 0;
    let shared_file = file != 0 && flags & MAP_SHARED != 0;
    let told = executable || shared_file;
    if tap.areas.is_none() || !(told || tap.unbacked.any()) {
        return Ok(None);
    }
    let length = context.argument(1)?.saturating_add(0xfff) & !0xfff;
    Ok(Some(Box::new(move |context, returned| {
        let Some((areas, address)) = context.tap.areas.as_ref().zip(returned.pointer()) else { return Ok(()) };
        let task = context.current()?;
        context.tap.unbacked.mapped(task.mm, Range { start: address, end: address.saturating_add(length) });
        if !told {
            return Ok(());
        }
        let memory = context.memory();
        let vma = areas.find(&memory, task.mm, address).ok_or(Unreadable { address })?;
        let backed = if vma.file == 0 { None } else { Some(context.file(vma.file)?) };
        let plain = vma.flags & VM_WRITE == 0 && backed.is_some() || vma.flags & VM_EXEC == 0;
        let (path, file) = backed.unzip();
        let kind = Kind::MemoryMap {
            address,
            length,
            protection: Protection::from_bits(vma.flags),
            // `VM_SHARED` is gone where the file is open to read only (mm/mmap.c).
            shared: vma.flags & VM_MAYSHARE != 0,
            path,
            file,
        };
        if plain { context.emit(kind) } else { context.emit_with_registers(kind) }
    })))
}

/// `mprotect_fixup(.., vma, .., start, end, newflags)`: one mapping's part of an mprotect. Told if it can be executed from now on,
/// or could be and can be written too from now on.
pub fn protect(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let Some(areas) = &context.tap.areas else { return Ok(None) };
    let new = context.argument(3)?;
    if new & VM_EXEC == 0 {
        return Ok(None);
    }
    let vma: Vma = read_vma(&context.memory(), &areas.vma, context.argument(0)?)?;
    if vma.flags & VM_EXEC != 0 && (vma.flags & VM_WRITE != 0 || new & VM_WRITE == 0) {
        return Ok(None);
    }
    let (start, end) = (context.argument(1)?, context.argument(2)?);
    let path = if vma.file == 0 { None } else { Some(context.file(vma.file)?.0) };
    let kind = Kind::MemoryProtect {
        address: start,
        length: end.saturating_sub(start),
        old: Protection::from_bits(vma.flags),
        new: Protection::from_bits(new),
        path,
    };
    Ok(Some(Box::new(
        move |context, returned| {
            if returned.succeeded() { context.emit_with_registers(kind) } else { Ok(()) }
        },
    )))
}

/// A call that is under way and may write into another process's memory, by its task.
enum Pending {
    /// `process_vm_writev`: the other process, once the kernel has looked it up.
    Vector(Option<u64>),
    /// A write to /proc/PID/mem: address and bytes asked for.
    ProcMem(u64, u64),
}

/// Writes into other processes that are under way.
pub struct RemoteWrites {
    pending: Mutex<HashMap<u64, Pending>>,
    /// How many there are: `mm_access` has many callers, and mostly there are none.
    count: AtomicU64,
    /// `iovec.iov_base`
    base: Option<u64>,
}

impl RemoteWrites {
    pub fn resolve(kernel: &Kernel) -> Self {
        let base = kernel.types.offset("iovec", "iov_base").ok();
        Self { pending: Mutex::default(), count: AtomicU64::new(0), base }
    }

    fn begin(&self, task: u64, what: Pending) {
        let Ok(mut pending) = self.pending.lock() else { return };
        if pending.len() >= MAX_PENDING {
            pending.clear();
        }
        pending.insert(task, what);
        self.count.store(pending.len() as u64, Ordering::Relaxed);
    }

    fn end(&self, task: u64) -> Option<Pending> {
        let mut pending = self.pending.lock().ok()?;
        let ended = pending.remove(&task);
        self.count.store(pending.len() as u64, Ordering::Relaxed);
        ended
    }
}

fn written(context: &Context<'_>, target: ProcessRef, address: u64, bytes: u64, way: &str) -> Result<(), Unreadable> {
    if target.pid == context.current()?.tgid {
        return Ok(());
    }
    context.emit_with_registers(Kind::MemoryRemoteWrite { target, address, bytes, way: way.to_owned() })
}

/// `ptrace_access_vm(tsk, addr, buf, len, gup_flags)` (kernel/ptrace.c): returns how many bytes it wrote.
pub fn poke(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    if context.argument(3)? & FOLL_WRITE == 0 {
        return Ok(None);
    }
    let (target, address, len) =
        (context.process_ref(context.argument(0)?)?, context.argument(1)?, context.argument(2)?);
    Ok(Some(Box::new(move |context, returned| {
        let done = returned.0.map_or(len as u32 as i32, |value| value as u32 as i32);
        if done > 0 { written(context, target, address, done as u64, "ptrace") } else { Ok(()) }
    })))
}

/// `process_vm_rw(pid, lvec, liovcnt, rvec, riovcnt, flags, vm_write)` (mm/process_vm_access.c)
pub fn vm_writev(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let Some(base) = context.tap.remote_writes.base else { return Ok(None) };
    if context.argument(1)? as u32 == 0 {
        return Ok(None);
    }
    let (task, vector) = (context.current_address()?, context.argument(0)?);
    context.tap.remote_writes.begin(task, Pending::Vector(None));
    Ok(Some(Box::new(move |context, returned| {
        let Some(Pending::Vector(Some(target))) = context.tap.remote_writes.end(task) else { return Ok(()) };
        let Some(done) = returned.0.filter(|&done| done as i64 > 0) else { return Ok(()) };
        let memory = context.memory();
        let compat = context.tap.areas.as_ref().and_then(|areas| areas.user_registers(&memory, task).ok());
        // The vector is user memory: what cannot be read any more has no address to tell.
        let address = match compat.is_some_and(|user| user.cs == USER32_CS) {
            true => memory.u32(vector).map(u64::from),
            false => memory.u64(vector.wrapping_add(base)),
        };
        written(context, context.process_ref(target)?, address.unwrap_or(0), done, "process_vm_writev")
    })))
}

/// `mm_access(task, mode)`: whose memory a call of [`vm_writev`] goes to.
pub fn target(context: &Context<'_>) -> Result<(), Unreadable> {
    let writes = &context.tap.remote_writes;
    if writes.count.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    let (task, other) = (context.current_address()?, context.argument(0)?);
    if let Ok(mut pending) = writes.pending.lock()
        && let Some(Pending::Vector(target)) = pending.get_mut(&task)
    {
        *target = Some(other);
    }
    Ok(())
}

/// `mem_rw(file, buf, count, ppos, write)` (fs/proc/base.c)
pub fn proc_mem(context: &Context<'_>) -> Result<(), Unreadable> {
    if context.argument(3)? as u32 != 0 {
        let (count, address) = (context.argument(1)?, context.memory().u64(context.argument(2)?)?);
        context.tap.remote_writes.begin(context.current_address()?, Pending::ProcMem(address, count));
    }
    Ok(())
}

/// `access_remote_vm(mm, addr, buf, len, gup_flags)`: one page's part of [`proc_mem`].
pub fn remote(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let Some(areas) = &context.tap.areas else { return Ok(None) };
    if context.argument(1)? & FOLL_WRITE == 0 || context.tap.remote_writes.count.load(Ordering::Relaxed) == 0 {
        return Ok(None);
    }
    let (task, mm) = (context.current_address()?, context.argument(0)?);
    let target = owner(context, areas, mm);
    Ok(Some(Box::new(move |context, returned| {
        let Some(Pending::ProcMem(address, count)) = context.tap.remote_writes.end(task) else { return Ok(()) };
        // What cannot be written fails at its first page.
        if returned.0.is_some_and(|done| done as u32 as i32 <= 0) {
            return Ok(());
        }
        written(context, target?, address, count, "proc_mem")
    })))
}

/// The process that `mm` belongs to.
fn owner(context: &Context<'_>, areas: &Areas, mm: u64) -> Result<ProcessRef, Unreadable> {
    let owner = areas.vma.owner.ok_or(Unreadable { address: mm })?;
    context.process_ref(context.memory().pointer(mm.wrapping_add(owner))?)
}
