//! How the acting task came where it is.
//!
//! In the kernel: every word of the kernel stack, from the stack pointer up, that is an address of code behind a call
//! instruction. In the program: where it is, then the chain of frame pointers if the program keeps one, else the same scan of the
//! user stack.
//!
//! Limits: 16 addresses each; 16 KiB of kernel stack, 4 KiB of user stack. A scan cannot tell a frame that is live from one that
//! has been left: a stale one may stand among them. What is paged out is left out.

use lava_event::{Backtrace, Frame, GuestText};
use lava_guest::linux::Task;
use lava_guest::linux::regs::THREAD_SIZE;
use lava_guest::linux::vma::{VM_EXEC, Vma};
use lava_guest::memory::Virtual;

use crate::areas::{Areas, USER_END};
use crate::introspect::Context;
use crate::registers::Register;

/// Addresses kept of each stack.
const MAX_FRAMES: usize = 16;
/// Words of the user stack that are looked at.
const USER_WORDS: usize = 512;
/// Bytes of a call instruction at most (`call` through memory with SIB and 32-bit displacement, REX prefix).
const LONGEST_CALL: u64 = 8;
/// Where modules are loaded (`MODULES_VADDR`, `MODULES_END`; Documentation/arch/x86/x86_64/mm.rst).
const MODULES: std::ops::Range<u64> = 0xffff_ffff_a000_0000..0xffff_ffff_ff00_0000;

/// The backtrace of `task`, which runs on this vCPU; None if there is nothing to tell.
pub fn of(context: &Context<'_>, task: &Task) -> Option<Backtrace> {
    let in_user = context.register(Register::Cs) & 3 == 3;
    let kernel = if in_user { Vec::new() } else { kernel(context, task) };
    let user = context.tap.areas.as_ref().map(|areas| user(context, areas, task, in_user)).unwrap_or_default();
    (!kernel.is_empty() || !user.is_empty()).then_some(Backtrace { kernel, user })
}

fn kernel(context: &Context<'_>, task: &Task) -> Vec<Frame> {
    let (memory, rsp) = (context.memory(), context.register(Register::Rsp));
    let base =
        context.tap.areas.as_ref().and_then(|areas| memory.u64(task.address.wrapping_add(areas.regs.stack)).ok());
    // Up to the end of the task's stack; on another (of interrupts), as far as it can be read.
    let left = base.map(|base| base.wrapping_add(THREAD_SIZE).wrapping_sub(rsp)).filter(|&left| left <= THREAD_SIZE);
    let stack = memory.read_vec(rsp, left.unwrap_or(THREAD_SIZE), THREAD_SIZE as usize);
    let mut frames = vec![Frame {
        address: context.register(Register::Rip),
        place: kernel_place(context, context.register(Register::Rip)),
    }];
    for address in words(&stack) {
        if frames.len() >= MAX_FRAMES {
            break;
        }
        let link = address.wrapping_sub(context.slide);
        if (context.tap.is_text(link) || MODULES.contains(&address)) && behind_call(&memory, address) {
            frames.push(Frame { address, place: kernel_place(context, address) });
        }
    }
    frames
}

/// `symbol+0x12`; for a module's code, `[module]` and the address.
fn kernel_place(context: &Context<'_>, address: u64) -> GuestText {
    let link = address.wrapping_sub(context.slide);
    match context.tap.kernel.symbols.lookup(link) {
        Some((symbol, into)) if context.tap.is_text(link) => format!("{symbol}+{into:#x}").as_str().into(),
        _ => format!("[module] {address:#x}").as_str().into(),
    }
}

/// Looks mappings up, and remembers those it saw.
struct Known<'a> {
    context: &'a Context<'a>,
    areas: &'a Areas,
    mm: u64,
    seen: Vec<Vma>,
}

impl Known<'_> {
    fn find(&mut self, address: u64) -> Option<Vma> {
        if !(0x1000..USER_END).contains(&address) {
            return None;
        }
        if let Some(vma) = self.seen.iter().find(|vma| vma.holds(address)) {
            return Some(*vma);
        }
        let vma = self.areas.find(&self.context.memory(), self.mm, address)?;
        self.seen.push(vma);
        Some(vma)
    }

    /// The frame, if `address` is code behind a call.
    fn frame(&mut self, address: u64) -> Option<Frame> {
        let vma = self.find(address).filter(|vma| vma.flags & VM_EXEC != 0)?;
        behind_call(&self.context.memory(), address).then(|| self.told(&vma, address))
    }

    fn told(&self, vma: &Vma, address: u64) -> Frame {
        Frame { address, place: self.areas.place(self.context, self.mm, vma, address) }
    }
}

fn user(context: &Context<'_>, areas: &Areas, task: &Task, in_user: bool) -> Vec<Frame> {
    let memory = context.memory();
    let (ip, sp, bp, compat) = if in_user {
        let read = |register| context.register(register);
        (read(Register::Rip), read(Register::Rsp), read(Register::Rbp), read(Register::Cs) == USER32_CS)
    } else {
        match areas.user_registers(&memory, task.address) {
            Ok(saved) => (saved.ip, saved.sp, saved.bp, saved.cs == USER32_CS),
            Err(_) => return Vec::new(),
        }
    };
    let mut known = Known { context, areas, mm: task.mm, seen: Vec::new() };
    let here = match known.find(ip) {
        Some(vma) => known.told(&vma, ip),
        None => Frame { address: ip, place: "[nothing]".into() },
    };
    let mut frames = vec![here];
    let stack = known.find(sp);
    let chain = stack.filter(|_| !compat).map(|stack| chain(&mut known, &stack, sp, bp)).unwrap_or_default();
    if chain.len() > 1 {
        frames.extend(chain);
    } else {
        let bytes = memory.read_vec(sp, (USER_WORDS * 8) as u64, USER_WORDS * 8);
        let found: Vec<u64> = if compat { halves(&bytes).take(USER_WORDS).collect() } else { words(&bytes).collect() };
        frames.extend(found.into_iter().filter_map(|address| known.frame(address)).take(MAX_FRAMES - 1));
    }
    frames
}

/// `__USER32_CS` (arch/x86/include/asm/segment.h): a 32-bit program.
const USER32_CS: u64 = 0x23;

/// The return addresses that frame pointers lead to; they rise, and stay in the stack.
fn chain(known: &mut Known<'_>, stack: &Vma, sp: u64, mut bp: u64) -> Vec<Frame> {
    let (memory, mut frames, mut above) = (known.context.memory(), Vec::new(), sp);
    while frames.len() < MAX_FRAMES - 1 && bp >= above && bp.is_multiple_of(8) && stack.holds(bp.wrapping_add(15)) {
        let (Ok(next), Ok(back)) = (memory.u64(bp), memory.u64(bp.wrapping_add(8))) else { break };
        let Some(frame) = known.frame(back) else { break };
        frames.push(frame);
        (above, bp) = (bp.wrapping_add(16), next);
    }
    frames
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|word| word.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(4).map(|word| word.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// Whether the instruction before `address` is a call.
pub fn behind_call(memory: &dyn Virtual, address: u64) -> bool {
    let mut code = [0; LONGEST_CALL as usize];
    memory.read(address.wrapping_sub(LONGEST_CALL), &mut code).is_ok() && ends_in_call(&code)
}

/// `call rel32` (e8), or `call r/m` (ff /2) of any length (Intel SDM vol. 2, CALL; ModR/M, table 2-2).
fn ends_in_call(code: &[u8; LONGEST_CALL as usize]) -> bool {
    if code[3] == 0xe8 {
        return true;
    }
    (2..=7).any(|length| {
        let at = code.len() - length;
        let (opcode, modrm) = (code[at], code[at + 1]);
        let (mode, register, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
        let sib = mode != 3 && rm == 4;
        let displacement = match mode {
            1 => 1,
            2 => 4,
            0 if rm == 5 || (sib && code.get(at + 2).is_some_and(|sib| sib & 7 == 5)) => 4,
            _ => 0,
        };
        opcode == 0xff && register == 2 && length == 2 + usize::from(sib) + displacement
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        let ends = |tail: &[u8]| {
            let mut code = [0x90; 8];
            code[8 - tail.len()..].copy_from_slice(tail);
            ends_in_call(&code)
        };
        for call in [
            &[0xe8, 1, 2, 3, 4][..],
            &[0xff, 0xd0],
            &[0x41, 0xff, 0xd4],
            &[0xff, 0x15, 1, 2, 3, 4],
            &[0xff, 0x50, 8],
            &[0xff, 0x54, 0x24, 8],
            &[0xff, 0x14, 0xc5, 1, 2, 3, 4],
            &[0xff, 0x94, 0x24, 1, 2, 3, 4],
        ] {
            assert!(ends(call), "{call:02x?}");
        }
        for other in [&[0xff, 0xe0][..], &[0xe9, 1, 2, 3, 4], &[0x90], &[0xff, 0x50, 8, 0x90]] {
            assert!(!ends(other), "{other:02x?}");
        }
    }

    #[test]
    fn stack_words() {
        assert_eq!(words(&[1, 0, 0, 0, 0, 0, 0, 0x80, 9]).collect::<Vec<_>>(), [0x8000_0000_0000_0001]);
        assert_eq!(halves(&[1, 2, 3, 4, 5]).collect::<Vec<_>>(), [0x0403_0201]);
    }
}
