//! `lava ctl dump` and `lava symbols --isf`: Volatility 3 reads the guest's memory with the kernel's symbols, and its processes are ours.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use lava_event::{Event, Kind};

use crate::common::{Ran, ctl, lava, read, turn, until};

/// Rows of a Volatility plugin over a dump.
fn volatility(dump: &Path, symbols: &Path, plugin: &str) -> Vec<serde_json::Value> {
    let python = std::env::var("LAVA_TEST_VALIDATORS").expect("LAVA_TEST_VALIDATORS: run `cargo xtask test`");
    let cache = tempfile::tempdir().unwrap();
    let output = Command::new(Path::new(&python).with_file_name("vol"))
        .args(["-q", "--offline", "-r", "json", "--cache-path"])
        .arg(cache.path())
        .arg("-s")
        .arg(symbols)
        .arg("-f")
        .arg(dump)
        .arg(plugin)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{plugin}: {error}: {told}"))
}

/// Identifiers of the processes that lived when the memory was written, as the event log tells.
fn living(events: &[Event]) -> BTreeSet<u64> {
    let mut living = BTreeSet::new();
    for event in events {
        let Some(process) = &event.process else {
            if matches!(&event.kind, Kind::VmResponse { command, .. } if command == "dump") {
                return living;
            }
            continue;
        };
        match &event.kind {
            Kind::ProcessExisting {} => drop(living.insert(u64::from(process.pid))),
            Kind::ProcessFork { child, thread: false, .. } => drop(living.insert(u64::from(child.pid))),
            Kind::ProcessExit { .. } if process.tid == process.pid => drop(living.remove(&u64::from(process.pid))),
            _ => {}
        }
    }
    panic!("no dump was told");
}

/// Runs a task of two processes, dumps the guest's memory while it is held, and ends the session.
fn dumped(kernel: &str) -> Ran {
    let (out, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let task = place.path().join("two.sh");
    std::fs::write(&task, "#!/bin/sh\nsleep 500 &\nexec sleep 501\n").unwrap();
    let mut run = lava();
    run.args(["run", "--timeout", "600", "--kernel", kernel, "--out"]).arg(out.path()).arg(&task);
    let child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = || {
        let session = std::fs::read_dir(out.path()).ok()?.next()?.ok()?.path();
        std::fs::read_to_string(session.join("events.jsonl")).ok()
    };
    until("both processes run", || log().is_some_and(|log| log.contains("\"500\"") && log.contains("\"501\"")));
    ctl(out.path(), "pause");
    assert!(ctl(out.path(), "dump").starts_with("memory-1.elf: "));
    assert!(ctl(out.path(), "status").contains("paused"), "who held the guest still holds it");
    ctl(out.path(), "discard");
    read(&child.wait_with_output().unwrap(), out)
}

#[test]
fn volatility_sees_the_same_processes() {
    let _turn = turn();
    for kernel in ["6.1", "6.12"] {
        let ran = dumped(kernel);
        let symbols = tempfile::tempdir().unwrap();
        std::fs::create_dir(symbols.path().join("linux")).unwrap();
        let mut write = lava();
        write.args(["symbols", "--isf", "--kernel", kernel, "--out"]).arg(symbols.path().join("linux/kernel.json"));
        assert!(write.status().unwrap().success());
        let dump = ran.session.dir().join("memory-1.elf");
        assert!(ran.session.manifest().files.contains_key("memory-1.elf"), "its hash is evidence");
        let rows = volatility(&dump, symbols.path(), "linux.pslist");
        let theirs: BTreeSet<u64> = rows.iter().map(|row| row["PID"].as_u64().unwrap()).collect();
        let ours = living(&ran.events);
        assert!(ours.len() > 30, "{ours:?}");
        // The idle task, 0, is in no list.
        assert_eq!(ours, theirs, "Linux {kernel}");
        let sleeping = rows.iter().filter(|row| row["COMM"] == "sleep").count();
        assert_eq!(sleeping, 2);
        let calls = volatility(&dump, symbols.path(), "linux.malware.check_syscall");
        assert!(calls.len() > 300, "{}", calls.len());
    }
}
