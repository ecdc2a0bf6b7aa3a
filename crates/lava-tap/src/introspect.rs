//! What one callback has at hand: the vCPU, its memory and registers, and the kernel's layout.

use std::cell::Cell;

use lava_event::{Event, FileId, GuestText, Kind, Process};
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
        let place = self.parameters.get(index).copied();
        place.and_then(|place| self.registers.argument(self.bytes, place)).ok_or(Unreadable { address: 0 })
    }

    /// The task that runs on this vCPU.
    pub fn current(&self) -> Result<linux::Task, Unreadable> {
        // Hooks run in kernel mode, where GS is per-CPU data already; should a swapgs be still to come, the other base is.
        let base = match self.registers.read(self.bytes, Register::GsBase) {
            base if base >> 63 == 1 => base,
            _ => self.registers.read(self.bytes, Register::KernelGsBase),
        };
        let pointer = self.layout().current_task_pointer(base, self.slide);
        linux::read_task(&self.memory(), self.layout(), self.memory().pointer(pointer)?)
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

    /// Asks the policy; the vCPU waits. Say what became of it with [`crate::emit::Emitter::settle`].
    #[allow(dead_code)] // The integrity watch asks.
    pub fn ask(&self, kind: Kind) -> Result<lava_event::Action, Unreadable> {
        Ok(self.tap.emitter.ask(self.vcpu, self.whole(kind)?))
    }

    /// The event, with registers and backtrace.
    pub fn whole(&self, kind: Kind) -> Result<Event, Unreadable> {
        let process = self.process(&self.current()?);
        let mut event = self.tap.emitter.event(self.vcpu, Some(process), kind);
        event.registers = Some(Box::new(self.registers.all(self.bytes)));
        event.backtrace = crate::backtrace::of(self).map(Box::new);
        Ok(event)
    }

    /// The acting process. Its program's path is read once per program.
    pub fn process(&self, task: &linux::Task) -> Process {
        let start_ns = task.process_start_ns.unwrap_or(task.start_ns);
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

    /// Path of a `struct dentry`.
    pub fn dentry_path(&self, dentry: u64) -> GuestText {
        linux::path_of_dentry(&self.memory(), self.layout(), dentry).bytes.into()
    }

    /// Identity of the file behind a `struct dentry`.
    pub fn dentry_file(&self, dentry: u64) -> Result<FileId, Unreadable> {
        let inode = self.memory().pointer(dentry.wrapping_add(self.layout().dentry.d_inode))?;
        Ok(file_id(&linux::file_id(&self.memory(), self.layout(), inode)?))
    }
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
