//! `filesystem.json`.

use lava_event::{FileType, GuestText, Sha256};
use serde::{Deserialize, Serialize};

/// What is different between two states of a file system.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Changes {
    /// True if everything was compared.
    pub complete: bool,
    /// What was not compared, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Names looked at, in both states together.
    pub looked_at: u64,
    /// How long it took.
    pub milliseconds: u64,
    /// By path; what is usual for every session last.
    pub entries: Vec<Entry>,
}

impl Changes {
    pub(crate) fn failed(why: String) -> Self {
        Self { problems: vec![why], ..Self::default() }
    }
}

/// What became of a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was not there before.
    Added,
    /// Its content, its type or where it points is another one.
    Changed,
    /// It is not there any more.
    Removed,
    /// Rights, owner, times or extended attributes are other ones; or its inode says that it changed, and neither these nor the content
    /// did: links count for that.
    Attributes,
}

/// One name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// From the guest's root.
    pub path: GuestText,
    /// What became of it.
    pub change: Change,
    /// Every session changes it, whatever the task is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub usual: bool,
    /// As it was; none if it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<State>,
    /// As it is; none if it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<State>,
}

/// What an inode says, and what is in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// What it is.
    #[serde(rename = "type")]
    pub what: FileType,
    /// Permission bits with setuid, setgid and sticky, octal: `0755`.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// When the content was last modified, RFC 3339: what the guest says, and a program may have set.
    pub modified: String,
    /// Hash of a regular file's content; none if it was too large, or not to be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    /// True if the content is among the artifacts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<GuestText>,
    /// Extended attributes, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<Xattr>,
}

/// An extended attribute: capabilities, access control lists, labels, a user's own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Xattr {
    /// With its namespace: `security.capability`.
    pub name: GuestText,
    /// As it lies on the disk, hexadecimal.
    pub value: String,
}
