//! Undoing: a file system is changed by debugfs, undone, and judged by e2fsck, by debugfs and by our own comparison.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use lava_filesystem::undo::{IMAGE, Tools, UndoError, Undone, undo};
use lava_filesystem::{Changes, Entry, Limits, compare};

mod common;

use common::{changed, image};

/// As our images are made.
const PLAIN: &[&str] = &["-O", "^64bit,^metadata_csum,^metadata_csum_seed,^orphan_file"];

/// The tools as they are, without a cage: here the file systems are our own.
struct Bare(std::path::PathBuf);

impl Tools for Bare {
    fn run(&self, program: &str, arguments: &[String], input: &[u8]) -> io::Result<(i32, String)> {
        let mut child = Command::new(program);
        child.current_dir(&self.0).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn()?;
        child.stdin.take().unwrap().write_all(input)?;
        let output = child.wait_with_output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned()))
    }
}

/// Undoes on a copy of `after`.
fn undone(before: &Path, after: &Path, chosen: impl Fn(&Entry) -> bool, outside: bool) -> Result<Undone, UndoError> {
    let folder = before.parent().unwrap().join("work");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    let (before, after) = (Arc::new(File::open(before).unwrap()), Arc::new(File::open(after).unwrap()));
    undo((&before, &after), &folder, chosen, outside, Limits::default(), &Bare(folder.clone()))
}

fn result(before: &Path) -> std::path::PathBuf {
    before.parent().unwrap().join("work").join(IMAGE)
}

fn different(before: &Path, after: &Path) -> Changes {
    compare(File::open(before).unwrap(), File::open(after).unwrap(), Limits::default(), |_| {})
}

fn debugfs(image: &Path, command: &str) -> String {
    let output = Command::new("debugfs").args(["-R", command]).arg(image).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A file system with what `tree` has, and what only debugfs can make without root.
fn before(dir: &Path) -> std::path::PathBuf {
    let plain = image(dir, PLAIN);
    fs::write(
        dir.join("acl"),
        [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 7, 0, 0xe8, 3, 0, 0, 4, 0, 4, 0, 16, 0, 7, 0, 32, 0, 4, 0],
    )
    .unwrap();
    fs::write(dir.join("long"), vec![b'x'; 900]).unwrap();
    let at = dir.display();
    let made = changed(
        &plain,
        &format!(
            "set_inode_field etc/mode uid 70000\nset_inode_field etc/mode gid 5\nea_set etc/mode user.one first\n\
             ea_set -f {at}/long etc/mode user.long\nea_set -f {at}/acl -r etc/mode system.posix_acl_access\n\
             set_inode_field etc/mode flags 0x80010\n\
             cd etc\nmknod null c 1 3\nmknod disk b 259 7000\nmknod pipe p\ncd /\nset_inode_field etc/null mode 020666\n\
             ln etc/same etc/second\nset_inode_field etc/same links_count 2\n\
             ea_set etc/deep user.folder yes\n"
        ),
    );
    let before = dir.join("original.raw");
    fs::rename(made, &before).unwrap();
    before
}

/// All that a task can do to it.
fn commands(dir: &Path) -> String {
    fs::write(dir.join("new"), "dropped\n").unwrap();
    let at = dir.display();
    format!(
        "mkdir etc/dir\nmkdir etc/dir/sub\nwrite {at}/new etc/dir/sub/dropped\nsymlink etc/dir/evil /dev/tcp\n\
         write {at}/new \"etc/a \"\"name\"\" ; with $(all) <of> it\"\n\
         rm etc/passwd\nwrite {at}/new etc/passwd\nset_inode_field etc/passwd mode 0104755\n\
         rm etc/removed\nrm etc/mode\nwrite {at}/new etc/mode\nea_set etc/mode user.evil yes\n\
         rm etc/null\nrm etc/disk\nsymlink etc/disk /dev/vda\nrm etc/pipe\n\
         rm etc/same\nrm etc/second\nwrite {at}/new etc/same\n\
         rm etc/link\nmkdir etc/link\nwrite {at}/new etc/link/within\n\
         rm etc/deep/er/file\nrmdir etc/deep/er\nsymlink etc/deep/er /etc\n\
         ea_rm etc/deep user.folder\nea_set etc/deep user.other no\nset_inode_field etc/deep mode 040777\n\
         set_inode_field etc/deep ctime 20300101\n\
         rm many/a-rather-long-name-17\nrm many/a-rather-long-name-299\nwrite {at}/new many/0\n\
         set_inode_field etc/stamped ctime 20300101\nea_set etc/stamped security.capability evil\n"
    )
}

#[test]
fn everything_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let before = before(dir.path());
    let after = changed(&before, &commands(dir.path()));
    let done = undone(&before, &after, |_| true, true).unwrap();
    assert_eq!(done.problems, Vec::<String>::new());
    let wrong: Vec<_> = done.proofs.iter().filter(|proof| !proof.same).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let did: Vec<String> = done.proofs.iter().map(|proof| format!("{} {}", proof.action.name(), proof.path)).collect();
    let wanted = [
        "delete /etc/a \"name\" ; with $(all) <of> it",
        "reset /etc/deep",
        "restore /etc/deep/er",
        "put back /etc/deep/er/file",
        "delete /etc/dir",
        "delete /etc/dir/evil",
        "delete /etc/dir/sub",
        "delete /etc/dir/sub/dropped",
        "restore /etc/disk",
        "restore /etc/link",
        "delete /etc/link/within",
        "restore /etc/mode",
        "put back /etc/null",
        "restore /etc/passwd",
        "put back /etc/pipe",
        "put back /etc/removed",
        "restore /etc/same",
        "put back /etc/second",
        "reset /etc/stamped",
        "delete /many/0",
        "put back /many/a-rather-long-name-17",
        "put back /many/a-rather-long-name-299",
    ];
    assert_eq!(did, wanted);

    // Three others say the same: our comparison, which tells nothing at all, e2fsck, and debugfs.
    let changes = different(&before, &result(&before));
    assert!(changes.complete && changes.entries.is_empty(), "{changes:#?}");
    let sound = Command::new("e2fsck").arg("-fn").arg(result(&before)).output().unwrap();
    assert!(sound.status.success(), "{}", String::from_utf8_lossy(&sound.stdout));
    for path in
        ["etc/passwd", "etc/mode", "etc/null", "etc/disk", "etc/pipe", "etc/link", "etc/same", "etc/deep/er/file"]
    {
        let facts = |image: &Path| {
            let told = debugfs(image, &format!("stat {path}"));
            // Where it lies is another place.
            let kept = ["Inode:", "File ACL", "EXTENTS", "(", "BLOCKS", "Generation", "Fragment"];
            let mode = told.lines().next().unwrap().split_once("Type:").unwrap().1.to_owned();
            let rest = told.lines().filter(|line| !kept.iter().any(|one| line.starts_with(one))).map(str::to_owned);
            let mut facts: Vec<String> = std::iter::once(mode).chain(rest).collect();
            // Attributes come in any order.
            facts.sort();
            facts
        };
        assert_eq!(facts(&before), facts(&result(&before)), "{path}");
    }
    assert_eq!(debugfs(&result(&before), "cat etc/passwd"), "root:x:0:0\n");
    let number = |path: &str| debugfs(&result(&before), &format!("stat {path}")).lines().next().unwrap().to_owned();
    assert_eq!(number("etc/same"), number("etc/second"), "two names, one file");
}

#[test]
fn what_was_chosen_is_undone_and_what_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let before = before(dir.path());
    let after = changed(&before, &commands(dir.path()));
    let chosen = ["/etc/deep/er/file", "/etc/dir", "/etc/null"];
    let done = undone(&before, &after, |entry| chosen.iter().any(|path| entry.path == (*path).into()), false).unwrap();
    let paths: Vec<String> = done.proofs.iter().map(|proof| proof.path.to_string()).collect();
    // A folder in whose place there is a link now; what is in a folder that goes.
    let needed = [
        "/etc/deep/er",
        "/etc/deep/er/file",
        "/etc/dir",
        "/etc/dir/evil",
        "/etc/dir/sub",
        "/etc/dir/sub/dropped",
        "/etc/null",
    ];
    assert_eq!(paths, needed);
    assert!(done.proofs.iter().all(|proof| proof.same) && done.problems.is_empty(), "{done:#?}");
    let left = different(&before, &result(&before));
    assert!(left.entries.iter().all(|entry| !paths.contains(&entry.path.to_string())) && left.entries.len() > 5);
}

#[test]
fn names_that_no_command_can_hold() {
    let dir = tempfile::tempdir().unwrap();
    let before = before(dir.path());
    let at = dir.path().display();
    fs::write(dir.path().join("new"), "dropped\n").unwrap();
    let after = changed(
        &before,
        &format!(
            "write {at}/new etc/XnameX\nwrite {at}/new etc/YnameY\nln etc/YnameY etc/other\n\
             set_inode_field etc/YnameY links_count 2\nrm etc/removed\n"
        ),
    );
    // As a program can name its file, and debugfs can't.
    let mut bytes = fs::read(&after).unwrap();
    for (from, to) in [(b"XnameX", b"\nnameX"), (b"YnameY", b"\rnameY")] {
        let places: Vec<usize> =
            bytes.windows(6).enumerate().filter(|(_, six)| six == from).map(|(at, _)| at).collect();
        assert!(!places.is_empty());
        places.into_iter().for_each(|at| bytes[at..at + 6].copy_from_slice(to));
    }
    fs::write(&after, bytes).unwrap();
    let done = undone(&before, &after, |_| true, false).unwrap();
    let stays: Vec<String> =
        done.proofs.iter().filter(|proof| !proof.same).map(|proof| format!("{}", proof.path)).collect();
    assert_eq!(stays.len(), 1, "{stays:?} {:?}", done.problems);
    assert!(stays[0].contains("nameY") && done.problems[0].contains("other names"), "{stays:?} {:?}", done.problems);
}

/// A journal that is to be replayed first, in a partition: what a guest leaves that was switched off.
#[test]
fn what_a_journal_holds_is_undone_too() {
    let dir = tempfile::tempdir().unwrap();
    let plain = image(dir.path(), PLAIN);
    let after = changed(&plain, "rm etc/removed\njo\njw -b 1500 /dev/zero\njc\n");
    let recovering = debugfs(&after, "features");
    assert!(recovering.contains("needs_recovery"), "{recovering}");
    for disk in [&plain, &after] {
        let bytes = fs::read(disk).unwrap();
        let file = File::create(disk).unwrap();
        let mut mbr = [0; 512];
        mbr[450] = 0x83;
        mbr[454..458].copy_from_slice(&2048_u32.to_le_bytes());
        mbr[458..462].copy_from_slice(&u32::try_from(bytes.len() / 512).unwrap().to_le_bytes());
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        file.write_all_at(&mbr, 0).unwrap();
        file.write_all_at(&bytes, 2048 * 512).unwrap();
    }
    let done = undone(&plain, &after, |_| true, true).unwrap();
    let paths: Vec<String> = done.proofs.iter().map(|proof| proof.path.to_string()).collect();
    assert_eq!((paths, done.proofs[0].same), (vec!["/etc/removed".to_owned()], true));
    let changes = different(&plain, &result(&plain));
    assert!(changes.complete && changes.entries.is_empty(), "{changes:#?}");
}

#[test]
fn what_lies_outside_is_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let before = image(dir.path(), PLAIN);
    let after = changed(&before, "rm etc/removed\n");
    File::options().write(true).open(&after).unwrap().write_all_at(b"boot code", 100).unwrap();
    let done = undone(&before, &after, |_| true, true).unwrap();
    assert_eq!(done.outside, [(100, 9)]);
    let done = undone(&before, &after, |_| true, false).unwrap();
    assert!(done.outside.is_empty() && done.proofs.iter().all(|proof| proof.same));
}

#[test]
fn what_is_beyond_repair_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let before = image(dir.path(), PLAIN);
    let after = dir.path().join("after.raw");
    fs::write(&after, vec![0; 16 << 20]).unwrap();
    let error = undone(&before, &after, |_| true, true).unwrap_err();
    assert!(matches!(error, UndoError::Unsound { .. }), "{error}");
}
