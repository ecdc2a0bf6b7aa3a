//! Kernel objects read out of a fake guest, whole and damaged.

use lava_guest::fake::{self, FakeGuest, FakeMemory, Identity, Rights};
use lava_guest::linux::{
    Credentials, GuestPath, arguments, file_id, path_of, path_of_dentry, path_of_dentry_in, read_file, read_task,
};
use lava_guest::memory::{Unreadable, Virtual};
use lava_guest::paging::AddressSpace;
use proptest::prelude::*;

fn guest() -> FakeGuest {
    FakeGuest::new(fake::layout(), false)
}

/// Every translation of both kinds of tables and all three sizes of page.
#[test]
fn paging() {
    for five_level in [false, true] {
        let mut m = FakeMemory::new(16 << 20, five_level);
        let user = Rights { writable: false, user: true, executable: true };
        let (one, two) = (m.page(), m.page());
        m.write(one + 4090, b"across");
        m.write(two, b" pages");
        m.map(0x40_0000, one, 4096, user);
        m.map(0x40_1000, two, 4096, user);
        m.map(0x4000_0000, 0x20_0000, 2 << 20, user);
        m.map(0x80_0000_0000, 0, 1 << 30, user);
        let space = m.space();
        let mut text = [0; 12];
        space.read(0x40_0ffa, &mut text).unwrap();
        assert_eq!(&text, b"across pages");
        let t = space.translate(0x40_0ffa).unwrap();
        assert_eq!((t.gpa, t.page_size, t.writable, t.user, t.executable), (one + 4090, 4096, false, true, true));
        let t = space.translate(0x4000_1234).unwrap();
        assert_eq!((t.gpa, t.page_size), (0x20_1234, 2 << 20));
        let t = space.translate(0x80_0000_0000 + one).unwrap();
        assert_eq!((t.gpa, t.page_size), (one, 1 << 30));
        assert_eq!(space.read(0x80_0000_0000 + one + 4090, &mut text[..6]), Ok(()));
        assert_eq!(&text[..6], b"across");
        let kernel = space.translate(m.direct_map()).unwrap();
        assert_eq!((kernel.user, kernel.writable, kernel.executable), (false, true, false));
        for wild in [0, 0x40_2000, 0x0080_0000_0000_0000, 0xff00_0000_0000_0000, u64::MAX - 3] {
            assert_eq!(space.read(wild, &mut [0; 8]), Err(Unreadable { address: wild }), "{wild:#x}");
        }
        // RAM ends at 16 MiB; the 1 GiB page goes on.
        assert!(space.read(0x80_0000_0000 + (16 << 20), &mut [0; 1]).is_err());
        // The other number of levels leads astray, or nowhere.
        let astray = AddressSpace::new(&m, space.cr3, !five_level).translate(0x40_0ffa);
        assert_ne!(astray.ok().map(|t| t.gpa), Some(one + 4090));
    }
}

#[test]
fn strings() {
    let mut m = FakeMemory::new(16 << 20, false);
    let page = m.page();
    m.map(0x1000, page, 4096, Rights { writable: true, user: true, executable: false });
    m.write(page, b"hello\0");
    m.write(page + 4090, b"cut of");
    let space = m.space();
    let read = |at, max| {
        let s = space.read_cstr(at, max);
        (s.bytes, s.truncated)
    };
    assert_eq!(read(0x1000, 100), (b"hello".to_vec(), false));
    assert_eq!(read(0x1000, 3), (b"hel".to_vec(), true));
    assert_eq!(read(0x1ffa, 100), (b"cut of".to_vec(), true));
    assert_eq!(read(0x5000, 100), (vec![], true));
    assert_eq!(space.read_vec(0x1ffa, 100, 50), b"cut of");
    assert_eq!(space.read_vec(0x1ffa, u64::MAX, 3), b"cut");
    assert_eq!(space.read_vec(u64::MAX, u64::MAX, 3), b"");
    assert_eq!(arguments(&space, 0x1000, 1, 100), (vec![b"hello".to_vec()], false));
    assert_eq!(arguments(&space, 0x1000, 2, 6), (vec![b"hello".to_vec()], true));
    assert_eq!(arguments(&space, 0x1ff8, 9, 100), (vec![vec![], vec![], b"cut of".to_vec()], true));
    let (many, truncated) = arguments(&space, 0x1100, u64::MAX, 64);
    assert_eq!((many.len(), truncated), (64, true));
}

#[test]
fn tasks() {
    for five_level in [false, true] {
        let mut g = FakeGuest::new(fake::layout(), five_level);
        let who = Credentials { uid: 1000, euid: 0, gid: 5, cap_effective: 1 << 21, ..Credentials::default() };
        let init = g.task(Identity { pid: 1, tgid: 1, start_ns: 7, comm: "init", ..Default::default() }, &who);
        let leader = Identity {
            pid: 40,
            tgid: 40,
            start_ns: 900,
            comm: "a name that is too long",
            parent: init,
            ..Default::default()
        };
        let leader = g.task(leader, &who);
        let thread = Identity { pid: 41, tgid: 40, start_ns: 950, comm: "t", parent: init, leader, mm: 0x5000 };
        let thread = g.task(thread, &who);
        let t = read_task(&g.space(), &g.layout, thread).unwrap();
        assert_eq!((t.pid, t.tgid, t.ppid, t.start_ns, t.process_start_ns), (41, 40, Some(1), 950, Some(900)));
        assert_eq!((t.comm.as_slice(), t.mm, t.credentials), (b"t".as_slice(), 0x5000, Some(who)));
        assert_eq!(read_task(&g.space(), &g.layout, leader).unwrap().comm, b"a name that is ");
        // What a task points to may be gone: the rest is still told.
        g.write_u64(thread + g.layout.task.cred, 0);
        g.write_u64(thread + g.layout.task.real_parent, 0xdead_0000_0000);
        g.write_u64(thread + g.layout.task.group_leader, u64::MAX - 10);
        let t = read_task(&g.space(), &g.layout, thread).unwrap();
        assert_eq!((t.pid, t.ppid, t.process_start_ns, t.credentials), (41, None, None, None));
        assert!(read_task(&g.space(), &g.layout, 0x10).is_err());
        assert!(read_task(&g.space(), &g.layout, u64::MAX - 8).is_err());
    }
}

#[track_caller]
fn check_path(g: &mut FakeGuest, mount: u64, dentry: u64, expect: &str) {
    let show = |p: GuestPath| {
        assert!(p.complete, "{p:?}");
        String::from_utf8(p.bytes).unwrap() + if p.deleted { " (deleted)" } else { "" }
    };
    let path = g.path(mount, dentry);
    assert_eq!(show(path_of(&g.space(), &g.layout, path)), expect, "through its mount");
    assert_eq!(show(path_of_dentry(&g.space(), &g.layout, dentry)), expect, "by dentry alone");
}

#[test]
fn paths() {
    let mut g = guest();
    // As a real guest boots: an initial root, the disk mounted over it, /proc and a bind mount below.
    let rootfs = g.file_system("rootfs", 1);
    let initial = g.mount(rootfs, g.root(rootfs), 0, 0);
    let disk = g.file_system("ext4", 8 << 20 | 1);
    let root = g.mount(disk, g.root(disk), initial, g.root(rootfs));
    let (initial_root, disk_root) = (g.root(rootfs), g.root(disk));
    let sh = g.tree(disk, "usr/bin/sh");
    check_path(&mut g, root, sh, "/usr/bin/sh");
    check_path(&mut g, root, disk_root, "/");
    check_path(&mut g, initial, initial_root, "/");
    let var = g.tree(disk, "var/lib");
    let data = g.file_system("xfs", 9 << 20);
    let lower = g.mount(data, g.root(data), root, var);
    let file = g.tree(data, "db/file");
    check_path(&mut g, lower, file, "/var/lib/db/file");
    g.unlink(file);
    check_path(&mut g, lower, file, "/var/lib/db/file (deleted)");
    // A file system of which only a directory is mounted anywhere.
    let hidden = g.file_system("btrfs", 10 << 20);
    let sub = g.tree(hidden, "volumes/home");
    let on = g.tree(disk, "home");
    let home = g.mount(hidden, sub, root, on);
    let letter = g.dentry(hidden, sub, "letter", 77);
    check_path(&mut g, home, letter, "/home/letter");
    let opened = g.file(home, letter);
    let (path, id) = read_file(&g.space(), &g.layout, opened).unwrap();
    assert_eq!(
        (path.bytes.as_slice(), id.inode, id.dev_major, id.mode),
        (b"/home/letter".as_slice(), 77, 10, 0o100_755)
    );
    assert!(file_id(&g.space(), &g.layout, 0x40).is_err());
}

#[test]
fn files_in_no_tree() {
    let mut g = guest();
    for (kind, name, expect) in [
        ("pipefs", "", "pipe:[4242]"),
        ("sockfs", "TCP", "socket:[4242]"),
        ("anon_inodefs", "[eventfd]", "anon_inode:[eventfd]"),
        ("tmpfs", "memfd:payload", "/memfd:payload (deleted)"),
        ("tmpfs", "memfd:a/b", "/memfd:a/b (deleted)"),
    ] {
        let sb = g.file_system(kind, 11);
        let mount = g.mount(sb, g.root(sb), 0, 0);
        let dentry = g.dentry(sb, 0, name, 4242);
        check_path(&mut g, mount, dentry, expect);
    }
}

/// devtmpfs is mounted on the root of kdevtmpfs's own namespace, and on /dev in everybody's.
#[test]
fn a_mount_of_the_own_namespace_goes_first() {
    let mut g = guest();
    let (disk, devices) = (g.file_system("ext4", 1), g.file_system("devtmpfs", 5));
    let root = g.mount(disk, g.root(disk), 0, 0);
    let dev = g.tree(disk, "dev");
    let (first, second) =
        (g.mount(devices, g.root(devices), root, g.root(disk)), g.mount(devices, g.root(devices), root, dev));
    let offset = g.layout.mount.mnt_ns.unwrap();
    for (mount, namespace) in [(first, 0xaaaa_0000), (second, 0xbbbb_0000)] {
        g.write_u64(mount + offset, namespace);
    }
    let null = g.tree(devices, "null");
    for (namespace, expect) in
        [(None, "/null"), (Some(0xaaaa_0000), "/null"), (Some(0xbbbb_0000), "/dev/null"), (Some(7), "/null")]
    {
        let path = path_of_dentry_in(&g.space(), &g.layout, null, namespace);
        assert_eq!((String::from_utf8(path.bytes).unwrap().as_str(), path.complete), (expect, true));
    }
}

/// What no kernel would have: the walk ends, and says that it did not arrive.
#[test]
fn hostile_paths() {
    let mut g = guest();
    let sb = g.file_system("ext4", 1);
    let mount = g.mount(sb, g.root(sb), 0, 0);
    let incomplete = |g: &mut FakeGuest, dentry: u64| {
        let path = g.path(mount, dentry);
        let through = path_of(&g.space(), &g.layout, path);
        let alone = path_of_dentry(&g.space(), &g.layout, dentry);
        assert!(!through.complete && !alone.complete, "{through:?} {alone:?}");
        (through.bytes, alone.bytes)
    };
    let dir = g.tree(sb, "dir");
    let file = g.dentry(sb, dir, "file", 1);
    // A cycle of directories.
    g.write_u64(dir + g.layout.dentry.d_parent, file);
    let (bytes, _) = incomplete(&mut g, file);
    assert!(bytes.len() <= 4096 && bytes.starts_with(b"dir/") || bytes.starts_with(b"file/"));
    // A name of a megabyte, one with a separator, one that points nowhere.
    let root = g.root(sb);
    let big = g.dentry(sb, root, "big", 1);
    g.write_u32(big + g.layout.dentry.d_name + g.layout.qstr.len, 1 << 20);
    incomplete(&mut g, big);
    let split = g.dentry(sb, root, "etc/shadow", 1);
    assert_eq!(incomplete(&mut g, split).0, b"");
    let wild = g.dentry(sb, root, "wild", 1);
    g.write_u64(wild + g.layout.dentry.d_name + g.layout.qstr.name, 0x1234_5678);
    let below = g.dentry(sb, wild, "below", 1);
    assert_eq!(incomplete(&mut g, below).0, b"below");
    // 300 directories.
    let deep = g.tree(sb, &vec!["d"; 300].join("/"));
    incomplete(&mut g, deep);
    // Twenty names of 255 bytes.
    let long = g.tree(sb, &vec!["n".repeat(255); 20].join("/"));
    let (bytes, _) = incomplete(&mut g, long);
    assert!((3800..=4096).contains(&bytes.len()));
    // Mounts that are each other's parents.
    let (a, b) = (g.mount(sb, root, mount, root), g.mount(sb, root, mount, root));
    g.write_u64(a + g.layout.mount.mnt_parent, b);
    g.write_u64(b + g.layout.mount.mnt_parent, a);
    let lost = g.path(a, root);
    assert!(!path_of(&g.space(), &g.layout, lost).complete);
    assert_eq!(path_of(&g.space(), &g.layout, 0), Default::default());
}

/// Memory in which everything is readable and nothing means anything.
struct Noise(u64);

impl Virtual for Noise {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        for (i, byte) in buf.iter_mut().enumerate() {
            let x = (address.wrapping_add(i as u64) ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            *byte = (x >> 32) as u8 ^ (x >> 57) as u8;
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn noise(seed: u64, address: u64) {
        let (memory, layout) = (Noise(seed), fake::layout());
        let _ = read_task(&memory, &layout, address);
        let _ = read_file(&memory, &layout, address);
        prop_assert!(path_of(&memory, &layout, address).bytes.len() <= 4096);
        prop_assert!(path_of_dentry(&memory, &layout, address).bytes.len() <= 4096);
        prop_assert!(arguments(&memory, address, u64::MAX, 1000).0.len() <= 1000);
    }

    /// A real tree with bytes changed anywhere in the guest's objects, page tables included.
    #[test]
    fn damaged_guest(changes in proptest::collection::vec((0u64..0x30_000, 0u8..), 1..200)) {
        let mut g = guest();
        let sb = g.file_system("ext4", 1);
        let mount = g.mount(sb, g.root(sb), 0, 0);
        let file = g.tree(sb, "a/b/c/d");
        let opened = g.file(mount, file);
        let task = g.task(Identity { pid: 1, ..Default::default() }, &Credentials::default());
        for (gpa, value) in changes {
            g.memory.write(gpa, &[value]);
        }
        let _ = read_task(&g.space(), &g.layout, task);
        let _ = read_file(&g.space(), &g.layout, opened);
        let _ = path_of_dentry(&g.space(), &g.layout, file);
    }
}
