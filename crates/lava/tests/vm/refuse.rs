//! What a policy refuses does not happen: an open to write, an exec, a module's code.

use lava_event::{Action, Event, Kind};

use crate::common::{self, Ran, decisions, root, scenario};

/// Plays a script under a policy; `disk`: what lies in /opt/scenario.
fn play(script: &str, disk: &str, policy: &str, kernel: &str, further: &[&str]) -> Ran {
    let disk = scenario(disk);
    let disk = disk.to_str().unwrap();
    common::play(script, policy, &[&["--disk", disk, "--kernel", kernel], further].concat())
}

fn said(ran: &Ran, line: &str) {
    assert!(ran.console.lines().any(|seen| seen.ends_with(line)), "the console does not say `{line}`\n{}", ran.console);
}

fn autostart_places_are_not_opened(kernel: &str) {
    let script = r#"exec /opt/scenario/bin/as-root sh -c '
        before=$(wc -c </etc/crontab)
        (echo "* * * * * root id" >/etc/cron.d/mine) 2>/dev/null && echo planted || echo no-job
        (: >/etc/crontab) 2>/dev/null && echo cut || echo not-cut
        (true >/etc/profile; read name </etc/hostname) 2>/dev/null
        (echo x >>/etc/ld.so.preload) 2>/dev/null && echo preloaded || echo not-preloaded
        [ "$(wc -c </etc/crontab)" = "$before" ] && echo as-before
        echo fine >/tmp/other && cat /tmp/other
        [ ! -s /etc/cron.d/mine ] && echo empty-at-most'"#;
    let ran = play(script, "proof.img", "contain", kernel, &[]);
    for line in ["no-job", "not-cut", "not-preloaded", "as-before", "fine", "empty-at-most"] {
        said(&ran, line);
    }
    for place in ["/etc/cron.d/mine", "/etc/crontab", "/etc/ld.so.preload"] {
        let about = |event: &Event| matches!(&event.kind, Kind::FileOpen { path, .. } if path.to_string() == place);
        let refused: Vec<_> =
            decisions(&ran, about).into_iter().filter(|(action, ..)| *action == Action::Deny).collect();
        let expected = (Action::Deny, Some("autostart".to_owned()), "the open failed with an I/O error".to_owned());
        assert_eq!(refused, [expected], "{place}");
        let touched = ran.events.iter().any(|event| match &event.kind {
            Kind::FileWrite { path, .. } | Kind::FileTruncate { path, .. } => path.to_string() == place,
            _ => false,
        });
        assert!(!touched, "{place} was written to or cut");
    }
    // An open is told once, asked about or not.
    let opens = |wanted: &str| {
        let is = |event: &&Event| matches!(&event.kind, Kind::FileOpen { path, access, .. } if path.to_string() == wanted && *access != lava_event::Access::Read);
        ran.events.iter().filter(is).count()
    };
    assert_eq!((opens("/tmp/other"), opens("/etc/crontab")), (1, 1));
    // The kernel has the refused file's memory to give to the next one, and that is told as well.
    let of =
        |event: &Event, wanted: &str| matches!(&event.kind, Kind::FileOpen { path, .. } if path.to_string() == wanted);
    let refused = ran.events.iter().position(|event| of(event, "/etc/profile")).expect("the refused open");
    let same = |event: &&Event| event.actor() == ran.events[refused].actor() && of(event, "/etc/hostname");
    assert!(ran.events[refused..].iter().any(|event| same(&event)), "the open behind a refused one");
}

#[test]
fn autostart_places_are_not_opened_on_6_1() {
    autostart_places_are_not_opened("6.1");
}

#[test]
fn autostart_places_are_not_opened_on_6_12() {
    autostart_places_are_not_opened("6.12");
}

/// What lies in /tmp is not to run.
const NO_EXEC: &str = r#"policy: no-exec
default: allow
rules:
  - name: dropped
    when: trace.tainted && event.kind == "process.exec" && event.path.startsWith("/tmp/")
    action: deny
"#;

fn a_refused_program_runs_no_instruction(kernel: &str) {
    let script = r#"cp /bin/touch /tmp/dropped
        /tmp/dropped /tmp/made; echo "dropped: $?"
        /bin/touch /tmp/made-too; echo "other: $?"
        [ -e /tmp/made ] && echo it-ran || echo it-did-not-run"#;
    let ran = play(script, "proof.img", NO_EXEC, kernel, &[]);
    for line in ["dropped: 137", "other: 0", "it-did-not-run"] {
        said(&ran, line);
    }
    let exec =
        |event: &Event| matches!(&event.kind, Kind::ProcessExec { path, .. } if path.to_string() == "/tmp/dropped");
    let decided = decisions(&ran, exec);
    assert!(
        matches!(&decided[..], [(Action::Deny, Some(rule), outcome)] if rule == "dropped" && outcome.contains("is killed")),
        "{decided:?}"
    );
    let process = ran.events.iter().find(|event| exec(event)).and_then(Event::actor).expect("who ran it");
    let after: Vec<_> =
        ran.events.iter().skip_while(|event| !exec(event)).filter(|e| e.actor() == Some(process)).collect();
    assert!(
        matches!(after.last().map(|event| &event.kind), Some(Kind::ProcessExit { code: None, signal: Some(9) })),
        "{after:#?}"
    );
    assert!(!after.iter().any(|event| matches!(event.kind, Kind::FileCreate { .. })), "{after:#?}");
}

#[test]
fn a_refused_program_runs_no_instruction_on_6_1() {
    a_refused_program_runs_no_instruction("6.1");
}

#[test]
fn a_refused_program_runs_no_instruction_on_6_12() {
    a_refused_program_runs_no_instruction("6.12");
}

fn a_refused_module_does_nothing(kernel: &str) {
    let profile = root().join("scenarios/watcher/profile.toml");
    let profile = profile.to_str().unwrap();
    let ran = play("exec /opt/scenario/load cr0", "watcher.img", "contain", kernel, &["--profile", profile]);
    let load =
        |event: &Event| matches!(&event.kind, Kind::KernelModuleLoad { name, .. } if name.to_string() == "watcher");
    let decided = decisions(&ran, load);
    assert!(
        matches!(&decided[..], [(Action::Deny, Some(rule), outcome)] if rule == "kernel-module" && outcome.starts_with("the module's init function is not run")),
        "{decided:?}"
    );
    let changed = ran.events.iter().any(|event| matches!(event.kind, Kind::KernelImmutableWrite { .. }));
    assert!(!changed, "its init function would have written to the kernel's code");
}

#[test]
fn a_refused_module_does_nothing_on_6_1() {
    a_refused_module_does_nothing("6.1");
}

#[test]
fn a_refused_module_does_nothing_on_6_12() {
    a_refused_module_does_nothing("6.12");
}
