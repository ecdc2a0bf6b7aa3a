//! What one callback has at hand: the vCPU, its memory and registers, and the kernel's layout.

use std::cell::Cell;

use lava_event::{Event, FileId, GuestText, Kind, Process, ProcessRef};
use lava_guest::layout::Layout;
use lava_guest::linux;
use lava_guest::memory::{Unreadable, Virtual};

use crate::memory::{Bytes, VcpuMemory};
use crate::registers::{Register, Registers};
use crate::tap::Tap;

/// A callback's view.
pub struct Context<'a> {
    pub tap: &'a Tap,
    pub vcpu: u32,
    pub slide: u64,
    pub registers: &'a Registers,
    pub bytes: &'a Bytes,
    /// Indices of the hook's parameters, in the order in which the hook named them.
    pub parameters: &'a [usize],
    /// CR3 and whether page tables have five levels, once they were needed.
    pub paging: Cell<Option<(u64, bool)>>,
}

impl<'a> Context<'a> {
    pub fn memory(&self) -> VcpuMemory<'_> {
        VcpuMemory {
            bytes: self.bytes,
            registers: self.registers,
            ram: self.tap.ram(),
            placement: self.tap.placement(),
            paging: &self.paging,
        }
    }

    /// A register's value now.
    pub fn register(&self, register: Register) -> u64 {
        self.registers.read(self.bytes, register)
    }

    pub fn layout(&self) -> &'a Layout {
        &self.tap.layout
    }

    /// The hook's parameter number `index`; unreadable if the hook has none.
    pub fn argument(&self, index: usize) -> Result<u64, Unreadable> {
        /// Arguments in registers; the others lie on the stack, above the return address (System V AMD64 ABI, 3.2.3).
        const IN_REGISTERS: usize = 6;
        let place = *self.parameters.get(index).ok_or(Unreadable { address: 0 })?;
        if let Some(value) = self.registers.argument(self.bytes, place) {
            return Ok(value);
        }
        let above = 8 * (1 + place.saturating_sub(IN_REGISTERS)) as u64;
        self.memory().u64(self.register(Register::Rsp).wrapping_add(above))
    }

    /// The task that runs on this vCPU.
    pub fn current(&self) -> Result<linux::Task, Unreadable> {
        linux::read_task(&self.memory(), self.layout(), self.current_address()?)
    }

    /// Address of that task's `task_struct`.
    pub fn current_address(&self) -> Result<u64, Unreadable> {
        // Hooks run in kernel mode, where GS is per-CPU data already; should a swapgs be still to come, the other base is.
        let base = match self.registers.read(self.bytes, Register::GsBase) {
            base if base >> 63 == 1 => base,
            _ => self.registers.read(self.bytes, Register::KernelGsBase),
        };
        let pointer = self.layout().current_task_pointer(base, self.slide);
        self.memory().pointer(pointer)
    }

    /// Emits what the acting process did.
    pub fn emit(&self, kind: Kind) -> Result<(), Unreadable> {
        let process = self.process(&self.current()?);
        self.tap.emitter.emit(self.vcpu, Some(process), kind);
        Ok(())
    }

    /// Emits something that findings rest on: with registers and backtrace.
    pub fn emit_with_registers(&self, kind: Kind) -> Result<(), Unreadable> {
        self.tap.emitter.emit_event(self.vcpu, self.whole(kind)?);
        Ok(())
    }

    /// The same for a task that was found otherwise than through this vCPU's GS, which in user mode a program can set.
    pub fn emit_of(&self, task: &linux::Task, kind: Kind) {
        self.tap.emitter.emit_event(self.vcpu, self.whole_of(task, kind));
    }

    /// The event, with registers and backtrace.
    pub fn whole(&self, kind: Kind) -> Result<Event, Unreadable> {
        Ok(self.whole_of(&self.current()?, kind))
    }

    fn whole_of(&self, task: &linux::Task, kind: Kind) -> Event {
        let mut event = self.tap.emitter.event(self.vcpu, Some(self.process(task)), kind);
        event.registers = Some(Box::new(self.registers.all(self.bytes)));
        event.backtrace = crate::backtrace::of(self, task).map(Box::new);
        event
    }

    /// Another task, by the address of its `task_struct`.
    pub fn process_ref(&self, task: u64) -> Result<ProcessRef, Unreadable> {
        linux::read_task(&self.memory(), self.layout(), task).map(|task| reference(&task))
    }

    /// The acting process. Its program's path is read once per program.
    pub fn process(&self, task: &linux::Task) -> Process {
        let start_ns = task.process_start();
        let exe = self.tap.exes.get_or((task.tgid, start_ns), || self.exe(task));
        Process {
            pid: task.tgid,
            tid: task.pid,
            start_ns,
            ppid: task.ppid.unwrap_or(0),
            uid: task.credentials.map_or(u32::MAX, |credentials| credentials.euid),
            comm: task.comm.clone().into(),
            exe,
        }
    }

    /// The path of the program that `task` runs, from its memory's `exe_file`; empty for kernel threads.
    pub fn exe(&self, task: &linux::Task) -> GuestText {
        let (memory, layout) = (self.memory(), self.layout());
        if task.mm == 0 {
            return GuestText::default();
        }
        memory
            .pointer(task.mm.wrapping_add(layout.mm.exe_file))
            .map(|file| linux::path_of(&memory, layout, file.wrapping_add(layout.file.f_path)).bytes.into())
            .unwrap_or_default()
    }

    /// Path and identity of a `struct file`.
    pub fn file(&self, file: u64) -> Result<(GuestText, FileId), Unreadable> {
        let (path, id) = linux::read_file(&self.memory(), self.layout(), file)?;
        Ok((path.bytes.into(), file_id(&id)))
    }

    /// Path of a `struct dentry`, in the acting process's mount namespace if it is mounted there.
    pub fn dentry_path(&self, dentry: u64) -> GuestText {
        linux::path_of_dentry_in(&self.memory(), self.layout(), dentry, self.mount_namespace()).bytes.into()
    }

    /// The acting process's `struct mnt_namespace`; for a kernel thread the first one of the system: kdevtmpfs has one of its
    /// own, in which /dev is the root.
    fn mount_namespace(&self) -> Option<u64> {
        let (memory, layout, offsets) = (self.memory(), self.layout(), &self.tap.offsets);
        let task = self.current_address().ok()?;
        let kernel_thread = memory.u64(task.wrapping_add(layout.task.mm)).ok()? == 0;
        let nsproxy = match offsets.init_nsproxy {
            Some(first) if kernel_thread => first.wrapping_add(self.slide),
            _ => memory.pointer(task.wrapping_add(layout.task.nsproxy)).ok()?,
        };
        memory.pointer(nsproxy.wrapping_add(offsets.mount_namespace?)).ok()
    }

    /// Path of a `struct path`.
    pub fn path(&self, path: u64) -> GuestText {
        linux::path_of(&self.memory(), self.layout(), path).bytes.into()
    }

    /// Identity of the file behind a `struct dentry`.
    pub fn dentry_file(&self, dentry: u64) -> Result<FileId, Unreadable> {
        self.inode_file(self.memory().pointer(dentry.wrapping_add(self.layout().dentry.d_inode))?)
    }

    /// Identity of the file of a `struct inode`.
    pub fn inode_file(&self, inode: u64) -> Result<FileId, Unreadable> {
        Ok(file_id(&linux::file_id(&self.memory(), self.layout(), inode)?))
    }
}

/// A task that is acted on.
pub fn reference(task: &linux::Task) -> ProcessRef {
    ProcessRef { pid: task.tgid, tid: task.pid, start_ns: task.process_start(), comm: task.comm.clone().into() }
}

/// lava-guest's identity in the vocabulary's form.
fn file_id(id: &linux::FileId) -> FileId {
    let mut file = FileId {
        device: (id.dev_major, id.dev_minor),
        inode: id.inode,
        mode: u32::from(id.mode),
        uid: id.uid,
        gid: id.gid,
        size: id.size,
        node: None,
    };
    if matches!(file.file_type(), lava_event::FileType::BlockDevice | lava_event::FileType::CharacterDevice) {
        file.node = Some((id.rdev >> 20, id.rdev & 0xf_ffff));
    }
    file
}
