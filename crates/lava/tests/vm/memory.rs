//! Code in memory, writes into other processes, and the trace of system calls, against what the guest itself knows.

use std::collections::BTreeMap;

use lava_event::{Event, Kind, ProcessKey};

use crate::common::{Ran, lava, run, scenario};

/// Maps, protects and runs code in memory, makes a call on a stack in the heap, and writes into a child by three roads.
const WORKLOAD: &str = include_str!("memory.py");

fn of_task(file: &str, content: &[u8], options: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let task = folder.path().join(file);
    std::fs::write(&task, content).unwrap();
    run(&[&[task.to_str().unwrap(), "--console"][..], options].concat())
}

/// The events of the process that printed `done`, by their kind's name, without those that a program's start makes.
fn memory_events(ran: &Ran) -> Vec<&Event> {
    let python = |event: &&Event| {
        event.process.as_ref().is_some_and(|process| process.exe.to_string().starts_with("/usr/bin/python3"))
    };
    let unusual = |event: &&Event| match &event.kind {
        Kind::MemoryMap { protection, path, .. } => protection.executes() && (protection.writes() || path.is_none()),
        kind => kind.name().starts_with("memory."),
    };
    ran.events.iter().filter(python).filter(unusual).collect()
}

fn check_memory(kernel: &str) {
    let ran = of_task("memory.py", WORKLOAD.as_bytes(), &["--kernel", kernel]);
    let line = ran.console.lines().find(|line| line.starts_with("done ")).unwrap_or_else(|| panic!("{}", ran.console));
    let words: Vec<u64> = line
        .split(' ')
        .skip(1)
        .map(|word| match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
            None => word.parse().unwrap(),
        })
        .collect();
    let [rwx, rx, victim, child] = words[..] else { panic!("{line}") };
    let events = memory_events(&ran);
    let seen: Vec<String> = events
        .iter()
        .map(|event| match &event.kind {
            Kind::MemoryMap { address, length, protection, .. } => format!("map {address:#x} {length} {protection}"),
            Kind::MemoryProtect { address, length, old, new, .. } => {
                format!("protect {address:#x} {length} {old} {new}")
            }
            Kind::MemoryUnbackedExecution { address, protection, backing, code, .. } => {
                assert!(code.to_string().starts_with("c3"), "{code}");
                let backing = backing.as_ref().map(ToString::to_string);
                let address = if backing.is_some() { 0 } else { *address };
                format!("run {address:#x} {protection} {}", backing.unwrap_or_default())
            }
            Kind::MemoryStackPivot { region, call, .. } => format!("pivot {region} {call}"),
            Kind::MemoryReturnToData { region, call, .. } => format!("data {region} {call}"),
            Kind::MemoryRemoteWrite { target, address, bytes, way } => {
                format!("write {} {address:#x} {bytes} {way}", target.pid)
            }
            other => other.sentence(),
        })
        .collect();
    assert_eq!(
        seen,
        [
            format!("map {rwx:#x} 4096 rwx"),
            format!("run {rwx:#x} rwx "),
            format!("protect {rx:#x} 8192 rw- r-x"),
            format!("run {rx:#x} r-x "),
            "run 0x0 r-x /memfd:payload".to_owned(),
            "pivot [heap] memfd_create".to_owned(),
            "data [anonymous] memfd_create".to_owned(),
            format!("write {child} {victim:#x} 8 process_vm_writev"),
            format!("write {child} {victim:#x} 16 proc_mem"),
            format!("write {child} {victim:#x} 8 ptrace"),
        ]
    );
    for event in &events {
        let registers = event.registers.as_ref().unwrap_or_else(|| panic!("{:?} has no registers", event.kind));
        assert_ne!(registers.get("cr3"), Some(0));
        let backtrace = event.backtrace.as_ref().unwrap_or_else(|| panic!("{:?} has no backtrace", event.kind));
        assert!(!backtrace.user.is_empty() && backtrace.user.len() <= 16 && backtrace.kernel.len() <= 16);
        if let Kind::MemoryUnbackedExecution { address, .. } = &event.kind {
            assert_eq!(registers.get("rip"), Some(*address));
            let behind = |frame: &lava_event::Frame| frame.place.to_string().contains("libffi");
            assert!(backtrace.user.iter().any(behind), "who called: {:?}", backtrace.user);
        } else {
            let kernel = |frame: &lava_event::Frame| frame.place.to_string().starts_with("do_syscall_64+");
            assert!(backtrace.kernel.iter().any(kernel), "by which road: {:?}", backtrace.kernel);
        }
    }
    let found = |detector: &str, technique: &str| {
        ran.findings.iter().filter(|one| one.detector == detector && one.technique.id == technique).count()
    };
    for (detector, technique) in [
        ("execute.writable_code", "T1620"),
        ("execute.unbacked_memory", "T1620"),
        ("execute.remote_write", "T1055"),
        ("execute.remote_write", "T1055.008"),
        ("execute.remote_write", "T1055.009"),
        ("exploit.stack_pivot", "T1203"),
        ("exploit.return_to_data", "T1203"),
    ] {
        assert_eq!(found(detector, technique), 1, "{detector} {technique}");
    }
    let shown = lava().args(["show", "--registers"]).arg(ran.session.dir()).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("memory.stack_pivot") && shown.contains("rip 0000") && shown.contains("do_syscall_64+"));
}

#[test]
fn code_in_memory_on_the_first_kernel() {
    check_memory("6.1");
}

#[test]
fn code_in_memory_on_the_second_kernel() {
    check_memory("6.12");
}

#[test]
fn taint_goes_through_shared_memory_and_into_who_is_written_into() {
    let ran = of_task("shared.py", include_bytes!("shared.py"), &["--root"]);
    assert!(ran.console.contains("done from the task"), "{}", ran.console);
    let told = lava().args(["trace", "--full", "--format", "json"]).arg(ran.session.dir()).output().unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let tainted = |path: &str| {
        let nodes = trace["nodes"].as_array().unwrap().iter();
        nodes.filter(|node| node["label"] == path).any(|node| node["tainted"] == true)
    };
    assert!(!tainted("/tmp/reader-before"), "before it had the memory");
    assert!(tainted("/tmp/reader-after"), "what it did with the memory");
    assert!(!tainted("/tmp/victim"), "before it was written into");
    assert!(tainted("/tmp/victim-after"), "after");
    let edges = |verb: &str| trace["edges"].as_array().unwrap().iter().filter(|edge| edge["verb"] == verb).count();
    assert_eq!((edges("maps"), edges("injects")), (2, 1), "{:#?}", trace["edges"]);
    let mapped = |event: &&Event| matches!(&event.kind, Kind::MemoryMap { shared: true, path: Some(path), .. } if path.to_string().starts_with("/SYSV"));
    let rights: Vec<String> = ran
        .events
        .iter()
        .filter(mapped)
        .filter_map(|event| match &event.kind {
            Kind::MemoryMap { protection, .. } => Some(protection.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(rights, ["rw-", "r--"], "the task's mapping, and the other's to read");
}

#[test]
fn a_java_vm_makes_code_and_is_no_finding() {
    let jar = scenario("hello.jar");
    let ran = run(&[jar.to_str().unwrap()]);
    let java = |event: &&Event| {
        let named = event.process.as_ref().is_some_and(|process| process.exe.to_string().ends_with("/bin/java"));
        named && matches!(event.kind, Kind::MemoryUnbackedExecution { .. })
    };
    let count = ran.events.iter().filter(java).count();
    assert!((1..100).contains(&count), "its code was seen, and not again and again: {count}");
    assert!(ran.findings.is_empty(), "{:#?}", ran.findings);
}

/// Runs a program under strace, and prints what that wrote.
const TRACED: &str = r#"#!/bin/sh
cat > /home/user/inner.sh <<'INNER'
cd /home/user
echo hi > f; mkdir d; rmdir d; cat f nosuch; mv f g; rm g; id > /dev/null
python3 -c 'import os; os.getpid(); print(os.stat("/etc/passwd").st_size)'
INNER
strace -f -q -e signal=none -o /home/user/trace /bin/sh /home/user/inner.sh
sed 's/^/strace: /' /home/user/trace
echo "strace: end"
"#;

/// What a call returned, as far as both say it: a number, or an error (of whatever kind), or nothing.
type Outcome = Option<Result<i64, ()>>;

/// Calls by (name, outcome), from strace's output.
fn strace_saw(console: &str) -> BTreeMap<(String, Outcome), usize> {
    let mut seen = BTreeMap::new();
    for line in console.lines().filter_map(|line| line.strip_prefix("strace: ")) {
        let Some((_, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if call.ends_with("<unfinished ...>") || call.starts_with("+++") {
            continue;
        }
        let name = match call.strip_prefix("<... ") {
            Some(rest) => rest.split(' ').next().unwrap_or_default(),
            None => call.split('(').next().unwrap_or_default(),
        };
        let result = call.rsplit_once(" = ").map_or("", |(_, result)| result);
        let word = result.split(' ').next().unwrap_or_default();
        let outcome = match (word.strip_prefix("0x"), word.parse::<i64>()) {
            (Some(digits), _) => Some(Ok(i64::from_str_radix(digits, 16).unwrap())),
            (None, Ok(-1)) => Some(Err(())),
            (None, Ok(number)) => Some(Ok(number)),
            (None, Err(_)) => None,
        };
        *seen.entry((name.to_owned(), outcome)).or_default() += 1;
    }
    seen
}

/// The same from our events: calls of strace's descendants, from the first exec on.
fn lava_saw(events: &[Event]) -> BTreeMap<(String, Outcome), usize> {
    let (mut strace, mut below, mut begun, mut seen) = (None, Vec::<ProcessKey>::new(), false, BTreeMap::new());
    for event in events {
        let Some(actor) = event.actor() else { continue };
        match &event.kind {
            Kind::ProcessExec { path, .. } if path.to_string().ends_with("/strace") => strace = Some(actor),
            Kind::ProcessFork { child, thread: false, .. } if Some(actor) == strace || below.contains(&actor) => {
                below.push(ProcessKey { pid: child.pid, start_ns: child.start_ns });
            }
            Kind::ProcessExec { .. } if below.contains(&actor) => begun = true,
            Kind::ApiCall { name, result, .. } if begun && below.contains(&actor) => {
                let outcome = match result {
                    _ if name == "exit_group" || name == "exit" => None,
                    // strace: `= ? ERESTARTSYS`
                    -516..=-512 => None,
                    -4095..=-1 => Some(Err(())),
                    number => Some(Ok(*number)),
                };
                *seen.entry((name.clone().into_owned(), outcome)).or_default() += 1;
            }
            _ => {}
        }
    }
    seen
}

#[test]
fn every_call_that_strace_saw_and_no_other() {
    let ran = of_task("traced.sh", TRACED.as_bytes(), &["--trace", "api"]);
    assert!(ran.console.contains("strace: end"), "{}", ran.console);
    let (truth, ours) = (strace_saw(&ran.console), lava_saw(&ran.events));
    assert!(truth.values().sum::<usize>() > 500, "the workload ran: {truth:?}");
    let differs: Vec<_> = truth
        .keys()
        .chain(ours.keys())
        .filter(|key| truth.get(key) != ours.get(key))
        .map(|key| (key, truth.get(key), ours.get(key)))
        .collect();
    assert!(differs.is_empty(), "(call, strace, lava): {differs:#?}");
    let text = ran.events.iter().any(|event| match &event.kind {
        Kind::ApiCall { name, arguments, .. } if name == "mkdir" => arguments.iter().any(|argument| {
            argument.name == "pathname" && argument.text.as_ref().is_some_and(|text| text.to_string() == "d")
        }),
        _ => false,
    });
    assert!(text, "the name given to mkdir was read");
}

/// An ELF program of 64 bits whose code is `code`.
fn elf(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2u16, 62] {
        out.extend(half.to_le_bytes());
    }
    out.extend(1u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        out.extend(u64::to_le_bytes(word));
    }
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    let size = HEADERS + code.len() as u64;
    out.extend([1u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    out.extend([0, BASE, BASE, size, size, 0x1000].iter().flat_map(|word| u64::to_le_bytes(*word)));
    out.extend(code);
    out
}

#[test]
fn calls_by_int_80() {
    // mov $20,%eax; int $0x80 (getpid), three times; mov $5,%ebx; mov $1,%eax; int $0x80 (exit)
    let getpid = [0xb8, 20, 0, 0, 0, 0xcd, 0x80];
    let exit = [0xbb, 5, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xcd, 0x80];
    let ran = of_task("old", &elf(&[&getpid.repeat(3)[..], &exit].concat()), &["--trace", "api"]);
    check_i386(&ran, 3);
}

/// A 32-bit program whose calls go where the kernel says that its processor calls fastest (`__kernel_vsyscall`, found by
/// `AT_SYSINFO`): `syscall` on QEMU's processor, which is AMD's and has no `sysenter` there.
const FAST_32: &str = r#"#!/usr/bin/python3
import os, struct, subprocess
code = bytes.fromhex(
    "89e6" "ad" "8d748604"  # over argc and argv
    "ad" "85c0" "75fb"  # over the environment
    "ad" "83f820" "7403" "ad" "ebf7" "ad" "89c7"  # AT_SYSINFO's value to edi
    + "b814000000ffd7" * 3  # getpid
    + "b801000000" "bb05000000" "ffd7")  # exit(5)
base = 0x08048000
header = b"\x7fELF\1\1\1".ljust(16, b"\0") + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
segment = struct.pack("<8I", 1, 0, base, base, 84 + len(code), 84 + len(code), 5, 0x1000)
with open("/home/user/fast", "wb") as out:
    out.write(header + segment + code)
os.chmod("/home/user/fast", 0o755)
print("code", subprocess.run(["/home/user/fast"]).returncode)
"#;

#[test]
fn calls_of_a_32_bit_program_by_its_fastest_road() {
    let ran = of_task("fast.py", FAST_32.as_bytes(), &["--trace", "api"]);
    assert!(ran.console.contains("code 5"), "{}", ran.console);
    check_i386(&ran, 3);
}

/// All 32-bit calls are `getpid`, `count` times, and `exit`.
fn check_i386(ran: &Ran, count: usize) {
    let i386: Vec<(&str, i64, u32)> = ran
        .events
        .iter()
        .filter_map(|event| match &event.kind {
            Kind::ApiCall { name, abi, result, .. } if abi == "i386" => {
                Some((&**name, *result, event.process.as_ref().unwrap().pid))
            }
            _ => None,
        })
        .collect();
    let pid = i386.first().unwrap().2;
    let mut expected = vec![("getpid", i64::from(pid), pid); count];
    expected.push(("exit", 0, pid));
    assert_eq!(i386, expected);
}
