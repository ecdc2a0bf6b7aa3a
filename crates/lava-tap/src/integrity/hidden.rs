//! What runs or is loaded, but is not in the kernel's lists.
//!
//! A process that is about to run is in the list of tasks: its neighbours there point back to it. A module that was loaded and not freed
//! is in the list of modules in the same way. Both are told when they are missed twice in a row, since lists change under our eyes.
//!
//! Limits: threads other than the first are not looked for; a task that says of itself that it ends is not either. Modules are
//! looked at once in [`PERIOD_NS`], when some task is switched to.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use lava_event::{GuestText, Kind};
use lava_guest::kernel::Kernel;
use lava_guest::linux;
use lava_guest::memory::{Unreadable, Virtual};

use crate::introspect::{Context, reference};
use crate::missing::Missing;

/// Between two looks at the list of modules.
const PERIOD_NS: u64 = 500_000_000;
/// Tasks under suspicion.
const MAX: usize = 1024;

/// What was missed.
pub struct Hidden {
    exit_state: Option<u64>,
    /// By the address of the task: whether it was told already.
    missed: Mutex<HashMap<u64, bool>>,
    looked_ns: AtomicU64,
}

/// Whether both neighbours of a `struct list_head` point to it, and it is not alone. What can't be read does not.
pub fn linked(memory: &dyn Virtual, node: u64) -> bool {
    let forth = memory.pointer(node).ok();
    let back = memory.pointer(node.wrapping_add(8)).ok();
    let (Some(forth), Some(back)) = (forth, back) else { return false };
    forth != node && memory.u64(forth.wrapping_add(8)) == Ok(node) && memory.u64(back) == Ok(node)
}

impl Hidden {
    pub fn resolve(kernel: &Kernel, missing: &mut Missing) -> Self {
        let exit_state = kernel.types.offset("task_struct", "exit_state").ok();
        if exit_state.is_none() {
            missing.push("hidden tasks: no task_struct.exit_state in the kernel's types");
        }
        Self { exit_state, missed: Mutex::default(), looked_ns: AtomicU64::new(0) }
    }

    pub fn clear(&self) {
        if let Ok(mut missed) = self.missed.lock() {
            missed.clear();
        }
    }

    /// `next` is about to run on this vCPU.
    pub fn switched(&self, context: &Context<'_>, next: u64) -> Result<(), Unreadable> {
        let Some(exit_state) = self.exit_state.filter(|_| context.tap.integrity.armed()) else { return Ok(()) };
        let (memory, layout) = (context.memory(), &context.layout().task);
        let at = |offset: u64| next.wrapping_add(offset);
        if !linked(&memory, at(layout.tasks)) {
            let (pid, tgid) = (memory.u32(at(layout.pid))?, memory.u32(at(layout.tgid))?);
            // The idle tasks are in no list, nor are threads.
            if pid != 0 && pid == tgid && memory.u32(at(exit_state))? == 0 {
                self.miss(context, next)?;
            }
        } else if let Ok(mut missed) = self.missed.lock()
            && !missed.is_empty()
        {
            missed.remove(&next);
        }
        let now = context.tap.emitter.now_ns();
        let last = self.looked_ns.load(Ordering::Relaxed);
        if now.saturating_sub(last) > PERIOD_NS
            && self.looked_ns.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.look_at_modules(context)?;
        }
        Ok(())
    }

    fn miss(&self, context: &Context<'_>, next: u64) -> Result<(), Unreadable> {
        {
            let Ok(mut missed) = self.missed.lock() else { return Ok(()) };
            match missed.get_mut(&next) {
                Some(told) if *told => return Ok(()),
                Some(told) => *told = true,
                None => {
                    if missed.len() >= MAX {
                        missed.clear();
                    }
                    missed.insert(next, false);
                    return Ok(());
                }
            }
        }
        let task = linux::read_task(&context.memory(), context.layout(), next)?;
        let kind = Kind::KernelHiddenTask { task: reference(&task), missing: "task list".to_owned() };
        context.tap.emitter.emit(context.vcpu, Some(context.process(&task)), kind);
        Ok(())
    }

    fn look_at_modules(&self, context: &Context<'_>) -> Result<(), Unreadable> {
        let (memory, list) = (context.memory(), context.layout().module.list);
        let mut found: Vec<(GuestText, u64, u64)> = Vec::new();
        context.tap.integrity.modules.each(|address, module| {
            if linked(&memory, address.wrapping_add(list)) {
                module.missed = false;
            } else if !module.missed {
                module.missed = true;
            } else if !module.told {
                module.told = true;
                let (start, end) = module.parts.first().map_or((address, address), |part| (part.0, part.1));
                found.push((module.name.clone(), start, end - start));
            }
        });
        for (name, address, size) in found {
            context.tap.emitter.emit(context.vcpu, None, Kind::KernelHiddenModule { name, address, size });
        }
        Ok(())
    }
}
