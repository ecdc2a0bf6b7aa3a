//! What is done about a write to immutable memory.
//!
//! The policy is asked once per write, and at most [`ASKS`] times a second; beyond that its last answer holds. Unless the last answer was
//! to allow, the old bytes are put back BEFORE it is asked, so that no other vCPU runs on the new ones meanwhile; if it then allows,
//! the new ones are put back. A copy by one instruction (`rep movs`) is asked about once, with all its bytes.
//!
//! Limits: between the store and its undoing another vCPU can run the new code for some microseconds. A kernel thread, and the first
//! process, can't be killed. Undoing what `text_poke` copied makes the kernel's own check behind the copy fail (`BUG_ON` in
//! `__text_poke`): the caller dies there, with the kernel's `text_mutex` held. What devices write is decided by the last answer.

use std::sync::Mutex;

use lava_event::{Action, Event, GuestText, ImmutableArea, Kind, Writer};
use lava_guest::memory::{Unreadable, Virtual};

use super::legit::Verdict;
use super::watch::{self, Area, Change, PAGE, SHOWN};
use super::{START_KERNEL_MAP, fault};
use crate::api;
use crate::introspect::Context;
use crate::kill;
use crate::registers::Register;
use crate::tap::Tap;

/// Questions in a second.
const ASKS: u32 = 32;
/// CR0.PG (Intel SDM vol. 3, 2.5).
const PAGING: u64 = 1 << 31;

/// A copying instruction that was asked about: what it has still to write, and what holds for it.
#[derive(Clone, Copy)]
struct Copying {
    rip: u64,
    start: u64,
    end: u64,
    action: Action,
}

#[derive(Default)]
struct State {
    second: u64,
    asked: u32,
    last: Option<Action>,
    copying: Option<Copying>,
}

/// How often was asked, and what was answered.
#[derive(Default)]
pub struct Pace(Mutex<State>);

impl Pace {
    fn last(&self) -> Option<Action> {
        self.0.lock().ok()?.last
    }

    /// What holds for a store that continues a copy that was asked about. A copy goes upwards, so that the same instruction at the same
    /// place again is a new one.
    fn copying(&self, rip: u64, address: u64, length: u64) -> Option<Action> {
        let mut state = self.0.lock().ok()?;
        let copying = state.copying.as_mut().filter(|c| c.rip == rip && (c.start..c.end).contains(&address))?;
        copying.start = address.saturating_add(length);
        Some(copying.action)
    }

    /// True if the policy may be asked once more.
    fn may_ask(&self, now_ns: u64) -> bool {
        let Ok(mut state) = self.0.lock() else { return false };
        let second = now_ns / 1_000_000_000;
        if state.second != second {
            (state.second, state.asked) = (second, 0);
        }
        state.asked += 1;
        state.asked <= ASKS
    }

    fn answered(&self, action: Action, copying: Option<(u64, u64, u64)>) {
        if let Ok(mut state) = self.0.lock() {
            state.last = Some(action);
            state.copying = copying.map(|(rip, start, end)| Copying { rip, start, end, action });
        }
    }
}

fn hex(bytes: &[u8]) -> GuestText {
    let digits: String = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    digits.into_bytes().into()
}

/// A vCPU stored there.
pub fn by_cpu(context: &Context<'_>, changes: Vec<Change>) {
    // A processor without paging runs no kernel: the machine starts anew.
    if context.register(Register::Cr0) & PAGING == 0 {
        return context.tap.forget_kernel();
    }
    let rip = context.tap.integrity.rip(context.vcpu);
    for change in changes {
        if let Err(unreadable) = one(context, rip, &change) {
            context.tap.told(context, "a write to immutable memory", Err(unreadable));
        }
    }
}

fn one(context: &Context<'_>, rip: u64, change: &Change) -> Result<(), Unreadable> {
    let (tap, integrity) = (context.tap, &context.tap.integrity);
    let Some((ram, gpa, area)) = place(tap, change) else { return Ok(()) };
    let address = address(tap, gpa, area).ok_or(Unreadable { address: gpa })?;
    // The module went without the kernel's own function: its memory is somebody else's now.
    if matches!(area, Area::ModuleText | Area::ModuleData) && context.memory().physical(address) != Some(gpa) {
        fault::quietly(|| integrity.pages.release(ram, gpa));
        return Ok(());
    }
    match integrity.pokes.judge(context, rip, area, address, change.after.len() as u64) {
        Verdict::Silent => Ok(()),
        Verdict::Hooked(kind) => {
            if integrity.may_tell(tap) {
                context.emit_with_registers(*kind)?;
            }
            Ok(())
        }
        Verdict::Attack => {
            attack(context, rip, change, address, gpa, area);
            Ok(())
        }
    }
}

fn attack(context: &Context<'_>, rip: u64, change: &Change, address: u64, gpa: u64, area: Area) {
    let (tap, pace) = (context.tap, &context.tap.integrity.pace);
    let length = change.after.len() as u64;
    let copied = pace.copying(rip, address, length);
    let expected = copied.or_else(|| pace.last());
    let restored = expected != Some(Action::Allow);
    if restored {
        put(tap, change.host, &change.before);
    }
    let asked = copied.is_none() && pace.may_ask(tap.emitter.now_ns());
    let action = if asked {
        let whole = copy(context, rip, change, address, restored);
        let end = address.saturating_add(whole.as_ref().map_or(0, |(_, after)| after.len() as u64));
        let (before, after) = whole.as_ref().map_or((&change.before, &change.after), |(b, a)| (b, a));
        let event = event(context, rip, kind(tap, context.slide, (address, gpa, area), before, after, Writer::Cpu));
        let action = tap.emitter.ask(context.vcpu, event);
        pace.answered(action, whole.is_some().then_some((rip, address.saturating_add(length), end)));
        action
    } else {
        let action = copied.or_else(|| pace.last()).unwrap_or(Action::Deny);
        if copied.is_none() && tap.integrity.may_tell(tap) {
            let kind = kind(tap, context.slide, (address, gpa, area), &change.before, &change.after, Writer::Cpu);
            tap.emitter.emit_event(context.vcpu, event(context, rip, kind));
        }
        action
    };
    match (action, restored) {
        (Action::Allow, true) => put(tap, change.host, &change.after),
        (Action::Deny | Action::Remediate, false) => {
            put(tap, change.host, &change.before);
        }
        _ => {}
    }
    let outcome = match action {
        Action::Allow => "the bytes stay".to_owned(),
        Action::Remediate => "the bytes were put back before the next instruction".to_owned(),
        Action::Deny => format!("the bytes were put back before the next instruction; {}", kill::acting(context)),
    };
    if asked {
        tap.emitter.settle(context.vcpu, &outcome);
    }
}

/// A device's model stored there, or another thread of QEMU's.
pub fn by_device(tap: &Tap, changes: Vec<Change>) {
    let slide = tap.placement().map_or(0, |placement| placement.slide);
    for change in changes {
        let Some((_, gpa, area)) = place(tap, &change) else { continue };
        let Some(address) = address(tap, gpa, area) else { continue };
        let undone = tap.integrity.pace.last().is_some_and(|action| action != Action::Allow);
        if undone {
            put(tap, change.host, &change.before);
        }
        if tap.integrity.may_tell(tap) {
            let kind = kind(tap, slide, (address, gpa, area), &change.before, &change.after, Writer::Device);
            tap.emitter.emit(0, None, kind);
        }
    }
}

fn place<'a>(tap: &'a Tap, change: &Change) -> Option<(&'a crate::ram::Ram, u64, Area)> {
    let ram = tap.ram()?;
    Some((ram, ram.gpa(change.host as u64)?, tap.integrity.pages.area(ram, change.host)?))
}

/// Where the kernel has what lies at a watched guest physical address.
fn address(tap: &Tap, gpa: u64, area: Area) -> Option<u64> {
    match area {
        Area::ModuleText | Area::ModuleData => {
            Some(tap.integrity.pages.module_address(gpa)?.wrapping_add(gpa & (PAGE as u64 - 1)))
        }
        _ => Some(gpa.wrapping_sub(tap.placement()?.phys_base).wrapping_add(START_KERNEL_MAP)),
    }
}

fn kind(
    tap: &Tap,
    slide: u64,
    (address, physical, area): (u64, u64, Area),
    before: &[u8],
    after: &[u8],
    by: Writer,
) -> Kind {
    let layout = tap.integrity.layout.as_ref();
    let table = layout.map_or((0, 0), |layout| layout.syscall_table);
    let in_table = (table.0..table.1).contains(&address.wrapping_sub(slide));
    Kind::KernelImmutableWrite {
        address,
        physical,
        area: if in_table { ImmutableArea::SyscallTable } else { area.told() },
        symbol: tap.integrity.symbol(&tap.kernel, slide, address),
        before: hex(before),
        after: hex(after),
        by,
    }
}

/// The event; without its process where the kernel is too damaged to say which.
pub fn event(context: &Context<'_>, rip: u64, kind: Kind) -> Event {
    let whole = context.whole(kind.clone());
    let mut event = whole.unwrap_or_else(|_| Event {
        registers: Some(Box::new(context.registers.all(context.bytes))),
        ..context.tap.emitter.event(context.vcpu, None, kind)
    });
    if let Some(place) = event.registers.as_mut().and_then(|all| all.0.get_mut(Register::Rip as usize)) {
        *place = rip;
    }
    event
}

/// Puts bytes into a watched page.
fn put(tap: &Tap, host: usize, bytes: &[u8]) {
    let page = host & !(PAGE - 1);
    fault::quietly(|| {
        let Some(ram) = tap.ram() else { return };
        // Let go of meanwhile: whatever is there now is none of ours.
        if tap.integrity.pages.area(ram, host).is_none() || host + bytes.len() > page + PAGE {
            return;
        }
        watch::protect(page, PAGE, true);
        // Through QEMU, which drops what it translated from the other bytes.
        if let Some(gpa) = ram.gpa(host as u64)
            && !api::write_physical(gpa, bytes)
            && ram.write(gpa, bytes).is_err()
        {
            eprintln!("lava-tap: cannot put {} bytes back at {gpa:#x}", bytes.len());
        }
        watch::protect(page, PAGE, false);
    });
}

/// For the first store of a copying instruction: the bytes before and after of all it is going to write in this page.
fn copy(context: &Context<'_>, rip: u64, change: &Change, address: u64, restored: bool) -> Option<(Vec<u8>, Vec<u8>)> {
    let memory = context.memory();
    let mut code = [0; 4];
    memory.read(rip, &mut code[..3]).ok()?;
    // REP prefix, maybe operand size or REX.W, then the opcode (Intel SDM vol. 2, MOVS and STOS).
    let (width, opcode) = match code {
        [0xf3, opcode @ (0xa4 | 0xaa), ..] => (1, opcode),
        [0xf3, opcode @ (0xa5 | 0xab), ..] => (4, opcode),
        [0xf3, 0x48, opcode @ (0xa5 | 0xab), ..] => (8, opcode),
        _ => return None,
    };
    // The registers are those before this iteration; this store was at (rdi).
    let count = context.register(Register::Rcx).saturating_mul(width);
    let room = PAGE as u64 - (address & (PAGE as u64 - 1));
    let length = usize::try_from(count.min(room)).ok().filter(|&length| length > change.after.len())?;
    let source = match opcode {
        0xa4 | 0xa5 => memory.read_vec(context.register(Register::Rsi), length as u64, length),
        _ => {
            let value = context.register(Register::Rax).to_le_bytes();
            value.iter().take(width as usize).copied().cycle().take(length).collect()
        }
    };
    let mut before = memory.read_vec(address, length as u64, length);
    if !restored {
        before.iter_mut().zip(&change.before).for_each(|(byte, old)| *byte = *old);
    }
    (source.len() == length && before.len() == length).then_some((before, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_counted() {
        let pace = Pace::default();
        assert!((0..ASKS).all(|_| pace.may_ask(5)));
        assert!(!pace.may_ask(6) && pace.may_ask(1_000_000_005));
        assert_eq!(pace.last(), None);
        pace.answered(Action::Remediate, Some((7, 100, 105)));
        assert_eq!(pace.last(), Some(Action::Remediate));
        assert_eq!((pace.copying(7, 105, 1), pace.copying(8, 101, 1)), (None, None));
        assert_eq!(pace.copying(7, 101, 2), Some(Action::Remediate));
        assert_eq!((pace.copying(7, 102, 1), pace.copying(7, 104, 1)), (None, Some(Action::Remediate)));
    }

    #[test]
    fn bytes_as_digits() {
        assert_eq!(hex(&[0xcc, 1]).to_string(), "cc01");
        assert_eq!(hex(&[0; 100]).bytes().len(), 2 * SHOWN);
    }
}
