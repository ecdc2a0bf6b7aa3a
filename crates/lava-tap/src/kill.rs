//! Killing a process from outside: the signal is set pending in its threads, as the kernel's own `complete_signal` does.
//!
//! A thread that runs dies when it next returns to user mode, at the latest at the next timer interrupt; the kernel then kills the other threads of its
//! process. One that sleeps dies when it is woken, before it runs another instruction of its program: the tap cannot wake it.
//!
//! Limits: the first process and the kernel's own threads are not killed.

use std::sync::atomic::{AtomicU8, Ordering};

use lava_event::GuestText;
use lava_event::kill::{NO_PROCESS, SPARED, UNREADABLE};
use lava_guest::linux::{self, Task};
use lava_guest::memory::{Unreadable, Virtual};

use crate::introspect::Context;

/// `TIF_SIGPENDING` (arch/x86/include/asm/thread_info.h), as a bit of the flags' first byte.
const SIGNAL_PENDING: u8 = 1 << 2;
/// `SIGKILL` as a bit of the second byte of a `sigset_t`: bit 8 of all.
const KILL: u8 = 1;
/// `PF_EXITING`, `PF_KTHREAD` (include/linux/sched.h).
const EXITING: u32 = 0x4;
const KERNEL_THREAD: u32 = 0x20_0000;
/// Tasks and threads that are looked at: a list that a hostile kernel has tied into a ring ends here.
const MAX_TASKS: usize = 32 * 1024;

/// Makes the acting process die when it would return to user mode. Says what was done.
pub fn acting(context: &Context<'_>) -> String {
    let Ok(task) = context.current() else { return "who did it could not be read".into() };
    let who = format!("{}[{}]", GuestText::from(task.comm.clone()), task.pid);
    if is_spared(&task) {
        return format!("{who} is the kernel's own or the first process, and is not killed");
    }
    match set_pending(context, task.address) {
        Some(()) => format!("{who} is killed when it returns to user mode"),
        None => format!("{who} could not be killed: its task is not readable"),
    }
}

/// Kills what the supervisor asks for, if it does. Called at every task switch.
pub fn asked(context: &Context<'_>) {
    if let Some((request, pid)) = context.tap.emitter.request() {
        context.tap.emitter.done(request, process(context, pid).unwrap_or(UNREADABLE));
    }
}

/// Kills the process with this number; returns how many threads it has, or why it is not.
fn process(context: &Context<'_>, pid: u32) -> Result<u32, Unreadable> {
    let (memory, layout) = (context.memory(), context.layout());
    let Some(task) = find(context, pid)? else { return Ok(NO_PROCESS) };
    if is_spared(&task) {
        return Ok(SPARED);
    }
    let types = &context.tap.kernel.types;
    let offsets =
        types.offset("signal_struct", "thread_head").ok().zip(types.offset("task_struct", "thread_node").ok());
    let Some((head, node)) = offsets else {
        // Its first thread at least.
        return Ok(if set_pending(context, task.address).is_some() { 1 } else { UNREADABLE });
    };
    let head = memory.pointer(task.address.wrapping_add(layout.task.signal))?.wrapping_add(head);
    let (mut count, mut next) = (0, memory.pointer(head)?);
    while next != head && count < MAX_TASKS as u32 {
        if set_pending(context, next.wrapping_sub(node)).is_none() {
            return Ok(UNREADABLE);
        }
        count += 1;
        next = memory.pointer(next)?;
    }
    Ok(count)
}

/// The first thread of a process that is not ending.
fn find(context: &Context<'_>, pid: u32) -> Result<Option<Task>, Unreadable> {
    let (memory, list) = (context.memory(), context.layout().task.tasks);
    let Some(first) = context.tap.kernel.symbols.address("init_task") else { return Ok(None) };
    let first = first.wrapping_add(context.slide);
    let mut address = first;
    for _ in 0..MAX_TASKS {
        address = memory.pointer(address.wrapping_add(list))?.wrapping_sub(list);
        if address == first {
            break;
        }
        // One that goes meanwhile may be unreadable; the list leads on.
        match linux::read_task(&memory, context.layout(), address) {
            Ok(task) if task.tgid == pid => return Ok(Some(task).filter(|task| task.flags & EXITING == 0)),
            _ => {}
        }
    }
    Ok(None)
}

const fn is_spared(task: &Task) -> bool {
    task.mm == 0 || task.flags & KERNEL_THREAD != 0 || task.tgid <= 1
}

/// Sets the signal pending in a thread; `None` if it can't be.
fn set_pending(context: &Context<'_>, task: u64) -> Option<()> {
    let offset = |member| context.tap.kernel.types.offset("task_struct", member).ok();
    let (pending, flags) = (offset("pending.signal")?, offset("thread_info.flags")?);
    let set = |address: u64, bit: u8| {
        let (host, _) = context.tap.ram()?.host(context.memory().physical(address)?)?;
        // SAFETY: a byte of the guest's RAM, which lives as long as the process; other CPUs change its neighbours, and this byte,
        // atomically too.
        unsafe { AtomicU8::from_ptr(host) }.fetch_or(bit, Ordering::SeqCst);
        Some(())
    };
    set(task.wrapping_add(pending + 1), KILL)?;
    set(task.wrapping_add(flags), SIGNAL_PENDING)
}
