//! `lava bundle`, `lava verify`, `lava key` at the command line: exit codes, keys, and what a bundle may stand for.

#[path = "../../lava-evidence/tests/common/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Runs `lava` as a user whose configuration is in this folder; exit code, what was printed, what was complained.
fn lava(config: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lava"));
    let output = command.env("XDG_CONFIG_HOME", config).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_bundle_at_the_command_line() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let (mine, other) = (root.path().join("mine"), root.path().join("other"));
    let session = common::session(root.path()).dir().to_str().unwrap().to_owned();
    let file = at("s.lava.zip");

    let (code, told, complained) = lava(&mine, &["bundle", &session, "--out", &file]);
    assert_eq!(code, 0, "{complained}");
    assert!(told.contains("members") && complained.contains("made a key"), "{told}{complained}");
    let key = mine.join("lava/evidence.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(lava(&mine, &["bundle", &session, "--out", &file]).0, 1, "never written over");

    let public = key.with_extension("pub").to_str().unwrap().to_owned();
    let (code, told, _) = lava(&mine, &["verify", &file]);
    assert!(code == 0 && told.contains("with your own key") && told.contains("evidence: intact"), "{told}");
    let (code, told, _) = lava(&other, &["verify", &file]);
    assert!(code == 4 && told.contains("not known here"), "{told}");
    assert_eq!(lava(&other, &["verify", &file, "--key", &public]).0, 0);
    let (code, told, _) = lava(&other, &["key"]);
    let theirs = told.lines().find_map(|line| line.strip_prefix("public: ")).unwrap();
    assert!(code == 0 && theirs.starts_with("RW"), "{told}");
    let (code, told, _) = lava(&mine, &["verify", &file, "--key", theirs]);
    assert!(code == 1 && told.contains("not signed with key"), "{told}");
    assert_eq!(lava(&mine, &["verify", &session]).0, 0);

    // It stands for the session, whoever signed it; that it is not the user is said.
    for command in [&["events"][..], &["export", "--format", "ecs"], &["trace"], &["replay"]] {
        let of = |place: &str| lava(&other, &[command, &[place]].concat());
        let (from_bundle, from_folder) = (of(&file), of(&session));
        assert_eq!((from_bundle.0, &from_bundle.1), (from_folder.0, &from_folder.1), "{command:?}");
        assert!(from_bundle.2.contains("not yours"), "{}", from_bundle.2);
    }

    // One that was changed stands for nothing.
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (code, told, _) = lava(&mine, &["verify", &file]);
    assert!(code == 1 && told.contains("CHANGED"), "{told}");
    let (code, told, complained) = lava(&mine, &["show", &file]);
    assert!(code == 1 && told.is_empty() && complained.contains("not as it was signed"), "{told}{complained}");
    let (code, _, complained) = lava(&mine, &["verify", &public]);
    assert!(code == 1 && complained.contains("is no LAVA bundle"), "{complained}");
}
