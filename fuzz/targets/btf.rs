//! Damaged type information: no panic, every question is answered.
#![no_main]

use std::sync::OnceLock;

use lava_guest::btf::Types;
use lava_guest::fake::kernel;
use libfuzzer_sys::fuzz_target;

static TYPES: OnceLock<Vec<u8>> = OnceLock::new();

fn ask(bytes: &[u8]) {
    let Ok(types) = Types::parse(bytes) else { return };
    for (strukt, path) in [("task_struct", "pid"), ("task_struct", "cred"), ("dentry", "d_name.len"), ("mount", "mnt.mnt_root"), ("sock", "")] {
        let _ = types.member(strukt, path);
        let _ = types.size_of(strukt);
    }
    let _ = types.param_index("vfs_rename", "rd");
    let _ = types.enum_value(None, "PIDTYPE_PID");
}

fuzz_target!(|data: &[u8]| {
    ask(data);
    let mut bytes = TYPES.get_or_init(kernel::btf).clone();
    for patch in data.chunks_exact(6) {
        let at = usize::from(u16::from_le_bytes([patch[0], patch[1]])) % bytes.len();
        for (byte, &new) in bytes[at..].iter_mut().zip(&patch[2..]) {
            *byte = new;
        }
    }
    ask(&bytes);
});
