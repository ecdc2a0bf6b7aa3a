//! Events per second through graph, detectors and policy on one core, and the memory they take, as a session grows.
//!
//! `cargo bench -p lava-analysis --bench scale -- [MILLIONS] [SESSION]`: synthetic events that nobody recorded, but as builds make them,
//! then (with SESSION, a session's folder) the recorded ones over and over, each time with other processes, files and times.
//! Each line is one million further events of one session. Only [`Analysis::observe`] and [`Policy::decide`] are timed: events are made
//! before that, in batches; the time is the thread's own on a processor. Memory is the whole process's (`VmRSS`), at most one batch of events among it.
//!
//! Limit: needs Linux's /proc.

use std::time::Duration;

use lava_analysis::Analysis;
use lava_event::*;
use lava_policy::{Policy, builtin};
use made_up::{numbered, synthetic};

mod made_up;

const BATCH: usize = 50_000;

fn main() {
    // cargo hands `--bench` over too.
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let millions = words.next().and_then(|word| word.parse().ok()).unwrap_or(10);
    measure("synthetic", millions, synthetic());
    if let Some(session) = words.next() {
        let path = std::path::Path::new(&session).join("events.jsonl");
        let text = std::fs::read_to_string(&path).expect("the session's events.jsonl can be read");
        let events: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
        measure("recorded", millions, recorded(events));
    }
}

fn measure(name: &str, millions: usize, mut events: impl Iterator<Item = Event>) {
    let policy = builtin("contain").and_then(|text| Policy::compile("contain", text).ok()).expect("a shipped policy");
    let waits: Vec<&str> = policy.waits_for().collect();
    let (mut analysis, mut seq, mut all) = (Analysis::new(), 0, Duration::ZERO);
    let (mut findings, mut asked) = (0, 0);
    println!("{name}: events per second, then memory");
    for million in 1..=millions {
        let mut spent = Duration::ZERO;
        for _ in 0..1_000_000 / BATCH {
            let batch: Vec<Event> = events.by_ref().take(BATCH).map(|event| numbered(event, &mut seq)).collect();
            let begin = cpu_time();
            for event in &batch {
                findings += analysis.observe(event).findings.len();
                if event.kind.can_wait() && waits.contains(&event.kind.name()) {
                    asked += 1;
                    std::hint::black_box(policy.decide(event, &analysis.view(event)));
                }
            }
            spent += cpu_time() - begin;
        }
        all += spent;
        println!("  {million:>3} M  {:>9.0}/s  {:>6} MiB", 1e6 / spent.as_secs_f64(), resident_mib());
    }
    let begin = cpu_time();
    let trace = analysis.graph().trace();
    println!(
        "  all   {:>9.0}/s; {findings} findings, {asked} asked; {} nodes, {} edges; trace in {} ms, {}",
        millions as f64 * 1e6 / all.as_secs_f64(),
        trace.graph_nodes,
        trace.graph_edges,
        (cpu_time() - begin).as_millis(),
        trace.verdict
    );
}

/// What this thread has computed so far: on a shared machine that is not the time that went by.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells a thread's time");
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds"))
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// The recorded session again and again. What follows the first time is done by other processes, forked by the task's root as the
/// launcher had forked this, and to other files where the task had made them.
fn recorded(events: Vec<Event>) -> impl Iterator<Item = Event> {
    let launcher = events.iter().find_map(|event| match &event.kind {
        Kind::VmTask { launcher, .. } => Some(launcher.clone()),
        _ => None,
    });
    let root = events.iter().find_map(|event| match (&event.kind, &event.process) {
        (Kind::ProcessFork { child, thread: false, .. }, Some(process))
            if launcher.as_ref().is_some_and(|launcher| process.exe.bytes() == launcher.as_bytes()) =>
        {
            Some((process.key(), ProcessKey { pid: child.pid, start_ns: child.start_ns }))
        }
        _ => None,
    });
    let (launcher, root) = root.expect("the launcher forked the task");
    (0u64..).flat_map(move |round| {
        let change = move |mut event: Event| {
            if round == 0 {
                return Some(event);
            }
            if event.kind.name().starts_with("vm.") {
                return None;
            }
            let other = |pid: &mut u32, start_ns: &mut u64| {
                let known = ProcessKey { pid: *pid, start_ns: *start_ns };
                (*pid, *start_ns) = match known == launcher {
                    true => (root.pid, root.start_ns),
                    false => ((*pid + round as u32 * 4099) % 4_194_304, *start_ns + (round << 40)),
                };
            };
            if let Some(process) = &mut event.process {
                other(&mut process.pid, &mut process.start_ns);
            }
            match &mut event.kind {
                Kind::ProcessFork { child, .. } => other(&mut child.pid, &mut child.start_ns),
                Kind::FileCreate { path, file: Some(file), .. }
                | Kind::FileWrite { path, file, .. }
                | Kind::FileUnlink { path, file }
                    if path.bytes().starts_with(b"/tmp/") =>
                {
                    file.inode += round << 32;
                    *path = GuestText::from([path.bytes(), format!(".{round}").as_bytes()].concat());
                }
                _ => {}
            }
            Some(event)
        };
        events.clone().into_iter().filter_map(change)
    })
}
