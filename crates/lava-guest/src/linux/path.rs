//! The path of a file as the kernel itself would print it: `d_path` (fs/d_path.c, Linux 6.1 and 6.12) from outside.
//!
//! A path is relative to the root of the mount namespace, not to the task's own root: a chroot is not hidden. Files
//! without a place in any tree get the name `/proc/PID/fd` shows: `pipe:[INODE]`, `socket:[INODE]`,
//! `anon_inode:[eventfd]`, `/memfd:name`.
//!
//! Limits: under a mount that was detached (`umount -l`) a path begins at that mount, as in the kernel's own; overlay
//! files have the overlay's path; the chain of mounts of Linux 6.18 (`mnt_next_for_sb`) was not tried on a real kernel.

use super::member;
use crate::layout::Layout;
use crate::memory::{Unreadable, Virtual};

/// Components, and mount points crossed, before a path is given up.
pub const MAX_COMPONENTS: usize = 256;
/// Bytes of a path, separators included (`PATH_MAX`).
pub const MAX_PATH: usize = 4096;
/// Bytes of one component (`NAME_MAX`).
const MAX_NAME: usize = 255;
/// Mounts of one file system that are looked at.
const MAX_MOUNTS: usize = 256;

/// A path out of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestPath {
    /// The path. If it is not complete: its last components, without a leading `/`.
    pub bytes: Vec<u8>,
    /// Everything up to the root was read, within the limits.
    pub complete: bool,
    /// The file was unlinked, or never had a name in any directory.
    pub deleted: bool,
}

impl GuestPath {
    fn named(bytes: Vec<u8>, deleted: bool) -> GuestPath {
        GuestPath { bytes, complete: true, deleted }
    }
}

/// The path of the `struct path` at `path` (of a `struct file`: its address plus [`crate::layout::FileLayout::f_path`]).
pub fn path_of(memory: &dyn Virtual, layout: &Layout, path: u64) -> GuestPath {
    let walk = Walk { memory, layout };
    let ends = member(path, layout.path.mnt)
        .and_then(|at| memory.pointer(at))
        .and_then(|mnt| Ok((mnt, memory.pointer(member(path, layout.path.dentry)?)?)));
    let Ok((vfsmount, dentry)) = ends else { return GuestPath::default() };
    if let Some(path) = walk.pseudo(dentry, Some(vfsmount)) {
        return path;
    }
    let mut names = Names::default();
    let complete = walk.climb(vfsmount, dentry, &mut names).is_ok();
    names.finish(complete, walk.unlinked(dentry))
}

/// The path of the `struct dentry` at `dentry`, where no mount is at hand (hooks on inodes).
///
/// Climbs to the file system's root, then looks among the file system's mounts for one that is mounted somewhere. A file
/// system mounted at several places has several paths: the one mounted whole and first is taken.
pub fn path_of_dentry(memory: &dyn Virtual, layout: &Layout, dentry: u64) -> GuestPath {
    path_of_dentry_in(memory, layout, dentry, None)
}

/// As [`path_of_dentry`], but a mount in the mount namespace (`struct mnt_namespace`) at this address goes before others:
/// devtmpfs, for one, is mounted on `/` in the namespace of the kernel thread that serves it, and there before anywhere else.
pub fn path_of_dentry_in(memory: &dyn Virtual, layout: &Layout, dentry: u64, namespace: Option<u64>) -> GuestPath {
    let walk = Walk { memory, layout };
    if let Some(path) = walk.pseudo(dentry, None) {
        return path;
    }
    let deleted = walk.unlinked(dentry);
    let Ok(chain) = walk.chain(dentry) else {
        let mut names = Names::default();
        let _ = walk.climb_file_system(dentry, &mut names);
        return names.finish(false, deleted);
    };
    let mut mounts: Vec<_> = walk
        .mounts(dentry)
        .into_iter()
        .filter_map(|mount| {
            let root = memory.pointer(walk.vfsmount(mount)?.checked_add(layout.vfsmount.mnt_root)?).ok()?;
            let below_root = chain.iter().rev().position(|&d| d == root)?;
            let parent = memory.pointer(member(mount, layout.mount.mnt_parent).ok()?).ok()?;
            let own = layout.mount.mnt_ns.and_then(|offset| walk.pointer(mount, offset).ok());
            // In the namespace asked for before others, mounted somewhere before not at all (the initial root, the
            // kernel's own mounts), whole before in part.
            let elsewhere = namespace.is_some() && own != namespace;
            Some(((elsewhere, parent == mount, below_root), walk.vfsmount(mount)?))
        })
        .collect();
    mounts.sort_by_key(|&(rank, _)| rank);
    let mut longest = Names::default();
    for (_, vfsmount) in mounts {
        let mut names = Names::default();
        if walk.climb(vfsmount, dentry, &mut names).is_ok() {
            return names.finish(true, deleted);
        }
        if names.0.len() > longest.0.len() {
            longest = names;
        }
    }
    if longest.0.is_empty() {
        let _ = walk.climb_file_system(dentry, &mut longest);
    }
    longest.finish(false, deleted)
}

/// Components, last first.
#[derive(Default)]
struct Names(Vec<Vec<u8>>, usize);

impl Names {
    fn push(&mut self, name: Vec<u8>) -> Result<(), Unreadable> {
        self.1 += name.len() + 1;
        if self.1 > MAX_PATH {
            return Err(Unreadable { address: 0 });
        }
        self.0.push(name);
        Ok(())
    }

    fn finish(self, complete: bool, deleted: bool) -> GuestPath {
        let mut bytes = Vec::with_capacity(self.1);
        for name in self.0.iter().rev() {
            if complete || !bytes.is_empty() {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(name);
        }
        if complete && bytes.is_empty() {
            bytes.push(b'/');
        }
        GuestPath { bytes, complete, deleted }
    }
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    memory: &'a dyn Virtual,
    layout: &'a Layout,
}

impl Walk<'_> {
    fn pointer(&self, object: u64, offset: u64) -> Result<u64, Unreadable> {
        self.memory.pointer(member(object, offset)?)
    }

    fn vfsmount(&self, mount: u64) -> Option<u64> {
        mount.checked_add(self.layout.mount.mnt)
    }

    /// `prepend_path`: names from `dentry` up, and on through the mount points, to the mount that is its own parent.
    fn climb(&self, mut vfsmount: u64, mut dentry: u64, names: &mut Names) -> Result<(), Unreadable> {
        let lost = Unreadable { address: dentry };
        let l = self.layout;
        let mut root = self.pointer(vfsmount, l.vfsmount.mnt_root)?;
        for _ in 0..MAX_COMPONENTS {
            if dentry == root {
                let mount = vfsmount.checked_sub(l.mount.mnt).ok_or(lost)?;
                let parent = self.pointer(mount, l.mount.mnt_parent)?;
                if parent == mount {
                    return Ok(());
                }
                dentry = self.pointer(mount, l.mount.mnt_mountpoint)?;
                vfsmount = self.vfsmount(parent).ok_or(lost)?;
                root = self.pointer(vfsmount, l.vfsmount.mnt_root)?;
                continue;
            }
            let parent = self.pointer(dentry, l.dentry.d_parent)?;
            if parent == dentry {
                // A root that is not this mount's: the file was moved out of what is mounted.
                return Err(lost);
            }
            names.push(self.name(dentry)?)?;
            dentry = parent;
        }
        Err(lost)
    }

    /// Names from `dentry` up to its file system's root.
    fn climb_file_system(&self, mut dentry: u64, names: &mut Names) -> Result<(), Unreadable> {
        for _ in 0..MAX_COMPONENTS {
            let parent = self.pointer(dentry, self.layout.dentry.d_parent)?;
            if parent == dentry {
                return Ok(());
            }
            names.push(self.name(dentry)?)?;
            dentry = parent;
        }
        Err(Unreadable { address: dentry })
    }

    /// `dentry`, its parent, and so on to the file system's root.
    fn chain(&self, mut dentry: u64) -> Result<Vec<u64>, Unreadable> {
        let mut chain = vec![dentry];
        for _ in 0..MAX_COMPONENTS {
            let parent = self.pointer(dentry, self.layout.dentry.d_parent)?;
            if parent == dentry {
                return Ok(chain);
            }
            chain.push(parent);
            dentry = parent;
        }
        Err(Unreadable { address: dentry })
    }

    /// Addresses of the `struct mount`s of the file system `dentry` is on, as many as can be read.
    fn mounts(&self, dentry: u64) -> Vec<u64> {
        let l = self.layout;
        let mut mounts = Vec::new();
        let head = self.pointer(dentry, l.dentry.d_sb).and_then(|sb| member(sb, l.super_block.s_mounts));
        let Ok(head) = head else { return mounts };
        let Ok(mut at) = self.memory.pointer(head) else { return mounts };
        while mounts.len() < MAX_MOUNTS && at != head {
            // A list_head within each mount; since 6.18 a plain chain of mounts.
            let (mount, next) = match (l.mount.mnt_instance, l.mount.next_for_sb) {
                (Some(instance), _) => (at.checked_sub(instance), self.memory.pointer(at)),
                (None, Some(next)) => (Some(at), self.pointer(at, next)),
                (None, None) => break,
            };
            mounts.extend(mount);
            match next {
                Ok(next) => at = next,
                Err(_) => break,
            }
        }
        mounts
    }

    /// The last component's name. One longer than any file system allows is no name.
    fn name(&self, dentry: u64) -> Result<Vec<u8>, Unreadable> {
        let qstr = member(dentry, self.layout.dentry.d_name)?;
        let len = self.memory.u32(member(qstr, self.layout.qstr.len)?)? as usize;
        let name = self.pointer(qstr, self.layout.qstr.name)?;
        if len > MAX_NAME {
            return Err(Unreadable { address: qstr });
        }
        let mut bytes = vec![0; len];
        self.memory.read(name, &mut bytes)?;
        // A name never holds a separator or NUL: what does is not a dentry's name, and must not pass for two components.
        if bytes.is_empty() || bytes.iter().any(|&b| b == 0 || b == b'/') {
            return Err(Unreadable { address: name });
        }
        Ok(bytes)
    }

    /// `d_unlinked`: not in the directory hash, and not a root.
    fn unlinked(&self, dentry: u64) -> bool {
        let hash = member(dentry, self.layout.dentry.hash_pprev).and_then(|at| self.memory.u64(at));
        let parent = self.pointer(dentry, self.layout.dentry.d_parent);
        hash == Ok(0) && parent.is_ok_and(|parent| parent != dentry)
    }

    /// The name of a file no tree holds (`d_dname` of the kernel's own file systems): its dentry is its own parent, but
    /// not the root of anything mounted.
    fn pseudo(&self, dentry: u64, vfsmount: Option<u64>) -> Option<GuestPath> {
        let l = self.layout;
        if self.pointer(dentry, l.dentry.d_parent).ok()? != dentry {
            return None;
        }
        let sb = self.pointer(dentry, l.dentry.d_sb).ok()?;
        let mounted = vfsmount.and_then(|v| self.pointer(v, l.vfsmount.mnt_root).ok());
        if mounted == Some(dentry) || self.pointer(sb, l.super_block.s_root).ok() == Some(dentry) {
            return None;
        }
        let kind =
            self.pointer(sb, l.super_block.s_type).and_then(|t| self.pointer(t, l.file_system_type.name)).ok()?;
        let numbered = |kind: &str| {
            let inode = self.pointer(dentry, l.dentry.d_inode).ok()?;
            let number = self.memory.u64(member(inode, l.inode.i_ino).ok()?).ok()?;
            Some(GuestPath::named(format!("{kind}:[{number}]").into_bytes(), false))
        };
        let prefixed = |prefix: &[u8], deleted| {
            let name = self.pseudo_name(dentry)?;
            Some(GuestPath::named([prefix, &name].concat(), deleted))
        };
        match self.memory.read_cstr(kind, 32).bytes.as_slice() {
            b"pipefs" => numbered("pipe"),
            b"sockfs" => numbered("socket"),
            b"nsfs" => numbered("namespace"),
            b"anon_inodefs" => prefixed(b"anon_inode:", false),
            // memfd_create, shared anonymous memory, SysV shared memory: `simple_dname`.
            b"tmpfs" | b"hugetlbfs" | b"ramfs" | b"rootfs" | b"devtmpfs" => prefixed(b"/", true),
            _ => None,
        }
    }

    /// A pseudo file's name is user space's own (`memfd_create`), and may hold anything but NUL.
    fn pseudo_name(&self, dentry: u64) -> Option<Vec<u8>> {
        let qstr = member(dentry, self.layout.dentry.d_name).ok()?;
        let len = self.memory.u32(member(qstr, self.layout.qstr.len).ok()?).ok()?;
        let name = self.pointer(qstr, self.layout.qstr.name).ok()?;
        Some(self.memory.read_vec(name, u64::from(len), MAX_NAME))
    }
}
