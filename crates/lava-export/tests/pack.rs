//! Remediation packs: what is in them is judged by the tools that load it, fires on the session it came from, and is silent on others.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use lava_analysis::Analysis;
use lava_detect::Detector;
use lava_detect::sigma::RuleSet;
use lava_event::{Event, Finding};
use lava_evidence::Session;

/// Writes a session's pack below its folder.
fn packed(session: &Session) -> (std::path::PathBuf, Vec<String>) {
    let dir = session.dir().join("pack");
    let pack = lava_export::pack(session).unwrap();
    let again = lava_export::pack(session).unwrap();
    assert_eq!((pack.unreadable, &pack.files), (0, &again.files), "the same session, the same bytes");
    for (name, text) in &pack.files {
        let bad = |c: char| c.is_control() && !matches!(c, '\n' | '\t') || matches!(c, '\u{202e}' | '\u{200b}');
        assert!(!text.contains(bad), "{name}: {:?}", text.chars().find(|c| bad(*c)));
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    (dir, pack.files.into_iter().map(|(name, _)| name).collect())
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask setup` installs it"));
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {told}");
    told
}

/// Everything that has a judge, judged. Returns what YARA matched in the folders.
fn judge(pack: &Path, names: &[String], folders: &[&Path]) -> String {
    let python = std::env::var("LAVA_TEST_VALIDATORS").expect(
        "LAVA_TEST_VALIDATORS is not set: run `cargo xtask test`, or set it to what `cargo xtask validators` prints",
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/validators/pack.py");
    let mut arguments = vec![script.to_str().unwrap(), pack.to_str().unwrap()];
    arguments.extend(folders.iter().map(|folder| folder.to_str().unwrap()));
    let told = run(&python, &arguments);
    assert!(told.contains("valid: "), "{told}");
    let has = |name: &str| names.iter().any(|known| known == name);
    if has("suricata/lava.rules") {
        suricata(pack, &["-T"]);
    }
    if has("block/addresses.nft") {
        // In a network of its own: checking asks the kernel.
        run(
            "unshare",
            &[
                "--user",
                "--map-root-user",
                "--net",
                "nft",
                "-c",
                "-f",
                pack.join("block/addresses.nft").to_str().unwrap(),
            ],
        );
    }
    let steps = fs::read_to_string(pack.join("steps.md")).unwrap();
    for script in steps.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
        run("bash", &["-n", "-c", script]);
    }
    told
}

fn suricata(pack: &Path, arguments: &[&str]) -> String {
    let logs = pack.join("logs");
    fs::create_dir_all(&logs).unwrap();
    let rules = pack.join("suricata/lava.rules");
    let own = ["-S", rules.to_str().unwrap(), "-l", logs.to_str().unwrap(), "-k", "none"];
    run("suricata", &[&own[..], arguments].concat());
    fs::read_to_string(logs.join("fast.log")).unwrap_or_default()
}

/// What the pack's Sigma rules find in a log, by our own engine.
fn sigma(pack: &Path, events: &[Event]) -> Vec<Finding> {
    let mut rules = RuleSet::new();
    for entry in fs::read_dir(pack.join("sigma")).unwrap() {
        for outcome in rules.add(&fs::read_to_string(entry.unwrap().path()).unwrap()) {
            assert_eq!(outcome.result, Ok(Vec::new()));
        }
    }
    let mut analysis = Analysis::with_detector(Detector::with_rules(rules));
    let found = events.iter().flat_map(|event| analysis.observe(event).findings).collect::<Vec<_>>();
    found.into_iter().filter(|finding| finding.detector.starts_with("sigma.")).collect()
}

/// A capture of one DNS query for a name, from 10.0.0.1 to 10.0.0.2.
fn query(name: &str) -> Vec<u8> {
    let mut dns = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        dns.push(label.len() as u8);
        dns.extend(label.bytes());
    }
    dns.extend([0, 0, 1, 0, 1]);
    let udp = [&[0x9c, 0x40, 0, 53][..], &(8 + dns.len() as u16).to_be_bytes(), &[0, 0], &dns].concat();
    let length = (20 + udp.len() as u16).to_be_bytes();
    let ip = [&[0x45, 0][..], &length, &[0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], &udp].concat();
    let frame = [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0][..], &ip].concat();
    let mut out = Vec::new();
    for number in
        [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1, 1_700_000_000, 0, frame.len() as u32, frame.len() as u32]
    {
        out.extend(number.to_le_bytes());
    }
    [out, frame].concat()
}

#[test]
fn rules_fire_on_their_own_session_and_are_silent_on_others() {
    let (events, artifacts) = common::attack_kept();
    let (_folder, session) = common::record_kept("evil.jar", &events, &artifacts);
    let (pack, names) = packed(&session);
    let all = [
        "README.md",
        "sigma/files.yml",
        "sigma/programs.yml",
        "sigma/connections.yml",
        "yara/lava.yar",
        "suricata/lava.rules",
        "block/addresses.nft",
        "block/hosts",
        "block/domains.txt",
        "osquery/lava-pack.json",
        "velociraptor/lava.yaml",
        "steps.md",
        "indicators.json",
    ];
    assert_eq!(names, all);

    let told = judge(&pack, &names, &[&session.dir().join("artifacts"), Path::new("/usr/bin")]);
    let matches: Vec<&str> = told.lines().filter(|line| line.starts_with("match")).collect();
    let rules = fs::read_to_string(pack.join("yara/lava.yar")).unwrap();
    let rules: Vec<&str> = rules.lines().filter_map(|line| line.strip_prefix("rule ")?.strip_suffix(" {")).collect();
    for (end, artifact) in
        [("_dropped_1", &artifacts[0]), ("_dropped_1_alike", &artifacts[0]), ("_boot_code_0", &artifacts[1])]
    {
        let rule = rules.iter().find(|rule| rule.ends_with(end)).unwrap_or_else(|| panic!("{end}: {rules:?}"));
        let line =
            format!("match {rule} {}", session.dir().join("artifacts").join(artifact.sha256.to_string()).display());
        assert!(matches.contains(&line.as_str()), "{line}: {matches:?}");
    }
    assert_eq!(rules.len(), 4, "and the task, whose content this session does not have");
    assert!(matches.iter().all(|line| !line.contains("/usr/bin/")), "{matches:?}");

    let found = sigma(&pack, &events);
    for title in ["Files of", "Dropped programs of", "Addresses of"] {
        assert!(found.iter().any(|finding| finding.title.starts_with(title)), "{title}: {found:?}");
    }
    assert_eq!(sigma(&pack, &common::clean()), []);

    for (name, fires) in
        [("c2.example.com", true), ("a.c2.example.com", true), ("xc2.example.com", false), ("debian.org", false)]
    {
        let capture = pack.join("query.pcap");
        fs::write(&capture, query(name)).unwrap();
        fs::remove_dir_all(pack.join("logs")).unwrap();
        let log = suricata(&pack, &["-r", capture.to_str().unwrap()]);
        assert_eq!(log.contains("asks for c2.example.com"), fires, "{name}: {log}");
    }
}

#[test]
fn marks_are_hygienic() {
    let (events, artifacts) = common::attack_kept();
    let (_folder, session) = common::record_kept("evil.jar", &events, &artifacts);
    let pack = lava_export::pack(&session).unwrap();
    // Local machines, the simulated network's address, the interpreter and the guest's own programs.
    for (name, text) in pack.files.iter().filter(|(name, _)| !["indicators.json", "README.md"].contains(&name.as_str()))
    {
        for never in
            ["10.0.0.", "10.77.", "198.18.", "127.0.0.1", "/usr/bin/java", "jspawnhelper", "/usr/local/bin/helper"]
        {
            assert!(!text.contains(never), "{never} in {name}");
        }
    }
}

#[test]
fn a_clean_session_has_no_pack() {
    let (_folder, session) = common::record("good.jar", &common::clean());
    assert!(lava_export::pack(&session).unwrap().files.is_empty());
}

#[test]
fn a_hostile_guest_breaks_no_rule() {
    let (_folder, session) = common::record("<script>=cmd|'\u{202e}\u{1b}[2J\n`\"*/", &common::hostile());
    let (pack, names) = packed(&session);
    judge(&pack, &names, &[]);
    assert_eq!(sigma(&pack, &common::clean()), []);
}
