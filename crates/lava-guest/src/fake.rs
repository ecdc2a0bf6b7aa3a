//! A guest made of bytes: physical memory, page tables and kernel objects, so that introspection is tested and measured
//! without a virtual machine (as memflow's `dummy`).
//!
//! [`FakeMemory`] is the machine: sparse pages, real 4- or 5-level tables, a direct map of all RAM as Linux has it.
//! [`FakeGuest`] places kernel objects in it by a [`crate::layout::Layout`]: a real kernel's, or [`layout`], a made-up
//! one in which no two members lie where any real kernel has them. [`kernel`] makes a kernel file to read symbols and
//! types from.
//!
//! Limits: nothing runs in it. Its methods panic when the *test* misuses them (RAM used up); they never see guest input.

pub mod kernel;
mod objects;

pub use objects::{FakeGuest, Identity};

use crate::layout::Layout;
use crate::memory::{Physical, Unreadable};
use crate::paging::AddressSpace;
use std::collections::HashMap;

const PAGE: u64 = 4096;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const LARGE: u64 = 0x80;
const NO_EXECUTE: u64 = 1 << 63;

/// The layout of a made-up kernel: see [`kernel::btf`].
pub fn layout() -> Layout {
    use crate::{btf::Types, kallsyms::Symbols};
    let types = Types::parse(&kernel::btf()).expect("the made-up types are well-formed");
    let symbols = Symbols::from_list([(0x1_fbc0, 'A', "current_task")]);
    Layout::resolve(&types, &symbols).expect("the made-up types have every member")
}

/// What a page of [`FakeMemory::map`] allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// May be written.
    pub writable: bool,
    /// May be used in user mode.
    pub user: bool,
    /// May be executed.
    pub executable: bool,
}

/// Physical memory and the page tables in it.
pub struct FakeMemory {
    pages: HashMap<u64, Box<[u8; PAGE as usize]>>,
    ram: u64,
    next: u64,
    cr3: u64,
    five_level: bool,
}

impl FakeMemory {
    /// `ram` bytes of memory, all of it in the kernel's direct map, in 2 MiB pages.
    pub fn new(ram: u64, five_level: bool) -> FakeMemory {
        let mut memory = FakeMemory { pages: HashMap::new(), ram, next: PAGE, cr3: 0, five_level };
        memory.cr3 = memory.page();
        let rights = Rights { writable: true, user: false, executable: false };
        for gpa in (0..ram).step_by(2 << 20) {
            memory.map(memory.direct_map() + gpa, gpa, 2 << 20, rights);
        }
        memory
    }

    /// Where the direct map of all memory begins (`page_offset_base` without KASLR; Documentation/arch/x86/x86_64/mm.rst).
    pub fn direct_map(&self) -> u64 {
        if self.five_level { 0xff11_0000_0000_0000 } else { 0xffff_8880_0000_0000 }
    }

    /// A zeroed page; its guest physical address.
    ///
    /// # Panics
    /// When RAM is used up.
    pub fn page(&mut self) -> u64 {
        let gpa = self.next;
        assert!(gpa + PAGE <= self.ram, "the fake guest's RAM is used up");
        self.next += PAGE;
        gpa
    }

    /// `len` zeroed bytes that no other object shares a page with; their guest physical address.
    ///
    /// # Panics
    /// When RAM is used up.
    pub fn pages(&mut self, len: u64) -> u64 {
        let first = self.page();
        for _ in 1..len.div_ceil(PAGE).max(1) {
            self.page();
        }
        first
    }

    /// Maps the page of `size` bytes (4 KiB, 2 MiB or 1 GiB) at `va` to `gpa`.
    pub fn map(&mut self, va: u64, gpa: u64, size: u64, rights: Rights) {
        let leaf = match size {
            0x1000 => 1,
            0x20_0000 => 2,
            0x4000_0000 => 3,
            _ => panic!("no page has {size} bytes"),
        };
        let mut table = self.cr3;
        for level in (leaf..=if self.five_level { 5 } else { 4 }).rev() {
            let slot = table + (va >> (12 + 9 * (level - 1)) & 0x1ff) * 8;
            if level == leaf {
                let flag = |on: bool, bit: u64| if on { bit } else { 0 };
                let entry = gpa
                    | PRESENT
                    | flag(leaf > 1, LARGE)
                    | flag(rights.writable, WRITABLE)
                    | flag(rights.user, USER)
                    | flag(!rights.executable, NO_EXECUTE);
                self.write(slot, &entry.to_le_bytes());
                return;
            }
            let mut bytes = [0; 8];
            self.read(slot, &mut bytes).expect("tables lie in RAM");
            let mut entry = u64::from_le_bytes(bytes);
            if entry & PRESENT == 0 {
                entry = self.page() | PRESENT | WRITABLE | USER;
                self.write(slot, &entry.to_le_bytes());
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
    }

    /// Writes guest physical memory.
    ///
    /// # Panics
    /// Past the end of RAM.
    pub fn write(&mut self, gpa: u64, bytes: &[u8]) {
        for (at, &byte) in (gpa..).zip(bytes) {
            assert!(at < self.ram, "write past the fake guest's RAM");
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Box::new([0; PAGE as usize]));
            page[(at % PAGE) as usize] = byte;
        }
    }

    /// The address space of the kernel.
    pub fn space(&self) -> AddressSpace<'_, FakeMemory> {
        AddressSpace::new(self, self.cr3, self.five_level)
    }
}

impl Physical for FakeMemory {
    fn read(&self, gpa: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let end = gpa.checked_add(buf.len() as u64).filter(|&end| end <= self.ram);
        end.ok_or(Unreadable { address: gpa })?;
        let mut done = 0;
        while done < buf.len() {
            let at = gpa + done as u64;
            let within = (at % PAGE) as usize;
            let step = (buf.len() - done).min(PAGE as usize - within);
            let part = &mut buf[done..done + step];
            match self.pages.get(&(at / PAGE)) {
                Some(page) => part.copy_from_slice(&page[within..within + step]),
                None => part.fill(0),
            }
            done += step;
        }
        Ok(())
    }
}
