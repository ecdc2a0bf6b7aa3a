//! Execution of memory that no file backs.
//!
//! QEMU translates code when it is about to run for the first time: there the mapping of a user-mode block is looked up, in the
//! kernel's objects in RAM. If no file backs it (or one without a name: a memfd, shared memory, a deleted file), the block's first
//! instruction is watched, and when it runs that is told: once per process and mapping.
//!
//! Which task runs on a vCPU is known from the last task switch ([`crate::hooks`]); registers are not read at translation, which
//! newer QEMUs refuse.
//!
//! Limits: needs the RAM's mapping. A mapping that grows counts as the same one; one made by a new mmap at its place as
//! another. Code that QEMU translated for one process and another runs from the same physical page is told of the other one only
//! where it enters it at a watched block. A program whose file is deleted while it runs is told when it comes to code that it had not
//! run before. A file's private page that was changed in memory still counts as the file's.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use lava_event::{Kind, Protection, Range};
use lava_guest::linux;
use lava_guest::linux::vma::Vma;
use lava_guest::memory::{Unreadable, Virtual};

use crate::areas::{Backing, Direct, USER_END};
use crate::introspect::Context;
use crate::registers::Register;
use crate::tap::Tap;

/// Bytes of code that are told.
const CODE: usize = 32;
/// Processes with such memory that are remembered; beyond that all are forgotten, and told again.
const MAX_PROCESSES: usize = 4096;
/// Mappings remembered of each.
const MAX_RANGES: usize = 256;

/// A process's memory, told from a later one at the same address by where its arguments lie and whose it is.
type Key = (u64, u64, u32);

/// What was told already.
#[derive(Default)]
pub struct Unbacked {
    told: Mutex<HashMap<Key, Vec<Range>>>,
    any: AtomicBool,
}

impl Unbacked {
    /// Whether anything was told: a new mapping can then be at the place of an old one.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// True if the mapping was told before; it may have grown since.
    fn known(&self, key: Key, range: Range) -> bool {
        let Ok(mut told) = self.told.lock() else { return true };
        let known = told.get_mut(&key).and_then(|ranges| ranges.iter_mut().find(|known| known.overlaps(&range)));
        known.map(|known| *known = range).is_some()
    }

    fn remember(&self, key: Key, range: Range) {
        let Ok(mut told) = self.told.lock() else { return };
        if told.len() >= MAX_PROCESSES {
            told.clear();
        }
        let ranges = told.entry(key).or_default();
        if ranges.len() >= MAX_RANGES {
            ranges.clear();
        }
        ranges.push(range);
        self.any.store(true, Ordering::Relaxed);
    }

    /// A new mapping was made in the memory `mm`.
    pub fn mapped(&self, mm: u64, range: Range) {
        if let Ok(mut told) = self.told.lock() {
            let of_mm = told.iter_mut().filter(|(key, _)| key.0 == mm);
            of_mm.for_each(|(_, ranges)| ranges.retain(|known| !known.overlaps(&range)));
        }
    }

    /// The guest was reset.
    pub fn clear(&self) {
        if let Ok(mut told) = self.told.lock() {
            told.clear();
        }
    }
}

fn range(vma: &Vma) -> Range {
    Range { start: vma.start, end: vma.end }
}

/// Whether the block at user address `address`, translated on `vcpu`, is to be watched.
pub fn wanted(tap: &Tap, vcpu: u32, address: u64) -> bool {
    let Some((areas, (ram, placement))) = tap.areas.as_ref().zip(tap.ram().zip(tap.placement())) else { return false };
    let Some(task) = tap.running(vcpu).filter(|_| address < USER_END) else { return false };
    let memory = Direct { ram, placement };
    let Ok(mm) = memory.pointer(task.wrapping_add(tap.layout.task.mm)) else { return false };
    let Some(vma) = areas.find(&memory, mm, address) else { return false };
    match areas.backing(&memory, tap.layout.file.f_inode, placement.slide, &vma) {
        Backing::File | Backing::Kernel => false,
        Backing::Nameless | Backing::None => match key(tap, &memory, task, mm) {
            Ok(key) => !tap.unbacked.known(key, range(&vma)),
            Err(_) => false,
        },
    }
}

fn key(tap: &Tap, memory: &dyn Virtual, task: u64, mm: u64) -> Result<Key, Unreadable> {
    let arguments = memory.u64(mm.wrapping_add(tap.layout.mm.arg_start))?;
    Ok((mm, arguments, memory.u32(task.wrapping_add(tap.layout.task.tgid))?))
}

/// A watched block runs.
pub fn executed(context: &Context<'_>) -> Result<(), Unreadable> {
    let tap = context.tap;
    let Some((areas, task)) = tap.areas.as_ref().zip(tap.running(context.vcpu)) else { return Ok(()) };
    let (memory, address) = (context.memory(), context.register(Register::Rip));
    let mm = memory.u64(task.wrapping_add(tap.layout.task.mm))?;
    let Some(vma) = areas.find(&memory, mm, address) else { return Ok(()) };
    let key = key(tap, &memory, task, mm)?;
    if tap.unbacked.known(key, range(&vma)) {
        return Ok(());
    }
    let backing = match areas.backing(&memory, tap.layout.file.f_inode, context.slide, &vma) {
        Backing::File | Backing::Kernel => return Ok(()),
        Backing::Nameless => Some(areas.name(context, mm, &vma)),
        Backing::None => None,
    };
    tap.unbacked.remember(key, range(&vma));
    tell(context, task, &vma, address, backing)
}

fn tell(
    context: &Context<'_>,
    task: u64,
    vma: &Vma,
    address: u64,
    backing: Option<lava_event::GuestText>,
) -> Result<(), Unreadable> {
    let memory = context.memory();
    let task = linux::read_task(&memory, context.layout(), task)?;
    let code = memory.read_vec(address, CODE as u64, CODE);
    let kind = Kind::MemoryUnbackedExecution {
        address,
        region: range(vma),
        protection: Protection::from_bits(vma.flags),
        backing,
        code: code.iter().map(|byte| format!("{byte:02x}")).collect::<String>().as_str().into(),
    };
    context.emit_of(&task, kind);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_once_until_mapped_anew() {
        let (told, key) = (Unbacked::default(), (0xffff_8880_0000_1000, 0x7ffd_0000, 7));
        let at = |start, end| Range { start, end };
        assert!(!told.any() && !told.known(key, at(0x1000, 0x2000)));
        told.remember(key, at(0x1000, 0x2000));
        assert!(told.known(key, at(0x1000, 0x2000)));
        assert!(told.known(key, at(0x1000, 0x5000)), "it grew");
        assert!(told.known(key, at(0x4000, 0x5000)), "its end was split off");
        assert!(!told.known((key.0, 1, 7), at(0x1000, 0x2000)), "another program in the same memory");
        told.mapped(key.0, at(0x4000, 0x6000));
        assert!(!told.known(key, at(0x4000, 0x5000)));
    }

    #[test]
    fn bounded() {
        let told = Unbacked::default();
        for i in 0..MAX_PROCESSES as u32 + 10 {
            told.remember((1, 2, i), Range { start: 0, end: 1 });
        }
        assert!(told.told.lock().unwrap().len() <= MAX_PROCESSES);
        for i in 0..MAX_RANGES as u64 + 10 {
            told.remember((9, 9, 9), Range { start: i * 2, end: i * 2 + 1 });
        }
        assert!(told.told.lock().unwrap()[&(9, 9, 9)].len() <= MAX_RANGES);
    }
}
