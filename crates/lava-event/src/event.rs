//! An event: what was seen, when, where, and who did it.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{GuestText, Kind, ProcessKey};

/// Which of the seams saw it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The introspection inside the QEMU process.
    Tap,
    /// The virtual disk.
    Disk,
    /// The virtual network.
    Net,
    /// The microvisor itself.
    Microvisor,
}

/// The acting process, as its kernel objects said at the moment of the event.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Process {
    /// Thread group id.
    pub pid: u32,
    /// Id of the acting thread.
    pub tid: u32,
    /// Start of the thread group leader, ns since the guest's boot.
    pub start_ns: u64,
    /// Thread group id of the parent.
    pub ppid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Name of the acting thread (`task_struct.comm`, at most 15 bytes).
    pub comm: GuestText,
    /// Path of the running program (`mm->exe_file`); empty for kernel threads.
    pub exe: GuestText,
}

impl Process {
    /// The process's identity within the session.
    #[must_use]
    pub const fn key(&self) -> ProcessKey {
        ProcessKey { pid: self.pid, start_ns: self.start_ns }
    }
}

/// General and control registers of the acting vCPU.
#[derive(Clone, PartialEq, Eq, Debug, Default, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Registers {
    /// rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8 .. r15.
    pub general: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// cr0, cr2, cr3, cr4.
    pub control: [u64; 4],
    /// EFER.
    pub efer: u64,
    /// fs_base, gs_base, kernel_gs_base.
    pub bases: [u64; 3],
}

/// One thing that was seen.
///
/// In JSON the kind's name stands under `kind` and its fields beside the common ones.
#[derive(Clone, PartialEq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Event {
    /// Place in the session's one ordered stream: 1, 2, 3 without gaps. 0 before the streams are merged.
    pub seq: u64,
    /// ns since the micro-VM was started (host's monotonic clock).
    pub time_ns: u64,
    /// Who saw it.
    pub source: Source,
    /// The vCPU it happened on, where one did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<u32>,
    /// Who did it, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Registers, where they matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registers: Option<Box<Registers>>,
    /// What it was.
    #[serde(flatten)]
    pub kind: Kind,
}

impl Event {
    /// An event that no process and no vCPU is behind.
    #[must_use]
    pub const fn new(time_ns: u64, source: Source, kind: Kind) -> Self {
        Self { seq: 0, time_ns, source, vcpu: None, process: None, registers: None, kind }
    }

    /// The acting process's identity.
    #[must_use]
    pub fn actor(&self) -> Option<ProcessKey> {
        self.process.as_ref().map(Process::key)
    }
}
