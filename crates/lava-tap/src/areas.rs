//! Mappings of processes, as the memory hooks look at them.
//!
//! Offsets are resolved once; a kernel that lacks one is told in `vm.introspection`, and what needs it does nothing.

use lava_event::GuestText;
use lava_guest::btf::TypeError;
use lava_guest::kernel::Kernel;
use lava_guest::linux::regs::{self, RegsLayout, UserRegisters};
use lava_guest::linux::vma::{self, Vma, VmaLayout};
use lava_guest::memory::{Physical, Unreadable, Virtual};

use crate::introspect::Context;
use crate::memory::Placement;
use crate::ram::Ram;

/// Highest address of user mode, with 4-level page tables (Documentation/arch/x86/x86_64/mm.rst); programs get higher ones only if
/// they ask for them.
pub const USER_END: u64 = 1 << 47;

/// What backs a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A file that has a name.
    File,
    /// The kernel's own code (vdso).
    Kernel,
    /// A file without a name: a memfd, shared anonymous memory, a deleted file.
    Nameless,
    /// Nothing.
    None,
}

/// Offsets and addresses, resolved at install.
pub struct Areas {
    pub vma: VmaLayout,
    pub regs: RegsLayout,
    /// `inode.i_nlink`
    i_nlink: u64,
    /// Link addresses of the operations of special mappings.
    special: Vec<u64>,
    /// `task_struct.sas_ss_sp` and `sas_ss_size`
    alternate: (u64, u64),
}

impl Areas {
    pub fn resolve(kernel: &Kernel) -> Result<Self, TypeError> {
        let types = &kernel.types;
        let of = |strukt: &str, member: &str| types.offset(strukt, member);
        // mm/mmap.c
        let special = ["special_mapping_vmops", "legacy_special_mapping_vmops"];
        Ok(Self {
            vma: VmaLayout::resolve(types)?,
            regs: RegsLayout::resolve(types)?,
            i_nlink: of("inode", "i_nlink").or_else(|_| of("inode", "__i_nlink"))?,
            special: special.iter().filter_map(|name| kernel.symbols.address(name)).collect(),
            alternate: (of("task_struct", "sas_ss_sp")?, of("task_struct", "sas_ss_size")?),
        })
    }

    /// What backs `vma`. A file whose inode has no name any more has a link count of 0 (as memfds have: mm/shmem.c,
    /// `__shmem_file_setup`).
    pub fn backing(&self, memory: &dyn Virtual, f_inode: u64, slide: u64, vma: &Vma) -> Backing {
        if vma.file == 0 {
            let ops = vma.ops.wrapping_sub(slide);
            return if vma.ops != 0 && self.special.contains(&ops) { Backing::Kernel } else { Backing::None };
        }
        let links = memory
            .pointer(vma.file.wrapping_add(f_inode))
            .and_then(|inode| memory.u32(inode.wrapping_add(self.i_nlink)));
        if links == Ok(0) { Backing::Nameless } else { Backing::File }
    }

    /// The mapping that holds `address` in the `mm_struct` at `mm`.
    pub fn find(&self, memory: &dyn Virtual, mm: u64, address: u64) -> Option<Vma> {
        // Twice: the tree may have changed under the first.
        let look = || vma::find(memory, &self.vma, mm, address).ok().flatten();
        if mm == 0 { None } else { look().or_else(look) }
    }

    /// The registers of user mode of the task at `task`.
    pub fn user_registers(&self, memory: &dyn Virtual, task: u64) -> Result<UserRegisters, Unreadable> {
        regs::user_registers(memory, &self.regs, task)
    }

    /// Whether `sp` lies in the alternate signal stack that the task at `task` asked for.
    pub fn on_alternate_stack(&self, memory: &dyn Virtual, task: u64, sp: u64) -> bool {
        let field = |offset: u64| memory.u64(task.wrapping_add(offset));
        let (Ok(start), Ok(size)) = (field(self.alternate.0), field(self.alternate.1)) else { return false };
        size != 0 && sp.wrapping_sub(start) <= size
    }

    /// Whether `vma` is the process's heap.
    pub fn is_heap(&self, memory: &dyn Virtual, mm: u64, vma: &Vma) -> bool {
        let field = |offset: u64| memory.u64(mm.wrapping_add(offset)).unwrap_or(0);
        let (start, end) = (field(self.vma.start_brk), field(self.vma.brk));
        // As fs/proc/task_mmu.c, show_map_vma
        start < end && vma.file == 0 && vma.start < end && start < vma.end
    }

    /// Whether `vma` is the stack that the program was started with.
    pub fn is_stack(&self, memory: &dyn Virtual, mm: u64, vma: &Vma) -> bool {
        memory.u64(mm.wrapping_add(self.vma.start_stack)).is_ok_and(|start| vma.holds(start))
    }

    /// What `vma` is, in words: a path, `[heap]`, `[stack]`, `[vdso]`, `[anonymous]`.
    pub fn name(&self, context: &Context<'_>, mm: u64, vma: &Vma) -> GuestText {
        let memory = context.memory();
        if vma.file != 0 {
            return context.file(vma.file).map(|(path, _)| path).unwrap_or_default();
        }
        if self.backing(&memory, context.layout().file.f_inode, context.slide, vma) == Backing::Kernel {
            "[vdso]".into()
        } else if self.is_heap(&memory, mm, vma) {
            "[heap]".into()
        } else if self.is_stack(&memory, mm, vma) {
            "[stack]".into()
        } else {
            "[anonymous]".into()
        }
    }

    /// Where `address` lies: the mapping's name, and how far into the file or the mapping.
    pub fn place(&self, context: &Context<'_>, mm: u64, vma: &Vma, address: u64) -> GuestText {
        let into = address.wrapping_sub(vma.start);
        let offset = if vma.file == 0 { into } else { into.wrapping_add(vma.pgoff << 12) };
        let name = self.name(context, mm, vma);
        [name.bytes(), format!("+{offset:#x}").as_bytes()].concat().into()
    }
}

/// Kernel objects that lie in the direct map or the kernel's image, read without a vCPU's registers: at translation.
pub struct Direct<'a> {
    pub ram: &'a Ram,
    pub placement: Placement,
}

impl Virtual for Direct<'_> {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let gpa = self.placement.physical(address, self.ram.size()).ok_or(Unreadable { address })?;
        self.ram.read(gpa, buf)
    }
}
