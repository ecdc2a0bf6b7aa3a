//! What events speak of: files, rights, ends of connections, regions.

use std::borrow::Cow;
use std::net::IpAddr;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::GuestText;

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
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
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
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
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
    /// The guest did the same without end: what came too fast was counted, not told one by one.
    Pace,
}

/// Rights of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, BorshSerialize, BorshDeserialize)]
pub struct Protection(u8);

impl Protection {
    /// From the kernel's `VM_READ`, `VM_WRITE`, `VM_EXEC` (or `PROT_*`: the same bits).
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self((bits & 7) as u8)
    }

    /// May be written.
    #[must_use]
    pub const fn writes(self) -> bool {
        self.0 & 2 != 0
    }

    /// May be executed.
    #[must_use]
    pub const fn executes(self) -> bool {
        self.0 & 4 != 0
    }
}

impl std::fmt::Display for Protection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (bit, letter) in [(1, 'r'), (2, 'w'), (4, 'x')] {
            write!(f, "{}", if self.0 & bit != 0 { letter } else { '-' })?;
        }
        Ok(())
    }
}

impl Serialize for Protection {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Protection {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: String = serde::Deserialize::deserialize(deserializer)?;
        let bit = |letter, bit| if text.contains(letter) { bit } else { 0 };
        Ok(Self(bit('r', 1) | bit('w', 2) | bit('x', 4)))
    }
}

/// What the kernel keeps constant once it runs.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum ImmutableArea {
    /// The kernel's code.
    Text,
    /// The kernel's read-only data.
    ReadOnlyData,
    /// The table of system calls.
    SyscallTable,
    /// The interrupt descriptor table.
    Idt,
    /// Code of a module that is live.
    ModuleText,
}

/// Who wrote to memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writer {
    /// An instruction of the guest.
    Cpu,
    /// A device, by direct memory access.
    Device,
    /// Not known: found by comparing.
    Unknown,
}

/// One argument of a system call.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct ApiArgument {
    /// Its name in the kernel's source.
    pub name: Cow<'static, str>,
    /// Its value as passed.
    pub value: u64,
    /// What it points to or stands for, in words: text, flags, a file's path. Read when the call returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<GuestText>,
}

/// Name of a DNS record type (IANA); `TYPE123` as RFC 3597 writes an unknown one.
#[must_use]
pub fn dns_type(qtype: u16) -> String {
    let known = [
        (1, "A"),
        (2, "NS"),
        (5, "CNAME"),
        (6, "SOA"),
        (12, "PTR"),
        (15, "MX"),
        (16, "TXT"),
        (28, "AAAA"),
        (33, "SRV"),
        (65, "HTTPS"),
        (255, "ANY"),
    ];
    known.iter().find(|(n, _)| *n == qtype).map_or_else(|| format!("TYPE{qtype}"), |(_, name)| (*name).to_owned())
}
