//! File systems made by mkfs.ext4 and changed by debugfs, both of e2fsprogs: what we say is held against what these did.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lava_event::{Artifact, FileType, GuestText, Sha256};
use lava_filesystem::{Change, Changes, Limits, compare};

mod common;

use common::{changed, image};

/// Sectors before the partition.
const START: u64 = 2048;

fn compared(before: &Path, after: &Path, limits: Limits) -> (Changes, Vec<Artifact>) {
    let mut kept = Vec::new();
    let changes = compare(File::open(before).unwrap(), File::open(after).unwrap(), limits, |one| kept.push(one));
    (changes, kept)
}

fn short(changes: &Changes) -> Vec<(String, Change)> {
    changes.entries.iter().map(|entry| (entry.path.to_string(), entry.change)).collect()
}

/// What debugfs is told to do. It counts in seconds, and may finish in that in which mkfs.ext4 did: what keeps its length is given another
/// time of change, as the kernel, which counts finer, would. `write` reads a host's file, so the new contents lie beside the image.
fn commands(dir: &Path) -> String {
    for (name, content) in
        [("new", "dropped\n"), ("passwd", "root::0:0\n"), ("stamped", "BBBB\n"), ("journal", "more\n")]
    {
        fs::write(dir.join(name), content).unwrap();
    }
    let at = dir.display();
    format!(
        "write {at}/new etc/deep/new\nmkdir etc/dir\nsymlink etc/dir/evil /dev/tcp\n\
         rm etc/passwd\nwrite {at}/passwd etc/passwd\nrm etc/removed\n\
         set_inode_field etc/mode mode 0104755\nset_inode_field etc/mode ctime 20300101\n\
         rm etc/link\nsymlink etc/link /etc/shadow\nset_inode_field etc/link ctime 20300101\n\
         rm var/log/journal/x/system.journal\nwrite {at}/journal var/log/journal/x/system.journal\n\
         rm many/a-rather-long-name-299\n"
    )
}

fn told_as_debugfs_did(before: &Path, after: &Path) {
    let (changes, kept) = compared(before, after, Limits::default());
    assert_eq!(changes.problems, Vec::<String>::new());
    assert!(changes.complete);
    let of = |path: &str, change| (path.to_owned(), change);
    assert_eq!(
        short(&changes),
        [
            of("/etc/deep/new", Change::Added),
            of("/etc/dir", Change::Added),
            of("/etc/dir/evil", Change::Added),
            of("/etc/link", Change::Changed),
            of("/etc/mode", Change::Attributes),
            of("/etc/passwd", Change::Changed),
            of("/etc/removed", Change::Removed),
            of("/many/a-rather-long-name-299", Change::Removed),
            of("/var/log/journal/x/system.journal", Change::Changed),
        ]
    );
    let entries: BTreeMap<String, _> = changes.entries.iter().map(|entry| (entry.path.to_string(), entry)).collect();
    let (before, after) =
        (|path: &str| entries[path].before.clone().unwrap(), |path: &str| entries[path].after.clone().unwrap());
    assert_eq!(after("/etc/dir/evil").what, FileType::Symlink);
    assert_eq!(after("/etc/dir/evil").target, Some(GuestText::from("/dev/tcp")));
    assert_eq!((before("/etc/mode").mode.as_str(), after("/etc/mode").mode.as_str()), ("0644", "4755"));
    assert_eq!(before("/etc/link").target, Some(GuestText::from("/etc/passwd")));
    assert_eq!(before("/etc/passwd").sha256, Some(Sha256::of(b"root:x:0:0\n")));
    assert_eq!(after("/etc/passwd").sha256, Some(Sha256::of(b"root::0:0\n")));
    let usual: Vec<_> =
        changes.entries.iter().filter(|entry| entry.usual).map(|entry| entry.path.to_string()).collect();
    assert_eq!(usual, ["/var/log/journal/x/system.journal"]);
    let mut contents: Vec<&[u8]> = kept.iter().map(|artifact| &*artifact.bytes).collect();
    contents.sort();
    assert_eq!(contents, [&b"299"[..], b"dropped\n", b"root::0:0\n", b"root:x:0:0\n", b"was here\n"]);
    assert!(after("/etc/deep/new").kept && before("/etc/removed").kept && !after("/etc/mode").kept);
}

#[test]
fn what_debugfs_changed_is_told() {
    // As our images are made, and as mkfs.ext4 makes them today: with checksums, 64-bit block numbers.
    for options in [&["-O", "^64bit,^metadata_csum,^metadata_csum_seed,^orphan_file"][..], &[]] {
        let dir = tempfile::tempdir().unwrap();
        let before = image(dir.path(), options);
        let after = changed(&before, &commands(dir.path()));
        told_as_debugfs_did(&before, &after);
    }
}

#[test]
fn a_partition_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let before = image(dir.path(), &[]);
    let after = changed(&before, &commands(dir.path()));
    for plain in [&before, &after] {
        let bytes = fs::read(plain).unwrap();
        let disk = File::create(plain).unwrap();
        let sectors = bytes.len() as u64 / 512;
        let mut mbr = [0; 512];
        // The first entry is no Linux partition, and leads behind the disk's end.
        for (entry, kind, start) in [(446, 0x07, 1 << 30), (462, 0x83, START)] {
            mbr[entry + 4] = kind;
            mbr[entry + 8..entry + 12].copy_from_slice(&u32::try_from(start).unwrap().to_le_bytes());
            mbr[entry + 12..entry + 16].copy_from_slice(&u32::try_from(sectors).unwrap().to_le_bytes());
        }
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        disk.write_all_at(&mbr, 0).unwrap();
        disk.write_all_at(&bytes, START * 512).unwrap();
    }
    told_as_debugfs_did(&before, &after);
}

#[test]
fn a_forged_time_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let before = image(dir.path(), &[]);
    let stat = Command::new("debugfs").args(["-R", "stat etc/stamped"]).arg(&before).output().unwrap();
    let stat = String::from_utf8(stat.stdout).unwrap();
    let modified = stat.lines().find_map(|line| line.trim().strip_prefix("mtime: 0x")).unwrap();
    let seconds = u64::from_str_radix(&modified[..8], 16).unwrap();
    let nanoseconds = u32::from_str_radix(&modified[9..17], 16).unwrap();
    let commands = commands(dir.path());
    assert!(!commands.contains("etc/stamped"));
    let at = dir.path().display();
    // Same length, same time of modification: as `touch -r` leaves it.
    let after = changed(
        &before,
        &format!(
            "rm etc/stamped\nwrite {at}/stamped etc/stamped\nset_inode_field etc/stamped mtime @{seconds}\n\
             set_inode_field etc/stamped mtime_extra {nanoseconds}\nset_inode_field etc/stamped ctime 20300101\n"
        ),
    );
    let (changes, _) = compared(&before, &after, Limits::default());
    assert_eq!(short(&changes), [("/etc/stamped".to_owned(), Change::Changed)]);
    let entry = &changes.entries[0];
    assert_eq!(entry.before.as_ref().unwrap().modified[..19], entry.after.as_ref().unwrap().modified[..19]);
}

#[test]
fn the_same_is_the_same_and_bounds_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let before = image(dir.path(), &[]);
    let (same, kept) = compared(&before, &before, Limits::default());
    assert!(same.complete && same.entries.is_empty() && kept.is_empty());
    assert!(same.looked_at > 600, "{}", same.looked_at);

    let after = changed(&before, &commands(dir.path()));
    let limits = Limits { changes: 3, ..Limits::default() };
    let (changes, _) = compared(&before, &after, limits);
    assert_eq!((changes.entries.len(), changes.complete), (3, false));
    let (changes, _) = compared(&before, &after, Limits { entries: 100, ..Limits::default() });
    assert!(
        !changes.complete && changes.problems[0].contains("more names than are looked at"),
        "{:?}",
        changes.problems
    );
    let (changes, kept) = compared(&before, &after, Limits { kept: 12, hashed_file: 10, ..Limits::default() });
    assert!(changes.complete && kept.iter().map(|one| one.bytes.len()).sum::<usize>() <= 12);
    let passwd = changes.entries.iter().find(|entry| entry.path == "/etc/passwd".into()).unwrap();
    assert_eq!(
        (passwd.change, passwd.before.as_ref().unwrap().sha256),
        (Change::Changed, None),
        "11 bytes: not hashed"
    );
    let (changes, _) = compared(&before, &after, Limits { time: Duration::ZERO, ..Limits::default() });
    assert!(!changes.complete && changes.problems[0].contains("no more time"), "{:?}", changes.problems);
}

#[test]
fn what_is_no_file_system_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let before = image(dir.path(), &[]);
    let after = dir.path().join("after.raw");
    for bytes in [vec![0; 16 << 20], vec![0xff; 16 << 20], vec![0; 1], Vec::new()] {
        fs::write(&after, bytes).unwrap();
        let (changes, _) = compared(&before, &after, Limits::default());
        assert!(!changes.complete && changes.entries.is_empty() && changes.problems.len() == 1);
    }
}

/// Where the metadata of a small file system lies, hit at random but the same each time: nothing panics, nothing takes long. The
/// images have no checksums, as ours: every changed byte is looked at.
#[test]
fn hostile_file_systems_are_borne() {
    let dir = tempfile::tempdir().unwrap();
    let before = image(dir.path(), &["-O", "^64bit,^metadata_csum,^metadata_csum_seed,^orphan_file", "-N", "512"]);
    let whole = fs::read(&before).unwrap();
    let used: Vec<usize> = (1024..whole.len()).filter(|at| whole[*at] != 0).collect();
    let after = dir.path().join("after.raw");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let limits = Limits { time: Duration::from_secs(5), ..Limits::default() };
    let (mut told, mut problems) = (0, 0);
    for round in 0..200 {
        let mut bytes = whole.clone();
        // Every third round keeps the superblock: else little more than that would be tried.
        let first = if round % 3 == 0 { 0 } else { used.partition_point(|at| *at < 4096) };
        for _ in 0..1 + round % 40 {
            bytes[used[first + next() % (used.len() - first)]] = [0, 0xff, 0x80, next() as u8][next() % 4];
        }
        // "Needs recovery": the journal is read.
        bytes[0x460] |= if round % 2 == 0 { 4 } else { 0 };
        fs::write(&after, &bytes).unwrap();
        let (changes, _) = compared(&before, &after, limits);
        let stopped =
            changes.problems.iter().any(|problem| problem.contains("stopped") || problem.contains("not read within"));
        assert!(!stopped, "round {round}: {:?}", changes.problems);
        told += changes.entries.len();
        problems += changes.problems.len();
    }
    assert!(told > 100 && problems > 100, "{told} changes, {problems} problems: the bytes that count were hit");
}
