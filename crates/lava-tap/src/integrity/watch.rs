//! Which pages of the guest's RAM are watched, and what lies in them.
//!
//! Watched pages are read-only in QEMU's process (`mprotect`): reading and executing them costs nothing, and no alias of them in the
//! guest escapes, be it the direct map, a vmap, /dev/mem or a device's memory access.
//!
//! Limits: RAM that QEMU mapped from the session's RAM file; at most [`MAX_MODULE_PAGES`] pages of modules.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock};

use lava_event::ImmutableArea;

use super::fault::Place;
use crate::ram::Ram;

/// Bytes of a page, the guest's and the host's.
pub const PAGE: usize = 4096;
/// Each may become a mapping of its own in QEMU's process, which the host limits (vm.max_map_count, 65530 by default).
const MAX_MODULE_PAGES: usize = 16 * 1024;
/// Bytes before and after that an event tells.
pub const SHOWN: usize = 64;

/// What is in a watched page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Area {
    /// The kernel's code.
    Text = 1,
    /// Its read-only data, the table of system calls with it.
    ReadOnlyData = 2,
    /// The interrupt descriptor table.
    Idt = 3,
    /// A live module's code.
    ModuleText = 4,
    /// A live module's read-only data.
    ModuleData = 5,
}

impl Area {
    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Text,
            2 => Self::ReadOnlyData,
            3 => Self::Idt,
            4 => Self::ModuleText,
            5 => Self::ModuleData,
            _ => return None,
        })
    }

    /// In the vocabulary's words.
    pub const fn told(self) -> ImmutableArea {
        match self {
            Self::Text => ImmutableArea::Text,
            Self::ReadOnlyData | Self::ModuleData => ImmutableArea::ReadOnlyData,
            Self::Idt => ImmutableArea::Idt,
            Self::ModuleText => ImmutableArea::ModuleText,
        }
    }
}

/// Bytes of one page that an instruction changed: from the first that differs to the last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Where in our process.
    pub host: usize,
    pub before: Vec<u8>,
    pub after: Vec<u8>,
}

impl Change {
    /// What differs between a page's copy and what is in it now.
    pub fn between(page: usize, before: &[u8], after: &[u8]) -> Option<Self> {
        let differs = |index: &usize| before.get(*index) != after.get(*index);
        let first = (0..before.len()).find(differs)?;
        let last = (first..before.len()).rev().find(differs)?;
        let cut = |bytes: &[u8]| bytes.get(first..=last).map(<[u8]>::to_vec);
        Some(Self { host: page + first, before: cut(before)?, after: cut(after)? })
    }
}

/// The pages.
#[derive(Default)]
pub struct Pages {
    /// By page of the mapping: an [`Area`]'s code, or 0.
    areas: OnceLock<Box<[AtomicU8]>>,
    /// Guest physical page of a module to its virtual address.
    modules: Mutex<HashMap<u64, u64>>,
}

fn index(ram: &Ram, host: usize) -> Option<usize> {
    let (base, _) = ram.host(0)?;
    host.checked_sub(base.addr()).map(|offset| offset / PAGE)
}

impl Pages {
    /// What an address of our process is.
    pub fn place(&self, ram: &Ram, host: usize) -> Place {
        match (ram.gpa(host as u64), self.area(ram, host)) {
            (None, _) => Place::Foreign,
            (Some(_), None) => Place::Stale,
            (Some(_), Some(_)) => Place::Watched(host & !(PAGE - 1)),
        }
    }

    /// What lies at a watched address of our process.
    pub fn area(&self, ram: &Ram, host: usize) -> Option<Area> {
        let code = self.areas.get()?.get(index(ram, host)?)?;
        Area::from_code(code.load(Ordering::Acquire))
    }

    /// The virtual address of a module's page.
    pub fn module_address(&self, gpa: u64) -> Option<u64> {
        self.modules.lock().ok()?.get(&(gpa & !(PAGE as u64 - 1))).copied()
    }

    /// Watches the pages that hold `length` bytes at guest physical address `gpa`; `address` is where a module's page is mapped. Call
    /// under [`super::fault::quietly`].
    pub fn watch(&self, ram: &Ram, gpa: u64, length: u64, area: Area, address: Option<u64>) {
        let areas = self.areas.get_or_init(|| (0..ram.size() / PAGE as u64).map(|_| AtomicU8::new(0)).collect());
        let mut at = gpa & !(PAGE as u64 - 1);
        let end = gpa.saturating_add(length);
        while at < end {
            let Some((host, left)) = ram.host(at) else { return };
            let run = left.min((end - at).next_multiple_of(PAGE as u64)) & !(PAGE as u64 - 1);
            if run == 0 {
                return;
            }
            if let Some(address) = address {
                let Ok(mut modules) = self.modules.lock() else { return };
                if modules.len() >= MAX_MODULE_PAGES {
                    return;
                }
                modules.insert(at, address.wrapping_add(at - gpa) & !(PAGE as u64 - 1));
            }
            let first = index(ram, host.addr()).unwrap_or(usize::MAX);
            for page in areas.iter().skip(first).take(run as usize / PAGE) {
                page.store(area as u8, Ordering::Release);
            }
            protect(host.addr(), run as usize, false);
            at += run;
        }
    }

    /// Lets go of one page. Call under [`super::fault::quietly`].
    pub fn release(&self, ram: &Ram, gpa: u64) {
        let gpa = gpa & !(PAGE as u64 - 1);
        let Some((host, _)) = ram.host(gpa) else { return };
        if let Some(page) = index(ram, host.addr()).and_then(|index| self.areas.get()?.get(index))
            && page.swap(0, Ordering::AcqRel) != 0
        {
            protect(host.addr(), PAGE, true);
        }
        if let Ok(mut modules) = self.modules.lock() {
            modules.remove(&gpa);
        }
    }

    /// Lets go of all. Call under [`super::fault::quietly`].
    pub fn release_all(&self, ram: &Ram) {
        let Some(areas) = self.areas.get() else { return };
        areas.iter().for_each(|page| page.store(0, Ordering::Release));
        // RAM below the hole and above it are one mapping.
        if let Some((base, _)) = ram.host(0) {
            protect(base.addr(), ram.size() as usize, true);
        }
        if let Ok(mut modules) = self.modules.lock() {
            modules.clear();
        }
    }
}

/// Makes pages of the guest's RAM writable in our process, or read-only.
pub fn protect(host: usize, length: usize, writable: bool) {
    let rights = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    // SAFETY: the range lies within QEMU's mapping of the guest's RAM (the callers took it from `Ram`), which lives as long as the
    // process; nothing of Rust's is in it. Stores there fault from now on, and are let through by `fault`.
    if unsafe { libc::mprotect(std::ptr::with_exposed_provenance_mut(host), length, rights) } != 0 {
        eprintln!("lava-tap: cannot protect {length} bytes of guest memory: {}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences() {
        let before = [1u8, 2, 3, 4, 5];
        assert_eq!(Change::between(0x1000, &before, &before), None);
        let change = Change::between(0x1000, &before, &[1, 9, 3, 8, 5]).unwrap();
        assert_eq!(change, Change { host: 0x1001, before: vec![2, 3, 4], after: vec![9, 3, 8] });
    }

    #[test]
    fn areas_have_codes() {
        for area in [Area::Text, Area::ReadOnlyData, Area::Idt, Area::ModuleText, Area::ModuleData] {
            assert_eq!(Area::from_code(area as u8), Some(area));
        }
        assert_eq!(Area::from_code(0), None);
    }
}
