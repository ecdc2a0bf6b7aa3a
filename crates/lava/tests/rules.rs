//! `lava rules check`: what of a folder can be used, and why the rest can't.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn check(dir: &Path) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_lava")).args(["rules", "check"]).arg(dir).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn rule(product: &str, condition: &str) -> String {
    format!(
        "title: \"a\\e[2J rule\"\nlogsource: {{product: {product}, category: process_creation}}\n\
         detection: {{s: {{Image: x}}, condition: {condition}}}\n"
    )
}

#[test]
fn each_rule_is_used_or_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("linux/deep");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("good.yml"), rule("linux", "s")).unwrap();
    fs::write(below.join("other.yaml"), rule("windows", "s")).unwrap();
    fs::write(below.join("notes.txt"), "no rule").unwrap();
    std::os::unix::fs::symlink(dir.path(), below.join("loop")).unwrap();
    let (code, out, err) = check(dir.path());
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("used       linux/deep/good.yml (a\\u{1b}[2J rule)\n"), "escaped: {out}");
    assert!(out.contains("not used   linux/deep/other.yaml") && out.contains("lava::sigma::S0101"), "{out}");
    assert!(out.ends_with("1 used, 1 can't be used, 0 malformed\n"), "{out}");

    fs::write(below.join("bad.yml"), rule("linux", "s and")).unwrap();
    let (code, out, _) = check(dir.path());
    assert_eq!(code, Some(1));
    assert!(out.contains("malformed  linux/deep/bad.yml") && out.contains("line 3: condition: "), "{out}");
    let (code, out, _) = check(&below.join("good.yml"));
    assert_eq!((code, out.lines().count()), (Some(0), 2), "one file: {out}");
}

#[test]
fn only_what_is_broken_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    // A module of yara-x that this build leaves out, and a field that our events cannot answer: good rules for others.
    fs::write(dir.path().join("pe.yar"), "import \"pe\"\nrule a { condition: pe.is_pe }\nrule b { condition: true }\n")
        .unwrap();
    let field = rule("linux", "s").replace("Image", "LogonId");
    fs::write(dir.path().join("field.yml"), field).unwrap();
    let part = "title: part\nlogsource: {product: linux, service: auditd}\n\
                detection: {s: {type: EXECVE}, t: {type: USER_CMD}, condition: s or t}\n";
    fs::write(dir.path().join("part.yml"), part).unwrap();
    let (code, out, err) = check(dir.path());
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("in part    pe.yar\n") && out.contains("not used   field.yml"), "{out}");
    assert!(out.contains("in part    part.yml (part)\n           `t` never matches: "), "{out}");
    assert!(out.ends_with("1 used (1 of them in part), 1 can't be used, 0 malformed\n"), "{out}");

    fs::write(dir.path().join("bad.yar"), "rule c { condition: }\n").unwrap();
    let (code, out, _) = check(dir.path());
    assert!(code == Some(1) && out.contains("malformed  bad.yar\n"), "{out}");
}

#[test]
fn a_folder_without_rules_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = check(dir.path());
    assert!(code == Some(1) && err.contains("no *.yml"), "{err}");
    let (code, _, err) = check(&dir.path().join("none"));
    assert!(code == Some(1) && err.contains("none"), "{err}");
}
