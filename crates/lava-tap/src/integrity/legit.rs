//! The kernel patching its own code: static keys, static calls, ftrace, kprobes.
//!
//! All of it goes through `__text_poke` (arch/x86/kernel/alternative.c), which maps the place into a temporary address space and copies
//! there. A write is the kernel's own if it comes from that copy, to the place that `__text_poke` was called for, AND the kernel has
//! that place in its tables of what it patches. `text_poke` called by a module, or for another place, is none.
//!
//! Limits: a module that calls `static_branch_enable` or registers a kprobe patches by the kernel's own means; the latter is told as
//! `kernel.function_hooked`, as is ftrace's redirection of a function. Kprobes made before the watch was armed are not known.

use std::collections::BTreeSet;
use std::sync::Mutex;

use lava_event::Kind;
use lava_guest::memory::{Unreadable, Virtual};
use lava_guest::patchable;

use super::watch::Area;
use crate::introspect::Context;
use crate::registers::Register;

/// Who copies for `__text_poke`: `text_poke_memcpy`, `text_poke_memset`, or what they call (arch/x86/lib/memcpy_64.S).
const WRITERS: &[&str] = &[
    "text_poke_memcpy",
    "text_poke_memset",
    "__text_poke",
    "memcpy",
    "__memcpy",
    "memcpy_orig",
    "memcpy_erms",
    "memset",
    "__memset",
    "memset_orig",
    "memset_erms",
];
/// `__text_poke` and what it calls use less stack than this.
const NEAR: u64 = 1024;
/// As [`NEAR`], for `text_poke_bp` and its like, which work through batches.
const CALL_NEAR: u64 = 4096;
/// Kprobes remembered.
const MAX_PROBES: usize = 4096;
/// `int3`, `call rel32`, and the first byte of the 5-byte NOP (arch/x86/include/asm/nops.h).
const BREAKPOINT: u8 = 0xcc;
const CALL: u8 = 0xe8;
const NOP: u8 = 0x0f;

/// `__text_poke` under way.
#[derive(Clone, Copy)]
struct Poke {
    address: u64,
    length: u64,
    rsp: u64,
    /// Somebody outside of the kernel's image called for it.
    foreign: bool,
}

/// What is known of patching.
#[derive(Default)]
pub struct Pokes {
    /// By vCPU.
    under_way: Mutex<Vec<Option<Poke>>>,
    /// Stack pointer of the last call from outside of the kernel's image.
    foreign: Mutex<Option<u64>>,
    /// Addresses of kprobes.
    probes: Mutex<BTreeSet<u64>>,
}

/// What a write to immutable memory is.
pub enum Verdict {
    /// The kernel's own patching.
    Silent,
    /// The kernel's own means, used to redirect a function.
    Hooked(Box<Kind>),
    /// Anything else.
    Attack,
}

fn below(rsp: u64, of: u64, near: u64) -> bool {
    of.checked_sub(rsp).is_some_and(|distance| distance < near)
}

/// Whether the place is a static call's trampoline, of the kernel or of a module.
fn in_trampoline(context: &Context<'_>, address: u64, length: u64) -> bool {
    const BEFORE: u64 = patchable::LONGEST;
    let mut code = [0; 16];
    let read = context.memory().read(address.wrapping_sub(BEFORE), &mut code);
    read.is_ok() && patchable::in_trampoline(&code, BEFORE as usize, length as usize)
}

impl Pokes {
    pub fn clear(&self) {
        if let (Ok(mut list), Ok(mut foreign), Ok(mut probes)) =
            (self.under_way.lock(), self.foreign.lock(), self.probes.lock())
        {
            list.clear();
            *foreign = None;
            probes.clear();
        }
    }

    /// `text_poke`, `text_poke_bp` and their like were entered: who called?
    pub fn called(&self, context: &Context<'_>) -> Result<(), Unreadable> {
        let rsp = context.register(Register::Rsp);
        let caller = context.memory().u64(rsp)?.wrapping_sub(context.slide);
        let kernel = context.tap.kernel.symbols.lookup(caller).is_some();
        let Ok(mut foreign) = self.foreign.lock() else { return Ok(()) };
        if !kernel {
            *foreign = Some(rsp);
        } else if foreign.is_some_and(|outer| !below(rsp, outer, CALL_NEAR)) {
            *foreign = None;
        }
        Ok(())
    }

    /// `__text_poke(func, addr, src, len)` was entered.
    pub fn poke(&self, context: &Context<'_>, address: u64, length: u64) {
        let rsp = context.register(Register::Rsp);
        let foreign = self.foreign.lock().is_ok_and(|outer| outer.is_some_and(|outer| below(rsp, outer, CALL_NEAR)));
        let Ok(mut list) = self.under_way.lock() else { return };
        let index = context.vcpu as usize;
        if list.len() <= index {
            list.resize(index + 1, None);
        }
        list[index] = Some(Poke { address, length, rsp, foreign });
    }

    /// A kprobe is about to be set at `address`. False if it was known.
    pub fn probe(&self, address: u64) -> bool {
        self.probes.lock().is_ok_and(|mut probes| probes.len() < MAX_PROBES && probes.insert(address))
    }

    fn probed(&self, address: u64, length: u64) -> bool {
        let Ok(probes) = self.probes.lock() else { return false };
        let site = probes.range(..=address).next_back().copied();
        site.is_some_and(|site| address.saturating_add(length) <= site.saturating_add(patchable::LONGEST))
    }

    /// Whether the store at `rip` to `address` is `__text_poke`'s.
    fn by_the_kernel(&self, context: &Context<'_>, rip: u64, address: u64, length: u64) -> bool {
        let poke = self.under_way.lock().ok().and_then(|list| list.get(context.vcpu as usize).copied().flatten());
        let Some(poke) = poke.filter(|poke| !poke.foreign) else { return false };
        let within = poke.address <= address
            && address.saturating_add(length) <= poke.address.saturating_add(poke.length)
            && below(context.register(Register::Rsp), poke.rsp, NEAR);
        let symbol = context.tap.kernel.symbols.lookup(rip.wrapping_sub(context.slide));
        within && symbol.is_some_and(|(name, _)| WRITERS.contains(&name))
    }

    /// What the change of `length` bytes at `address` by the store at `rip` is.
    pub fn judge(&self, context: &Context<'_>, rip: u64, area: Area, address: u64, length: u64) -> Verdict {
        if !matches!(area, Area::Text | Area::ModuleText) || !self.by_the_kernel(context, rip, address, length) {
            return Verdict::Attack;
        }
        let (integrity, slide) = (&context.tap.integrity, context.slide);
        let (label, entry) = match area {
            Area::Text => {
                let link = address.wrapping_sub(slide);
                let sites = &integrity.sites;
                (sites.label(link, length).is_some(), sites.entry(link, length).map(|entry| entry.wrapping_add(slide)))
            }
            _ => integrity.modules.site(context, address, length).unwrap_or((false, None)),
        };
        if label || self.probed(address, length) || in_trampoline(context, address, length) {
            return Verdict::Silent;
        }
        let Some(entry) = entry else { return Verdict::Attack };
        // Breakpoint first, then the rest, then the first byte: only then it is known what it became.
        let mut code = [0; 5];
        if context.memory().read(entry, &mut code).is_err() {
            return Verdict::Attack;
        }
        let target = entry
            .wrapping_add(5)
            .wrapping_add(i64::from(i32::from_le_bytes([code[1], code[2], code[3], code[4]])) as u64);
        match code[0] {
            BREAKPOINT | NOP => Verdict::Silent,
            CALL if address != entry => Verdict::Silent,
            CALL => Verdict::Hooked(Box::new(Kind::KernelFunctionHooked {
                function: integrity.symbol(&context.tap.kernel, slide, entry),
                address: entry,
                target,
                target_symbol: integrity.symbol(&context.tap.kernel, slide, target),
            })),
            _ => Verdict::Attack,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes() {
        let pokes = Pokes::default();
        assert!(pokes.probe(100) && !pokes.probe(100));
        assert!(pokes.probed(100, 1) && pokes.probed(101, 4));
        assert!(!pokes.probed(101, 5) && !pokes.probed(99, 1));
        pokes.clear();
        assert!(!pokes.probed(100, 1));
    }

    #[test]
    fn stacks() {
        assert!(below(1000, 1000, 10) && below(995, 1000, 10));
        assert!(!below(1001, 1000, 10) && !below(990, 1000, 10));
    }
}
