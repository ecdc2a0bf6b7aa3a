//! Kernel objects in memory that was damaged anywhere, page tables included: cycles, wild pointers, names without end. Every
//! reader ends, within its limits.
#![no_main]

use lava_guest::fake::{self, FakeGuest, FakeMemory, Identity};
use lava_guest::linux::{Credentials, arguments, file_id, path_of, path_of_dentry, read_credentials, read_file, read_task};
use lava_guest::memory::{Physical, Unreadable};
use lava_guest::paging::AddressSpace;
use libfuzzer_sys::fuzz_target;

/// The longest path a reader may give (`PATH_MAX`, and a little for names without a place).
const MAX_PATH: usize = 4096 + 256;

struct Objects {
    guest: FakeGuest,
    task: u64,
    file: u64,
    path: u64,
    dentry: u64,
    inode: u64,
    cred: u64,
}

thread_local! {
    static OBJECTS: Objects = objects();
}

fn objects() -> Objects {
    let mut guest = FakeGuest::new(fake::layout(), false);
    let who = Credentials { uid: 1000, ..Credentials::default() };
    let init = guest.task(Identity { pid: 1, tgid: 1, comm: "init", ..Default::default() }, &who);
    let task = guest.task(Identity { pid: 7, tgid: 7, comm: "sh", parent: init, ..Default::default() }, &who);
    let (root, temporary) = (guest.file_system("ext4", 8), guest.file_system("tmpfs", 9));
    let on = guest.tree(root, "a/b");
    let place = guest.root(root);
    let whole = guest.mount(root, place, 0, 0);
    let place = guest.root(temporary);
    let below = guest.mount(temporary, place, whole, on);
    let dentry = guest.tree(temporary, "c/d/name");
    let (file, path) = (guest.file(below, dentry), guest.path(below, dentry));
    let cred = guest.cred(&who);
    let inode = Virtual::u64(&guest.space(), dentry + guest.layout.dentry.d_inode).unwrap_or(0);
    Objects { guest, task, file, path, dentry, inode, cred }
}
use lava_guest::memory::Virtual;

/// Memory with patches on it.
struct Patched<'a> {
    base: &'a FakeMemory,
    patches: Vec<(u64, [u8; 8])>,
}

impl Physical for Patched<'_> {
    fn read(&self, gpa: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        self.base.read(gpa, buf)?;
        for (at, byte) in (gpa..).zip(buf) {
            let patch = self.patches.iter().rev().find(|(from, _)| (*from..*from + 8).contains(&at));
            *byte = patch.map_or(*byte, |(from, bytes)| bytes[(at - from) as usize]);
        }
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    OBJECTS.with(|objects| {
        let (guest, layout) = (&objects.guest, &objects.guest.layout);
        let patch = |bytes: &[u8]| {
            // The objects lie in the first MiB. Half of the patches point to other objects: cycles are likely.
            let at = u64::from(u16::from_le_bytes([bytes[0], bytes[1]])) * 8;
            let value = u64::from_le_bytes(std::array::from_fn(|i| bytes[3 + i]));
            let inside = guest.memory.direct_map() + value % (1 << 20);
            (at, if bytes[2] & 1 == 0 { inside } else { value }.to_le_bytes())
        };
        let memory = Patched { base: &guest.memory, patches: data.chunks_exact(11).take(32).map(patch).collect() };
        let space = AddressSpace::new(&memory, guest.space().cr3, false);
        let _ = (read_task(&space, layout, objects.task), read_credentials(&space, layout, objects.cred));
        if let Ok((path, _)) = read_file(&space, layout, objects.file) {
            assert!(path.bytes.len() <= MAX_PATH);
        }
        assert!(path_of(&space, layout, objects.path).bytes.len() <= MAX_PATH);
        assert!(path_of_dentry(&space, layout, objects.dentry).bytes.len() <= MAX_PATH);
        let _ = file_id(&space, layout, objects.inode);
        let (texts, _) = arguments(&space, objects.task, u64::MAX, 512);
        assert!(texts.iter().map(Vec::len).sum::<usize>() <= 512);
    });
});
