//! The guest's virtual memory as the vCPU sees it that is in a callback now.

use std::cell::Cell;

use lava_guest::memory::{Physical, Unreadable, Virtual};
use lava_guest::paging::AddressSpace;

use crate::api::{
    GByteArray, g_byte_array_new, g_byte_array_set_size, g_byte_array_unref, qemu_plugin_read_memory_vaddr,
};
use crate::ram::Ram;
use crate::registers::{Register, Registers};

/// A glib byte array of our own, used for all calls that return bytes.
pub struct Bytes(*mut GByteArray);

impl Bytes {
    pub fn new() -> Self {
        // SAFETY: takes nothing, returns an array that we own.
        Self(unsafe { g_byte_array_new() })
    }

    /// Empties the array and hands it to `fill`; returns what it holds then.
    pub fn fill<R>(&self, fill: impl FnOnce(*mut GByteArray) -> R) -> (R, &[u8]) {
        // SAFETY: the pointer is our live array.
        unsafe { g_byte_array_set_size(self.0, 0) };
        let result = fill(self.0);
        // SAFETY: the array is alive and QEMU keeps data and len consistent; data may be null when len is 0; nobody
        // changes it before the next `fill`, which takes the same &self: the slice is used before that (private type, callers copy).
        let bytes = unsafe {
            if (*self.0).len == 0 {
                &[][..]
            } else {
                std::slice::from_raw_parts((*self.0).data, (*self.0).len as usize)
            }
        };
        (result, bytes)
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: our own reference, not used afterwards.
        unsafe { g_byte_array_unref(self.0) }
    }
}

/// Where the running kernel lies: what turns most of its addresses into physical ones without a page walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// KASLR slide, bytes.
    pub slide: u64,
    /// Where all RAM is mapped (`page_offset_base`).
    pub direct_map: u64,
    /// `phys_base`: the kernel image's physical address is its virtual one minus `__START_KERNEL_map` plus this.
    pub phys_base: u64,
}

/// `__START_KERNEL_map` (arch/x86/include/asm/page_64_types.h), and how long the image's mapping is at most.
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
const KERNEL_IMAGE_SIZE: u64 = 1 << 30;

impl Placement {
    /// Guest physical address of an address within the kernel's image.
    pub fn image(&self, address: u64) -> Option<u64> {
        let image = address.wrapping_sub(START_KERNEL_MAP);
        (image < KERNEL_IMAGE_SIZE).then(|| image.wrapping_add(self.phys_base))
    }

    /// Guest physical address of what lies in the kernel's image or in the direct map of `ram` bytes.
    pub fn physical(&self, address: u64, ram: u64) -> Option<u64> {
        let direct = address.wrapping_sub(self.direct_map);
        self.image(address).or((direct < ram.saturating_add(4 << 30)).then_some(direct))
    }
}

/// Memory of the current vCPU. Exists only inside a callback of that vCPU.
///
/// The direct map and the kernel's image are read in RAM at once; other addresses (stacks, modules, user space) after a page walk
/// of our own; what is not RAM, or before the kernel was found, through QEMU.
#[derive(Clone, Copy)]
pub struct VcpuMemory<'a> {
    pub bytes: &'a Bytes,
    pub ram: Option<&'a Ram>,
    pub placement: Option<Placement>,
    pub registers: &'a Registers,
    /// CR3 of this vCPU and whether page tables have five levels, once they were needed.
    pub paging: &'a Cell<Option<(u64, bool)>>,
}

impl VcpuMemory<'_> {
    /// Guest physical address of a kernel address, without a page walk where that is possible.
    pub fn physical(&self, address: u64) -> Option<u64> {
        let ram = self.ram?;
        if let Some(gpa) = self.placement.and_then(|placement| placement.physical(address, ram.size())) {
            return Some(gpa);
        }
        let (cr3, five_level) = self.paging();
        AddressSpace::new(ram, cr3, five_level).translate(address).ok().map(|page| page.gpa)
    }

    fn paging(&self) -> (u64, bool) {
        /// CR4.LA57 (Intel SDM vol. 3, 2.5).
        const LA57: u64 = 1 << 12;
        self.paging.get().unwrap_or_else(|| {
            let read = |register| self.registers.read(self.bytes, register);
            let paging = (read(Register::Cr3), read(Register::Cr4) & LA57 != 0);
            self.paging.set(Some(paging));
            paging
        })
    }

    fn through_qemu(&self, address: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        // SAFETY: called in a vCPU's callback (the type exists only there); the array is alive; QEMU checks the address.
        let (done, bytes) =
            self.bytes.fill(|array| unsafe { qemu_plugin_read_memory_vaddr(address, array, buf.len()) });
        if !done || bytes.len() < buf.len() {
            return Err(Unreadable { address });
        }
        buf.copy_from_slice(&bytes[..buf.len()]);
        Ok(())
    }
}

impl Virtual for VcpuMemory<'_> {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let Some(ram) = self.ram else { return self.through_qemu(address, buf) };
        let mut done = 0;
        while done < buf.len() {
            let at = address.checked_add(done as u64).ok_or(Unreadable { address: u64::MAX })?;
            let step = (buf.len() - done).min(4096 - (at & 0xfff) as usize);
            let part = &mut buf[done..done + step];
            let gpa = self.physical(at).ok_or(Unreadable { address: at })?;
            if ram.read(gpa, part).is_err() {
                self.through_qemu(at, part)?;
            }
            done += step;
        }
        Ok(())
    }
}
