//! `lava baseline` at the command line: learned, shown, compared, and files that are none. No micro-VM is started.

#[path = "../../lava-evidence/tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use lava_baseline::{Act, Baseline};

/// Runs `lava` as a user whose configuration is in this folder; exit code, what was printed, what was complained.
fn lava(config: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lava"));
    let output = command.env("XDG_CONFIG_HOME", config).env("NO_COLOR", "1").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn what_is_shipped_is_for_every_profile_and_holds_no_attack() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names("images/profiles"), names("images/baselines"), "one baseline for each profile");
    for profile in names("images/profiles") {
        let text = lava_baseline::shipped(&profile).unwrap_or_else(|| panic!("none is shipped for {profile}"));
        let baseline = Baseline::parse(text).unwrap_or_else(|error| panic!("{profile}: {error}"));
        assert_eq!(baseline.profile(), profile);
        assert_eq!(baseline.to_text().unwrap(), text, "{profile}: as `lava baseline learn` writes it");
        assert!(baseline.learned().tasks.len() >= 3, "{profile}: {:?}", baseline.learned().tasks);
        for (program, act, object) in baseline.iter() {
            let shown = format!("{profile}: {program} {} {object}", act.name());
            // What is made usual here could be done unseen: places from which programs start, programs of the task's own, whole folders.
            let system =
                ["/usr/", "/bin/", "/sbin/", "{task}", "{member}"].iter().any(|start| program.starts_with(start));
            assert!(system, "a program that does not come with the system: {shown}");
            let changes = [Act::Write, Act::Create, Act::Rename, Act::Unlink, Act::Attributes].contains(&act);
            assert!(
                !changes || lava_detect::autostart(&object.replace('~', "/home/user").as_str().into()).is_none(),
                "{shown}"
            );
            let folders = ["/*", "~/*", "/etc/*", "/home/*", "/usr/*", "/usr/bin/*", "~/.*"];
            assert!(!changes || !folders.contains(&object), "{shown}");
            assert!(!changes || !object.starts_with("/etc/") && !object.starts_with("/usr/"), "{shown}");
        }
    }
}

#[test]
fn learned_shown_and_compared() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let session = common::session(root.path()).dir().to_str().unwrap().to_owned();
    let (config, file) = (root.path().join("config"), at("browser.toml"));
    let learn = ["baseline", "learn", "browser", "--date", "2026-11-25", "--out", &file, "--sessions", &session];

    let (code, _, complained) = lava(&config, &learn);
    assert!(code == 1 && complained.contains("is malicious"), "an attack teaches nothing: {complained}");
    assert!(!Path::new(&file).exists());
    let (code, _, complained) = lava(&config, &[&learn[..], &["--even-malicious"]].concat());
    assert_eq!(code, 0, "{complained}");
    let (code, told, _) = lava(&config, &["baseline", "show", &file]);
    assert!(code == 0 && told.contains("profile:  browser") && told.contains("2026-11-25"), "{told}");

    // The profile has none: say so. The user's own takes effect by lying in its place.
    let (code, _, complained) = lava(&config, &["baseline", "diff", &session]);
    assert!(code == 1 && complained.contains("no baseline for the profile browser"), "{complained}");
    fs::create_dir_all(config.join("lava/baselines")).unwrap();
    fs::copy(&file, config.join("lava/baselines/browser.toml")).unwrap();
    let (code, told, complained) = lava(&config, &["baseline", "diff", &session]);
    assert!(code == 0 && told.contains("0 of "), "{told}{complained}");

    let (code, _, complained) = lava(&config, &["baseline", "learn", "script", "--sessions", &session]);
    assert!(code == 1 && complained.contains("is of the profile browser, not of script"), "{complained}");
    let (code, _, complained) = lava(&config, &["baseline", "learn", "script"]);
    assert!(code == 1 && complained.contains("nothing to learn from"), "{complained}");
}

#[test]
fn a_file_that_is_no_baseline_says_what_is_wrong() {
    let root = tempfile::tempdir().unwrap();
    let session = common::session(root.path()).dir().to_str().unwrap().to_owned();
    let good = Baseline::new("browser", "2026-11-25").to_text().unwrap();
    let file = root.path().join("b.toml").to_str().unwrap().to_owned();
    let cases: [(Vec<u8>, &str); 7] = [
        (good.replace("version = 1", "version = 7").into(), "its version is 7"),
        (good.replace("\"browser\"", "\"jar\\u001b[2J\"").into(), "is for the profile jar\\u{1b}[2J, not for browser"),
        (format!("{good}[programs.\"/bin/x\"]\n\"file.all\" = [\"/\"]\n").into(), "line 12"),
        (b"\xff\xfe\0".to_vec(), "UTF-8"),
        (b"version = ".to_vec(), "line 1"),
        (vec![b' '; lava_baseline::MAX_FILE + 1], "longer than 4194304 bytes"),
        (format!("{good}x = {}", "[".repeat(100_000)).into(), "line"),
    ];
    for (text, says) in cases {
        fs::write(&file, text).unwrap();
        for command in [&["replay", &session][..], &["baseline", "diff", &session]] {
            let (code, _, complained) = lava(root.path(), &[command, &["--baseline", &file]].concat());
            assert_eq!(code, 1, "{says}: {complained}");
            assert!(complained.contains(says) && complained.contains("baseline"), "{says}: {complained}");
            assert!(!complained.contains("panicked") && !complained.contains('\u{1b}'), "{complained}");
        }
    }
    let (code, _, complained) = lava(root.path(), &["replay", &session, "--baseline", "/nonexistent.toml"]);
    assert!(code == 1 && complained.contains("/nonexistent.toml"), "{complained}");
    for name in ["../../etc/passwd", "", "no such"] {
        let (code, _, complained) = lava(root.path(), &["baseline", "show", name]);
        assert!(code == 1 && complained.contains("no baseline for the profile"), "{name}: {complained}");
    }
}
