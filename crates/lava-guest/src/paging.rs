//! x86-64 page tables: from a virtual address to a guest physical one.
//!
//! Walks 4 and 5 levels (CR4.LA57, on by default with QEMU's `-cpu max`), 4 KiB, 2 MiB and 1 GiB pages. Source: Intel SDM
//! volume 3, 4.5 "4-level paging and 5-level paging".
//!
//! Limits: 64-bit mode only; EFER.NXE is taken as set, protection keys, SMEP and SMAP are not looked at (we read, we do
//! not execute); nothing is cached. Under page-table isolation a user-mode CR3 maps next to nothing of the kernel: pass
//! the kernel's (CR3 with bit 12 clear) to read kernel objects.

use crate::memory::{Physical, Unreadable, Virtual};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51..12 of CR3 and of every entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// One address space of a guest: the memory and the root of its page tables.
pub struct AddressSpace<'a, P: Physical + ?Sized> {
    /// The guest's physical memory.
    pub memory: &'a P,
    /// CR3 as the processor holds it: flags and PCID are masked here.
    pub cr3: u64,
    /// Whether CR4.LA57 is set.
    pub five_level: bool,
}

impl<P: Physical + ?Sized> Clone for AddressSpace<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Physical + ?Sized> Copy for AddressSpace<'_, P> {}

/// Where a virtual address lies, and what its page allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Guest physical address of the very byte.
    pub gpa: u64,
    /// Bytes in the page: 4 KiB, 2 MiB or 1 GiB.
    pub page_size: u64,
    /// Every level allows writing.
    pub writable: bool,
    /// Every level allows user mode.
    pub user: bool,
    /// No level forbids execution.
    pub executable: bool,
}

impl<'a, P: Physical + ?Sized> AddressSpace<'a, P> {
    /// The address space rooted at `cr3`.
    pub fn new(memory: &'a P, cr3: u64, five_level: bool) -> Self {
        AddressSpace { memory, cr3, five_level }
    }

    /// Where `address` lies.
    ///
    /// # Errors
    /// [`Unreadable`] at `address`: not canonical, not present, or its tables lie outside memory.
    pub fn translate(&self, address: u64) -> Result<Translation, Unreadable> {
        let fault = Unreadable { address };
        let levels = if self.five_level { 5 } else { 4 };
        let unused = 64 - (12 + 9 * levels);
        if ((address << unused) as i64 >> unused) as u64 != address {
            return Err(fault);
        }
        let mut table = self.cr3 & FRAME;
        let mut rights = WRITABLE | USER;
        let mut executable = true;
        for level in (1..=levels).rev() {
            let shift = 12 + 9 * (level - 1);
            let index = address >> shift & 0x1ff;
            let mut bytes = [0; 8];
            self.memory.read(table + index * 8, &mut bytes).map_err(|_| fault)?;
            let entry = u64::from_le_bytes(bytes);
            // Bit 7 is reserved above 1 GiB pages: the processor faults too.
            if entry & PRESENT == 0 || (level > 3 && entry & LARGE != 0) {
                return Err(fault);
            }
            rights &= entry;
            executable &= entry & NO_EXECUTE == 0;
            if level == 1 || entry & LARGE != 0 {
                let page_size = 1u64 << shift;
                let within = page_size - 1;
                return Ok(Translation {
                    // In a large page's entry bit 12 is PAT and the bits up to the frame are reserved: masked.
                    gpa: (entry & FRAME & !within) | (address & within),
                    page_size,
                    writable: rights & WRITABLE != 0,
                    user: rights & USER != 0,
                    executable,
                });
            }
            table = entry & FRAME;
        }
        Err(fault)
    }
}

impl<P: Physical + ?Sized> Virtual for AddressSpace<'_, P> {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let mut done = 0;
        while done < buf.len() {
            let at = address.checked_add(done as u64).ok_or(Unreadable { address: u64::MAX })?;
            let page = self.translate(at)?;
            let left = page.page_size - (page.gpa & (page.page_size - 1));
            let step = (buf.len() - done).min(usize::try_from(left).unwrap_or(usize::MAX));
            let part = &mut buf[done..done + step];
            self.memory.read(page.gpa, part).map_err(|_| Unreadable { address: at })?;
            done += step;
        }
        Ok(())
    }
}
