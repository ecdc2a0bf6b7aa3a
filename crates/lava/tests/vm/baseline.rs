//! What is usual for a profile, and what an attack does beside it.

use lava_event::{Distance, Finding, Verdict};

use crate::common::{Ran, lava, play};

/// What a project's installer does: it looks at the machine, unpacks below a temporary folder, copies into the home, cleans up. No baseline
/// was learned from it.
const INSTALLER: &str = "set -e\necho \"machine: $(uname -m), user: $(id -u)\"\ncat /etc/os-release > /dev/null\ntmp=$(mktemp -d)\n\
    printf 'first note\\n' > \"$tmp/first.txt\"\nmkdir -p ~/notes\ncp \"$tmp/first.txt\" ~/notes/\nrm -rf \"$tmp\"\n";
/// What an attack adds: a program of its own under a name that looks drawn, and a line that runs it at the next login.
const ATTACK: &str =
    "cp /bin/id /tmp/tmp.1a2B3c4D5e\n/tmp/tmp.1a2B3c4D5e -u\necho '/tmp/tmp.1a2B3c4D5e &' >> ~/.profile\n";

fn distance(ran: &Ran, technique: &str) -> (Distance, Finding) {
    let found = ran.findings.iter().find(|finding| finding.technique.id == technique);
    let found = found.unwrap_or_else(|| panic!("no {technique}: {:#?}", ran.findings));
    (found.distance.expect("it was held against the baseline"), found.clone())
}

fn told(ran: &Ran, arguments: &[&str]) -> (Option<i32>, String) {
    let output = lava().args(arguments).arg(ran.session.dir()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn an_honest_task_is_usual_and_an_attack_is_not() {
    let honest = play(INSTALLER, "observe", &[]);
    assert_eq!(honest.code, Some(0), "{}\n{}", honest.stdout, honest.stderr);
    assert!(honest.session.manifest().hashes.contains_key("baseline"), "the baseline in force is named");
    for technique in ["T1082", "T1033", "T1070.004"] {
        let (distance, finding) = distance(&honest, technique);
        assert_eq!(distance, Distance::Usual, "{finding:#?}");
    }
    assert!(honest.stdout.contains("usual for this profile"), "{}", honest.stdout);
    // What it did that no task did from which the baseline was learned.
    let (code, diff) = told(&honest, &["baseline", "diff"]);
    assert_eq!(code, Some(3), "{diff}");
    assert!(diff.contains("~/notes/first.txt") && !diff.contains("mktemp -d\n"), "{diff}");

    let attack = play(&format!("{INSTALLER}{ATTACK}"), "observe", &[]);
    assert_eq!((attack.code, attack.session.manifest().verdict), (Some(3), Some(Verdict::Malicious)));
    assert_eq!(distance(&attack, "T1082").0, Distance::Usual, "the installer's part is as usual as before");
    for technique in ["T1106", "T1546.004"] {
        let (distance, finding) = distance(&attack, technique);
        assert!(distance > Distance::Near && finding.severity.counts(), "{finding:#?}");
    }
    // Without a baseline the same is found.
    let (_, without) = told(&attack, &["replay", "--baseline", "none"]);
    assert!(without.contains("the same as when it was recorded") && !without.contains("usual for"), "{without}");
    let (_, shown) = told(&attack, &["show"]);
    let ranked: Vec<&str> = shown.split("how usual it is for the profile:").nth(1).unwrap().lines().skip(1).collect();
    assert!(ranked[0].trim_start().starts_with(['5', '4']), "the farthest first: {shown}");
    assert!(told(&attack, &["trace"]).1.contains("never seen"), "{shown}");
}
