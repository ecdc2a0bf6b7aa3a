//! What processes do to themselves and each other: how they were cloned, tracing, signals, namespaces, root directory, names,
//! files in memory.
//!
//! Each hook is on a function that is reached only once the kernel has agreed, or waits for its result.
//!
//! Limits: a tracee that its tracer gets because it was forked by another tracee (`PTRACE_O_TRACEFORK`) is not told;
//! signals of the kernel itself (terminal, timers, faults) are not told; `memfd_secret` is not told.

use std::collections::HashMap;
use std::sync::Mutex;

use lava_event::Kind;
use lava_guest::btf::{TypeError, Types};
use lava_guest::linux;
use lava_guest::memory::{Unreadable, Virtual};

use crate::introspect::Context;
use crate::missing::Missing;
use crate::returns::Then;

/// `PT_SEIZED` (include/linux/ptrace.h): attached by `PTRACE_SEIZE`.
const SEIZED: u32 = 0x1_0000;
/// `SEND_SIG_PRIV` (include/linux/sched/signal.h); `SEND_SIG_NOINFO` is 0. Both are the kernel's own.
const SEND_SIG_PRIV: u64 = 1;
/// `SI_MESGQ` (include/uapi/asm-generic/siginfo.h): a message queue's notice.
const MESSAGE_QUEUE: i32 = -3;
/// `TASK_COMM_LEN` (include/linux/sched.h).
const COMM: usize = 16;
/// Length of a name, and what the kernel puts in front (`NAME_MAX`, `MFD_NAME_PREFIX` of mm/memfd.c).
const MAX_NAME: usize = 255;
const MEMFD: &[u8] = b"memfd:";
/// Clones under way; beyond that flags are told as 0.
const MAX_CLONES: usize = 16 * 1024;

/// Members of `struct nsproxy` (include/linux/nsproxy.h), and what /proc/PID/ns calls them.
const NAMESPACES: [(&str, &str); 7] = [
    ("uts_ns", "uts"),
    ("ipc_ns", "ipc"),
    ("mnt_ns", "mnt"),
    ("pid_ns_for_children", "pid"),
    ("net_ns", "net"),
    ("time_ns_for_children", "time"),
    ("cgroup_ns", "cgroup"),
];

/// Offsets that only these hooks need, bytes.
struct Offsets {
    clone_flags: u64,
    clone_fn: u64,
    ptrace: u64,
    si_code: u64,
    user_ns: u64,
    signal_flags: u64,
    namespaces: Vec<(u64, &'static str)>,
}

/// What these hooks keep.
#[derive(Default)]
pub struct Tasks {
    offsets: Option<Offsets>,
    /// By the address of the cloning task: what it asked of clone.
    clones: Mutex<HashMap<u64, u64>>,
}

impl Offsets {
    fn resolve(types: &Types) -> Result<Self, TypeError> {
        let of = |strukt: &str, member: &str| types.offset(strukt, member);
        Ok(Self {
            clone_flags: of("kernel_clone_args", "flags")?,
            clone_fn: of("kernel_clone_args", "fn").or_else(|_| of("kernel_clone_args", "stack"))?,
            ptrace: of("task_struct", "ptrace")?,
            si_code: of("kernel_siginfo", "si_code")?,
            user_ns: of("cred", "user_ns")?,
            signal_flags: of("signal_struct", "flags")?,
            // Time namespaces are younger than the others: what a kernel lacks is not told.
            namespaces: NAMESPACES.iter().filter_map(|(m, n)| Some((of("nsproxy", m).ok()?, *n))).collect(),
        })
    }
}

impl Tasks {
    /// What these types lack goes to `missing`.
    pub fn resolve(types: &Types, missing: &mut Missing) -> Self {
        Self { offsets: missing.unless("hooks on tasks", Offsets::resolve(types)), ..Self::default() }
    }

    /// What the task at this address asks of clone; 0 if the kernel itself makes the new one.
    pub fn clone_flags(&self, task: u64) -> u64 {
        self.clones.lock().ok().and_then(|clones| clones.get(&task).copied()).unwrap_or(0)
    }

    /// The guest was reset.
    pub fn clear(&self) {
        if let Ok(mut clones) = self.clones.lock() {
            clones.clear();
        }
    }
}

/// `kernel_clone(args)`: fork, vfork, clone, clone3 and the kernel's own threads.
pub fn clone(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let Some(offsets) = &context.tap.tasks.offsets else { return Ok(None) };
    let (memory, arguments) = (context.memory(), context.argument(0)?);
    if memory.u64(arguments.wrapping_add(offsets.clone_fn))? != 0 {
        return Ok(None);
    }
    let flags = memory.u64(arguments.wrapping_add(offsets.clone_flags))?;
    let task = context.current_address()?;
    if let Ok(mut clones) = context.tap.tasks.clones.lock()
        && clones.len() < MAX_CLONES
    {
        clones.insert(task, flags);
    }
    Ok(Some(Box::new(move |context, _| {
        if let Ok(mut clones) = context.tap.tasks.clones.lock() {
            clones.remove(&task);
        }
        Ok(())
    })))
}

/// True if the group as a whole was ended (exit_group, or a signal): `SIGNAL_GROUP_EXIT`, include/linux/sched/signal.h.
pub fn group_exit(context: &Context<'_>, signal: u64) -> Option<bool> {
    const GROUP_EXIT: u32 = 4;
    let offsets = context.tap.tasks.offsets.as_ref()?;
    Some(context.memory().u32(signal.wrapping_add(offsets.signal_flags)).ok()? & GROUP_EXIT != 0)
}

/// `__ptrace_link(child, new_parent, ptracer_cred)`: the tracer has its tracee.
pub fn ptrace(context: &Context<'_>) -> Result<(), Unreadable> {
    let Some(offsets) = &context.tap.tasks.offsets else { return Ok(()) };
    let (child, tracer, acting) = (context.argument(0)?, context.argument(1)?, context.current_address()?);
    let request = if child == acting {
        "traceme"
    } else if tracer != acting {
        // A new process is handed to the tracer of its parent.
        return Ok(());
    } else if context.memory().u32(child.wrapping_add(offsets.ptrace))? & SEIZED != 0 {
        "seize"
    } else {
        "attach"
    };
    let target = context.process_ref(child)?;
    context.emit_with_registers(Kind::ProcessPtrace { target, request: request.into() })
}

/// `do_send_sig_info(sig, info, p, type)`: every signal to a task passes here, behind the check of rights.
pub fn signal(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let Some(offsets) = &context.tap.tasks.offsets else { return Ok(None) };
    let info = context.argument(1)?;
    if info <= SEND_SIG_PRIV {
        return Ok(None);
    }
    // A positive code is the kernel's (`SI_FROMUSER`, include/uapi/asm-generic/siginfo.h).
    let code = context.memory().u32(info.wrapping_add(offsets.si_code))? as i32;
    let signal = context.argument(0)? as u32;
    if code > 0 || code == MESSAGE_QUEUE || signal == 0 {
        return Ok(None);
    }
    let target = context.process_ref(context.argument(2)?)?;
    let kind = Kind::ProcessSignal { target, signal };
    Ok(Some(Box::new(move |context, result| if result.succeeded() { context.emit(kind) } else { Ok(()) })))
}

/// `switch_task_namespaces(p, new)`: unshare and setns; at exit there is no new one.
pub fn namespaces(context: &Context<'_>) -> Result<(), Unreadable> {
    let (task, new) = (context.argument(0)?, context.argument(1)?);
    if new == 0 || task != context.current_address()? {
        return Ok(());
    }
    let old = context.memory().pointer(task.wrapping_add(context.layout().task.nsproxy))?;
    let changed = changed(context, old, new);
    if changed.is_empty() { Ok(()) } else { context.emit(Kind::ProcessNamespaces { changed }) }
}

/// Which namespaces differ between two `struct nsproxy`.
fn changed(context: &Context<'_>, old: u64, new: u64) -> Vec<String> {
    let memory = context.memory();
    let of = |nsproxy: u64, offset: u64| memory.u64(nsproxy.wrapping_add(offset)).ok();
    let all = context.tap.tasks.offsets.iter().flat_map(|offsets| &offsets.namespaces);
    all.filter(|(offset, _)| of(old, *offset) != of(new, *offset)).map(|(_, name)| (*name).to_owned()).collect()
}

/// The namespaces a new process does not share with its parent, told as its own.
pub fn cloned_namespaces(context: &Context<'_>, parent: u64, child: &linux::Task) -> Result<(), Unreadable> {
    let (memory, layout) = (context.memory(), context.layout());
    let of = |task: u64| memory.u64(task.wrapping_add(layout.task.nsproxy));
    let (old, new) = (of(parent)?, of(child.address)?);
    let mut changed = if old == new || old == 0 || new == 0 { Vec::new() } else { changed(context, old, new) };
    let cred = |task: u64| memory.pointer(task.wrapping_add(layout.task.cred));
    if user_namespace_changes(context, cred(parent)?, cred(child.address)?)? {
        changed.push("user".to_owned());
    }
    if !changed.is_empty() {
        let process = context.process(child);
        context.tap.emitter.emit(context.vcpu, Some(process), Kind::ProcessNamespaces { changed });
    }
    Ok(())
}

/// True if two `struct cred` are of different user namespaces.
pub fn user_namespace_changes(context: &Context<'_>, old: u64, new: u64) -> Result<bool, Unreadable> {
    let Some(offsets) = &context.tap.tasks.offsets else { return Ok(false) };
    let of = |cred: u64| context.memory().u64(cred.wrapping_add(offsets.user_ns));
    Ok(old != new && of(old)? != of(new)?)
}

/// `set_fs_root(fs, path)`: chroot, and entering another mount namespace.
pub fn chroot(context: &Context<'_>) -> Result<(), Unreadable> {
    let (memory, layout) = (context.memory(), context.layout());
    let old = context.argument(0)?.wrapping_add(layout.fs.root);
    root(context, old, context.argument(1)?, &memory)
}

/// `chroot_fs_refs(old_root, new_root)`: pivot_root, for all that had the old one.
pub fn pivot(context: &Context<'_>) -> Result<(), Unreadable> {
    root(context, context.argument(0)?, context.argument(1)?, &context.memory())
}

fn root(context: &Context<'_>, old: u64, new: u64, memory: &dyn Virtual) -> Result<(), Unreadable> {
    let place = |path: u64| -> Result<(u64, u64), Unreadable> {
        let l = &context.layout().path;
        Ok((memory.u64(path.wrapping_add(l.mnt))?, memory.u64(path.wrapping_add(l.dentry))?))
    };
    if place(old)? == place(new)? {
        return Ok(());
    }
    let path = linux::path_of(memory, context.layout(), new).bytes.into();
    context.emit(Kind::ProcessChroot { path })
}

/// `__set_task_comm(tsk, buf, exec)`: prctl, /proc/PID/comm, exec and kernel threads.
pub fn name(context: &Context<'_>) -> Result<(), Unreadable> {
    // `bool`: the low byte counts.
    if context.argument(2)? & 0xff != 0 {
        return Ok(());
    }
    let task = linux::read_task(&context.memory(), context.layout(), context.argument(0)?)?;
    if task.mm == 0 {
        return Ok(());
    }
    let new = context.memory().read_cstr(context.argument(1)?, COMM - 1).bytes;
    if new != task.comm {
        let kind = Kind::ProcessName { old: task.comm.clone().into(), new: new.into() };
        context.tap.emitter.emit(context.vcpu, Some(context.process(&task)), kind);
    }
    Ok(())
}

/// `shmem_file_setup(name, ..)` and `hugetlb_file_setup(name, ..)`: return the file that memfd_create makes.
pub fn memfd(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let name = context.memory().read_cstr(context.argument(0)?, MAX_NAME + MEMFD.len()).bytes;
    let Some(name) = name.strip_prefix(MEMFD) else { return Ok(None) };
    let name = name.to_vec();
    Ok(Some(Box::new(move |context, result| {
        let Some(file) = result.pointer() else { return Ok(()) };
        let (_, file) = context.file(file)?;
        context.emit(Kind::ProcessMemfd { name: name.into(), file })
    })))
}
