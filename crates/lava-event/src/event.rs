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

/// Registers of the acting vCPU. In JSON: `{"rax":"0x1", ...}`.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Registers(pub [u64; REGISTERS.len()]);

/// Names of the registers that are kept, in their order.
pub const REGISTERS: [&str; 33] = [
    "rax",
    "rbx",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "rbp",
    "rsp",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
    "rip",
    "eflags",
    "cs",
    "ss",
    "ds",
    "es",
    "fs",
    "gs",
    "fs_base",
    "gs_base",
    "k_gs_base",
    "cr0",
    "cr2",
    "cr3",
    "cr4",
    "cr8",
    "efer",
];

impl Default for Registers {
    fn default() -> Self {
        Self([0; REGISTERS.len()])
    }
}

impl Registers {
    /// The register's value, by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.iter().find_map(|(known, value)| (known == name).then_some(value))
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REGISTERS.into_iter().zip(self.0)
    }
}

impl Serialize for Registers {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(name, value)| (name, format!("{value:#x}"))))
    }
}

impl<'de> Deserialize<'de> for Registers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map: std::collections::BTreeMap<String, String> = Deserialize::deserialize(deserializer)?;
        let mut registers = Self::default();
        for (value, name) in registers.0.iter_mut().zip(REGISTERS) {
            let Some(text) = map.get(name) else { continue };
            let digits = text.strip_prefix("0x").unwrap_or(text);
            *value = u64::from_str_radix(digits, 16)
                .map_err(|_| serde::de::Error::custom(format!("register {name}: `{text}` is no hexadecimal number")))?;
        }
        Ok(registers)
    }
}

/// One address of a backtrace.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Frame {
    /// The address.
    pub address: u64,
    /// What lies there: `symbol+0x12` in the kernel, `file+0x1234` in a program.
    pub place: GuestText,
}

/// How the acting task came here, innermost first. Kept short; found by scanning the stacks for return addresses behind
/// call instructions, not by unwinding: a stale one may stand among them.
#[derive(Clone, PartialEq, Eq, Debug, Default, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Backtrace {
    /// In the kernel.
    pub kernel: Vec<Frame>,
    /// In the program.
    pub user: Vec<Frame>,
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
    /// How it came there, where that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<Box<Backtrace>>,
    /// What it was.
    #[serde(flatten)]
    pub kind: Kind,
}

impl Event {
    /// An event that no process and no vCPU is behind.
    #[must_use]
    pub const fn new(time_ns: u64, source: Source, kind: Kind) -> Self {
        Self { seq: 0, time_ns, source, vcpu: None, process: None, registers: None, backtrace: None, kind }
    }

    /// The acting process's identity.
    #[must_use]
    pub fn actor(&self) -> Option<ProcessKey> {
        self.process.as_ref().map(Process::key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kind's members stand beside the event's own in JSON: none may bear the name of another.
    #[test]
    fn a_mount_reads_back() {
        let kind =
            Kind::FileMount { device: "/dev/vda1".into(), path: "/mnt".into(), fs_type: "ext4".into(), flags: 1 };
        let event = Event::new(7, Source::Tap, kind);
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }
}
