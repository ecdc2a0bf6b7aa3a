//! What goes wrong: QEMU dies, a template is damaged. It is told, and nothing is lost that was recorded.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use lava_event::Kind;
use lava_evidence::State;

use crate::common::{lava, qemu_of, read, turn};

#[test]
fn qemu_killed_in_the_middle() {
    let _turn = turn();
    let (out, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let task = folder.path().join("sleep.sh");
    std::fs::write(&task, "#!/bin/sh\nsleep 100\n").unwrap();
    let mut command = lava();
    command.arg("run").arg(&task).args(["--format", "jsonl", "--out"]).arg(out.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen = lines.by_ref().map_while(Result::ok).find(|line| line.contains("\"kind\":\"process.exec\""));
    assert!(seen.is_some(), "the guest was seen to start a program");
    let qemu = qemu_of(child.id()).expect("lava's QEMU");
    let killed = std::process::Command::new("kill").args(["-KILL", &qemu.to_string()]).status().unwrap();
    assert!(killed.success());
    // Read on to the end, or the pipe would hold lava back.
    let drain = std::thread::spawn(move || lines.map_while(Result::ok).count());
    let output = child.wait_with_output().unwrap();
    drain.join().unwrap();
    let ran = read(&output, out);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("did not end in order"), "{}", ran.stderr);
    assert_eq!(ran.session.manifest().state, State::Aborted);
    assert!(matches!(ran.events.last().unwrap().kind, Kind::VmEnded { orderly: false, .. }));
    assert!(ran.events.iter().any(|event| matches!(event.kind, Kind::VmGap { .. })), "the gap is told");
    assert!(!ran.session.verify_chain().unwrap().tampered());
    assert!(ran.session.dir().join("report.html").is_file());
}

/// Two first runs at once, where a template lies that was cut off: one makes it anew, the other waits for it.
#[test]
fn a_damaged_template_is_made_anew_by_one_of_those_who_need_it() {
    let _turn = turn();
    let (cache, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let real = Path::new(&std::env::var_os("HOME").unwrap()).join(".cache/lava");
    let real = std::env::var_os("XDG_CACHE_HOME").map_or(real, |cache| Path::new(&cache).join("lava"));
    let ours = cache.path().join("lava");
    std::fs::create_dir_all(ours.join("templates")).unwrap();
    std::os::unix::fs::symlink(real.join("images"), ours.join("images")).unwrap();
    let task = folder.path().join("hello.sh");
    std::fs::write(&task, "#!/bin/sh\necho hello\n").unwrap();
    let run = |cache: &Path| {
        let mut command = lava();
        command.env("XDG_CACHE_HOME", cache).arg("run").arg(&task).arg("--out").arg(folder.path().join("sessions"));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // The template's name, by a run that makes it if there is none yet; then all of it but its memory.
    assert!(run(real.parent().unwrap()).wait_with_output().unwrap().status.success());
    let mut cut = 0;
    for template in std::fs::read_dir(real.join("templates")).unwrap().flatten() {
        let to = ours.join("templates").join(template.file_name());
        if !template.path().join("ram").is_file() {
            continue;
        }
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(template.path()).unwrap().flatten().filter(|file| file.file_name() != "ram") {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        cut += 1;
    }
    assert!(cut > 0);
    let both = [run(cache.path()), run(cache.path())].map(|child| child.wait_with_output().unwrap());
    let told = both.each_ref().map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(both.iter().all(|output| output.status.success()), "{told:#?}");
    for said in ["waiting for the template", "making the template", "ram: No such file"] {
        assert_eq!(told.iter().filter(|told| told.contains(said)).count(), 1, "{said}: {told:#?}");
    }
}
