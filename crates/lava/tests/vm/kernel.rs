//! What is done to the guest's kernel by its own interfaces.

use lava_event::Kind;

use crate::common::run;

/// Loads another kernel with `kexec_file_load` (number 320, arch/x86/entry/syscalls/syscall_64.tbl), without an initramfs
/// (flag 4, include/uapi/linux/kexec.h), and says what came of it.
const LOAD: &str = r#"#!/usr/bin/python3
import ctypes, glob, os
kernel = os.open(sorted(glob.glob("/boot/vmlinuz-*"))[0], os.O_RDONLY)
line = b"quiet\0"
print("result", ctypes.CDLL(None).syscall(320, kernel, -1, ctypes.c_ulong(len(line)), line, ctypes.c_ulong(4)))
"#;

fn check(kernel: &str) {
    let folder = tempfile::tempdir().unwrap();
    let task = folder.path().join("load.py");
    std::fs::write(&task, LOAD).unwrap();
    let ran = run(&[task.to_str().unwrap(), "--root", "--console", "--kernel", kernel]);
    assert!(ran.console.contains("result 0"), "{}", ran.console);
    let ways: Vec<_> = ran
        .events
        .iter()
        .filter_map(|event| match &event.kind {
            Kind::KernelKexec { way } => Some((way.as_str(), event.registers.is_some())),
            _ => None,
        })
        .collect();
    assert_eq!(ways, [("kexec_file_load", true)]);
    assert!(ran.findings.iter().any(|finding| finding.detector == "persist.kexec"));
}

#[test]
fn a_kernel_that_is_loaded_to_take_over_on_linux_6_1() {
    check("6.1");
}

#[test]
fn a_kernel_that_is_loaded_to_take_over_on_linux_6_12() {
    check("6.12");
}
