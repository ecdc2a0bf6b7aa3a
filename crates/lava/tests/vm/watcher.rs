//! Attacks on the watcher: a module in the guest's kernel changes code, tables and registers, hides itself and its task, and puts
//! nonsense into what the tap reads. Everything is reported or survived; under a policy it is undone.

use std::path::PathBuf;

use lava_event::{Action, ImmutableArea, Kind, Writer};

use crate::common::{Ran, root, run, scenario};

/// The changed function's first bytes: `mov $0x1234,%eax; ret`.
const PATCH: &str = "b83412";
/// Each changes code or a table, with what lies there.
const WRITES: [(&str, ImmutableArea, &str); 8] = [
    ("cr0", ImmutableArea::Text, "int_sqrt"),
    ("page-table", ImmutableArea::Text, "int_sqrt"),
    ("vmap", ImmutableArea::Text, "int_sqrt"),
    ("text_poke", ImmutableArea::Text, "int_sqrt"),
    ("syscall-table", ImmutableArea::SyscallTable, "sys_call_table+0x518"),
    ("idt", ImmutableArea::Idt, "idt_table+0x1f0"),
    ("rodata", ImmutableArea::ReadOnlyData, "linux_banner"),
    ("module-text", ImmutableArea::ModuleText, "[watcher]"),
];

fn play(attacks: &[&str], policy: &str, kernel: &str) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let task = dir.path().join("attacks.sh");
    std::fs::write(&task, format!("#!/bin/sh\nexec /opt/scenario/load {}\n", attacks.join(" "))).unwrap();
    let (disk, profile) = (scenario("watcher.img"), root().join("scenarios/watcher/profile.toml"));
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (task, disk, profile) = (text(&task), text(&disk), text(&profile));
    let ran = run(&[&task, "--profile", &profile, "--disk", &disk, "--policy", policy, "--kernel", kernel]);
    assert_eq!(ran.code, Some(3), "a threat is exit code 3\n{}\n{}", ran.stdout, ran.stderr);
    assert!(!ran.events.iter().any(|event| matches!(event.kind, Kind::VmGap { .. })), "nothing was lost");
    ran
}

fn said(ran: &Ran, line: &str) {
    let found = ran.console.lines().any(|seen| seen.ends_with(line));
    assert!(found, "the console does not say `{line}`\n{}", ran.console);
}

/// Code of the attacking module, at any of its loads.
fn in_watcher(ran: &Ran, address: u64) -> bool {
    ran.events.iter().any(|event| match &event.kind {
        Kind::KernelModuleLoad { name, address: start, size, .. } => {
            name.to_string() == "watcher" && (*start..start + size).contains(&address)
        }
        _ => false,
    })
}

fn rip(event: &lava_event::Event) -> u64 {
    let index = lava_event::REGISTERS.iter().position(|name| *name == "rip").unwrap();
    event.registers.as_ref().expect("registers").0[index]
}

/// What the guest did before the task began is benign.
fn boot_was_silent(ran: &Ran) {
    let begin = ran.events.iter().position(|event| matches!(event.kind, Kind::VmTask { .. })).unwrap();
    for event in &ran.events[..begin] {
        let kernel = matches!(
            event.kind,
            Kind::KernelImmutableWrite { .. }
                | Kind::KernelRegister { .. }
                | Kind::KernelHiddenTask { .. }
                | Kind::KernelHiddenModule { .. }
        );
        assert!(!kernel, "{event:#?}");
    }
}

fn everything_is_reported(kernel: &str) {
    let others = ["dma", "lstar", "idtr", "hide-task", "hide-module", "mess"];
    let attacks: Vec<&str> = WRITES.iter().map(|(name, ..)| *name).chain(others).collect();
    let ran = play(&attacks, "observe", kernel);
    boot_was_silent(&ran);
    for (attack, area, symbol) in WRITES {
        let found = ran.events.iter().find(|event| {
            event.process.as_ref().is_some_and(|process| process.comm.to_string() == "insmod")
                && matches!(&event.kind, Kind::KernelImmutableWrite { area: a, symbol: s, by: Writer::Cpu, .. }
                    if *a == area && (s == symbol || area == ImmutableArea::ModuleText && s.starts_with(symbol)))
        });
        let found = found.unwrap_or_else(|| panic!("{attack} was not reported"));
        assert!(in_watcher(&ran, rip(found)), "{attack}: by an instruction of the module\n{found:#?}");
    }
    // Three roads by the module's own instructions, one through text_poke: each there and back.
    let patched = |event: &&lava_event::Event| match &event.kind {
        Kind::KernelImmutableWrite { symbol, after, .. } => {
            symbol == "int_sqrt" && after.to_string().starts_with(PATCH)
        }
        _ => false,
    };
    assert_eq!(ran.events.iter().filter(patched).count(), 4, "each road was seen");
    // Nothing but what the module changed.
    for event in &ran.events {
        if let Kind::KernelImmutableWrite { symbol, .. } = &event.kind {
            let known = WRITES.iter().any(|(_, _, name)| symbol.starts_with(name));
            assert!(known, "{event:#?}");
        }
    }
    for (register, meaning) in [("cr0", "WP cleared"), ("lstar", "moved"), ("idtr", "moved")] {
        let found = ran.events.iter().any(|event| {
            matches!(&event.kind,
            Kind::KernelRegister { register: r, meaning: m, .. } if r == register && m.contains(meaning))
        });
        assert!(found, "{register}");
    }
    let task = ran
        .events
        .iter()
        .any(|event| matches!(&event.kind, Kind::KernelHiddenTask { task, .. } if task.comm.to_string() == "insmod"));
    assert!(task, "the hidden task");
    let module = ran
        .events
        .iter()
        .any(|event| matches!(&event.kind, Kind::KernelHiddenModule { name, .. } if name.to_string() == "watcher"));
    assert!(module, "the hidden module");
    said(&ran, "watcher: cr0: int_sqrt(144) = 4660");
    said(&ran, "watcher: mess: survived");
    // The disk read into a function's page: refused, told once, and the disk lives on.
    let refused =
        ran.events.iter().filter(|event| matches!(&event.kind, Kind::KernelDmaRefused { disk, .. } if disk == "vda"));
    assert_eq!(refused.count(), 1);
    said(&ran, "watcher: dma: the device said -5");
    said(&ran, "watcher: dma: int_sqrt(144) = 12");
    for detector in ["persist.kernel_memory", "persist.kernel_register", "persist.kernel_dma", "persist.hidden_object"]
    {
        assert!(ran.findings.iter().any(|finding| finding.detector == detector), "{detector}");
    }
}

#[test]
fn everything_is_reported_on_6_1() {
    everything_is_reported("6.1");
}

#[test]
fn everything_is_reported_on_6_12() {
    everything_is_reported("6.12");
}

#[test]
fn remediate_puts_the_bytes_back_before_they_count() {
    let ran = play(&["cr0", "page-table", "vmap", "syscall-table", "idt", "rodata"], "remediate", "6.1");
    for attack in ["cr0", "page-table", "vmap"] {
        said(&ran, &format!("watcher: {attack}: int_sqrt(144) = 12"));
    }
    for attack in ["syscall-table", "idt", "rodata"] {
        said(&ran, &format!("watcher: {attack}: unchanged"));
    }
    decided(&ran, Action::Remediate, "put back");
}

#[test]
fn deny_kills_who_did_it() {
    let ran = play(&["vmap"], "protect", "6.1");
    said(&ran, "watcher: vmap: int_sqrt(144) = 12");
    decided(&ran, Action::Deny, "is killed");
    let killed = ran.events.iter().any(|event| {
        matches!(event.kind, Kind::ProcessExit { signal: Some(9), .. })
            && event.process.as_ref().is_some_and(|process| process.comm.to_string() == "insmod")
    });
    assert!(killed, "insmod ended by SIGKILL");
}

/// Every write was decided so.
fn decided(ran: &Ran, expected: Action, outcome: &str) {
    let writes = ran.events.iter().filter(|event| matches!(event.kind, Kind::KernelImmutableWrite { .. }));
    let writes: Vec<u64> = writes.map(|event| event.seq).collect();
    assert!(!writes.is_empty());
    for seq in writes {
        let decision = ran.events.iter().find_map(|event| match &event.kind {
            Kind::VmDecision { subject, action, outcome, .. } if *subject == seq => Some((*action, outcome.clone())),
            _ => None,
        });
        let (action, said) = decision.unwrap_or_else(|| panic!("no decision on {seq}"));
        assert_eq!(action, expected);
        assert!(said.contains(outcome), "{said}");
    }
}
