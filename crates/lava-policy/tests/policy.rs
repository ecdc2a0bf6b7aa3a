//! The shipped policies, the diagnostics, and what hostile files may cost.

use lava_event::{Action, DiskRegion, Event, Kind, Range, Source, Verdict};
use lava_policy::{BUILTIN, Policy, TraceView, builtin};
use miette::{GraphicalReportHandler, GraphicalTheme};
use proptest::prelude::*;

fn write(region: DiskRegion) -> Event {
    let ranges = vec![Range { start: 0, end: 512 }];
    let disk = "vda".to_owned();
    let kind =
        Kind::DiskWrite { disk, region, ranges, bytes: 512, count: 1, changed: vec![], before: None, after: None };
    Event::new(1, Source::Disk, kind)
}

fn trace(task_started: bool) -> TraceView {
    TraceView { tainted: false, stages: vec![], verdict: Verdict::Clean, task_started }
}

fn policy(condition: &str) -> Result<Policy, String> {
    let text = format!("policy: t\ndefault: allow\nrules:\n  - name: r\n    when: '{condition}'\n    action: deny\n");
    Policy::compile("t.yaml", &text).map_err(|errors| render(&errors))
}

fn render(errors: &[lava_policy::PolicyError]) -> String {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(100);
    let mut out = String::new();
    for error in errors {
        handler.render_report(&mut out, error).unwrap();
    }
    out
}

#[test]
fn shipped_policies_decide_as_they_say() {
    use DiskRegion::*;
    for name in BUILTIN {
        let policy = Policy::compile(name, builtin(name).unwrap()).map_err(|e| render(&e)).unwrap();
        assert_eq!(policy.name(), name);
        for region in [MbrBootCode, MbrSignature, PartitionTable, PostMbrGap, Gpt, BootSector, Data] {
            for started in [false, true] {
                let (decision, faults) = policy.decide(&write(region), &trace(started));
                let expected = match name {
                    "protect" if started && region != Data => Action::Deny,
                    "remediate" if started && region != Data => Action::Remediate,
                    _ => Action::Allow,
                };
                assert_eq!((decision.action, faults), (expected, vec![]), "{name} {region:?} {started}");
            }
        }
    }
}

#[test]
fn conditions_see_the_event() {
    for (condition, action, faults) in [
        ("event.ranges[0].end - 1 == 511", Action::Deny, 0),
        ("event.ranges.exists(r, r.start < 446)", Action::Deny, 0),
        ("has(event.process) && event.process.pid == 1", Action::Allow, 0),
        ("event.process.pid == 1", Action::Allow, 1),
        ("event.bytes", Action::Allow, 1),
        ("trace.verdict == \"clean\" && !(\"persist\" in trace.stages)", Action::Deny, 0),
    ] {
        let policy = policy(condition).unwrap();
        let (decision, found) = policy.decide(&write(DiskRegion::Data), &trace(true));
        assert_eq!((decision.action, found.len()), (action, faults), "{condition}: {found:?}");
        assert_eq!(policy.decide(&write(DiskRegion::Data), &trace(true)), (decision, found));
    }
}

#[test]
fn diagnostics() {
    insta::glob!("errors/*.yaml", |path| {
        let text = std::fs::read_to_string(path).unwrap();
        let errors = Policy::compile("policy.yaml", &text).unwrap_err();
        insta::assert_snapshot!(render(&errors));
    });
}

#[test]
fn hostile_files_are_refused() {
    let deep = "[".repeat(200_000);
    let bomb = "a: &a [x]\nb: [*a, *a]\n";
    let rules = format!("policy: t\ndefault: allow\nrules: [{}]", "{},".repeat(2000));
    for text in [deep.as_str(), bomb, &rules, &"x".repeat(2 << 20)] {
        assert!(Policy::compile("t.yaml", text).is_err());
    }
    for (open, close) in [("(", ")"), ("[", "]"), ("!", ""), ("- ", ""), ("1+", ""), ("true?1:", ""), ("size(", ")")] {
        for n in [20, 60, 120, 400] {
            if let Ok(policy) = policy(&format!("{}1{}", open.repeat(n), close.repeat(n))) {
                let _ = policy.decide(&write(DiskRegion::Data), &trace(true));
            }
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_an_error_or_a_policy(text in "\\PC*") {
        let _ = Policy::compile("t.yaml", &text);
    }

    #[test]
    fn any_condition_is_an_error_or_decides(text in "[a-z.()\\[\\]!&|=<>+\"0-9 é-]{0,60}") {
        if let Ok(policy) = policy(&text) {
            let _ = policy.decide(&write(DiskRegion::Data), &trace(true));
        }
    }
}
