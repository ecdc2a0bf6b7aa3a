//! What hooked functions returned.
//!
//! At a function's entry its hook says what is to be told if it succeeds; that waits here until the function returns. The
//! kernel's stacks are all different, so the stack pointer tells one call from another, whatever thread or vCPU it goes on on.
//!
//! Limits: calls from modules return to addresses that were not chosen at translation: their hooks are told at once that the
//! result is not known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use lava_guest::memory::Unreadable;

use crate::introspect::Context;

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
    then: Then,
}

/// Addresses behind calls, and calls that have not returned.
#[derive(Default)]
pub struct Returns {
    /// Link addresses, in order; their place is their number.
    sites: Vec<u64>,
    /// By hook number: what it may return to.
    of_hook: HashMap<usize, BTreeSet<u64>>,
    /// By the stack pointer behind the return.
    pending: Mutex<HashMap<u64, Pending>>,
}

/// Calls under way at once; a guest with more threads in hooked functions loses results, not events.
const MAX_PENDING: usize = 64 * 1024;

impl Returns {
    pub fn new(of_hook: HashMap<usize, BTreeSet<u64>>) -> Self {
        let sites: BTreeSet<u64> = of_hook.values().flatten().copied().collect();
        Self { sites: sites.into_iter().collect(), of_hook, pending: Mutex::default() }
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
        if self.of_hook.get(&hook).is_some_and(|sites| sites.contains(&back))
            && let Ok(mut pending) = self.pending.lock()
        {
            if pending.len() >= MAX_PENDING {
                pending.clear();
            }
            pending.insert(rsp.wrapping_add(8), Pending { site: back, then });
            return Ok(());
        }
        then(context, Returned(None))
    }

    /// Control is behind a call, at site `number`.
    pub fn returned(&self, context: &Context<'_>, number: usize, rsp: u64, result: u64) -> Result<(), Unreadable> {
        let Ok(mut pending) = self.pending.lock() else { return Ok(()) };
        let site = self.sites.get(number);
        if pending.get(&rsp).map(|pending| &pending.site) != site {
            return Ok(());
        }
        let found = pending.remove(&rsp);
        drop(pending);
        found.map_or(Ok(()), |pending| (pending.then)(context, Returned(Some(result))))
    }

    /// The guest was reset.
    pub fn clear(&self) {
        if let Ok(mut pending) = self.pending.lock() {
            pending.clear();
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
    fn results() {
        assert!(Returned(None).succeeded() && Returned(Some(0)).succeeded() && Returned(Some(5)).succeeded());
        assert!(!Returned(Some(0xffff_fff3)).succeeded() && !Returned(Some((-13i64) as u64)).succeeded());
        assert_eq!(Returned(Some((-2i64) as u64)).pointer(), None);
        assert_eq!(Returned(Some(0xffff_8880_0000_1000)).pointer(), Some(0xffff_8880_0000_1000));
    }
}
