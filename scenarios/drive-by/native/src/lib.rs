//! What both programs ask before they do anything: is this the place where they may?

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

/// Exit code of a program that refused to act.
pub const REFUSED: u8 = 64;
/// Only the scenario's disk has it.
pub const MARKER: &str = "/opt/scenario/MARKER";
/// Exactly this is in it.
pub const MARKER_TEXT: &str = include_str!("../../MARKER");
/// Only the guest images have it.
const LAUNCHER: &str = "/usr/lib/lava/launcher";
/// What `/proc/self/mountinfo` must say of the marker's file system: a virtio disk is mounted there.
const SCENARIO: (&str, &str) = ("/opt/scenario", "/dev/vd");

/// Whether this is a LAVA micro-VM with the scenario's disk; if not, says so.
///
/// All must hold: the marker has its fixed text, is root's, and lies on a virtio disk mounted for it; the guest's
/// launcher is there; the processor says that it is a virtual one.
#[must_use]
pub fn allowed() -> bool {
    let here =
        marked() && on_scenario_disk() && fs::metadata(LAUNCHER).is_ok_and(|file| file.uid() == 0) && virtual_machine();
    if !here {
        // Nobody may be reading; the exit code says it too.
        let _unread = writeln!(std::io::stderr(), "refused: not in a LAVA micro-VM");
    }
    here
}

fn marked() -> bool {
    fs::read(MARKER).is_ok_and(|text| text == MARKER_TEXT.as_bytes())
        && fs::metadata(MARKER).is_ok_and(|file| file.uid() == 0)
}

fn on_scenario_disk() -> bool {
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| {
        table.lines().any(|line| {
            // proc(5): the mount point is field 5; the source is the second field after the lone hyphen.
            let source = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').nth(1));
            line.split(' ').nth(4) == Some(SCENARIO.0) && source.is_some_and(|disk| disk.starts_with(SCENARIO.1))
        })
    })
}

fn virtual_machine() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.split_whitespace().any(|word| word == "hypervisor"))
}
