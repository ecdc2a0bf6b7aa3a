//! What the tap sees of files, against a program that does each thing a known number of times, by several roads; failures are not
//! told. On both kernels.

use std::collections::BTreeMap;

use lava_event::{Event, Kind};

use crate::common::{Ran, root, run};

const HERE: &str = "/home/user/known/";

/// The path as the test knows it; `None` if it is none of the test's.
fn known(path: &str, pipes: &BTreeMap<String, String>) -> Option<String> {
    if let Some(name) = pipes.get(path) {
        return Some(name.clone());
    }
    let own = ["/tmp/kept", "/tmp/gone", "/dev/shm/shared", "/memfd:secret", "/home/user/known"].contains(&path);
    let path = path.strip_prefix(HERE).or_else(|| own.then_some(path))?;
    // A file made without a name is called by its inode's number.
    let unnamed = path.strip_prefix('#').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    Some(if unnamed { "#N".to_owned() } else { path.to_owned() })
}

/// What happened to names and attributes, and how often.
fn deeds(events: &[Event], pipes: &BTreeMap<String, String>) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for event in events {
        let path = |path: &lava_event::GuestText| known(&path.to_string(), pipes);
        let deed = match &event.kind {
            Kind::FileOpen { path: at, access, .. } => path(at).map(|at| format!("open {at} {access:?}")),
            Kind::FileCreate { path: at, what, target, .. } => path(at).map(|at| {
                let target = target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
                format!("create {at} {what:?}{target}")
            }),
            Kind::FileRename { from, to, .. } => path(from).map(|from| format!("rename {from} {to}")),
            Kind::FileUnlink { path: at, .. } => path(at).map(|at| format!("unlink {at}")),
            Kind::FileAttributes { path: at, mode, uid, gid, .. } => {
                path(at).map(|at| format!("attributes {at} {:o} {uid:?} {gid:?}", mode.unwrap_or(0)))
            }
            Kind::FileTruncate { path: at, size, .. } => path(at).map(|at| format!("truncate {at} {size}")),
            Kind::FileXattr { path: at, name, removed, .. } => {
                path(at).map(|at| format!("xattr {at} {name} {removed}"))
            }
            _ => None,
        };
        if let Some(deed) = deed {
            *seen.entry(deed).or_default() += 1;
        }
    }
    seen
}

const DEEDS: &[(&str, usize)] = &[
    ("attributes read.txt 100600 None None", 1),
    ("attributes read.txt 104755 None None", 1),
    // Another group: the kernel takes the setuid bit away.
    ("attributes read.txt 100755 None Some(1000)", 1),
    ("create #N Regular", 1),
    ("create /dev/shm/shared Regular", 1),
    ("create /home/user/known Directory", 1),
    ("create /tmp/gone Regular", 1),
    ("create /tmp/kept Regular", 1),
    ("create copied Regular", 1),
    ("create creat0 Regular", 1),
    ("create creat1 Regular", 1),
    ("create creat2 Regular", 1),
    ("create dir0 Directory", 1),
    ("create dir1 Directory", 1),
    ("create dir2 Directory", 1),
    ("create dir3 Directory", 1),
    ("create fifo Fifo", 1),
    ("create large Regular", 1),
    ("create link0 Regular -> /home/user/known/read.txt", 1),
    ("create link1 Regular -> /home/user/known/read.txt", 1),
    ("create made Regular", 1),
    ("create mapped Regular", 1),
    ("create read.txt Regular", 1),
    ("create sent Regular", 1),
    ("create source Regular", 1),
    ("create spliced Regular", 1),
    ("create sums Regular", 1),
    ("create symlink0 Symlink -> read.txt", 1),
    ("create symlink1 Symlink -> read.txt", 1),
    ("open #N ReadWrite", 1),
    ("open /dev/shm/shared ReadWrite", 1),
    ("open /tmp/gone ReadWrite", 1),
    ("open /tmp/kept Write", 1),
    ("open copied Write", 1),
    ("open creat0 Write", 1),
    ("open creat1 Write", 1),
    ("open creat2 Write", 1),
    ("open large Write", 1),
    ("open mapped ReadWrite", 1),
    ("open mapped Write", 1),
    ("open read.txt Read", 9),
    ("open read.txt ReadWrite", 1),
    ("open read.txt Write", 1),
    ("open sent Write", 1),
    ("open source Read", 1),
    ("open source Write", 1),
    ("open spliced Write", 1),
    ("open sums ReadWrite", 1),
    ("open sums Write", 1),
    ("rename link0 /home/user/known/renamed0", 1),
    ("rename link1 /home/user/known/renamed1", 1),
    ("truncate read.txt 4", 1),
    ("truncate read.txt 7", 1),
    ("unlink /dev/shm/shared", 1),
    ("unlink /tmp/gone", 1),
    ("unlink dir0", 1),
    ("unlink dir1", 1),
    ("unlink dir2", 1),
    ("unlink renamed0", 1),
    ("xattr read.txt user.lava false", 2),
    ("xattr read.txt user.lava true", 1),
];

/// Reads, writes and stores: (what, path) -> (bytes, count, ranges), all events of it together.
type Sums = BTreeMap<(&'static str, String), (u64, u64, Vec<(u64, u64)>)>;

fn sums(events: &[Event], pipes: &BTreeMap<String, String>) -> Sums {
    let mut sums = Sums::new();
    for event in events {
        let (what, path, ranges, bytes, count) = match &event.kind {
            Kind::FileRead { path, ranges, bytes, count, .. } => ("read", path, ranges, *bytes, *count),
            Kind::FileWrite { path, ranges, bytes, count, .. } => ("write", path, ranges, *bytes, *count),
            Kind::FileMapWrite { path, ranges, .. } => ("store", path, ranges, 0, 0),
            _ => continue,
        };
        let Some(path) = known(&path.to_string(), pipes) else { continue };
        let sum = sums.entry((what, path)).or_default();
        (sum.0, sum.1) = (sum.0 + bytes, sum.1 + count);
        sum.2.extend(ranges.iter().map(|range| (range.start, range.end)));
    }
    for (_, _, ranges) in sums.values_mut() {
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for &(start, end) in ranges.iter() {
            match merged.last_mut().filter(|last| last.1 >= start) {
                Some(last) => last.1 = last.1.max(end),
                None => merged.push((start, end)),
            }
        }
        *ranges = merged;
    }
    sums
}

fn check_sums(sums: &Sums) {
    type Expected<'a> = (&'a str, &'a str, u64, u64, &'a [(u64, u64)]);
    let expected: &[Expected] = &[
        ("read", "source", 13_000, 3, &[(0, 5000)]),
        ("read", "splice", 3000, 1, &[]),
        ("read", "sums", 25, 5, &[(0, 20), (50, 55)]),
        ("store", "mapped", 0, 0, &[(0, 4096), (8192, 12_288)]),
        ("write", "#N", 16, 1, &[(0, 16)]),
        ("write", "/dev/shm/shared", 2800, 1, &[(0, 2800)]),
        ("write", "/memfd:secret", 5400, 1, &[(0, 5400)]),
        ("write", "/tmp/gone", 5000, 1, &[(0, 5000)]),
        ("write", "/tmp/kept", 15_000, 1, &[(0, 15_000)]),
        ("write", "copied", 5000, 1, &[(0, 5000)]),
        ("write", "large", 3_200_000, 1, &[(0, 3_200_000)]),
        ("write", "mapped", 20_000, 1, &[(0, 20_000)]),
        ("write", "pipe", 96, 6, &[]),
        ("write", "read.txt", 10, 1, &[(0, 10)]),
        ("write", "sent", 5000, 1, &[(0, 5000)]),
        ("write", "source", 5000, 1, &[(0, 5000)]),
        ("write", "splice", 3000, 1, &[]),
        ("write", "spliced", 3000, 1, &[(0, 3000)]),
        ("write", "sums", 23, 8, &[(0, 19), (100, 104)]),
    ];
    let mut sums = sums.clone();
    // How many reads six writes make is the scheduler's: each asked for 100, and the last one found the end.
    let (bytes, count, _) = sums.remove(&("read", "pipe".to_owned())).expect("reads of the pipe");
    assert!((2..=7).contains(&count) && bytes == 100 * count, "{bytes} bytes in {count} reads");
    let expected: Sums = expected
        .iter()
        .map(|&(what, path, bytes, count, ranges)| ((what, path.to_owned()), (bytes, count, ranges.to_vec())))
        .collect();
    assert_eq!(sums, expected);
}

fn check_contents(ran: &Ran, pipes: &BTreeMap<String, String>) {
    let mut contents: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for event in &ran.events {
        let Kind::FileContent { path, sha256, kept, complete, file } = &event.kind else { continue };
        let Some(path) = known(&path.to_string(), pipes) else { continue };
        let bytes = ran.session.artifact(sha256).unwrap().unwrap_or_else(|| panic!("{path}: no artifact {sha256}"));
        assert!(*complete && *kept == file.size && bytes.len() as u64 == *kept, "{path}: {:?}", event.kind);
        contents.entry(path).or_default().push(bytes);
    }
    let sums = [&b"abcabcabcabcabcdefg"[..], &[0; 81], b"X"].concat();
    let mut mapped = vec![b'm'; 20_000];
    (mapped[0], mapped[8192], mapped[8193]) = (b'A', b'B', b'C');
    let expected = [
        ("#N", vec![b"never had a name".to_vec()]),
        ("/dev/shm/shared", vec![b"shm ".repeat(700)]),
        ("/memfd:secret", vec![b"memfd ".repeat(900)]),
        ("/tmp/gone", vec![b"gone ".repeat(1000)]),
        ("/tmp/kept", vec![b"kept ".repeat(3000)]),
        ("copied", vec![b"s".repeat(5000)]),
        ("large", vec![(0..400_000).flat_map(|i| format!("{i:07} ").into_bytes()).collect()]),
        ("mapped", vec![b"m".repeat(20_000), mapped]),
        ("read.txt", vec![b"0123456789".to_vec(), b"0123".to_vec(), b"0123\0\0\0".to_vec()]),
        ("sent", vec![b"s".repeat(5000)]),
        ("source", vec![b"s".repeat(5000)]),
        ("spliced", vec![b"s".repeat(3000)]),
        ("sums", vec![sums.clone(), [&sums[..], b"end"].concat()]),
    ];
    assert_eq!(contents.keys().map(String::as_str).collect::<Vec<_>>(), expected.each_ref().map(|(path, _)| *path));
    for (path, versions) in expected {
        assert!(contents[path] == versions, "the content of {path} is not what was written");
    }
}

fn check(kernel: &str) {
    let task = root().join("crates/lava/tests/vm/files.py");
    let ran = run(&[task.to_str().unwrap(), "--console", "--kernel", kernel]);
    let said = |what: &str| ran.console.lines().find_map(|line| line.strip_prefix(what)).map(str::to_owned);
    assert!(said("done ").is_some(), "the program ran to its end: {}", ran.console);
    let pipes: BTreeMap<String, String> = ["pipe", "splice"]
        .map(|name| (format!("pipe:[{}]", said(&format!("{name} ")).expect("its number").trim()), name.to_owned()))
        .into();
    let expected = DEEDS.iter().map(|&(deed, count)| (deed.to_owned(), count)).collect::<BTreeMap<_, _>>();
    assert_eq!(deeds(&ran.events, &pipes), expected);
    check_sums(&sums(&ran.events, &pipes));
    check_contents(&ran, &pipes);
    assert!(!ran.session.verify_chain().unwrap().tampered());
}

#[test]
fn every_file_operation_and_no_other_on_6_1() {
    check("6.1");
}

#[test]
fn every_file_operation_and_no_other_on_6_12() {
    check("6.12");
}
