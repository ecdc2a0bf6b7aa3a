//! Broken input gives a clear error: what, where, what to do. No micro-VM is started.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn lava() -> Command {
    let programs =
        std::env::var_os("LAVA_TEST_PROGRAMS").expect("LAVA_TEST_PROGRAMS is not set: run `cargo xtask test`");
    let mut command = Command::new(PathBuf::from(programs).join("lava"));
    command.env("LAVA_SHARE", concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).env("NO_COLOR", "1");
    command
}

/// Runs `lava run ARGUMENTS` in this environment; expects exit code 1 and each of `words` on standard error.
fn check(environment: &[(&str, &str)], arguments: &[&str], words: &[&str]) {
    let out = tempfile::tempdir().unwrap();
    let mut command = lava();
    command.arg("run").args(arguments).arg("--out").arg(out.path());
    command.envs(environment.iter().copied());
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
    assert!(!told.contains("panicked"), "{told}");
    for word in words {
        assert!(told.contains(word), "{arguments:?}: `{word}` is missing in: {told}");
    }
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "no session is left behind");
}

fn file(folder: &Path, name: &str, content: &[u8]) -> String {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_task() {
    let folder = tempfile::tempdir().unwrap();
    check(&[], &["/nonexistent/task"], &["/nonexistent/task", "No such file"]);
    check(&[], &[folder.path().to_str().unwrap()], &["is no file"]);
    check(&[], &[&file(folder.path(), "empty", b"")], &["is empty"]);
    check(
        &[],
        &[&file(folder.path(), "blob.bin", &[0xf7; 64])],
        &["blob.bin", "--profile", "elf, document, office, web, jar, script, archive"],
    );
    let large = folder.path().join("large");
    File::create(&large).unwrap().set_len(2 << 30).unwrap();
    check(&[], &[large.to_str().unwrap()], &["2048 MiB", "up to 256 MiB"]);
    let script = file(folder.path(), "a.sh", b"#!/bin/sh\ntrue\n");
    check(&[], &[&script, "--profile", "floppy"], &["no profile `floppy`", "script"]);
    check(&[], &[&script, "--disk", "/nonexistent.img"], &["/nonexistent.img"]);
    check(&[], &[&script, "--kernel", "2.4"], &["no kernel 2.4", "6.1, 6.12"]);
}

#[test]
fn the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let script = file(folder.path(), "a.sh", b"#!/bin/sh\ntrue\n");
    let text = b"policy: mine\ndefault: alow\nrules: []\n";
    let policy = file(folder.path(), "mine.yaml", text);
    check(&[], &[&script, "--policy", &policy], &["lava::policy::E0003", "mine.yaml:2", "did you mean `allow`"]);
    check(&[], &[&script, "--policy", "strict"], &["observe, protect, remediate"]);
    let binary = file(folder.path(), "bin.yaml", &[0xff, 0xfe, 0]);
    check(&[], &[&script, "--policy", &binary], &["no UTF-8"]);
}

#[test]
fn the_host() {
    let folder = tempfile::tempdir().unwrap();
    let script = file(folder.path(), "a.sh", b"#!/bin/sh\ntrue\n");
    let old = file(folder.path(), "old-qemu", b"#!/bin/sh\necho 'QEMU emulator version 7.2.0 (Debian)'\n");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
    check(&[("LAVA_QEMU", "/nonexistent/qemu")], &[&script], &["/nonexistent/qemu"]);
    check(&[("LAVA_QEMU", &old)], &[&script], &["7.2", "9.2", "cargo xtask setup"]);
    check(
        &[("XDG_CACHE_HOME", folder.path().to_str().unwrap())],
        &[&script],
        &["guest image", "not built yet", "lava image build"],
    );
    check(&[("LAVA_TAP", "/nonexistent.so")], &[&script], &["LAVA_TAP"]);
    let junk = file(folder.path(), "vmlinuz", &[7; 4096]);
    check(&[("LAVA_VMLINUZ", &junk)], &[&script], &["can't be introspected", "vmlinuz"]);
    let bare = lava_guest::fake::kernel::elf(lava_guest::fake::kernel::Tables::Since64, false);
    let bare = file(folder.path(), "vmlinuz-without-types", &bare);
    check(&[("LAVA_VMLINUZ", &bare)], &[&script], &["vmlinuz-without-types", "CONFIG_DEBUG_INFO_BTF"]);
}

#[test]
fn usage_is_exit_code_2() {
    let output = lava().arg("run").arg("--no-such-option").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
