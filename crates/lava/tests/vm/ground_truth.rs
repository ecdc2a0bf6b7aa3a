//! What LAVA tells, against strace in the same guest, over six ordinary workloads: recall and precision of exec, open for writing,
//! create, rename, unlink, connect, bind, chmod and the setuid family are 100% both ways.
//!
//! What is not compared, and why: opens for reading and directories (the vocabulary leaves directories out; what was read
//! is `file.read`'s), sockets that are neither Internet nor Unix (no form in `net.connect`), and what strace itself does. One micro-VM
//! runs all workloads (scenarios/known-count/workloads/all.sh), and sends what strace saw over the console.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::{run, scenario};
use crate::truth::{differences, expected, seen, strace};

/// (workload, ids it begins with)
const WORKLOADS: &[(&str, u32)] =
    &[("shell", 1000), ("python", 1000), ("build", 1000), ("server", 1000), ("java", 1000), ("package", 0)];

/// The files between `=== NAME` and `=== end`, packed with gzip and base64.
fn files(console: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for part in console.split("=== ").skip(1).filter(|part| !part.starts_with("end")) {
        let (name, packed) = part.split_once('\n').expect("a name");
        files.insert(name.to_owned(), String::from_utf8_lossy(&unpack(packed)).into_owned());
    }
    files
}

fn unpack(packed: &str) -> Vec<u8> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "base64 -d | gzip -dc"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let packed = packed.to_owned();
    let feeding = std::thread::spawn(move || input.write_all(packed.as_bytes()));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    assert!(output.status.success(), "the console's text is damaged");
    output.stdout
}

#[test]
fn what_strace_saw_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let task = folder.path().join("all.sh");
    std::fs::write(&task, "#!/bin/sh\nexec /bin/sh /opt/scenario/workloads/all.sh\n").unwrap();
    let disk = scenario("proof.img");
    let arguments = [task.to_str().unwrap(), "--disk", disk.to_str().unwrap(), "--console", "--timeout", "600"];
    let ran = run(&arguments);
    let files = files(&ran.console);
    let ours = seen::operations(&ran.events);
    let (mut lines, mut kinds) = (Vec::new(), BTreeMap::<String, usize>::new());
    for &(workload, id) in WORKLOADS {
        let file = |end: &str| files.get(&format!("{workload}.{end}")).unwrap_or_else(|| panic!("{workload}.{end}"));
        let ended = format!("known-count: {workload} ended with 0");
        assert!(ran.console.contains(&ended), "the workload failed:\n{}\n{}", file("out"), ran.console);
        let truth = expected::operations(
            &strace::calls(file("log")),
            file("before"),
            &format!("/tmp/work-{workload}"),
            [[id; 3]; 2],
        );
        for (operation, count) in &truth {
            *kinds.entry(operation.split(' ').next().unwrap().to_owned()).or_default() += count;
        }
        lines.extend(differences(workload, &truth, ours.get(workload).unwrap_or(&BTreeMap::new())));
    }
    // The truth itself is rich: a workload that did nothing would agree with anything.
    for (kind, least) in [
        ("exec", 120),
        ("write", 150),
        ("create", 100),
        ("rename", 50),
        ("unlink", 80),
        ("connect", 40),
        ("bind", 5),
        ("chmod", 30),
        ("ids", 8),
    ] {
        assert!(kinds.get(kind).is_some_and(|count| *count >= least), "too little truth: {kind}: {kinds:?}");
    }
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}
