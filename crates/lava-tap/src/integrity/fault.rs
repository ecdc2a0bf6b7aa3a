//! Writes to watched pages, one host instruction at a time.
//!
//! The pages are read-only in QEMU's process. Whoever stores there, translated guest code, a helper of QEMU's or a device model's
//! copy, faults; the handler keeps a copy of the page, makes it writable and lets exactly one host instruction run (the trap flag);
//! then it compares, protects the page again, and tells [`super::watch`] what changed. A copying instruction (`rep movs`) is
//! stepped to its end.
//!
//! QEMU drops what it translated from a place BEFORE the store. The step takes longer than a store, and another vCPU may translate the old
//! bytes again meanwhile (the breakpoint in the midst of a patch, say): so the store is repeated through QEMU, which drops that too.
//!
//! One such step runs at a time in the whole process: other threads that fault wait for it, some microseconds. Nothing is asked or told
//! while the step's lock is held.
//!
//! Why the handlers may allocate and lock, which handlers in general must not: they run at instructions that store into guest memory
//! only, and nobody (the allocator, glib, we) does that while holding a lock that the handlers need.
//!
//! Limits: a QEMU that does not export that function keeps a short race. A system call that writes to a watched page (a block device's backend reading straight into it) gets EFAULT instead of a
//! fault: the request fails, nothing is written. What another thread stores into the same page
//! in the same microseconds is told as part of it.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::watch::{Change, PAGE};

/// Pages that one step can touch: one that a copy began in, and two that its next iteration straddles.
const MAX_PAGES: usize = 3;
/// Iterations of one copying instruction that are stepped; beyond that it is told in parts.
const MAX_ITERATIONS: u32 = 16 * 1024;
/// Faults in a row at one address that is not watched any more; more than that, and it is somebody else's fault.
const MAX_RETRIES: u32 = 1000;
/// Trap flag (Intel SDM vol. 1, 3.4.3.3).
const TRAP_FLAG: i64 = 0x100;
/// `SEGV_ACCERR` (include/uapi/asm-generic/siginfo.h): mapped, but not so.
const ACCESS_ERROR: c_int = 2;

/// Who is told of the faults.
pub trait Watcher {
    /// The watched page (its first byte) that holds this address of our process; `Stale` for memory that once was watched.
    fn page(&self, address: usize) -> Place;
    /// Makes a page writable or read-only again.
    fn set_writable(&self, page: usize, writable: bool);
    /// These bytes were just changed; their page is still writable. Code that was translated from them meanwhile must go.
    fn stored(&self, change: &Change);
    /// One instruction changed these bytes, told when nothing is locked any more.
    fn changed(&self, changes: Vec<Change>);
}

/// Where an address lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the watched page that begins there.
    Watched(usize),
    /// In the guest's memory, not watched (now).
    Stale,
    /// Elsewhere.
    Foreign,
}

/// The step under way. Used by the thread that holds `BUSY` only.
struct Step {
    pages: [usize; MAX_PAGES],
    copies: [[u8; PAGE]; MAX_PAGES],
    count: usize,
    rip: i64,
    iterations: u32,
    mask: libc::sigset_t,
}

struct Shared(UnsafeCell<std::mem::MaybeUninit<Step>>);
// SAFETY: only the holder of BUSY touches the content.
unsafe impl Sync for Shared {}

static BUSY: AtomicBool = AtomicBool::new(false);
/// Zero bytes are a valid `Step` of no pages.
static STEP: Shared = Shared(UnsafeCell::new(std::mem::MaybeUninit::zeroed()));
static WATCHER: OnceLock<&'static (dyn Watcher + Sync)> = OnceLock::new();
static PREVIOUS: OnceLock<[libc::sigaction; 2]> = OnceLock::new();

thread_local! {
    /// This thread is between a fault and its trap.
    static STEPPING: Cell<bool> = const { Cell::new(false) };
    /// The last address that was not watched, and how often in a row.
    static RETRIED: Cell<(usize, u32)> = const { Cell::new((0, 0)) };
}

/// Sets the handlers, once.
pub fn install(watcher: &'static (dyn Watcher + Sync)) -> Result<(), String> {
    if WATCHER.set(watcher).is_err() {
        return Ok(());
    }
    let set = |signal, handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)| {
        // SAFETY: both structs are plain data that zero bytes are valid for; the handler has the signature SA_SIGINFO asks for.
        unsafe {
            let (mut new, mut old): (libc::sigaction, libc::sigaction) = (std::mem::zeroed(), std::mem::zeroed());
            new.sa_sigaction = handler as *const () as usize;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigemptyset(&mut new.sa_mask);
            match libc::sigaction(signal, &new, &mut old) {
                0 => Ok(old),
                _ => Err(format!("cannot handle signal {signal}: {}", std::io::Error::last_os_error())),
            }
        }
    };
    let previous = [set(libc::SIGSEGV, on_fault)?, set(libc::SIGTRAP, on_trap)?];
    PREVIOUS.set(previous).map_err(|_| "the handlers were set twice".to_owned())
}

fn lock() {
    while BUSY.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        std::thread::yield_now();
    }
}

/// Runs `body` while no step is under way anywhere.
pub fn quietly<R>(body: impl FnOnce() -> R) -> R {
    lock();
    let result = body();
    BUSY.store(false, Ordering::Release);
    result
}

/// # Safety
/// `context` is what the kernel passed to a handler.
unsafe fn registers<'a>(context: *mut c_void) -> &'a mut libc::ucontext_t {
    // SAFETY: the caller's promise; the context lives on the handler's stack and nobody else uses it.
    unsafe { &mut *context.cast::<libc::ucontext_t>() }
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes valid pointers to SA_SIGINFO handlers; si_addr is set for SIGSEGV.
    let (address, code) = unsafe { ((*info).si_addr().addr(), (*info).si_code) };
    let Some(watcher) = WATCHER.get().filter(|_| code == ACCESS_ERROR) else {
        return not_ours(signal, info, context);
    };
    let again = STEPPING.get();
    if watcher.page(address) == Place::Foreign {
        return not_ours(signal, info, context);
    }
    if !again {
        lock();
    }
    // Looked up under the lock: another thread may have let go of the page meanwhile.
    let Place::Watched(page) = watcher.page(address) else {
        if !again {
            BUSY.store(false, Ordering::Release);
        }
        let (last, count) = RETRIED.get();
        RETRIED.set((address, if last == address { count + 1 } else { 0 }));
        if count > MAX_RETRIES {
            not_ours(signal, info, context);
        }
        return;
    };
    RETRIED.set((0, 0));
    // SAFETY: this thread holds BUSY; `Step` is plain data. The context is the kernel's.
    let (step, context) = unsafe { ((*STEP.0.get()).assume_init_mut(), registers(context)) };
    if !again {
        step.count = 0;
        step.iterations = 0;
        step.rip = context.uc_mcontext.gregs[libc::REG_RIP as usize];
        step.mask = context.uc_sigmask;
        STEPPING.set(true);
    }
    if step.count < MAX_PAGES {
        step.pages[step.count] = page;
        // SAFETY: a watched page is mapped and readable; the copy is ours. Other vCPUs may store meanwhile: a torn copy is then
        // told as their change.
        unsafe { std::ptr::copy_nonoverlapping(page as *const u8, step.copies[step.count].as_mut_ptr(), PAGE) };
        step.count += 1;
    }
    watcher.set_writable(page, true);
    context.uc_mcontext.gregs[libc::REG_EFL as usize] |= TRAP_FLAG;
    // Nothing but the trap may come between: QEMU's own signals wait. Its threads block SIGTRAP.
    // SAFETY: the set is the context's own.
    unsafe {
        libc::sigfillset(&mut context.uc_sigmask);
        for synchronous in [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE] {
            libc::sigdelset(&mut context.uc_sigmask, synchronous);
        }
    }
}

extern "C" fn on_trap(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let (true, Some(watcher)) = (STEPPING.get(), WATCHER.get()) else {
        return not_ours(signal, info, context);
    };
    // SAFETY: this thread holds BUSY since its fault; the context is the kernel's.
    let (step, context) = unsafe { ((*STEP.0.get()).assume_init_mut(), registers(context)) };
    step.iterations += 1;
    // Still at the same instruction: a copy that goes on. Ended where it comes to the next page, so that pages don't run out.
    let same = context.uc_mcontext.gregs[libc::REG_RIP as usize] == step.rip;
    if same && step.count < 2 && step.iterations < MAX_ITERATIONS {
        return;
    }
    context.uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP_FLAG;
    context.uc_sigmask = step.mask;
    let mut changes = Vec::new();
    for (&page, copy) in step.pages.iter().zip(&step.copies).take(step.count) {
        // SAFETY: as in `on_fault`.
        let now = unsafe { std::slice::from_raw_parts(page as *const u8, PAGE) };
        if let Some(change) = Change::between(page, copy, now) {
            watcher.stored(&change);
            changes.push(change);
        }
        watcher.set_writable(page, false);
    }
    STEPPING.set(false);
    BUSY.store(false, Ordering::Release);
    if !changes.is_empty() {
        watcher.changed(changes);
    }
}

/// Hands a signal to whoever handled it before us.
fn not_ours(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.get().map(|both| &both[usize::from(signal == libc::SIGTRAP)]);
    match previous {
        Some(old) if old.sa_sigaction != libc::SIG_DFL && old.sa_sigaction != libc::SIG_IGN => {
            if old.sa_flags & libc::SA_SIGINFO != 0 {
                // SAFETY: the address was registered as a handler of this signature.
                let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                    unsafe { std::mem::transmute(old.sa_sigaction) };
                handler(signal, info, context);
            } else {
                // SAFETY: as above, for a handler without SA_SIGINFO.
                let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(old.sa_sigaction) };
                handler(signal);
            }
        }
        _ => {
            // SAFETY: plain system call. The instruction faults again, now with the default action.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}
