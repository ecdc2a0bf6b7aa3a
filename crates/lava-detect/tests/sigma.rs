//! Sigma rules against made-up events: each rule in `sigma/` says in its comments what must come out (see its README).

mod common;
mod sigma_cases;

use common::Fake;
use lava_detect::Detector;
use lava_detect::sigma::{Code, MAX_FILE, MAX_MATCHES_OF_RULE, Outcome, RuleSet};
use lava_event::{Event, Finding, Severity, Stage};
use sigma_cases::{CHILD, all, comments, events, files};

/// What the rules say of the events; our own behaviours are left out.
fn sigma(rules: &RuleSet, events: &[Event], taint: &Fake) -> Vec<Finding> {
    let mut detector = Detector::with_rules(rules.clone());
    let all = events.iter().flat_map(|event| detector.observe(event, taint));
    all.filter(|finding| finding.detector.starts_with("sigma.")).collect()
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
        let notes: Vec<&String> = outcomes.iter().flat_map(|outcome| outcome.result.as_ref().unwrap()).collect();
        let traced = |note: &&&String| !note.contains("--trace api");
        assert_eq!(
            notes.iter().filter(traced).collect::<Vec<_>>(),
            comments(&text, "note:").iter().collect::<Vec<_>>(),
            "{path:?}"
        );
        for (name, expect) in [("match:", true), ("no match:", false)] {
            for line in comments(&text, name) {
                let events = events(line);
                assert_eq!(!sigma(&rules, &events, &all(true)).is_empty(), expect, "{path:?}: {line}");
                assert!(sigma(&rules, &events, &all(false)).is_empty(), "{path:?}: of a clean process: {line}");
                checked += 1;
            }
        }
    }
    assert!(checked > 55, "{checked}");
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
fn a_connection_has_the_name_that_its_address_was_told_for() {
    let rule = "title: a\nlogsource: {product: linux, category: network_connection}\n\
                detection: {s: {DestinationHostname|endswith: tunnel.example}, condition: s}\n";
    let (rules, _) = compile(rule);
    let mut all_of: Vec<Event> = events("dns /usr/bin/x|1|a.tunnel.example");
    all_of.extend(events("connect /usr/bin/x|10.66.0.1:443"));
    assert_eq!(sigma(&rules, &all_of, &all(true)).len(), 1);
    all_of.reverse();
    assert!(sigma(&rules, &all_of, &all(true)).is_empty(), "the name came later");
}

#[test]
fn a_rule_that_needs_the_api_trace_says_so() {
    let rule = |call: &str| {
        format!(
            "title: a\nlogsource: {{product: linux, service: auditd}}\n\
             detection: {{s: {{type: SYSCALL, {call}}}, condition: s}}\n"
        )
    };
    for (call, expect) in [
        ("SYSCALL: sysinfo", true),
        ("syscall: 135", true),
        ("SYSCALL: [execve, execveat]", false),
        ("syscall: 59", false),
        ("syscall|startswith: exec", false),
        ("comm: split", false),
    ] {
        let (_, outcomes) = compile(&rule(call));
        let notes = outcomes[0].result.as_ref().unwrap();
        assert_eq!(notes.iter().any(|note| note.contains("--trace api")), expect, "{call}: {notes:?}");
    }
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
