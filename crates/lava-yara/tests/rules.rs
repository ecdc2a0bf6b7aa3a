//! Rules as people write them, over contents of events.

use lava_event::{Artifact, Event, FileId, Kind, Produced, Severity, Sha256, Source};
use lava_yara::{Scanner, Sources, scan_memory};

const RULE: &str = r#"
rule Dropper : t1105 {
    meta:
        description = "a dropper"
        author = "somebody"
        score = 80
    strings:
        $a = "fetch-and-run"
    condition:
        $a
}
"#;

fn content(bytes: &[u8], path: &str) -> Produced {
    let artifact = Artifact::new(bytes);
    let file =
        FileId { device: (254, 1), inode: 7, mode: 0o100_644, uid: 0, gid: 0, size: bytes.len() as u64, node: None };
    let kind = Kind::FileContent {
        path: path.into(),
        file,
        sha256: artifact.sha256,
        kept: bytes.len() as u64,
        complete: true,
    };
    Produced { event: Event { seq: 5, ..Event::new(9, Source::Tap, kind) }, artifacts: vec![artifact] }
}

#[test]
fn a_match_is_a_finding_with_what_the_rule_says_of_itself() {
    let mut sources = Sources::default();
    sources.add("mine.yar", RULE.as_bytes()).unwrap();
    let rules = sources.build();
    let mut scanner = Scanner::new(&rules);
    let scanned = scanner.scan(&content(b"#!/bin/sh\nfetch-and-run\n", "/tmp/\u{202e}x"));
    let [finding] = scanned.findings.as_slice() else { panic!("{scanned:?}") };
    assert_eq!(finding.detector, "yara.Dropper");
    assert_eq!(finding.title, "/tmp/\\u{202e}x, which was written matches the YARA rule Dropper");
    assert_eq!((finding.technique.id.as_str(), finding.severity), ("T1105", Severity::High));
    assert_eq!(finding.why, "a dropper [YARA rule Dropper, by somebody]");
    assert_eq!(finding.events, [5]);
    // The same bytes elsewhere are not told again, others are.
    assert!(scanner.scan(&content(b"#!/bin/sh\nfetch-and-run\n", "/tmp/y")).findings.is_empty());
    assert_eq!(scanner.scan(&content(b"fetch-and-run", "/tmp/y")).findings.len(), 1);
    assert!(scanner.scan(&content(b"honest", "/tmp/z")).findings.is_empty());
}

#[test]
fn what_cannot_be_used_is_told_and_the_rest_is_used() {
    let mut sources = Sources::default();
    let told = sources.add("bad.yar", b"rule Broken { condition: }").unwrap_err();
    assert!(told.contains("bad.yar:1:"), "{told}");
    let told = sources.add("pe.yar", b"import \"pe\"\nrule Windows { condition: pe.is_dll() }").unwrap().unwrap();
    assert!(told.contains("`pe`"), "{told}");
    assert!(sources.add("include.yar", b"include \"/etc/passwd\"").is_err());
    assert!(sources.add("latin.yar", b"rule L { meta: a = \"\xe4\" condition: true }").is_err());
    // Twice the same name, in two files.
    sources.add("one.yar", RULE.as_bytes()).unwrap();
    sources.add("two.yar", RULE.as_bytes()).unwrap();
    sources.add("elf.yar", b"import \"elf\"\nrule E { condition: elf.type == elf.ET_EXEC or filesize == 3 }").unwrap();
    let rules = sources.build();
    assert_eq!(rules.len(), 3);
    assert_eq!(Scanner::new(&rules).scan(&content(b"abc", "/x")).findings.len(), 1);
}

#[test]
fn a_rule_that_takes_for_ever_is_told() {
    let mut sources = Sources::default();
    let endless = b"rule Endless { condition: for all i in (0..9223372036854775806) : (i >= 0) }";
    sources.add("endless.yar", endless).unwrap();
    let rules = sources.build();
    let dump = scan_memory(&rules, &b"x"[..], std::time::Duration::from_secs(1));
    assert_eq!(dump, Err("it takes too long".to_owned()));
}

#[test]
fn memory_is_searched_in_pieces() {
    let mut sources = Sources::default();
    sources.add("mine.yar", RULE.as_bytes()).unwrap();
    let rules = sources.build();
    // Across the end of the first piece of 16 MiB, and far behind it.
    for at in [0, (16 << 20) - 5, 40 << 20] {
        let mut memory = vec![0; 48 << 20];
        memory[at..at + 13].copy_from_slice(b"fetch-and-run");
        let found = scan_memory(&rules, memory.as_slice(), std::time::Duration::from_secs(600)).unwrap();
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((one.rule.as_str(), one.places.as_slice()), ("Dropper", &[("$a".to_owned(), at as u64, 13)][..]));
    }
    assert_eq!(scan_memory(&rules, &b""[..], std::time::Duration::from_secs(9)), Ok(vec![]));
}

#[test]
fn nothing_else_is_searched() {
    let mut sources = Sources::default();
    sources.add("all.yar", b"rule Everything { condition: true }").unwrap();
    let rules = sources.build();
    let picture = Artifact::new(b"png");
    let event = Event { seq: 1, ..Event::new(0, Source::Microvisor, Kind::VmScreen { picture: picture.sha256 }) };
    assert!(Scanner::new(&rules).scan(&Produced { event, artifacts: vec![picture] }).findings.is_empty());
    assert_eq!(lava_yara::contents(&content(b"x", "/x").event.kind), [Sha256::of(b"x")]);
}
