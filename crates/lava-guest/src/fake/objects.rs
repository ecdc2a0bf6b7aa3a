//! Kernel objects placed in a fake guest's memory.

use super::FakeMemory;
use crate::layout::Layout;
use crate::linux::Credentials;
use crate::paging::AddressSpace;

/// The guest: memory, and the objects placed in it so far. Every method that makes an object returns its virtual address.
pub struct FakeGuest {
    /// The machine underneath, for what the methods here do not do.
    pub memory: FakeMemory,
    /// Where members lie.
    pub layout: Layout,
    heap: u64,
    heap_end: u64,
}

/// Who a task is: what [`FakeGuest::task`] writes into its `task_struct`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity<'a> {
    /// Thread id.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// Start, in nanoseconds since boot.
    pub start_ns: u64,
    /// Name; cut at 15 bytes.
    pub comm: &'a str,
    /// Address of the parent's `task_struct`; 0: its own.
    pub parent: u64,
    /// Address of the group leader's `task_struct`; 0: its own.
    pub leader: u64,
    /// Address of its `mm_struct`.
    pub mm: u64,
}

impl FakeGuest {
    /// An empty guest with 64 MiB of RAM.
    pub fn new(layout: Layout, five_level: bool) -> FakeGuest {
        FakeGuest { memory: FakeMemory::new(64 << 20, five_level), layout, heap: 0, heap_end: 0 }
    }

    /// The kernel's address space, to read it with.
    pub fn space(&self) -> AddressSpace<'_, FakeMemory> {
        self.memory.space()
    }

    /// `len` zeroed bytes of kernel memory.
    pub fn alloc(&mut self, len: u64) -> u64 {
        if self.heap + len > self.heap_end {
            self.heap = self.memory.pages(len.max(1 << 16));
            self.heap_end = self.heap + len.max(1 << 16);
        }
        let at = self.heap;
        self.heap = (self.heap + len).next_multiple_of(16);
        self.memory.direct_map() + at
    }

    /// Writes kernel memory that [`FakeGuest::alloc`] gave.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        self.memory.write(address - self.memory.direct_map(), bytes);
    }

    /// Writes eight bytes, as a pointer is.
    pub fn write_u64(&mut self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes());
    }

    /// Writes four bytes.
    pub fn write_u32(&mut self, address: u64, value: u32) {
        self.write(address, &value.to_le_bytes());
    }

    /// Kernel memory that holds `bytes`.
    pub fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let at = self.alloc(bytes.len() as u64);
        self.write(at, bytes);
        at
    }

    /// A NUL-terminated string.
    pub fn string(&mut self, text: &str) -> u64 {
        self.bytes(&[text.as_bytes(), &[0]].concat())
    }

    /// A `struct cred`.
    pub fn cred(&mut self, c: &Credentials) -> u64 {
        let l = self.layout.cred;
        let at = self.alloc(l.size);
        let ids = [
            (l.uid, c.uid),
            (l.gid, c.gid),
            (l.euid, c.euid),
            (l.egid, c.egid),
            (l.suid, c.suid),
            (l.sgid, c.sgid),
            (l.fsuid, c.fsuid),
            (l.fsgid, c.fsgid),
        ];
        for (offset, id) in ids {
            self.write_u32(at + offset, id);
        }
        self.write_u64(at + l.cap_permitted, c.cap_permitted);
        self.write_u64(at + l.cap_effective, c.cap_effective);
        at
    }

    /// A `task_struct`.
    pub fn task(&mut self, who: Identity<'_>, credentials: &Credentials) -> u64 {
        let l = self.layout.task;
        let at = self.alloc(l.size);
        let cred = self.cred(credentials);
        let own = |address: u64| if address == 0 { at } else { address };
        self.write_u32(at + l.pid, who.pid);
        self.write_u32(at + l.tgid, who.tgid);
        self.write_u64(at + l.start_time, who.start_ns);
        self.write(at + l.comm, &who.comm.as_bytes()[..who.comm.len().min(15)]);
        self.write_u64(at + l.real_parent, own(who.parent));
        self.write_u64(at + l.group_leader, own(who.leader));
        self.write_u64(at + l.mm, who.mm);
        self.write_u64(at + l.cred, cred);
        self.write_u64(at + l.real_cred, cred);
        at
    }

    /// A `super_block` of a file system named `kind` on device `dev` (major << 20 | minor), with its root dentry and inode.
    pub fn file_system(&mut self, kind: &str, dev: u32) -> u64 {
        let l = self.layout;
        let (sb, fs_type, name) =
            (self.alloc(l.super_block.size), self.alloc(l.file_system_type.size), self.string(kind));
        self.write_u64(fs_type + l.file_system_type.name, name);
        self.write_u64(sb + l.super_block.s_type, fs_type);
        self.write_u32(sb + l.super_block.s_dev, dev);
        let mounts = sb + l.super_block.s_mounts;
        self.write_u64(mounts, mounts);
        let root = self.dentry(sb, 0, "/", 2);
        self.write_u64(sb + l.super_block.s_root, root);
        sb
    }

    /// The root dentry of a file system.
    pub fn root(&self, sb: u64) -> u64 {
        self.peek(sb + self.layout.super_block.s_root)
    }

    /// A dentry named `name` under `parent` (0: its own parent), with a fresh inode of that number.
    pub fn dentry(&mut self, sb: u64, parent: u64, name: &str, ino: u64) -> u64 {
        let l = self.layout;
        let (dentry, inode, text) = (self.alloc(l.dentry.size), self.alloc(l.inode.size), self.string(name));
        self.write_u64(dentry + l.dentry.d_parent, if parent == 0 { dentry } else { parent });
        self.write_u32(dentry + l.dentry.d_name + l.qstr.len, name.len() as u32);
        self.write_u64(dentry + l.dentry.d_name + l.qstr.name, text);
        self.write_u64(dentry + l.dentry.d_inode, inode);
        self.write_u64(dentry + l.dentry.d_sb, sb);
        self.write_u64(dentry + l.dentry.hash_pprev, dentry);
        self.write_u64(inode + l.inode.i_ino, ino);
        self.write_u64(inode + l.inode.i_sb, sb);
        self.write(inode + l.inode.i_mode, &0o100_755u16.to_le_bytes());
        dentry
    }

    /// The dentry of the last component of `path` (`"usr/bin/sh"`), with fresh dentries all the way from the root.
    pub fn tree(&mut self, sb: u64, path: &str) -> u64 {
        let root = self.root(sb);
        path.split('/').fold(root, |parent, name| self.dentry(sb, parent, name, 1000))
    }

    /// Removes a dentry's name, as `unlink` does.
    pub fn unlink(&mut self, dentry: u64) {
        self.write_u64(dentry + self.layout.dentry.hash_pprev, 0);
    }

    /// A `struct mount` of `root` on the dentry `on` of the mount `parent` (0: the root of the namespace).
    pub fn mount(&mut self, sb: u64, root: u64, parent: u64, on: u64) -> u64 {
        let l = self.layout;
        let mount = self.alloc(l.mount.size);
        self.write_u64(mount + l.mount.mnt + l.vfsmount.mnt_root, root);
        self.write_u64(mount + l.mount.mnt + l.vfsmount.mnt_sb, sb);
        self.write_u64(mount + l.mount.mnt_parent, if parent == 0 { mount } else { parent });
        self.write_u64(mount + l.mount.mnt_mountpoint, if parent == 0 { root } else { on });
        // At the tail of the superblock's list.
        if let Some(instance) = l.mount.mnt_instance {
            let head = sb + l.super_block.s_mounts;
            let mut last = head;
            while self.peek(last) != head {
                last = self.peek(last);
            }
            self.write_u64(last, mount + instance);
            self.write_u64(mount + instance, head);
        }
        mount
    }

    /// A `struct path`: `dentry` as seen through `mount`.
    pub fn path(&mut self, mount: u64, dentry: u64) -> u64 {
        let at = self.alloc(self.layout.path.size);
        self.write_path(at, mount, dentry);
        at
    }

    /// An open `struct file`.
    pub fn file(&mut self, mount: u64, dentry: u64) -> u64 {
        let l = self.layout;
        let file = self.alloc(l.file.size);
        self.write_path(file + l.file.f_path, mount, dentry);
        let inode = self.peek(dentry + l.dentry.d_inode);
        self.write_u64(file + l.file.f_inode, inode);
        file
    }

    fn write_path(&mut self, at: u64, mount: u64, dentry: u64) {
        let l = self.layout;
        self.write_u64(at + l.path.mnt, mount + l.mount.mnt);
        self.write_u64(at + l.path.dentry, dentry);
    }

    fn peek(&self, address: u64) -> u64 {
        use crate::memory::Virtual;
        self.space().u64(address).expect("an object the fake guest made")
    }
}
