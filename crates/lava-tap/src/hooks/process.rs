//! Processes: fork, exec, exit, credentials.
//!
//! Limits: a script that is run by its descriptor (`fexecve`, `/dev/fd/N`) is told by that name: the kernel has closed the
//! script's own file by then. A program is always known by its file, whatever name it was run by.

use lava_event::{Credentials, GuestText, Kind};
use lava_guest::linux;
use lava_guest::memory::{Unreadable, Virtual};

use super::tasks;
use crate::introspect::{Context, reference};
use crate::kill;
use crate::refuse::{self, Subject};

/// Bytes of arguments, and of environment, that are kept.
const MAX_ARGUMENTS: usize = 64 * 1024;
const MAX_ENVIRONMENT: usize = 32 * 1024;
/// Longest path (`PATH_MAX`, include/uapi/linux/limits.h).
const MAX_PATH: usize = 4096;

/// `wake_up_new_task(p)`: the new task has all that fork gave it and is about to run for the first time.
pub fn fork(context: &Context<'_>) -> Result<(), Unreadable> {
    let parent = context.current()?;
    let task = linux::read_task(&context.memory(), context.layout(), context.argument(0)?)?;
    let thread = task.pid != task.tgid;
    let child = reference(&task);
    let actor = context.process(&parent);
    let flags = context.tap.tasks.clone_flags(parent.address);
    context.tap.task.forked(&actor, &child);
    context.tap.emitter.emit(context.vcpu, Some(actor), Kind::ProcessFork { child, thread, flags });
    if thread { Ok(()) } else { tasks::cloned_namespaces(context, parent.address, &task) }
}

/// `security_bprm_committed_creds(bprm)`: the point of no return is behind; the task has its new memory, name and rights.
pub fn exec(context: &Context<'_>) -> Result<(), Unreadable> {
    let (memory, layout) = (context.memory(), context.layout());
    let bprm = context.argument(0)?;
    let field = |offset: u64| bprm.wrapping_add(offset);
    let text = |offset: u64| -> Result<GuestText, Unreadable> {
        Ok(memory.read_cstr(memory.pointer(field(offset))?, MAX_PATH).bytes.into())
    };
    let task = context.current()?;
    let key = (task.tgid, task.process_start());
    context.tap.exes.forget(key);
    let process = context.process(&task);
    let (_, file) = context.file(memory.pointer(field(layout.binprm.file))?)?;
    let (path, interp) = (text(layout.binprm.filename)?, text(layout.binprm.interp)?);
    let count = |offset: u64| memory.u32(field(offset)).map(u64::from);
    let start = memory.u64(field(layout.binprm.p))?;
    let (argv, cut_argv) = linux::arguments(&memory, start, count(layout.binprm.argc)?, MAX_ARGUMENTS);
    let environment = start.wrapping_add(argv.iter().map(|argument| argument.len() as u64 + 1).sum());
    let (envp, cut_envp) = match cut_argv {
        true => (Vec::new(), true),
        false => linux::arguments(&memory, environment, count(layout.binprm.envc)?, MAX_ENVIRONMENT),
    };
    let cwd = memory
        .pointer(task.address.wrapping_add(layout.task.fs))
        .map(|fs| linux::path_of(&memory, layout, fs.wrapping_add(layout.fs.pwd)).bytes.into())
        .unwrap_or_default();
    let interpreter = (interp != path).then_some(interp);
    let texts = |list: Vec<Vec<u8>>| list.into_iter().map(GuestText::from).collect();
    let (argv, envp) = (texts(argv), texts(envp));
    let kind = Kind::ProcessExec { path, argv, envp, truncated: cut_argv || cut_envp, cwd, file, interpreter };
    let event = context.tap.emitter.event(context.vcpu, Some(process), kind);
    refuse::submit(context, Subject::Exec, event, || kill::acting(context));
    Ok(())
}

/// `taskstats_exit(tsk, group_dead)`: called for every thread that ends; `group_dead` is set for the last one.
pub fn exit(context: &Context<'_>) -> Result<(), Unreadable> {
    if context.argument(1)? & 0xffff_ffff == 0 {
        return Ok(());
    }
    let (memory, layout) = (context.memory(), context.layout());
    let task = linux::read_task(&memory, layout, context.argument(0)?)?;
    // As wait_task_zombie (kernel/exit.c): the group's code if exit_group or a signal ended it, else that of its first
    // thread, which may be gone for long.
    let group = memory.pointer(task.address.wrapping_add(layout.task.signal)).ok().and_then(|signal| {
        let ended = tasks::group_exit(context, signal)?;
        if ended { memory.u32(signal.wrapping_add(layout.signal.group_exit_code)).ok() } else { None }
    });
    let first = || {
        let leader = memory.pointer(task.address.wrapping_add(layout.task.group_leader))?;
        memory.u32(leader.wrapping_add(layout.task.exit_code))
    };
    let status = group.or_else(|| first().ok()).unwrap_or(task.exit_code);
    let signal = status & 0x7f;
    let kind = match signal {
        0 => Kind::ProcessExit { code: Some(status >> 8 & 0xff), signal: None },
        signal => Kind::ProcessExit { code: None, signal: Some(signal) },
    };
    let process = context.process(&task);
    context.tap.exes.forget((process.pid, process.start_ns));
    context.tap.task.ended(&process);
    context.tap.emitter.emit(context.vcpu, Some(process), kind);
    Ok(())
}

/// `commit_creds(new)`: told only if something changes.
pub fn credentials(context: &Context<'_>) -> Result<(), Unreadable> {
    let task = context.current()?;
    let Some(old) = task.credentials.as_ref().map(convert) else { return Err(Unreadable { address: task.address }) };
    let new = convert(&linux::read_credentials(&context.memory(), context.layout(), context.argument(0)?)?);
    if old != new {
        // Within an exec the program is the new one already, but its path is not yet known: read it afresh.
        let process = lava_event::Process { exe: context.exe(&task), ..context.process(&task) };
        context.tap.emitter.emit(context.vcpu, Some(process), Kind::ProcessCredentials { old, new });
    }
    let before = context.memory().pointer(task.address.wrapping_add(context.layout().task.cred))?;
    if tasks::user_namespace_changes(context, before, context.argument(0)?)? {
        context.emit(Kind::ProcessNamespaces { changed: vec!["user".to_owned()] })?;
    }
    Ok(())
}

fn convert(from: &linux::Credentials) -> Credentials {
    Credentials {
        uid: from.uid,
        gid: from.gid,
        euid: from.euid,
        egid: from.egid,
        suid: from.suid,
        sgid: from.sgid,
        permitted: from.cap_permitted,
        effective: from.cap_effective,
    }
}
