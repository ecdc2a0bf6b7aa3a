//! Honest tasks: exit code 0, no finding.

use crate::common::{Ran, run, scenario};

fn check_benign(task: &str) -> Ran {
    let path = scenario(task);
    let ran = run(&[path.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.findings.is_empty(), "{:#?}", ran.findings);
    assert!(ran.session.verify_chain().unwrap().intact());
    ran
}

#[test]
fn a_jar_that_prints() {
    assert_eq!(check_benign("hello.jar").session.manifest().profile, "jar");
}

#[test]
fn a_python_script_that_writes_into_its_home() {
    let ran = check_benign("notes.py");
    let wrote = ran.events.iter().any(|event| {
        matches!(&event.kind, lava_event::Kind::FileWrite { path, .. } if path.to_string() == "/home/user/notes/line-counts.txt")
    });
    assert!(wrote, "what it wrote was seen");
}
