//! Control registers, model-specific registers and the place of the IDT, looked at when an instruction writes them.
//!
//! What the kernel wrote last before the end of its start holds; afterwards another value is told. A processor that comes up later
//! writes the same values: silent. Bits that are set, and `CR4.PGE`, which the kernel clears to flush the TLB, are silent.
//!
//! Limits: `cr0`, `cr4`; the model-specific registers of [`MSRS`]; `lidt` with its operand in memory that can be read.

use std::collections::HashMap;
use std::sync::Mutex;

use iced_x86::Instruction;
use lava_event::Kind;
use lava_guest::memory::{Unreadable, Virtual};

use super::response;
use crate::introspect::Context;
use crate::point::Point;
use crate::registers::{ENCODED, Register};

/// (register, bit, what clearing it means) (Intel SDM vol. 3, 2.5).
const BITS: &[(u8, u32, &str)] = &[
    (0, 16, "WP cleared"),
    (4, 11, "UMIP cleared"),
    (4, 20, "SMEP cleared"),
    (4, 21, "SMAP cleared"),
    (4, 23, "CET cleared"),
    (4, 24, "PKS cleared"),
];
/// (number, name, meaning) (Intel SDM vol. 4).
const MSRS: &[(u32, &str, &str)] = &[
    (0xc000_0080, "efer", "extended features changed"),
    (0xc000_0082, "lstar", "system call entry moved"),
    (0xc000_0083, "cstar", "32-bit system call entry moved"),
    (0xc000_0084, "sfmask", "flags at system calls changed"),
    (0x176, "sysenter_eip", "SYSENTER entry moved"),
];
/// EFER: SCE, LME, NXE; the rest (LMA, SVME) changes in sound kernels.
const EFER: u32 = 0xc000_0080;
const EFER_BITS: u64 = 1 | 1 << 8 | 1 << 11;
/// Different `lidt` instructions remembered.
const MAX_DESCRIPTORS: usize = 1024;

/// `[base + index * scale + displacement]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Operand {
    base: Option<Register>,
    index: Option<Register>,
    scale: u64,
    displacement: u64,
}

/// What sound values are.
#[derive(Default)]
pub struct Known {
    msrs: Mutex<HashMap<u32, u64>>,
    idt: Mutex<Option<u64>>,
    operands: Mutex<Vec<Operand>>,
}

/// The general register that an instruction names.
fn general(register: iced_x86::Register) -> Option<Register> {
    register.is_gpr64().then(|| ENCODED.get(register.number()).copied())?
}

/// `mov` to a control register that is looked at.
pub fn control(instruction: &Instruction) -> Option<Point> {
    let register = instruction.op0_register().number() as u8;
    let from = instruction.op1_register().number() as u8;
    matches!(register, 0 | 4).then_some(Point::Control { register, from })
}

impl Known {
    /// Remembers an `lidt`'s operand; its number.
    pub fn descriptor(&self, instruction: &Instruction) -> Option<usize> {
        let operand = if instruction.is_ip_rel_memory_operand() {
            Operand { base: None, index: None, scale: 1, displacement: instruction.ip_rel_memory_address() }
        } else {
            Operand {
                base: general(instruction.memory_base()),
                index: general(instruction.memory_index()),
                scale: instruction.memory_index_scale().into(),
                displacement: instruction.memory_displacement64(),
            }
        };
        let mut operands = self.operands.lock().ok()?;
        if let Some(known) = operands.iter().position(|known| *known == operand) {
            return Some(known);
        }
        (operands.len() < MAX_DESCRIPTORS).then(|| {
            operands.push(operand);
            operands.len() - 1
        })
    }

    pub fn clear(&self) {
        if let (Ok(mut msrs), Ok(mut idt)) = (self.msrs.lock(), self.idt.lock()) {
            msrs.clear();
            *idt = None;
        }
    }

    /// What a kernel that starts wrote into a model-specific register.
    pub fn started(&self, number: u32, value: u64) {
        if let Ok(mut msrs) = self.msrs.lock() {
            msrs.insert(number, value);
        }
    }

    /// `mov` to control register `register`, from the general register with number `from`.
    pub fn control_written(&self, context: &Context<'_>, register: u8, from: u8) {
        if !context.tap.integrity.armed() {
            return;
        }
        let Some(&source) = ENCODED.get(usize::from(from)) else { return };
        let old = context.register(if register == 0 { Register::Cr0 } else { Register::Cr4 });
        let new = context.register(source);
        let Some(meaning) = cleared(register, old, new) else { return };
        tell(context, &format!("cr{register}"), old, new, &meaning);
    }

    /// `wrmsr`
    pub fn msr_written(&self, context: &Context<'_>, number: u32, new: u64) {
        let Some((_, name, meaning)) = MSRS.iter().find(|(known, ..)| *known == number) else { return };
        let old = {
            let Ok(mut msrs) = self.msrs.lock() else { return };
            if !context.tap.integrity.armed() {
                msrs.insert(number, new);
                return;
            }
            // Not written before: what is written first holds.
            *msrs.entry(number).or_insert(new)
        };
        let same = if number == EFER { old & EFER_BITS & !new == 0 } else { old == new };
        if !same {
            tell(context, name, old, new, meaning);
        }
    }

    /// `lidt` number `operand`
    pub fn descriptor_loaded(&self, context: &Context<'_>, operand: usize) -> Result<(), Unreadable> {
        let operand = self.operands.lock().ok().and_then(|operands| operands.get(operand).copied());
        let Some(operand) = operand else { return Ok(()) };
        let read = |register: Option<Register>| register.map_or(0, |register| context.register(register));
        let at = read(operand.base)
            .wrapping_add(read(operand.index).wrapping_mul(operand.scale))
            .wrapping_add(operand.displacement);
        // A limit and a base (Intel SDM vol. 3, 2.4.3).
        let memory = context.memory();
        let (limit, new) = (memory.u16(at)?, memory.u64(at.wrapping_add(2))?);
        let Ok(mut idt) = self.idt.lock() else { return Ok(()) };
        if !context.tap.integrity.armed() {
            *idt = Some(new);
            return Ok(());
        }
        let old = *idt.get_or_insert(new);
        drop(idt);
        // An empty table is how a kernel restarts the machine (arch/x86/kernel/reboot.c, idt_invalidate).
        if old == new || limit == 0 {
            return Ok(());
        }
        tell(context, "idtr", old, new, "interrupt descriptor table moved");
        Ok(())
    }
}

fn cleared(register: u8, old: u64, new: u64) -> Option<String> {
    let bits = BITS.iter().filter(|(of, bit, _)| *of == register && (old & !new) >> bit & 1 == 1);
    let meanings: Vec<&str> = bits.map(|(.., meaning)| *meaning).collect();
    (!meanings.is_empty()).then(|| meanings.join(", "))
}

fn tell(context: &Context<'_>, register: &str, old: u64, new: u64, meaning: &str) {
    let (tap, integrity) = (context.tap, &context.tap.integrity);
    if !integrity.may_tell(tap) {
        return;
    }
    let kind = Kind::KernelRegister { register: register.to_owned(), old, new, meaning: meaning.to_owned() };
    let event = response::event(context, integrity.rip(context.vcpu), kind);
    tap.emitter.emit_event(context.vcpu, event);
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn bits() {
        assert_eq!(cleared(0, 0x8005_0033, 0x8004_0033).as_deref(), Some("WP cleared"));
        assert_eq!(cleared(0, 0x8004_0033, 0x8005_0033), None);
        assert_eq!(cleared(4, 0x30_0080, 0x30_0000), None, "PGE");
        assert_eq!(cleared(4, 0x30_0000, 0).as_deref(), Some("SMEP cleared, SMAP cleared"));
    }

    #[test]
    fn operands() {
        let decode = |code: &[u8]| Decoder::with_ip(64, code, 0x1000, DecoderOptions::NONE).decode();
        let known = Known::default();
        assert_eq!(known.descriptor(&decode(&[0x0f, 0x01, 0x1f])), Some(0)); // lidt (%rdi)
        assert_eq!(known.descriptor(&decode(&[0x0f, 0x01, 0x1d, 4, 0, 0, 0])), Some(1)); // lidt 4(%rip)
        assert_eq!(known.descriptor(&decode(&[0x0f, 0x01, 0x1f])), Some(0));
        let operands = known.operands.lock().unwrap();
        assert!(matches!(operands[0].base, Some(Register::Rdi)));
        assert_eq!(operands[1].displacement, 0x100b);
        let point = control(&decode(&[0x44, 0x0f, 0x22, 0xc0])); // mov %rax,%cr8
        assert_eq!(point, None);
        assert_eq!(control(&decode(&[0x41, 0x0f, 0x22, 0xe7])), Some(Point::Control { register: 4, from: 15 }));
    }
}
