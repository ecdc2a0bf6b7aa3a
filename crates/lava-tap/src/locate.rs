//! Finding the kernel that runs: one that starts by its write to MSR LSTAR, one that runs already where the template says.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lava_event::Kind;
use lava_guest::kallsyms::Symbols;
use lava_guest::memory::{Physical, Unreadable, Virtual};

use crate::introspect::Context;
use crate::memory::Placement;
use crate::ram::Ram;
use crate::tap::Tap;

/// The slide while it is not known.
const UNKNOWN: u64 = u64::MAX;
/// The kernel image lies within 1 GiB from its link address (`KERNEL_IMAGE_SIZE`, arch/x86/include/asm/page_64_types.h),
/// moved by multiples of 2 MiB (`CONFIG_PHYSICAL_ALIGN`).
const SLIDE_END: u64 = 1 << 30;
const SLIDE_STEP: u64 = 2 << 20;

/// Where the running kernel lies, and what it is known by.
pub struct Locator {
    slide: AtomicU64,
    direct_map: AtomicU64,
    phys_base: AtomicU64,
    /// Where a kernel lies that runs already, until it was looked at.
    running: Mutex<Option<Placement>>,
    /// The tasks of such a kernel are still to be told.
    untold: AtomicBool,
    banner: Vec<u8>,
    /// Link addresses.
    syscall_entry: u64,
    banner_at: u64,
    page_offset_base: u64,
    phys_base_at: u64,
}

impl Locator {
    /// For a kernel with these symbols; `running`: where it runs already, if it does.
    pub fn resolve(symbols: &Symbols, banner: &str, running: Option<Placement>) -> Result<Self, String> {
        let address = |name: &str| symbols.address(name).ok_or(format!("the kernel has no symbol {name}"));
        Ok(Self {
            slide: AtomicU64::new(UNKNOWN),
            direct_map: AtomicU64::new(0),
            phys_base: AtomicU64::new(0),
            running: Mutex::new(running),
            untold: AtomicBool::new(false),
            banner: banner.as_bytes().to_vec(),
            syscall_entry: address("entry_SYSCALL_64")?,
            banner_at: address("linux_banner")?,
            page_offset_base: address("page_offset_base")?,
            phys_base_at: address("phys_base")?,
        })
    }

    /// The KASLR slide, once it is known.
    pub fn slide(&self) -> Option<u64> {
        Some(self.slide.load(Ordering::Acquire)).filter(|&slide| slide != UNKNOWN)
    }

    /// Where the running kernel lies, once that is known.
    pub fn placement(&self) -> Option<Placement> {
        let (direct_map, phys_base) = (self.direct_map.load(Ordering::Relaxed), self.phys_base.load(Ordering::Relaxed));
        self.slide().map(|slide| Placement { slide, direct_map, phys_base })
    }

    /// The kernel runs no longer. True if it was known.
    pub fn forget(&self) -> bool {
        self.slide.swap(UNKNOWN, Ordering::AcqRel) != UNKNOWN
    }

    pub fn found(&self, Placement { slide, direct_map, phys_base }: Placement) {
        self.direct_map.store(direct_map, Ordering::Relaxed);
        self.phys_base.store(phys_base, Ordering::Relaxed);
        self.slide.store(slide, Ordering::Release);
    }

    /// Address of the 64-bit system call entry.
    pub fn syscall_entry(&self, slide: u64) -> u64 {
        self.syscall_entry.wrapping_add(slide)
    }

    /// The system call entry is set: where the kernel lies that did it, if it was not known to run there.
    pub fn started(&self, context: &Context<'_>, entry: u64) -> Option<Placement> {
        let slide = entry.wrapping_sub(self.syscall_entry);
        if slide >= SLIDE_END || !slide.is_multiple_of(SLIDE_STEP) || self.slide() == Some(slide) {
            return None;
        }
        // Where the kernel lies is not known yet: these reads walk the page tables.
        let memory = context.memory();
        let found = memory.read_cstr(self.banner_at.wrapping_add(slide), self.banner.len() + 2);
        let variable = |address: u64| memory.u64(address.wrapping_add(slide)).ok();
        let (direct_map, phys_base) = variable(self.page_offset_base).zip(variable(self.phys_base_at))?;
        found.bytes.starts_with(&self.banner).then_some(Placement { slide, direct_map, phys_base })
    }

    /// A kernel that runs already is where we were told, if its banner is there. Looked at once.
    pub fn running(&self, ram: Option<&Ram>) -> Option<Placement> {
        let placement = self.running.lock().ok()?.take()?;
        let mut found = vec![0; self.banner.len()];
        let at = placement.image(self.banner_at.wrapping_add(placement.slide));
        match ram.zip(at).map(|(ram, gpa)| ram.read(gpa, &mut found)) {
            Some(Ok(())) if found == self.banner => {
                self.untold.store(true, Ordering::Release);
                Some(placement)
            }
            _ => {
                eprintln!("lava-tap: the kernel is not where the template says: nothing will be seen until a restart");
                None
            }
        }
    }

    /// True once, for a kernel that was found running.
    pub fn take_untold(&self) -> bool {
        self.untold.load(Ordering::Relaxed) && self.untold.swap(false, Ordering::AcqRel)
    }
}

/// Tells the tasks that were there before the tap.
pub fn tell_existing(tap: &Tap, context: &Context<'_>) -> Result<(), Unreadable> {
    /// More are not followed: a list that a hostile kernel has tied into a ring ends here.
    const MAX_TASKS: usize = 32 * 1024;
    let (memory, list) = (context.memory(), tap.layout.task.tasks);
    let Some(first) = tap.kernel.symbols.address("init_task") else { return Ok(()) };
    let first = first.wrapping_add(context.slide);
    let mut task = first;
    for _ in 0..MAX_TASKS {
        task = memory.pointer(task.wrapping_add(list))?.wrapping_sub(list);
        if task == first {
            break;
        }
        let process = context.process(&lava_guest::linux::read_task(&memory, &tap.layout, task)?);
        tap.emitter.emit(context.vcpu, Some(process), Kind::ProcessExisting {});
    }
    Ok(())
}
