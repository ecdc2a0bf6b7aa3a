//! How many decisions a second: a write that no rule of `protect` holds back passes all of them.
use criterion::{Criterion, criterion_group, criterion_main};
use lava_event::{DiskRegion, Event, Kind, Source, Verdict};
use lava_policy::{Policy, TraceView, builtin};

fn decide(c: &mut Criterion) {
    let policy = builtin("protect").and_then(|text| Policy::compile("protect", text).ok()).expect("shipped policy");
    let (disk, region) = ("vda".to_owned(), DiskRegion::Data);
    let kind = Kind::DiskWrite {
        disk,
        region,
        ranges: vec![],
        bytes: 1,
        count: 1,
        changed: vec![],
        before: None,
        after: None,
    };
    let event = Event::new(1, Source::Disk, kind);
    let trace = TraceView {
        tainted: true,
        stages: vec![],
        verdict: Verdict::Clean,
        task_started: true,
        autostart: "",
        in_baseline: false,
        names: vec![],
    };
    c.bench_function("decide/protect", |b| b.iter(|| policy.decide(&event, &trace)));
}

criterion_group!(benches, decide);
criterion_main!(benches);
