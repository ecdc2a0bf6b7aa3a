//! What hooked functions returned.
//!
//! At a function's entry its hook says what is to be told if it succeeds; that waits here until the function returns. The
//! kernel's stacks are all different, so the stack pointer tells one call from another, whatever thread or vCPU it goes on on.
//!
//! Of the places that hooked functions return to most are passed without any call of theirs under way. Each vCPU has a number, how many
//! calls are under way of the task it runs, that the translated code tests inline: the tap is called only if it is not 0. It is set
//! when a task is switched to. A task that ends within a call leaves a number that is too high, which costs time and no more.
//!
//! Limits: calls from modules return to addresses that were not chosen at translation: their hooks are told at once that the
//! result is not known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use lava_guest::memory::Unreadable;

use crate::api::PerVcpu;
use crate::introspect::Context;
use crate::registers::Register;

/// What is told when a function returns, given what it returned; None if that is not known.
pub type Then = Box<dyn FnOnce(&Context<'_>, Returned) -> Result<(), Unreadable> + Send>;

/// What a function returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned(pub Option<u64>);

/// `MAX_ERRNO` (include/linux/err.h).
const MAX_ERRNO: u64 = 4095;

impl Returned {
    /// For functions that return 0 or a negative errno, as `int`. Not known counts as success.
    pub fn succeeded(self) -> bool {
        self.0.is_none_or(|value| value as u32 as i32 >= 0)
    }

    /// For functions that return a pointer, an errno as a pointer, or null.
    pub fn pointer(self) -> Option<u64> {
        self.0.filter(|&value| value != 0 && value < MAX_ERRNO.wrapping_neg())
    }
}

struct Pending {
    site: u64,
    /// Address of the calling task.
    task: u64,
    then: Then,
}

#[derive(Default)]
struct Calls {
    /// By the stack pointer behind the return.
    pending: HashMap<u64, Pending>,
    /// How many there are, by task.
    of_task: HashMap<u64, u64>,
}

impl Calls {
    fn add(&mut self, rsp: u64, call: Pending) {
        if self.pending.len() >= MAX_PENDING {
            self.clear();
        }
        *self.of_task.entry(call.task).or_default() += 1;
        // What was there has not returned, and never will.
        if let Some(lost) = self.pending.insert(rsp, call) {
            self.forget(lost.task);
        }
    }

    /// The call that returns to `site` with this stack pointer.
    fn take(&mut self, rsp: u64, site: u64) -> Option<Pending> {
        self.pending.get(&rsp).filter(|call| call.site == site)?;
        let call = self.pending.remove(&rsp)?;
        self.forget(call.task);
        Some(call)
    }

    fn forget(&mut self, task: u64) {
        if let Some(count) = self.of_task.get_mut(&task) {
            *count -= 1;
            if *count == 0 {
                self.of_task.remove(&task);
            }
        }
    }

    fn of(&self, task: u64) -> u64 {
        self.of_task.get(&task).copied().unwrap_or(0)
    }

    fn clear(&mut self) {
        self.pending.clear();
        self.of_task.clear();
    }
}

/// Addresses behind calls, and calls that have not returned.
pub struct Returns {
    /// Link addresses, in order; their place is their number.
    sites: Vec<u64>,
    /// By hook number: what it may return to.
    of_hook: HashMap<usize, BTreeSet<u64>>,
    calls: Mutex<Calls>,
    /// How many calls are under way of the task that a vCPU runs.
    under_way: PerVcpu,
    /// Whether every task switch is seen: without that nobody could say how many they are.
    switches: bool,
}

/// Calls under way at once; a guest with more threads in hooked functions loses results, not events.
const MAX_PENDING: usize = 64 * 1024;

impl Returns {
    pub fn new(of_hook: HashMap<usize, BTreeSet<u64>>, switches: bool) -> Self {
        let sites: BTreeSet<u64> = of_hook.values().flatten().copied().collect();
        Self {
            sites: sites.into_iter().collect(),
            of_hook,
            calls: Mutex::default(),
            under_way: PerVcpu::new(),
            switches,
        }
    }

    /// What is not 0 if [`Returns::returned`] is to be called; `None`: always.
    pub fn condition(&self) -> Option<PerVcpu> {
        self.switches.then_some(self.under_way)
    }

    /// The number of link address `address`, if a hooked function may return there.
    pub fn number(&self, address: u64) -> Option<usize> {
        self.sites.binary_search(&address).ok()
    }

    /// A hooked function was entered; its return address `back` (link address) lies at `rsp`.
    pub fn entered(
        &self,
        context: &Context<'_>,
        hook: usize,
        rsp: u64,
        back: u64,
        then: Then,
    ) -> Result<(), Unreadable> {
        if self.of_hook.get(&hook).is_some_and(|sites| sites.contains(&back)) {
            let task = context.current_address()?;
            if let Ok(mut calls) = self.calls.lock() {
                calls.add(rsp.wrapping_add(8), Pending { site: back, task, then });
                self.under_way.set(context.vcpu, calls.of(task));
                return Ok(());
            }
        }
        then(context, Returned(None))
    }

    /// Control is behind a call, at site `number`.
    pub fn returned(&self, context: &Context<'_>, number: usize) -> Result<(), Unreadable> {
        let (Some(&site), Ok(mut calls)) = (self.sites.get(number), self.calls.lock()) else { return Ok(()) };
        let Some(call) = calls.take(context.register(Register::Rsp), site) else { return Ok(()) };
        self.under_way.set(context.vcpu, calls.of(call.task));
        drop(calls);
        (call.then)(context, Returned(Some(context.register(Register::Rax))))
    }

    /// `task` runs on `vcpu` from here on.
    pub fn switched(&self, vcpu: u32, task: u64) {
        if let Ok(calls) = self.calls.lock() {
            self.under_way.set(vcpu, calls.of(task));
        }
    }

    /// The guest was reset.
    pub fn clear(&self) {
        if let Ok(mut calls) = self.calls.lock() {
            calls.clear();
        }
    }
}

/// Of the functions' return addresses, those of the hooks with these numbers and addresses.
pub fn of_hooks(hooks: &[(usize, u64)], found: &BTreeMap<u64, BTreeSet<u64>>) -> HashMap<usize, BTreeSet<u64>> {
    hooks.iter().filter_map(|(number, address)| Some((*number, found.get(address)?.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_task() {
        let call = |site, task| Pending { site, task, then: Box::new(|_, _| Ok(())) };
        let mut calls = Calls::default();
        calls.add(0x1000, call(1, 7));
        calls.add(0x900, call(2, 7));
        calls.add(0x8000, call(1, 8));
        assert_eq!((calls.of(7), calls.of(8), calls.of(9)), (2, 1, 0));
        assert!(calls.take(0x1000, 2).is_none(), "another function's place");
        assert!(calls.take(0x1000, 1).is_some_and(|call| call.task == 7));
        calls.add(0x900, call(3, 8));
        assert_eq!((calls.of(7), calls.of(8)), (0, 2), "the stack is another task's by now");
        for at in 0..2 * MAX_PENDING as u64 {
            calls.add(at, call(1, at));
        }
        assert!(calls.pending.len() <= MAX_PENDING && calls.of_task.len() <= MAX_PENDING);
    }

    #[test]
    fn results() {
        assert!(Returned(None).succeeded() && Returned(Some(0)).succeeded() && Returned(Some(5)).succeeded());
        assert!(!Returned(Some(0xffff_fff3)).succeeded() && !Returned(Some((-13i64) as u64)).succeeded());
        assert_eq!(Returned(Some((-2i64) as u64)).pointer(), None);
        assert_eq!(Returned(Some(0xffff_8880_0000_1000)).pointer(), Some(0xffff_8880_0000_1000));
    }
}
