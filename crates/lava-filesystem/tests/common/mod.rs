//! File systems made by mkfs.ext4 and changed by debugfs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A tree with one of everything.
pub fn tree(root: &Path) {
    fs::create_dir_all(root.join("etc/deep/er")).unwrap();
    fs::create_dir_all(root.join("var/log/journal/x")).unwrap();
    for (name, content) in [
        ("etc/passwd", "root:x:0:0\n"),
        ("etc/same", "the same\n"),
        ("etc/removed", "was here\n"),
        ("etc/mode", "mode\n"),
        ("etc/stamped", "AAAA\n"),
        ("etc/deep/er/file", "deep\n"),
        ("var/log/journal/x/system.journal", "journal\n"),
    ] {
        fs::write(root.join(name), content).unwrap();
    }
    symlink("/etc/passwd", root.join("etc/link")).unwrap();
    // More names than fit into one block of a folder.
    fs::create_dir(root.join("many")).unwrap();
    for number in 0..300 {
        fs::write(root.join(format!("many/a-rather-long-name-{number}")), format!("{number}")).unwrap();
    }
}

/// A file system of 16 MiB with that tree, without a partition table.
pub fn image(dir: &Path, options: &[&str]) -> PathBuf {
    let (root, image) = (dir.join("root"), dir.join("before.raw"));
    fs::create_dir(&root).unwrap();
    tree(&root);
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-d"])
        .arg(&root)
        .args(options)
        .arg(&image)
        .arg("16m")
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    image
}

/// A copy, changed by debugfs.
pub fn changed(before: &Path, commands: &str) -> PathBuf {
    let after = before.with_file_name("after.raw");
    fs::copy(before, &after).unwrap();
    let mut debugfs = Command::new("debugfs");
    debugfs.args(["-w", "-f", "-"]).arg(&after).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut debugfs = debugfs.spawn().unwrap();
    debugfs.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let said = debugfs.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    after
}
