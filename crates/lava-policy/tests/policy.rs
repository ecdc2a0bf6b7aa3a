//! The shipped policies, the diagnostics, and what hostile files may cost.

use lava_event::{Access, Action, DiskRegion, Event, Kind, Range, Source, Verdict};
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
    TraceView {
        tainted: false,
        stages: vec![],
        verdict: Verdict::Clean,
        task_started,
        autostart: "",
        in_baseline: false,
        names: vec![],
    }
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
                    "protect" | "contain" if started && region != Data => Action::Deny,
                    "remediate" if started && region != Data => Action::Remediate,
                    _ => Action::Allow,
                };
                assert_eq!((decision.action, faults), (expected, vec![]), "{name} {region:?} {started}");
            }
        }
    }
}

const MINE: &str = "
policy: mine
extends: protect
rules:
  - name: boot-sector
    when: event.kind == 'disk.write' && event.region == 'boot_sector'
    action: allow
profiles:
  jar:
    default: deny
    dry_run: true
    rules:
      - name: gap
        when: event.kind == 'disk.write' && event.region == 'post_mbr_gap'
        action: remediate
        reason: It shall believe it.
";

#[test]
fn a_policy_is_laid_over_the_one_it_extends() {
    let policy = Policy::compile("mine", MINE).map_err(|e| render(&e)).unwrap();
    let answer = |policy: &Policy, region| {
        let (decision, faults) = policy.decide(&write(region), &trace(true));
        assert_eq!(faults, vec![]);
        (decision.action, decision.rule.unwrap_or_default(), decision.reason.unwrap_or_default())
    };
    // protect's rule of that name is gone, the others stand.
    assert_eq!(answer(&policy, DiskRegion::BootSector).0, Action::Allow);
    assert_eq!(answer(&policy, DiskRegion::PostMbrGap).0, Action::Deny);
    assert_eq!(answer(&policy.for_profile("script"), DiskRegion::PostMbrGap).1, "post-mbr-gap");
    let jar = policy.for_profile("jar");
    let (action, rule, reason) = answer(&jar, DiskRegion::PostMbrGap);
    assert_eq!((action, rule.as_str()), (Action::Allow, "gap"));
    assert_eq!(reason, "dry run, the answer would be remediate: It shall believe it.");
    let earnest = jar.with_dry_run(false);
    assert_eq!(answer(&earnest, DiskRegion::PostMbrGap).0, Action::Remediate);
    assert_eq!(answer(&earnest, DiskRegion::Data).0, Action::Deny, "the profile's default");
    assert_eq!(answer(&policy, DiskRegion::Data).0, Action::Allow, "protect's default");
}

#[test]
fn only_what_a_rule_may_be_about_waits() {
    let waits = |name: &str| -> Vec<&str> {
        Policy::compile(name, builtin(name).unwrap()).map_err(|e| render(&e)).unwrap().waits_for().collect()
    };
    assert_eq!(waits("observe"), Vec::<&str>::new());
    assert_eq!(waits("protect"), ["kernel.immutable_write", "disk.write"]);
    assert_eq!(waits("contain"), ["file.open", "kernel.module_load", "kernel.immutable_write", "disk.write"]);
    let any = policy("trace.tainted").unwrap();
    assert_eq!(any.waits_for().collect::<Vec<_>>(), Kind::WAITING, "a rule without a kind may be about any");
    let any = policy("event.kind != \"disk.write\"").unwrap();
    assert_eq!(any.waits_for().collect::<Vec<_>>(), Kind::WAITING, "about all but one, and what it says of that one");
    let any = policy("event.kind == \"disk.write\" || trace.tainted").unwrap();
    assert_eq!(any.waits_for().collect::<Vec<_>>(), Kind::WAITING, "either side can be true alone");
    let one = policy(
        "trace.tainted && (event.kind == \"file.open\" || \"process.exec\" == event.kind) && event.kind != \"file.open\"",
    );
    assert_eq!(one.unwrap().waits_for().collect::<Vec<_>>(), ["process.exec", "file.open"]);
    assert!(Kind::WAITING.iter().all(|kind| Kind::NAMES.contains(kind)));
    let two = policy("event.kind in [\"process.exec\", \"file.open\"]").unwrap();
    assert_eq!(two.waits_for().collect::<Vec<_>>(), ["process.exec", "file.open"]);
}

#[test]
fn contain_keeps_autostart_places_and_the_kernel() {
    let contain = Policy::compile("contain", builtin("contain").unwrap()).map_err(|e| render(&e)).unwrap();
    let file = lava_event::FileId { device: (8, 1), inode: 7, mode: 0o100_644, uid: 0, gid: 0, size: 0, node: None };
    let open = |access| Event::new(1, Source::Tap, Kind::FileOpen { path: "/etc/cron.d/x".into(), file, access });
    let load = Kind::KernelModuleLoad { name: "m".into(), path: None, address: 0, size: 0 };
    let load = Event::new(1, Source::Tap, load);
    let view = |tainted, autostart| TraceView { tainted, autostart, ..trace(true) };
    for (event, view, expected) in [
        (open(Access::Write), view(true, "a cron job"), Action::Deny),
        (open(Access::ReadWrite), view(true, "a cron job"), Action::Deny),
        (open(Access::Read), view(true, "a cron job"), Action::Allow),
        (open(Access::Write), view(false, "a cron job"), Action::Allow),
        (open(Access::Write), view(true, ""), Action::Allow),
        (load.clone(), view(true, ""), Action::Deny),
        (load, view(false, ""), Action::Allow),
    ] {
        let (decision, faults) = contain.decide(&event, &view);
        assert_eq!((decision.action, faults), (expected, vec![]), "{event:?} {view:?}");
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

#[test]
fn a_rule_can_leave_the_answer_to_the_analyst() {
    let compile = |rest: &str| {
        let text = format!(
            "policy: t\ndefault: allow\nrules:\n  - name: r\n    when: event.kind == \"disk.write\"\n    {rest}\n"
        );
        Policy::compile("t.yaml", &text).map_err(|errors| render(&errors))
    };
    let check = |rest: &str, expect: (Action, Option<u64>)| {
        let policy = compile(rest).unwrap();
        let (decision, _) = policy.decide(&write(DiskRegion::MbrBootCode), &trace(true));
        assert_eq!((decision.action, policy.asks(&decision).map(|within| within.as_secs())), expect, "{rest}");
    };
    check("action: ask", (Action::Deny, Some(60)));
    check("action: ask\n    within: 5\n    otherwise: remediate", (Action::Remediate, Some(5)));
    check("action: deny", (Action::Deny, None));
    let refuse = |rest: &str, expect: &str| {
        let mistakes = compile(rest).expect_err("a mistake");
        assert!(mistakes.contains("lava::policy::E0003") && mistakes.contains(expect), "{mistakes}");
    };
    refuse("action: ask\n    within: 0", "from 1 to 3600, not `0`");
    refuse("action: ask\n    within: soon", "not `soon`");
    refuse("action: ask\n    otherwise: ask", "`ask` is no action");
    refuse("action: deny\n    within: 5", "`within` without `ask`");
    refuse("action: allow\n    otherwise: deny", "use it with `action: ask`");
    let dry = compile("action: ask").unwrap().with_dry_run(true);
    let (decision, _) = dry.decide(&write(DiskRegion::MbrBootCode), &trace(true));
    assert_eq!((decision.action, dry.asks(&decision)), (Action::Allow, None), "nobody is asked in a dry run");
    let unasked = Policy::compile("t", "policy: t\ndefault: ask\nrules: []\n").expect_err("a default answers");
    assert!(render(&unasked).contains("`ask` is no action"));
}

mod real_network {
    use std::net::Ipv4Addr;

    use lava_event::{NetEndpoint, Protocol};
    use lava_policy::Nearby;

    use super::*;

    fn flow(to: [u8; 4], port: u16) -> Event {
        let end = |address: [u8; 4], port| NetEndpoint { address: address.into(), port };
        let (origin, destination) = (end([10, 77, 0, 15], 40_000), end(to, port));
        let kind = Kind::NetFlow { protocol: Protocol::Tcp, origin, destination, answer: "asked".into(), frame: 1 };
        Event::new(1, Source::Net, kind)
    }

    fn name(question: &str) -> Event {
        let origin = NetEndpoint { address: [10, 77, 0, 15].into(), port: 40_000 };
        let (question, addresses) = (question.into(), vec![]);
        let kind = Kind::NetDns { protocol: Protocol::Udp, origin, question, qtype: 1, addresses, frame: 1 };
        Event::new(1, Source::Net, kind)
    }

    /// A policy with these rules (condition, action) before the real network; the host is in 203.0.113.0/24.
    fn real(head: &str, rules: &[(&str, &str)]) -> Policy {
        let rules: String = rules
            .iter()
            .enumerate()
            .map(|(number, (when, action))| format!("  - {{name: r{number}, when: '{when}', action: {action}}}\n"))
            .collect();
        let text = format!("policy: t\ndefault: allow\n{head}rules:\n{rules}");
        let policy = Policy::compile("t.yaml", &text).map_err(|errors| render(&errors)).unwrap();
        policy.with_real_network(Nearby::new([(Ipv4Addr::new(203, 0, 113, 9), 24)]))
    }

    #[test]
    fn what_no_rule_allows_is_denied_and_the_reason_says_what_to_do() {
        let policy = real("", &[("event.kind == \"net.flow\" && event.destination.port == 443", "allow")]);
        let decide = |event| policy.decide(&event, &trace(true)).0;
        assert_eq!(decide(flow([93, 184, 216, 34], 443)).action, Action::Allow);
        let refused = decide(flow([93, 184, 216, 34], 80));
        assert_eq!((refused.action, refused.rule), (Action::Deny, None));
        let reason = refused.reason.unwrap();
        assert!(
            reason.contains("event.destination.address == \"93.184.216.34\" && event.destination.port == 80"),
            "{reason}"
        );
        for nowhere in [[127, 0, 0, 1], [169, 254, 169, 254], [10, 77, 0, 20]] {
            let refused = decide(flow(nowhere, 443));
            let reason = refused.reason.unwrap();
            assert_eq!(refused.action, Action::Deny);
            assert!(reason.contains("whatever a rule says") && !reason.contains("when:"), "{reason}");
        }
        let refused = decide(name("example.org"));
        assert_eq!((refused.action, refused.rule), (Action::Deny, None));
        assert!(refused.reason.unwrap().contains("event.question =="));
        assert_eq!(decide(write(DiskRegion::MbrBootCode)).action, Action::Allow, "other kinds are as they were");
        let waits: Vec<_> = policy.waits_for().collect();
        assert!(waits.contains(&"net.flow") && waits.contains(&"net.dns"), "{waits:?}");
    }

    #[test]
    fn who_is_no_stranger_has_to_be_named() {
        let general = ("event.kind == \"net.flow\"", "allow");
        let named =
            ("event.kind == \"net.flow\" && event.destination.address in [\"10.1.2.3\", \"203.0.113.1\"]", "allow");
        let ask = ("event.kind == \"net.flow\"", "ask");
        let action = |rules: &[(&str, &str)], to| real("", rules).decide(&flow(to, 80), &trace(true)).0.action;
        for near in [
            [10, 1, 2, 3],
            [172, 16, 0, 1],
            [172, 31, 255, 255],
            [192, 168, 1, 1],
            [169, 254, 169, 254],
            [100, 64, 0, 1],
            [127, 0, 0, 1],
            [0, 0, 0, 0],
            [224, 0, 0, 1],
            [255, 255, 255, 255],
            [198, 18, 0, 1],
            [203, 0, 113, 1],
        ] {
            assert_eq!(action(&[general], near), Action::Deny, "{near:?}");
            assert_eq!(action(&[ask], near), Action::Deny, "nobody is asked about {near:?}");
            let expected = if [[10, 1, 2, 3], [203, 0, 113, 1]].contains(&near) { Action::Allow } else { Action::Deny };
            assert_eq!(action(&[general, named], near), expected, "{near:?}");
        }
        for far in [[93, 184, 216, 34], [172, 32, 0, 1], [100, 128, 0, 1], [203, 0, 114, 1]] {
            assert_eq!(action(&[general], far), Action::Allow, "{far:?}");
        }
        // What refuses and what diverts needs no name.
        assert_eq!(action(&[("event.kind == \"net.flow\"", "remediate")], [10, 1, 2, 3]), Action::Remediate);
    }

    #[test]
    fn names_that_were_answered_can_be_asked_for() {
        let policy =
            real("", &[("event.kind == \"net.flow\" && trace.names.exists(n, n.endsWith(\".example.org\"))", "allow")]);
        let view = |names: &[&str]| TraceView { names: names.iter().map(|&name| name.into()).collect(), ..trace(true) };
        let action = |to, names: &[&str]| policy.decide(&flow(to, 443), &view(names)).0.action;
        assert_eq!(action([93, 184, 216, 34], &["cdn.example.org"]), Action::Allow);
        assert_eq!(action([93, 184, 216, 34], &["example.org.evil.example"]), Action::Deny);
        assert_eq!(action([93, 184, 216, 34], &[]), Action::Deny);
        assert_eq!(action([10, 0, 0, 1], &["cdn.example.org"]), Action::Deny, "a name that was made to point inside");
    }

    #[test]
    fn a_dry_run_lets_nothing_out() {
        let policy = real("dry_run: true\n", &[("event.kind == \"net.flow\" && event.destination.port == 1", "allow")]);
        assert_eq!(policy.decide(&flow([93, 184, 216, 34], 80), &trace(true)).0.action, Action::Deny);
    }

    #[test]
    fn whether_anything_could_be_reached_is_known() {
        assert!(
            !real("", &[("event.kind == \"net.flow\"", "deny"), ("event.kind == \"net.dns\"", "allow")])
                .may_allow_flows()
        );
        assert!(real("", &[("event.kind == \"net.flow\"", "ask")]).may_allow_flows());
        assert!(real("", &[("trace.tainted", "allow")]).may_allow_flows());
    }

    #[test]
    fn what_is_near_is_written_and_read_again() {
        let nearby = Nearby::new([(Ipv4Addr::new(192, 0, 2, 2), 24), (Ipv4Addr::new(5, 6, 7, 8), 32)]);
        assert_eq!(nearby.to_string(), "192.0.2.2/24 5.6.7.8/32");
        assert_eq!(Nearby::parse(&nearby.to_string()), nearby);
        assert_eq!(Nearby::parse("x 1.2.3.4 /8 1.2.3.4/x"), Nearby::default());
        let everything = Nearby::new([(Ipv4Addr::UNSPECIFIED, 0)]);
        assert!(everything.what([8, 8, 8, 8].into()).is_some());
        assert!(nearby.what([5, 6, 7, 8].into()).is_some() && nearby.what([5, 6, 7, 9].into()).is_none());
    }
}
