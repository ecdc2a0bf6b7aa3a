//! The drive-by download, held against the trace that its story promises, under each policy and on both kernels.

use std::path::PathBuf;
use std::process::Command;

use lava_event::{Action, DiskRegion, Kind, Sha256, Stage};
use lava_export::Format;
use regex_lite::Regex;
use serde::Deserialize;

use crate::common::{Ran, lava, root, run, scenario};

#[derive(Deserialize)]
struct Expected {
    task: TaskExpected,
    stage: Vec<StageExpected>,
}

#[derive(Deserialize)]
struct TaskExpected {
    exit: Exits,
    serial: Vec<String>,
    serial_after_reset: String,
}

#[derive(Deserialize)]
struct Exits {
    allowed: i64,
    refused: i64,
    remediated: i64,
}

#[derive(Deserialize)]
struct StageExpected {
    stage: Stage,
    finding: Vec<FindingExpected>,
    #[serde(default)]
    event: Vec<EventExpected>,
}

#[derive(Deserialize)]
struct FindingExpected {
    id: String,
    technique: String,
    title: String,
    #[serde(default)]
    optional: bool,
}

#[derive(Deserialize)]
struct EventExpected {
    kind: String,
    subject: String,
    count: usize,
    #[serde(default)]
    or_more: bool,
}

/// The block at the end of the story.
fn expected() -> Expected {
    let story = std::fs::read_to_string(root().join("scenarios/drive-by/story.md")).unwrap();
    let block = story.split("```toml expected-trace\n").nth(1).unwrap().split("\n```").next().unwrap();
    toml::from_str(block).unwrap()
}

fn play(policy: &str, kernel: &str, reboot: bool) -> Ran {
    let (task, disk) = (scenario("applet.jar"), scenario("scenario.img"));
    let profile = root().join("scenarios/drive-by/profile.toml");
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (task, disk, profile) = (path(&task), path(&disk), path(&profile));
    let mut arguments =
        vec![task.as_str(), "--profile", &profile, "--disk", &disk, "--policy", policy, "--kernel", kernel];
    if reboot {
        arguments.push("--reboot");
    }
    let ran = run(&arguments);
    assert_eq!(ran.code, Some(3), "a threat is exit code 3\n{}\n{}", ran.stdout, ran.stderr);
    ran
}

/// What an event is about, in the story's words.
fn subject(kind: &Kind) -> Option<String> {
    Some(match kind {
        Kind::ProcessExec { path, .. } | Kind::FileCreate { path, .. } => path.to_string(),
        Kind::NetConnect { destination: Some(end), .. } => format!("{}:{}", end.address, end.port),
        Kind::DiskWrite { region, .. } => serde_json::to_value(region).ok()?.as_str()?.to_owned(),
        _ => return None,
    })
}

/// Everything the story promises, whatever the policy.
fn check_story(ran: &Ran) {
    let expected = expected();
    let task_begins = ran.events.iter().position(|event| matches!(event.kind, Kind::VmTask { .. })).unwrap();
    let since = &ran.events[task_begins..];
    let trace = ran.session.trace().unwrap();
    assert!(trace.nodes.len() < 60, "{} nodes", trace.nodes.len());
    let stages: Vec<Stage> = trace.kill_chain.iter().map(|summary| summary.stage).collect();
    assert_eq!(stages, Stage::ALL, "all five stages");
    let times: Vec<u64> = trace.kill_chain.iter().map(|summary| summary.first_ns).collect();
    assert!(times.is_sorted(), "in their order: {times:?}");
    for stage in &expected.stage {
        for wanted in stage.finding.iter().filter(|finding| !finding.optional) {
            let title = Regex::new(&wanted.title).unwrap();
            let found = ran.findings.iter().find(|finding| {
                finding.stage == stage.stage
                    && finding.detector == wanted.id
                    && finding.technique.id == wanted.technique
                    && title.is_match(&finding.title)
            });
            let found = found.unwrap_or_else(|| panic!("no {} {}: {:#?}", wanted.id, wanted.title, ran.findings));
            assert!(
                !found.events.is_empty() && found.events.iter().all(|&seq| seq >= 1 && seq <= ran.events.len() as u64)
            );
        }
        for wanted in &stage.event {
            let pattern = Regex::new(&wanted.subject).unwrap();
            let matching = since.iter().filter(|event| {
                event.kind.name() == wanted.kind && subject(&event.kind).is_some_and(|text| pattern.is_match(&text))
            });
            let seen = matching.count();
            let enough = seen == wanted.count || wanted.or_more && seen > wanted.count;
            assert!(enough, "{} of {}: {seen} instead of {}", wanted.kind, wanted.subject, wanted.count);
        }
    }
    let promised: Vec<String> = expected.stage.iter().flat_map(|s| &s.finding).map(|f| f.id.clone()).collect();
    let strangers: Vec<_> = ran.findings.iter().filter(|finding| !promised.contains(&finding.detector)).collect();
    assert!(strangers.is_empty(), "findings that the story does not tell: {strangers:#?}");
    for wanted in &expected.task.serial {
        let pattern = Regex::new(wanted).unwrap();
        assert!(ran.console.lines().any(|line| pattern.is_match(line)), "{wanted}\n{}", ran.console);
    }
    assert!(!ran.events.iter().any(|event| matches!(event.kind, Kind::VmGap { .. })), "nothing was lost");
    assert!(ran.session.verify_chain().unwrap().intact());
}

fn task_exit(ran: &Ran) -> i64 {
    let exit = ran.events.iter().find_map(|event| match event.kind {
        Kind::VmTaskExit { code, .. } => code,
        _ => None,
    });
    exit.expect("the task's exit code")
}

/// The planted sector's line after the restart.
fn planted_code_ran(ran: &Ran) -> bool {
    let pattern = Regex::new(&expected().task.serial_after_reset).unwrap();
    ran.console.lines().any(|line| pattern.is_match(line))
}

fn boot_code_decision(ran: &Ran) -> (Action, Sha256, Sha256) {
    let write = ran.events.iter().find_map(|event| match &event.kind {
        Kind::DiskWrite { region: DiskRegion::MbrBootCode, before, after, .. } => Some((event.seq, *before, *after)),
        _ => None,
    });
    let (seq, before, after) = write.expect("the write of the boot code");
    let decision = ran.events.iter().find_map(|event| match &event.kind {
        Kind::VmDecision { subject, action, .. } if *subject == seq => Some(*action),
        _ => None,
    });
    (decision.expect("a decision on it"), before.unwrap(), after.unwrap())
}

fn restarted(ran: &Ran) {
    assert!(ran.events.iter().any(|event| matches!(event.kind, Kind::VmReset { .. })), "the guest was restarted");
    let found = ran.events.iter().filter(|event| matches!(event.kind, Kind::VmIntrospection { .. })).count();
    assert_eq!(found, 2, "the tap found the kernel again after the restart");
}

/// Both versions of the boot code are kept, and differ.
fn both_versions_are_kept(ran: &Ran, before: Sha256, after: Sha256) {
    let bytes = |hash| ran.session.artifact(&hash).unwrap().expect("the artifact");
    let (before, after) = (bytes(before), bytes(after));
    assert_eq!((before.len(), after.len()), (440, 440));
    assert_ne!(before, after);
}

/// Runs `lava` on the session; its exit code and what it printed.
fn again(ran: &Ran, arguments: &[&str]) -> (Option<i32>, String) {
    let output = lava().args(arguments).arg(ran.session.dir()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// Whichever of the shipped baselines is in force, the same is found, and the verdict's reasons are the same.
fn no_baseline_hides_it(ran: &Ran) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("baseline.toml");
    let reasons = |told: &str| told.split("verdict:").nth(1).unwrap().lines().take(2).collect::<Vec<_>>().join("\n");
    for profile in std::fs::read_dir(root().join("images/baselines")).unwrap() {
        // The scenario's profile is its own, so it has none.
        let text = std::fs::read_to_string(profile.unwrap().path()).unwrap();
        let start = text.find("profile = ").unwrap();
        let end = start + text[start..].find('\n').unwrap();
        std::fs::write(&file, format!("{}profile = \"applet\"{}", &text[..start], &text[end..])).unwrap();
        let (code, told) = again(ran, &["replay", "--baseline", file.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains("the same as when it was recorded"), "{told}");
        assert_eq!(reasons(&told), reasons(&ran.stdout));
        assert!(told.contains("never seen") && !told.contains("usual for this profile"), "{told}");
    }
}

/// The log alone gives the same again, and tells what another policy would have answered.
fn the_log_is_enough(ran: &Ran) {
    let (code, told) = again(ran, &["replay"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("the same as when it was recorded"), "{told}");
    let summary = |text: &str| text.split("verdict:").nth(1).unwrap().split("\nsession:").next().unwrap().to_owned();
    let again_told = summary(&told);
    assert!(again_told.starts_with(&summary(&ran.stdout)), "{again_told}\n{}", ran.stdout);
    let (code, told) = again(ran, &["replay", "--until", "0"]);
    assert_eq!(code, Some(0));
    assert!(told.contains("CLEAN"), "nothing had happened yet: {told}");

    let (code, told) = again(ran, &["policy", "test", &ran.session.manifest().policy.name]);
    assert_eq!(code, Some(0), "its own policy answers as it did: {told}");
    let (code, told) = again(ran, &["policy", "test", "contain"]);
    assert_eq!(code, Some(3), "{told}");
    for rule in ["deny by mbr-boot-code", "deny by post-mbr-gap", "allow (not asked); now: deny by autostart"] {
        assert!(told.contains(rule), "{rule}: {told}");
    }

    assert_eq!(again(ran, &["verify"]).0, Some(0));
}

/// One bit of the log is another. It is not put back: nothing can be asked of the log after.
fn a_changed_log_is_told(ran: &Ran) {
    let log = ran.session.dir().join("events.jsonl");
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let (code, told) = again(ran, &["verify"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("CHANGED") && told.contains("events.jsonl, line"), "{told}");
}

/// A real session as a bundle and as a pack: the one is read as the folder is, the other's rules fire on it.
fn bundle_and_pack(ran: &Ran) {
    let folder = tempfile::tempdir().unwrap();
    let (file, pack) = (folder.path().join("s.lava.zip"), folder.path().join("pack"));
    let run = |arguments: &[&std::ffi::OsStr]| {
        let output = lava().env("XDG_CONFIG_HOME", folder.path()).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (dir, verb) = (ran.session.dir().as_os_str(), std::ffi::OsStr::new);
    let (code, told) = run(&[verb("bundle"), dir, verb("--out"), file.as_os_str()]);
    assert_eq!(code, Some(0), "{told}");
    let (code, told) = run(&[verb("verify"), file.as_os_str()]);
    assert!(code == Some(0) && told.contains("with your own key") && told.contains("evidence: intact"), "{told}");
    for verb in ["show", "replay", "trace", "events"].map(std::ffi::OsStr::new) {
        let lines = |told: String| {
            told.lines().filter(|line| !line.starts_with("report:")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(run(&[verb, file.as_os_str()]).1), lines(run(&[verb, dir]).1), "{verb:?}");
    }
    for name in ["lava", "qemu", "vmlinuz"] {
        assert!(ran.session.manifest().hashes.contains_key(name), "{name}");
    }

    let (code, told) = run(&[verb("pack"), file.as_os_str(), verb("--out"), pack.as_os_str()]);
    assert_eq!(code, Some(0), "{told}");
    let (code, told) = run(&[verb("replay"), dir, verb("--rules"), pack.join("sigma").as_os_str()]);
    assert_eq!(code, Some(0), "{told}");
    for title in ["Files of LAVA session", "Dropped programs of LAVA session"] {
        assert!(told.lines().any(|line| line.starts_with("only now:") && line.contains(title)), "{title}: {told}");
    }
}

/// A real session in every format, judged by the validators of `lava-export`'s own tests.
fn exports_are_valid(ran: &Ran) {
    let python = std::env::var_os("LAVA_TEST_VALIDATORS").expect("LAVA_TEST_VALIDATORS: run `cargo xtask test`");
    for format in Format::ALL {
        let (name, file) = (format.name(), ran.session.dir().join(format.name()));
        let mut export = lava();
        export.args(["export", "--format", name, "--out"]).arg(&file).arg(ran.session.dir());
        let output = export.output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let script = root().join(format!("crates/lava-export/tests/validators/{name}.py"));
        let output = Command::new(&python).arg(script).arg(&file).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&told));
    }
}

#[test]
fn observe_lets_the_attack_play_on() {
    let ran = play("observe", "6.1", true);
    check_story(&ran);
    restarted(&ran);
    let (action, before, after) = boot_code_decision(&ran);
    assert_eq!(action, Action::Allow);
    both_versions_are_kept(&ran, before, after);
    assert_eq!(task_exit(&ran), expected().task.exit.allowed);
    let manifest = ran.session.manifest();
    assert_ne!(manifest.mbr_before, manifest.mbr_after, "the real disk's first sector has changed");
    assert!(planted_code_ran(&ran), "the planted boot sector ran after the restart\n{}", ran.console);
    bundle_and_pack(&ran);
    exports_are_valid(&ran);
}

#[test]
fn protect_refuses_the_write() {
    let ran = play("protect", "6.1", true);
    check_story(&ran);
    restarted(&ran);
    assert_eq!(boot_code_decision(&ran).0, Action::Deny);
    assert_eq!(task_exit(&ran), expected().task.exit.refused);
    assert!(ran.console.lines().any(|line| line == "drive-by: MBR write: Input/output error (EIO)"), "{}", ran.console);
    let manifest = ran.session.manifest();
    assert_eq!(manifest.mbr_before, manifest.mbr_after, "the real disk's first sector is the original");
    assert!(!planted_code_ran(&ran));
}

#[test]
fn remediate_deceives_the_guest_and_keeps_both_versions() {
    let ran = play("remediate", "6.1", true);
    check_story(&ran);
    restarted(&ran);
    let (action, before, after) = boot_code_decision(&ran);
    assert_eq!(action, Action::Remediate);
    both_versions_are_kept(&ran, before, after);
    assert_eq!(task_exit(&ran), expected().task.exit.remediated);
    assert!(ran.console.lines().any(|line| line == "drive-by: MBR write: ok"), "{}", ran.console);
    let manifest = ran.session.manifest();
    assert_eq!(manifest.mbr_before, manifest.mbr_after, "the real disk's first sector is the original");
    assert!(!planted_code_ran(&ran));
}

#[test]
fn the_other_kernel_shows_the_same() {
    let ran = play("observe", "6.12", false);
    check_story(&ran);
    assert!(ran.session.manifest().image.kernel.starts_with("6.12"));
    let missing = ran.events.iter().find_map(|event| match &event.kind {
        Kind::VmIntrospection { missing, .. } => Some(missing.clone()),
        _ => None,
    });
    assert_eq!(missing, Some(Vec::new()), "every hook is there");
    no_baseline_hides_it(&ran);
    the_log_is_enough(&ran);
    a_changed_log_is_told(&ran);
}
