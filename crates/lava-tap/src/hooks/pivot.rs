//! Signs of a hijacked control flow, looked for at the system calls that an exploit needs: executing a program, making memory
//! executable, memfd, connect, ptrace.
//!
//! The stack pointer in the heap, in a file's mapping or in executable memory that no file backs is no stack that a program is
//! given (stack pivot). A system call instruction, or the place that its wrapper returns to, in memory that is not executable or
//! that no file backs is no code of a program (return to data).
//!
//! Limits: stacks of threads, goroutines and fibres are anonymous mappings, so a pivot into such a mapping is not told from them.
//! An alternate signal stack is excepted. The return address is looked at only where it is known to be at the stack pointer: the
//! instructions behind the system call are a `ret`, or libc's test for an error and a `ret`. Each process is told of once per call.

use std::collections::HashSet;
use std::sync::Mutex;

use lava_event::Kind;
use lava_guest::linux::Task;
use lava_guest::linux::regs::{self, UserRegisters};
use lava_guest::linux::vma::{VM_EXEC, Vma};
use lava_guest::memory::{Unreadable, Virtual};

use crate::areas::{Areas, Backing};
use crate::introspect::Context;
use crate::registers::Register;

/// `PROT_EXEC` (include/uapi/asm-generic/mman-common.h)
const PROT_EXEC: u64 = 4;
/// Findings remembered; beyond that they are told again.
const MAX_TOLD: usize = 4096;

/// What was told already: process, call, and whether it was the stack.
#[derive(Default)]
pub struct Pivots(Mutex<HashSet<(u32, u64, &'static str, bool)>>);

impl Pivots {
    fn first(&self, task: &Task, call: &'static str, stack: bool) -> bool {
        let Ok(mut told) = self.0.lock() else { return false };
        if told.len() >= MAX_TOLD {
            told.clear();
        }
        told.insert((task.tgid, task.process_start(), call, stack))
    }
}

/// At the entry of a system call whose third argument are a mapping's rights: only if they allow to execute.
pub fn check_protecting(context: &Context<'_>, call: &'static str) -> Result<(), Unreadable> {
    let Some(areas) = &context.tap.areas else { return Ok(()) };
    // The third argument of both ABIs.
    let rights = context.memory().u64(context.register(Register::Rdi).wrapping_add(areas.regs.dx))?;
    if rights & PROT_EXEC == 0 { Ok(()) } else { check(context, call) }
}

/// At the entry of a system call's function, whose argument is the `struct pt_regs` of the caller.
pub fn check(context: &Context<'_>, call: &'static str) -> Result<(), Unreadable> {
    let Some(areas) = &context.tap.areas else { return Ok(()) };
    let memory = context.memory();
    let user = regs::read_registers(&memory, &areas.regs, context.register(Register::Rdi))?;
    let task = context.current()?;
    if !user.is_user() || task.mm == 0 {
        return Ok(());
    }
    if let Some(vma) = pivoted(context, areas, &task, &user)
        && context.tap.pivots.first(&task, call, true)
    {
        let region = areas.name(context, task.mm, &vma);
        context.emit_with_registers(Kind::MemoryStackPivot {
            rsp: user.sp,
            rip: user.ip,
            region,
            call: call.into(),
        })?;
    }
    let back = if returns_at_once(&memory, user.ip) { memory.u64(user.sp).ok() } else { None };
    for address in [Some(user.ip), back].into_iter().flatten() {
        let vma = areas.find(&memory, task.mm, address);
        if vma.is_some_and(|vma| is_code(context, areas, &vma)) {
            continue;
        }
        if context.tap.pivots.first(&task, call, false) {
            let region = vma.map_or("[nothing]".into(), |vma| areas.name(context, task.mm, &vma));
            context.emit_with_registers(Kind::MemoryReturnToData { address, region, call: call.into() })?;
        }
        break;
    }
    Ok(())
}

/// The mapping that the stack pointer is in, if that is no stack.
fn pivoted(context: &Context<'_>, areas: &Areas, task: &Task, user: &UserRegisters) -> Option<Vma> {
    let memory = context.memory();
    let vma = areas.find(&memory, task.mm, user.sp)?;
    if areas.is_stack(&memory, task.mm, &vma) || areas.on_alternate_stack(&memory, task.address, user.sp) {
        return None;
    }
    let strange = vma.file != 0 && backing(context, areas, &vma) == Backing::File
        || areas.is_heap(&memory, task.mm, &vma)
        || vma.flags & VM_EXEC != 0;
    strange.then_some(vma)
}

fn backing(context: &Context<'_>, areas: &Areas, vma: &Vma) -> Backing {
    areas.backing(&context.memory(), context.layout().file.f_inode, context.slide, vma)
}

/// Whether `vma` holds a program's code.
fn is_code(context: &Context<'_>, areas: &Areas, vma: &Vma) -> bool {
    vma.flags & VM_EXEC != 0 && (vma.file != 0 || backing(context, areas, vma) == Backing::Kernel)
}

/// Whether the instructions behind a system call return to the address at the stack pointer.
fn returns_at_once(memory: &dyn Virtual, ip: u64) -> bool {
    let mut code = [0; 9];
    memory.read(ip, &mut code).is_ok() && is_return(&code)
}

fn is_return(code: &[u8; 9]) -> bool {
    match *code {
        // ret
        [0xc3, ..] => true,
        // cmp $-4095 (or -4096), %rax; jae (or ja) to the error's code; ret
        [0x48, 0x3d, 0x00 | 0x01, 0xf0, 0xff, 0xff, 0x73 | 0x77, _, ret] => ret == 0xc3,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers() {
        assert!(is_return(&[0xc3, 0, 0, 0, 0, 0, 0, 0, 0]));
        // glibc 2.36, mprotect
        assert!(is_return(&[0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0x73, 0x01, 0xc3]));
        // glibc 2.36, connect: the frame is still there
        assert!(!is_return(&[0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77, 0x51, 0x48]));
    }
}
