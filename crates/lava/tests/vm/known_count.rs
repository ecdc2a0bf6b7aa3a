//! The known-count program (scenarios/known-count) does each operation N times by every road into the kernel; LAVA tells each
//! exactly N times, with its true name, on both kernels.
//!
//! Not counted exactly, and why: a TCP connect through io_uring (io_uring itself asks again until it is done, so the socket layer is
//! asked any number of times; the program takes UDP there).

use std::collections::{BTreeMap, BTreeSet};

use lava_event::{FileType, Kind, Range};

use crate::common::{Ran, run, scenario};

const N: usize = 100;
const HOME: &str = "/home/user/kc/";
/// Bytes of a file that the program fills.
const SIZE: u64 = 3 * 4096;

/// Distinct numbers seen per road; a name seen twice is a mistake, told at once.
#[derive(Default)]
struct Roads(BTreeMap<(&'static str, String), BTreeSet<usize>>, Vec<String>);

impl Roads {
    fn see(&mut self, kind: &'static str, road: &str, number: usize) {
        if !self.0.entry((kind, road.to_owned())).or_default().insert(number) {
            self.1.push(format!("{kind} {road}.{number} twice"));
        }
    }

    /// `ROAD.NUMBER` in the program's directory.
    fn see_path(&mut self, kind: &'static str, path: &lava_event::GuestText) {
        if let Some((road, number)) = parts(path) {
            self.see(kind, &road, number);
        }
    }

    fn check(&mut self, kind: &'static str, roads: &[&str]) {
        let all: BTreeSet<usize> = (0..N).collect();
        let mut left: BTreeSet<String> = self.0.keys().filter(|key| key.0 == kind).map(|key| key.1.clone()).collect();
        for road in roads {
            let seen = self.0.get(&(kind, (*road).to_owned())).cloned().unwrap_or_default();
            if seen != all {
                self.1.push(format!("{kind} {road}: {} of {N}", seen.len()));
            }
            left.remove(*road);
        }
        if !left.is_empty() {
            self.1.push(format!("{kind} of what was never done: {left:?}"));
        }
    }
}

fn parts(path: &lava_event::GuestText) -> Option<(String, usize)> {
    let path = String::from_utf8_lossy(path.bytes()).into_owned();
    let (road, number) = path.strip_prefix(HOME)?.rsplit_once('.')?;
    Some((road.to_owned(), number.parse().ok()?))
}

fn run_on(kernel: &str) -> (Ran, serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    let task = folder.path().join("count.sh");
    std::fs::write(&task, format!("#!/bin/sh\nexec /opt/scenario/bin/known-count {N} {HOME}\n")).unwrap();
    let disk = scenario("proof.img");
    let arguments = ["--disk", disk.to_str().unwrap(), "--console", "--timeout", "300", "--kernel", kernel];
    let ran = run(&[&[task.to_str().unwrap()][..], &arguments].concat());
    let line = ran.console.lines().find(|line| line.starts_with("{\"n\":"));
    let told = line.and_then(|line| serde_json::from_str(line).ok());
    let told: serde_json::Value = told.unwrap_or_else(|| panic!("no counts:\n{}", ran.console));
    (ran, told)
}

/// Everything that was told, held against what was done.
fn check(kernel: &str) {
    let (ran, told) = run_on(kernel);
    assert_eq!(told["failures"], 0, "the program itself failed:\n{}", ran.console);
    for (road, count) in told["roads"].as_object().unwrap() {
        assert_eq!(count, N, "{road}");
    }
    let mut roads = Roads::default();
    let mut written = BTreeMap::<(String, usize), Vec<Range>>::new();
    let mut stored = BTreeMap::<(String, usize), Vec<Range>>::new();
    let (mut swapped, mut connects) = (Vec::new(), BTreeMap::<u16, usize>::new());
    for event in &ran.events {
        match &event.kind {
            Kind::VmGap { .. } => panic!("{event:?}"),
            Kind::FileCreate { path, what: FileType::Regular | FileType::Fifo, target: None, .. } => {
                roads.see_path("create", path);
            }
            Kind::FileCreate { path, what: FileType::Directory, .. } => roads.see_path("mkdir", path),
            Kind::FileCreate { path, what: FileType::Symlink, .. } => roads.see_path("symlink", path),
            Kind::FileCreate { path, target: Some(_), .. } => roads.see_path("link", path),
            Kind::FileOpen { path, access, .. } if access.writes() => {
                roads.see_path("open", path);
                let path = String::from_utf8_lossy(path.bytes()).into_owned();
                swapped.extend(path.strip_prefix("/home/user/kc/swap/").map(str::to_owned));
            }
            Kind::FileRename { from, to, .. } => {
                roads.see_path("renamed from", from);
                roads.see_path("renamed to", to);
            }
            Kind::FileUnlink { path, .. } => roads.see_path("unlink", path),
            Kind::FileAttributes { path, mode: Some(_), .. } => roads.see_path("chmod", path),
            Kind::FileWrite { path, ranges, .. } => {
                if let Some(part) = parts(path) {
                    written.entry(part).or_default().extend(ranges);
                }
            }
            Kind::FileMapWrite { path, ranges, .. } => {
                if let Some(part) = parts(path) {
                    stored.entry(part).or_default().extend(ranges);
                }
            }
            Kind::ProcessExec { argv, .. } if argv.len() == 3 && argv[0].bytes() == b"nothing" => {
                roads.see("exec", &argv[1].to_string(), argv[2].to_string().parse().unwrap());
            }
            Kind::NetConnect { destination: Some(end), .. } if (20_000..23_000).contains(&end.port) => {
                *connects.entry(end.port).or_default() += 1;
            }
            _ => {}
        }
    }

    let opened = ["open", "openat", "openat2", "creat", "unmapped", "int80-open", "uring-open"];
    let filled = ["old", "sendfile", "splice", "copy_file_range", "stored"];
    let files = [&opened[..], &filled].concat();
    roads.check("open", &files);
    roads.check("create", &[&files[..], &["mknod"]].concat());
    roads.check("mkdir", &["mkdir"]);
    roads.check("symlink", &["symlink"]);
    roads.check("link", &["link"]);
    roads.check("exec", &["execve", "execveat", "fexecve", "vfork", "posix_spawn"]);
    roads.check("renamed from", &["old", "rename", "renameat", "int80-open", "uring-open"]);
    roads.check("renamed to", &["rename", "renameat", "renameat2", "int80-renamed", "uring-renamed"]);
    roads.check("unlink", &["renameat2", "link", "mkdir", "int80-renamed", "uring-renamed"]);
    roads.check("chmod", &["renameat2"]);
    let mut wrong = roads.1;
    for road in ["sendfile", "splice", "copy_file_range"] {
        let whole = (0..N).filter(|number| {
            let ranges = written.get(&(road.to_owned(), *number)).cloned().unwrap_or_default();
            merged(ranges) == [Range { start: 0, end: SIZE }]
        });
        let whole = whole.count();
        if whole != N {
            wrong.push(format!("bytes written by {road}: {whole} of {N} files"));
        }
    }
    // The first and the third page were stored to.
    let pages = [Range { start: 0, end: 4096 }, Range { start: 8192, end: SIZE }];
    let whole = (0..N).filter(|number| {
        stored.get(&("stored".to_owned(), *number)).cloned().is_some_and(|ranges| merged(ranges) == pages)
    });
    let whole = whole.count();
    if whole != N || stored.len() != N {
        wrong.push(format!("pages stored to: {whole} of {N} files, {} told", stored.len()));
    }
    let ports = [20_000, 21_000, 22_000].into_iter().flat_map(|first| (first..).take(N).map(|port| (port, 1)));
    if connects != ports.collect() {
        wrong.push(format!("connects: {connects:?}"));
    }
    // Another thread swapped the names while the kernel read them: what is told is what was opened, in the same order.
    let names: Vec<&str> = told["swapped"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    if swapped != names {
        wrong.push(format!("names that were swapped: {swapped:?}\nreally opened: {names:?}"));
    }
    assert!(wrong.is_empty(), "Linux {kernel}:\n{}", wrong.join("\n"));
}

/// In order, touching ones joined.
fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

#[test]
fn every_road_on_linux_6_1() {
    check("6.1");
}

#[test]
fn every_road_on_linux_6_12() {
    check("6.12");
}
