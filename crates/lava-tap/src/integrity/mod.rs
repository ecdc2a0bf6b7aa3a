//! The kernel's own soundness: memory that never changes, registers that decide, things that hide.
//!
//! - [`watch`], [`fault`]: pages that hold the kernel's code, its read-only data, the IDT and the live modules' code are read-only in
//!   QEMU's process from the end of the kernel's start on; a write is seen at the host instruction that makes it.
//! - [`legit`]: the kernel patches its own code where it has tables for that; that is known, and not told.
//! - [`response`]: asks the policy, puts bytes back, kills.
//! - [`registers`]: control registers, model-specific registers, the IDT's place.
//! - [`hidden`]: tasks that run and modules that are loaded, but are not in the kernel's lists.
//!
//! Which instruction stored: each kernel instruction that stores (not relative to the stack) leaves its address in a number of its vCPU
//! first, inline in the translated code; so does the start of each translated block, for those that do not.
//!
//! Limits: armed at the end of the kernel's start (`rcu_end_inkernel_boot`, after `mark_readonly`), in a clone at the first hook that is
//! called: what was changed before is taken for sound. Reading registers outside of a callback needs QEMU before 10.1.

pub mod fault;
pub mod hidden;
pub mod legit;
pub mod modules;
pub mod registers;
mod response;
pub mod watch;

use std::cell::RefCell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use iced_x86::{Code, Decoder, DecoderOptions, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};
use lava_event::{GapCause, Kind, Source};
use lava_guest::kernel::Kernel;
use lava_guest::memory::{Unreadable, Virtual};
use lava_guest::patchable::Sites;

use crate::api::{self, PerVcpu};
use crate::introspect::Context;
use crate::missing::Missing;
use crate::point::Point;
use crate::ram::Ram;
use crate::tap::{Tap, vcpu};
use fault::{Place, Watcher};
use watch::{Area, Change, Pages};

/// `__START_KERNEL_map` (arch/x86/include/asm/page_64_types.h).
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Changes told one by one in a second.
const MOST: u64 = 256;
/// Longest x86 instruction.
const LONGEST: usize = 15;

thread_local! {
    static FACTORY: RefCell<InstructionInfoFactory> = RefCell::new(InstructionInfoFactory::new());
}

/// Link addresses of what is watched.
struct Layout {
    /// (first byte, past the last, what).
    ranges: Vec<(u64, u64, Area)>,
    syscall_table: (u64, u64),
}

/// What the integrity watch knows.
pub struct Integrity {
    layout: Option<Layout>,
    sites: Sites,
    pages: Pages,
    /// Where each vCPU last stored.
    places: PerVcpu,
    armed: AtomicBool,
    pub modules: modules::Modules,
    pub pokes: legit::Pokes,
    pub registers: registers::Known,
    pub hidden: hidden::Hidden,
    pace: response::Pace,
    /// The current second, and what was to be told in it.
    told: Mutex<(u64, u64)>,
}

impl Integrity {
    /// What the kernel's file says of it; what is not in it goes to `missing`.
    pub fn resolve(kernel: &Kernel, elf: &[u8], missing: &mut Missing) -> Self {
        let layout = Layout::resolve(kernel);
        if layout.is_none() {
            missing.push("kernel integrity: this kernel does not say where its code and its read-only data lie");
        }
        Self {
            layout,
            sites: Sites::from_elf(elf, &kernel.symbols),
            pages: Pages::default(),
            places: PerVcpu::new(),
            armed: AtomicBool::new(false),
            modules: modules::Modules::resolve(kernel, missing),
            pokes: legit::Pokes::default(),
            registers: registers::Known::default(),
            hidden: hidden::Hidden::resolve(kernel, missing),
            pace: response::Pace::default(),
            told: Mutex::default(),
        }
    }

    /// True from the end of the kernel's start on.
    pub fn armed(&self) -> bool {
        self.armed.load(Ordering::Acquire)
    }

    /// Looks at a kernel instruction that is being translated; what is to be called before it runs.
    pub fn translated(&self, instruction: *mut api::Instruction, address: u64, first: bool) -> Option<Point> {
        let mut code = [0u8; LONGEST];
        // SAFETY: the instruction is valid during translation; at most LONGEST bytes are written into a buffer of that size.
        let length = unsafe { api::qemu_plugin_insn_data(instruction, code.as_mut_ptr().cast(), LONGEST) };
        let decoded = Decoder::with_ip(64, &code[..length.min(LONGEST)], address, DecoderOptions::NONE).decode();
        let point = match decoded.mnemonic() {
            Mnemonic::Wrmsr => Some(Point::Msr),
            Mnemonic::Lidt => self.registers.descriptor(&decoded).map(Point::Descriptor),
            Mnemonic::Mov if decoded.code() == Code::Mov_cr_r64 => registers::control(&decoded),
            _ => None,
        };
        if first || point.is_some() || stores(&decoded) {
            // SAFETY: the instruction is valid during translation; the scoreboard was made at installation.
            unsafe {
                api::qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(instruction, api::STORE, self.places, address);
            }
        }
        point
    }

    /// The kernel instruction at which `vcpu` is, or last was of those that leave their address.
    pub fn rip(&self, vcpu: u32) -> u64 {
        self.places.get(vcpu)
    }

    /// The kernel has started: from here on its memory is watched.
    pub fn arm(&self, context: &Context<'_>) -> Result<(), Unreadable> {
        let (Some(layout), Some(ram), Some(tap)) = (&self.layout, context.tap.ram(), Tap::installed()) else {
            return Ok(());
        };
        if let Err(error) = fault::install(tap) {
            eprintln!("lava-tap: {error}: the kernel's memory is not watched");
            return Ok(());
        }
        let memory = context.memory();
        for &(start, end, area) in &layout.ranges {
            let address = start.wrapping_add(context.slide);
            let gpa = memory.physical(address).ok_or(Unreadable { address })?;
            fault::quietly(|| self.pages.watch(ram, gpa, end - start, area, None));
        }
        self.armed.store(true, Ordering::Release);
        Ok(())
    }

    /// As [`Integrity::arm`], for a kernel that started before the tap: its modules are met too.
    pub fn adopt(&self, context: &Context<'_>) -> Result<(), Unreadable> {
        /// More are not followed: a list that a hostile kernel has tied into a ring ends here.
        const MAX_MODULES: usize = 4096;
        self.arm(context)?;
        let Some(head) = context.tap.kernel.symbols.address("modules") else { return Ok(()) };
        let (memory, head) = (context.memory(), head.wrapping_add(context.slide));
        let mut node = memory.pointer(head)?;
        for _ in 0..MAX_MODULES {
            if node == head {
                break;
            }
            let address = node.wrapping_sub(context.layout().module.list);
            if self.modules.is_live(context, address) {
                let module = self.modules.load(context, address);
                self.watch_module(context, &module);
            }
            node = memory.pointer(node)?;
        }
        Ok(())
    }

    /// The kernel that was watched runs no longer.
    pub fn disarm(&self, ram: Option<&Ram>) {
        if self.armed.swap(false, Ordering::AcqRel)
            && let Some(ram) = ram
        {
            fault::quietly(|| self.pages.release_all(ram));
        }
        let left_out = self.told.lock().map_or(0, |mut told| std::mem::take(&mut told.1).saturating_sub(MOST));
        if let Some(tap) = Tap::installed() {
            tell_left_out(tap, left_out);
        }
        self.modules.clear();
        self.pokes.clear();
        self.registers.clear();
        self.hidden.clear();
    }

    /// A module is live: its code and read-only data change no more.
    pub fn watch_module(&self, context: &Context<'_>, module: &modules::Module) {
        let (true, Some(ram)) = (self.armed(), context.tap.ram()) else { return };
        let memory = context.memory();
        for &(start, end, area) in &module.parts {
            let mut at = start & !0xfff;
            while at < end {
                if let Some(gpa) = memory.physical(at) {
                    fault::quietly(|| self.pages.watch(ram, gpa, watch::PAGE as u64, area, Some(at)));
                }
                at += watch::PAGE as u64;
            }
        }
    }

    /// A module goes.
    pub fn release_module(&self, context: &Context<'_>, module: &modules::Module) {
        let (true, Some(ram)) = (self.armed(), context.tap.ram()) else { return };
        let memory = context.memory();
        for &(start, end, _) in &module.parts {
            let mut at = start & !0xfff;
            while at < end {
                if let Some(gpa) = memory.physical(at) {
                    fault::quietly(|| self.pages.release(ram, gpa));
                }
                at += watch::PAGE as u64;
            }
        }
    }

    /// What lies at a runtime address, for people.
    pub fn symbol(&self, kernel: &Kernel, slide: u64, address: u64) -> String {
        let offset = |name: &str, into: u64| if into == 0 { name.to_owned() } else { format!("{name}+{into:#x}") };
        if let Some((name, into)) = self.modules.containing(address) {
            return offset(&format!("[{name}]"), into);
        }
        match kernel.symbols.lookup(address.wrapping_sub(slide)) {
            Some((name, into)) => offset(name, into),
            None => format!("{address:#x}"),
        }
    }

    /// True if one more event may be told in this second: a guest that does something for ever does not drown the rest. What was
    /// left out in the second before is told as a gap.
    pub fn may_tell(&self, tap: &Tap) -> bool {
        let second = tap.emitter.now_ns() / 1_000_000_000;
        let Ok(mut told) = self.told.lock() else { return false };
        if told.0 != second {
            let left_out = told.1.saturating_sub(MOST);
            *told = (second, 0);
            tell_left_out(tap, left_out);
        }
        told.1 += 1;
        told.1 <= MOST
    }
}

/// Says how many events were not told one by one.
fn tell_left_out(tap: &Tap, count: u64) {
    if count > 0 {
        let detail = format!("{count} more changes of the kernel's own kind in one second were not told one by one");
        let kind = Kind::VmGap { at: Source::Tap, cause: GapCause::Pace, missing: Some(count), detail };
        tap.emitter.emit(vcpu().unwrap_or(0), None, kind);
    }
}

impl Layout {
    fn resolve(kernel: &Kernel) -> Option<Self> {
        let address = |name: &str| kernel.symbols.address(name);
        let page = |address: u64| address.next_multiple_of(watch::PAGE as u64);
        // As mark_rodata_ro has them (arch/x86/mm/init_64.c, 6.1 and 6.12): the gaps between them go back to the page allocator.
        let text = (address("_text")?, page(address("_etext")?), Area::Text);
        let data = (address("__start_rodata")?, page(address("__end_rodata")?), Area::ReadOnlyData);
        let mut ranges = vec![text, data];
        ranges.retain(|(start, end, _)| start < end && end - start < 1 << 30);
        // 256 gates of 16 bytes, on a page of their own (arch/x86/kernel/idt.c).
        ranges.extend(address("idt_table").map(|table| (table, table + watch::PAGE as u64, Area::Idt)));
        let table = address("sys_call_table").unwrap_or(0);
        let next = kernel.symbols.iter().map(|(address, ..)| address).find(|&address| address > table).unwrap_or(table);
        Some(Self { ranges, syscall_table: (table, next) })
    }
}

impl Watcher for Tap {
    fn page(&self, address: usize) -> Place {
        self.ram().map_or(Place::Foreign, |ram| self.integrity.pages.place(ram, address))
    }

    fn set_writable(&self, page: usize, writable: bool) {
        watch::protect(page, watch::PAGE, writable);
    }

    fn stored(&self, change: &Change) {
        if let Some(gpa) = self.ram().and_then(|ram| ram.gpa(change.host as u64)) {
            api::write_physical(gpa, &change.after);
        }
    }

    fn changed(&self, changes: Vec<Change>) {
        let vcpu = vcpu();
        self.guarded(vcpu.unwrap_or(0), || match vcpu {
            Some(vcpu) => self.with_context(vcpu, |context| response::by_cpu(context, changes)),
            None => response::by_device(self, changes),
        });
    }
}

/// True for an instruction that stores to memory, but not relative to the stack pointer.
fn stores(instruction: &iced_x86::Instruction) -> bool {
    // Most instructions have no memory operand.
    let memory = (0..instruction.op_count()).any(|index| {
        !matches!(
            instruction.op_kind(index),
            OpKind::Register
                | OpKind::NearBranch64
                | OpKind::Immediate8
                | OpKind::Immediate32
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
        )
    });
    memory
        && FACTORY.with_borrow_mut(|factory| {
            factory.info(instruction).used_memory().iter().any(|memory| {
                memory.base() != iced_x86::Register::RSP
                    && matches!(
                        memory.access(),
                        OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
                    )
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &[u8], expected: bool) {
        let decoded = Decoder::with_ip(64, code, 0, DecoderOptions::NONE).decode();
        assert_eq!(stores(&decoded), expected, "{decoded:?}");
    }

    #[test]
    fn which_instructions_store() {
        check(&[0x48, 0x89, 0x07], true); // mov %rax,(%rdi)
        check(&[0x48, 0x8b, 0x07], false); // mov (%rdi),%rax
        check(&[0xf3, 0xa4], true); // rep movsb
        check(&[0xaa], true); // stosb
        check(&[0x48, 0x89, 0x44, 0x24, 0x08], false); // mov %rax,8(%rsp)
        check(&[0x53], false); // push %rbx
        check(&[0xf0, 0x0f, 0xb1, 0x0f], true); // lock cmpxchg %ecx,(%rdi)
        check(&[0x48, 0x8d, 0x07], false); // lea (%rdi),%rax
        check(&[0x83, 0x3f, 0x01], false); // cmpl $1,(%rdi)
        check(&[0xff, 0x07], true); // incl (%rdi)
    }
}
