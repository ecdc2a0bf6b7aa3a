//! Sigma rules against made-up events: each rule in `sigma/` says in its comments what must come out (see its README).

mod common;

use std::path::{Path, PathBuf};

use common::Fake;
use lava_detect::Detector;
use lava_detect::sigma::{Code, MAX_FILE, MAX_MATCHES_OF_RULE, Outcome, RuleSet};
use lava_event::{
    Event, FileId, Finding, Kind, NetEndpoint, Process, ProcessKey, ProcessRef, Protocol, Severity, Source, Stage,
};

const PARENT: ProcessKey = ProcessKey { pid: 10, start_ns: 10 };
const CHILD: ProcessKey = ProcessKey { pid: 11, start_ns: 11 };

/// All processes descend from the task, or none; one of two is the other's child.
fn all(tainted: bool) -> Fake {
    let parent = |process| (process == CHILD).then_some(PARENT);
    if tainted { Fake { parent, ..Fake::default() } } else { Fake { parent, tainted: |_| false } }
}

fn event(seq: u64, who: ProcessKey, exe: &str, kind: Kind) -> Event {
    let mut event = Event::new(seq * 1000, Source::Tap, kind);
    event.seq = seq;
    event.process = Some(Process {
        pid: who.pid,
        tid: who.pid,
        start_ns: who.start_ns,
        ppid: if who == CHILD { PARENT.pid } else { 1 },
        uid: 1000,
        comm: "x".into(),
        exe: exe.into(),
    });
    event
}

fn file() -> FileId {
    FileId { device: (254, 1), inode: 9, mode: 0o100_644, uid: 0, gid: 0, size: 1, node: None }
}

fn exec(seq: u64, who: ProcessKey, exe: &str, argv: &[&str]) -> Event {
    let argv = argv.iter().map(|&text| text.into()).collect();
    let (path, cwd) = (exe.into(), "/home/user".into());
    let kind = Kind::ProcessExec { path, argv, envp: vec![], truncated: false, cwd, file: file(), interpreter: None };
    event(seq, who, exe, kind)
}

/// The events that a line of a rule's comments stands for.
fn events(text: &str) -> Vec<Event> {
    let (what, rest) = text.split_once(' ').unwrap();
    let parts: Vec<&str> = rest.split('|').collect();
    let child = ProcessRef { pid: CHILD.pid, tid: CHILD.pid, start_ns: CHILD.start_ns, comm: "x".into() };
    let act = |kind| vec![event(1, CHILD, parts[0], kind)];
    match what {
        "exec" => vec![
            exec(1, PARENT, parts[0], &[parts[0]]),
            event(2, PARENT, parts[0], Kind::ProcessFork { child, thread: false, flags: 0 }),
            exec(3, CHILD, parts[1], &parts[2..]),
        ],
        "write" => act(Kind::FileWrite { path: parts[1].into(), file: file(), ranges: vec![], bytes: 1, count: 1 }),
        "rename" => act(Kind::FileRename { from: "/tmp/x".into(), to: parts[1].into(), file: file() }),
        "delete" => act(Kind::FileUnlink { path: parts[1].into(), file: file() }),
        "connect" => {
            let at: std::net::SocketAddr = parts[1].parse().unwrap();
            let destination = Some(NetEndpoint { address: at.ip(), port: at.port() });
            act(Kind::NetConnect { protocol: Protocol::Tcp, destination, path: None })
        }
        other => panic!("{other}"),
    }
}

/// What the rules say of the events; our own behaviours are left out.
fn sigma(rules: &RuleSet, events: &[Event], taint: &Fake) -> Vec<Finding> {
    let mut detector = Detector::with_rules(rules.clone());
    let all = events.iter().flat_map(|event| detector.observe(event, taint));
    all.filter(|finding| finding.detector.starts_with("sigma.")).collect()
}

fn files(dir: &str) -> Vec<(PathBuf, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sigma").join(dir);
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect();
    files.sort();
    files
}

fn comments<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix("# ")?.strip_prefix(name)).map(str::trim).collect()
}

fn compile(text: &str) -> (RuleSet, Vec<Outcome>) {
    let mut rules = RuleSet::new();
    let outcomes = rules.add(text);
    (rules, outcomes)
}

#[test]
fn rules_match_what_they_say() {
    let mut checked = 0;
    for (path, text) in files("rules") {
        let (rules, outcomes) = compile(&text);
        assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{path:?}: {outcomes:?}");
        for (name, expect) in [("match:", true), ("no match:", false)] {
            for line in comments(&text, name) {
                let events = events(line);
                assert_eq!(!sigma(&rules, &events, &all(true)).is_empty(), expect, "{path:?}: {line}");
                assert!(sigma(&rules, &events, &all(false)).is_empty(), "{path:?}: of a clean process: {line}");
                checked += 1;
            }
        }
    }
    assert!(checked > 25, "{checked}");
}

#[test]
fn others_say_why_they_are_not_used() {
    let files = files("refused");
    assert!(files.len() > 15);
    for (path, text) in files {
        let (rules, outcomes) = compile(&text);
        assert!(rules.is_empty(), "{path:?}");
        let code = format!("lava::sigma::{}", comments(&text, "expect:")[0]);
        let errors: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err()).collect();
        assert!(errors.len() == 1 && errors[0].code.name() == code, "{path:?}: {errors:?}");
        assert_eq!(errors[0].code.is_malformed(), code.contains("::S0") && !code.contains("::S01"), "{path:?}");
        assert!(errors[0].line >= 1 && errors[0].line <= text.lines().count() + 1, "{path:?}: {errors:?}");
    }
}

#[test]
fn a_match_carries_the_rules_author() {
    let (_, text) = files("rules").into_iter().find(|(path, _)| path.ends_with("files.yml")).unwrap();
    let (rules, _) = compile(&text);
    let twice: Vec<Event> = ["write /usr/bin/x|/etc/cron.d/job", "rename /usr/bin/x|/etc/cron.d/job"]
        .iter()
        .flat_map(|line| events(line))
        .collect();
    let findings = sigma(&rules, &twice, &all(true));
    assert_eq!(findings.len(), 1, "the same file is said once");
    let finding = &findings[0];
    assert_eq!(finding.detector, "sigma.6c6f4a7e-0001-4000-8000-000000000007");
    assert_eq!(finding.title, "a cron job is written: /etc/cron.d/job");
    assert!(finding.why.contains("by LAVA, for its tests"), "{}", finding.why);
    assert_eq!((finding.stage, finding.severity), (Stage::Persist, Severity::High));
    assert_eq!((finding.technique.id.as_str(), finding.technique.name.as_str()), ("T1053.003", "Cron"));
    assert_eq!((finding.process, &*finding.events), (Some(CHILD), &[1][..]));
}

#[test]
fn a_noisy_rule_is_bounded() {
    let (rules, _) = compile(
        "title: a\nlogsource: {product: linux, category: file_event}\ndetection: {s: {Image|exists: true}, condition: s}\n",
    );
    let many: Vec<Event> = (0..200).flat_map(|i| events(&format!("write /usr/bin/x|/tmp/{i}"))).collect();
    assert_eq!(sigma(&rules, &many, &all(true)).len(), MAX_MATCHES_OF_RULE);
}

#[test]
fn several_rules_in_a_file() {
    let one = "title: a\nlogsource: {product: linux, category: file_event}\ndetection: {s: {Image: x}, condition: s}\n";
    let (rules, outcomes) = compile(&format!("{one}---\n{}---\n{one}", one.replace("title: a", "level: x\ntitle: b")));
    assert_eq!((rules.len(), outcomes.len()), (2, 3));
    assert_eq!(outcomes[1].title, "b");
    assert_eq!(outcomes[1].result.as_ref().unwrap_err().code, Code::BadValue);
}

#[test]
fn what_is_too_large_is_refused() {
    let code = |text: &str| compile(text).1[0].result.as_ref().unwrap_err().code;
    assert_eq!(code(&" ".repeat(MAX_FILE + 1)), Code::TooLarge);
    let rule = |value: &str| {
        format!(
            "title: x\nlogsource: {{product: linux, category: process_creation}}\n\
             detection: {{s: {{CommandLine|re: '{value}'}}, condition: s}}"
        )
    };
    assert_eq!(code(&rule(&"a".repeat(10_000))), Code::TooLarge);
    assert_eq!(code(&rule(r"(\w{500}){500}")), Code::TooLarge);
}

proptest::proptest! {
    /// Whatever a file holds, it is compiled or refused.
    #[test]
    fn no_text_is_too_strange(text in "(title|detection|condition|[|*?\\\\:{}\\[\\]'\"\n \\-a-z&!()]){0,200}") {
        compile(&text);
        let body = format!(
            "title: x\nlogsource: {{product: linux, category: process_creation}}\ndetection:\n  s:\n    CommandLine|contains: |\n      {}\n  condition: {}",
            text.replace('\n', "\n      "), text.replace('\n', " "));
        let (rules, _) = compile(&body);
        sigma(&rules, &events("exec /bin/a|/bin/b|b|c"), &all(true));
    }
}
