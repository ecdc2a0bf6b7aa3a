//! What an event can be.

use std::net::IpAddr;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{Action, GuestText, Sha256};

/// A file as its inode tells it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct FileId {
    /// Device the file lives on: major, minor.
    pub device: (u32, u32),
    /// Inode number.
    pub inode: u64,
    /// Type and permission bits (`i_mode`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size at that moment, bytes.
    pub size: u64,
    /// For a device node: the device it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<(u32, u32)>,
}

impl FileId {
    /// What kind of file `mode` says it is.
    #[must_use]
    pub const fn file_type(&self) -> FileType {
        match self.mode & 0o170_000 {
            0o100_000 => FileType::Regular,
            0o040_000 => FileType::Directory,
            0o120_000 => FileType::Symlink,
            0o060_000 => FileType::BlockDevice,
            0o020_000 => FileType::CharacterDevice,
            0o010_000 => FileType::Fifo,
            0o140_000 => FileType::Socket,
            _ => FileType::Other,
        }
    }

    /// True if a new owner's rights are taken at exec (setuid bit).
    #[must_use]
    pub const fn is_setuid(&self) -> bool {
        self.mode & 0o4000 != 0
    }
}

/// `S_IFMT` in words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    /// An ordinary file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A disk or partition.
    BlockDevice,
    /// A terminal, /dev/null...
    CharacterDevice,
    /// A named pipe.
    Fifo,
    /// A Unix socket in the file system.
    Socket,
    /// None of these: the guest's inode makes no sense.
    Other,
}

/// How a file was opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// For reading.
    Read,
    /// For writing.
    Write,
    /// For both.
    ReadWrite,
}

impl Access {
    /// True if the opener may write.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }
}

/// Bytes `start..end`.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// First byte behind it.
    pub end: u64,
}

impl Range {
    /// True if the two share a byte.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// How many bytes it is long.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// True if it holds no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

/// Another process than the acting one.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct ProcessRef {
    /// Thread group id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Start of the thread group leader, ns since the guest's boot.
    pub start_ns: u64,
    /// Its name.
    pub comm: GuestText,
}

/// Rights of a task (`struct cred`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Credentials {
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Saved user id.
    pub suid: u32,
    /// Saved group id.
    pub sgid: u32,
    /// Permitted capabilities, one bit each (`capability.h`).
    pub permitted: u64,
    /// Effective capabilities.
    pub effective: u64,
}

/// Transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and `ICMPv6`.
    Icmp,
    /// A Unix socket.
    Unix,
    /// Anything else.
    Other,
}

/// One end of a network connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct NetEndpoint {
    /// Address.
    pub address: IpAddr,
    /// Port; 0 where the protocol has none.
    pub port: u16,
}

/// What part of a disk a request touches.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum DiskRegion {
    /// Bytes 0..440 of the disk: the code that the BIOS runs.
    MbrBootCode,
    /// Bytes 440..446: disk signature.
    MbrSignature,
    /// Bytes 446..512: the four partition entries and 55 AA.
    PartitionTable,
    /// Behind the MBR, before the first partition: unused by most, home of bootkits and GRUB's core.
    PostMbrGap,
    /// GPT header and entries, first or backup copy.
    Gpt,
    /// The first sectors of a partition: its boot sector (VBR).
    BootSector,
    /// Everything else.
    Data,
}

/// Why events are missing.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The tap's numbering jumped.
    Numbering,
    /// The ring held bytes that are no event: QEMU or the tap is damaged or taken over.
    Corrupt,
    /// The producer died.
    ProducerDied,
    /// A kernel object could not be read.
    Unreadable,
}

/// What was seen. The names in the attributes are the contract.
#[derive(Clone, PartialEq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "kind")]
#[allow(clippy::large_enum_variant)] // An event is short-lived; boxing each variant would cost more than it saves.
pub enum Kind {
    /// A process (or thread) was made; the acting process is its parent.
    #[serde(rename = "process.fork")]
    ProcessFork {
        /// The new one.
        child: ProcessRef,
        /// True if it is a thread of the acting process.
        thread: bool,
    },
    /// The acting process became another program. `process.exe` is already the new one.
    #[serde(rename = "process.exec")]
    ProcessExec {
        /// The path that was given to execve, as the kernel copied it. For a script: the script.
        path: GuestText,
        /// Arguments, as the program sees them (for a script: with its interpreter in front).
        argv: Vec<GuestText>,
        /// Environment.
        envp: Vec<GuestText>,
        /// True if `argv` or `envp` was longer than what is kept.
        truncated: bool,
        /// Working directory.
        cwd: GuestText,
        /// The program file that was loaded.
        file: FileId,
        /// The interpreter, if `path` is a script.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interpreter: Option<GuestText>,
    },
    /// The acting process ended: its last thread is gone.
    #[serde(rename = "process.exit")]
    ProcessExit {
        /// Exit code, if it exited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u32>,
        /// Signal, if one ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<u32>,
    },
    /// The acting task got other rights.
    #[serde(rename = "process.credentials")]
    ProcessCredentials {
        /// Before.
        old: Credentials,
        /// After.
        new: Credentials,
    },
    /// A file was opened. Directories are left out.
    #[serde(rename = "file.open")]
    FileOpen {
        /// Its path.
        path: GuestText,
        /// Its identity.
        file: FileId,
        /// For reading, writing or both.
        access: Access,
    },
    /// A file came to be.
    #[serde(rename = "file.create")]
    FileCreate {
        /// Its path.
        path: GuestText,
        /// Its identity, where it is known already (an open file).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<FileId>,
        /// What was made.
        what: FileType,
        /// For a symbolic link: where it points. For a hard link: the other name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<GuestText>,
    },
    /// Bytes were written to an open file: the first write at once, later ones summed up until the file is closed or
    /// somebody else writes.
    #[serde(rename = "file.write")]
    FileWrite {
        /// Its path.
        path: GuestText,
        /// Its identity. A block device's `node` tells which disk.
        file: FileId,
        /// What was written, merged, at most 64 ranges; empty for files without positions (pipes, terminals).
        ranges: Vec<Range>,
        /// Sum of the sizes asked for, bytes.
        bytes: u64,
        /// Number of writes.
        count: u64,
    },
    /// Permissions or owner changed.
    #[serde(rename = "file.attributes")]
    FileAttributes {
        /// Its path.
        path: GuestText,
        /// Before.
        file: FileId,
        /// New type and permission bits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// New owner.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// New group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gid: Option<u32>,
    },
    /// A file got another name.
    #[serde(rename = "file.rename")]
    FileRename {
        /// Old path.
        from: GuestText,
        /// New path.
        to: GuestText,
        /// Its identity.
        file: FileId,
    },
    /// A name of a file was removed.
    #[serde(rename = "file.unlink")]
    FileUnlink {
        /// Its path.
        path: GuestText,
        /// Its identity.
        file: FileId,
    },
    /// A process asked for a connection (seen at the socket layer; the wire has `net.flow`).
    #[serde(rename = "net.connect")]
    NetConnect {
        /// Transport protocol.
        protocol: Protocol,
        /// Where to, for TCP and UDP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        destination: Option<NetEndpoint>,
        /// Where to, for Unix sockets (an abstract name begins with `@`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<GuestText>,
    },
    /// A flow on the wire, seen for the first time.
    #[serde(rename = "net.flow")]
    NetFlow {
        /// Transport protocol.
        protocol: Protocol,
        /// The guest's end.
        origin: NetEndpoint,
        /// The other end.
        destination: NetEndpoint,
        /// What our network did with it, in a word: `refused`, `dropped`, `answered`.
        answer: String,
        /// Number of the frame in traffic.pcapng, from 1.
        frame: u64,
    },
    /// The guest got its address from our DHCP server.
    #[serde(rename = "net.lease")]
    NetLease {
        /// The guest's address.
        address: IpAddr,
        /// The guest's host name, if it sent one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host_name: Option<GuestText>,
        /// Number of the frame in traffic.pcapng, from 1.
        frame: u64,
    },
    /// A module became part of the kernel.
    #[serde(rename = "kernel.module_load")]
    KernelModuleLoad {
        /// Its name.
        name: GuestText,
    },
    /// A write reached the disk. Watched regions: each request, before it lands. The rest: summed up.
    #[serde(rename = "disk.write")]
    DiskWrite {
        /// `vda`, `vdb`...
        disk: String,
        /// Where it goes.
        region: DiskRegion,
        /// The bytes of the region that it asks for, merged, at most 64 ranges.
        ranges: Vec<Range>,
        /// Sum of their sizes, bytes.
        bytes: u64,
        /// Number of requests.
        count: u64,
        /// The ranges in which new and old bytes differ; watched regions only.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changed: Vec<Range>,
        /// Bytes of the region before: artifact. Watched regions only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Sha256>,
        /// Bytes of the region as they would be after it: artifact. Watched regions only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Sha256>,
    },
    /// The micro-VM began to run.
    #[serde(rename = "vm.started")]
    VmStarted {
        /// QEMU's version.
        qemu: String,
        /// Release of the guest kernel.
        kernel: String,
    },
    /// The tap found the running kernel and its hooks are in place.
    #[serde(rename = "vm.introspection")]
    VmIntrospection {
        /// KASLR slide, bytes.
        slide: u64,
        /// Hooks set, by the kernel function's name.
        hooks: Vec<String>,
        /// What could not be hooked, and why.
        missing: Vec<String>,
    },
    /// The task was handed to the guest.
    #[serde(rename = "vm.task")]
    VmTask {
        /// Its name.
        name: String,
        /// Its path in the guest.
        path: String,
        /// Its content: artifact.
        sha256: Sha256,
        /// Its profile.
        profile: String,
        /// The command line that opens it.
        command: Vec<String>,
        /// Path of the program in the guest that starts it: the first process it forks from now on is the task.
        launcher: String,
        /// Programs that open the content and are not expected to start programs of their own.
        hosts: Vec<String>,
    },
    /// The task ended, as the launcher says.
    #[serde(rename = "vm.task_exit")]
    VmTaskExit {
        /// Exit code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i64>,
        /// Signal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i64>,
        /// Why it could not be started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<GuestText>,
    },
    /// The guest was restarted.
    #[serde(rename = "vm.reset")]
    VmReset {
        /// By whom: `guest` or `lava`.
        by: String,
    },
    /// The policy answered, and this is what became of it.
    #[serde(rename = "vm.decision")]
    VmDecision {
        /// The event that waited.
        subject: u64,
        /// The answer.
        action: Action,
        /// Name of the policy.
        policy: String,
        /// The rule that matched; none if the default answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
        /// The rule's reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// What was done, in a sentence.
        outcome: String,
    },
    /// Events are missing here.
    #[serde(rename = "vm.gap")]
    VmGap {
        /// Where.
        at: crate::Source,
        /// Why.
        cause: GapCause,
        /// How many, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        missing: Option<u64>,
        /// More, in words.
        detail: String,
    },
    /// The micro-VM is gone.
    #[serde(rename = "vm.ended")]
    VmEnded {
        /// `finished`, `timeout`, `killed`, `crashed`...
        reason: String,
        /// True if everything up to here was recorded and the VM ended as LAVA asked.
        orderly: bool,
        /// More, in words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
}

impl Kind {
    /// The dotted name, as in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ProcessFork { .. } => "process.fork",
            Self::ProcessExec { .. } => "process.exec",
            Self::ProcessExit { .. } => "process.exit",
            Self::ProcessCredentials { .. } => "process.credentials",
            Self::FileOpen { .. } => "file.open",
            Self::FileCreate { .. } => "file.create",
            Self::FileWrite { .. } => "file.write",
            Self::FileAttributes { .. } => "file.attributes",
            Self::FileRename { .. } => "file.rename",
            Self::FileUnlink { .. } => "file.unlink",
            Self::NetConnect { .. } => "net.connect",
            Self::NetFlow { .. } => "net.flow",
            Self::NetLease { .. } => "net.lease",
            Self::KernelModuleLoad { .. } => "kernel.module_load",
            Self::DiskWrite { .. } => "disk.write",
            Self::VmStarted { .. } => "vm.started",
            Self::VmIntrospection { .. } => "vm.introspection",
            Self::VmTask { .. } => "vm.task",
            Self::VmTaskExit { .. } => "vm.task_exit",
            Self::VmReset { .. } => "vm.reset",
            Self::VmDecision { .. } => "vm.decision",
            Self::VmGap { .. } => "vm.gap",
            Self::VmEnded { .. } => "vm.ended",
        }
    }
}
