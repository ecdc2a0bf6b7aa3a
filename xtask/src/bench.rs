//! `cargo xtask bench`: the figures of SPECIFICATION.md.
//!
//! * What watching costs: CPU time of the QEMU process while a workload runs in the guest, over the same QEMU's without any watcher.
//!   Watched from outside by a plugin that does nothing, by the tap (semantic events; with `--trace api`), and inside the guest by
//!   `strace -f` and auditd on the same scope. Interleaved: all guests live at a time, and every round runs the workload in each, one
//!   after the other; the medians of the rounds' ratios count.
//! * What each hook costs, and events per second, of one run with `costs=on` that is not measured otherwise.
//! * Wall time from `lava run` to the task's first instruction.
//! * With `--console` instead: from an event in the guest to pixels in a browser, a session of a million events, fifty viewers
//!   (`web/tests/bench.spec.ts`).
//! * With `--many` instead: memory of twenty idle clones, ten attacks at once (`bench/many.rs`).
//! * With `--analysis` instead: events per second through graph, detectors and policy.
//!
//! The table goes to standard output, everything to `target/bench.json`. Each workload runs once unmeasured before it is measured,
//! so that neither its files nor QEMU's translations are new; only what lies between its start and its exit counts.
//!
//! Limits: the guest uses QEMU's own disk and no network, so that nothing but the watcher differs; what auditd does after the
//! workload's exit does not count against it.

mod guest;
mod many;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::{build, shell, web};
use guest::{Guest, Places, Watcher};

/// (name, what runs in the guest)
const WORKLOADS: &[(&str, &str)] = &[
    ("exec-heavy", "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done"),
    ("dd bs=1", "dd if=/dev/zero of=/tmp/d bs=1 count=10000 2>/dev/null"),
    (
        "python compileall",
        "[ -d /tmp/c ] || cp -r /usr/lib/python3.11/json /tmp/c; python3 -m compileall -q -f /tmp/c; python3 -m compileall -q -f /tmp/c",
    ),
    (
        "C build",
        "cd /tmp; i=0; while [ $i -lt 40 ]; do tcc -c -o /tmp/$i.o /opt/scenario/workloads/make/three.c; i=$((i+1)); done",
    ),
];

/// What strace and auditd are asked to watch: what the tap's semantic events tell.
const SCOPE: &str = "execve,execveat,open,openat,openat2,creat,rename,renameat,renameat2,unlink,unlinkat,connect,bind,chmod,fchmod,fchmodat";

/// Columns whose watcher is outside the guest; the first is what the others are compared with.
const OUTSIDE: &[(&str, Watcher)] = &[
    ("bare", Watcher::Nobody),
    ("empty plugin", Watcher::Empty),
    ("tap", Watcher::Tap("")),
    ("tap --trace api", Watcher::Tap(",api=on")),
];
/// Watchers inside the guest.
const INSIDE: [&str; 2] = ["strace -f", "auditd"];

/// Millions of events in the session that the analysis is measured with.
const MILLIONS: &str = "10";

/// Events per second through the analysis: `crates/lava-analysis/benches/scale.rs`.
pub fn analysis(session: Option<&Path>) -> Result<()> {
    let mut bench =
        shell::command("cargo", ["bench", "--locked", "-p", "lava-analysis", "--bench", "scale", "--", MILLIONS]);
    bench.args(session);
    let status = bench.status().context("cargo bench")?;
    anyhow::ensure!(status.success(), "the analysis could not be measured: cargo bench gave {status}");
    Ok(())
}

/// A figure that was measured in the browser.
#[derive(serde::Deserialize)]
struct Figure {
    figure: String,
    value: String,
}

/// The console in a browser, while micro-VMs run: prints a Markdown table. The long session is kept in `target/bench-console`.
pub fn console() -> Result<()> {
    let (programs, _) = build::as_tested()?;
    let said = web::bench(&programs, &shell::target().join("bench-console"))?;
    println!("| figure | measured |\n|---|---|");
    for line in said.lines().filter(|line| line.starts_with("{\"figure\"")) {
        let Figure { figure, value } = serde_json::from_str(line).with_context(|| line.to_owned())?;
        println!("| {figure} | {value} |");
    }
    Ok(())
}

/// Many micro-VMs at a time.
pub fn many() -> Result<()> {
    let (programs, _) = build::as_tested()?;
    many::run(&programs, &build::scenarios()?)
}

/// Measures everything and prints a Markdown table.
pub fn run(rounds: usize) -> Result<()> {
    let (programs, image) = build::as_tested()?;
    let places = Places::new(&programs, &image, &build::scenarios()?)?;
    let rounds = rounds.max(1);
    let mut ratios = watchers(&places, rounds)?;
    let (costs, rates) = hook_costs(&places)?;
    let mut starts = (0..rounds).map(|_| first_instruction(&programs)).collect::<Result<Vec<_>>>()?;
    tell(rounds, &mut ratios, &costs, &rates, &mut starts)
}

/// By (workload, column): `bare` in CPU seconds, the others over `bare` of the same round.
type Ratios = BTreeMap<(usize, &'static str), Vec<f64>>;

/// Every round runs every workload in every guest, one after the other; the guests live through all rounds.
fn watchers(places: &Places, rounds: usize) -> Result<Ratios> {
    let boot = |(column, watcher): &(&'static str, Watcher)| {
        eprintln!("xtask: boot: {column}");
        Ok((*column, Guest::boot(places, *watcher).context(*column)?))
    };
    let mut guests = OUTSIDE.iter().map(boot).collect::<Result<Vec<_>>>()?;
    let mut traced = Guest::boot(places, Watcher::Nobody)?;
    let mut audited = audited(places)?;
    let mut ratios = Ratios::new();
    for (number, (name, script)) in WORKLOADS.iter().enumerate() {
        let strace = format!("strace -f -q -o /tmp/strace.log -e trace={SCOPE} -e signal=none sh -c '{script}'");
        for round in 0..=rounds {
            let mut seconds = Vec::new();
            for (column, guest) in &mut guests {
                seconds.push((*column, guest.cpu_of(script)?.cpu));
            }
            seconds.push((INSIDE[0], traced.cpu_of(&strace)?.cpu));
            seconds.push((INSIDE[1], audited.cpu_of(script)?.cpu));
            // The first round warms up.
            let Some(&(_, bare)) = seconds.first().filter(|_| round > 0) else { continue };
            for (column, seconds) in seconds {
                let value = if column == OUTSIDE[0].0 { seconds } else { seconds / bare };
                eprintln!("xtask: {name}, round {round}: {column}: {value:.2}");
                ratios.entry((number, column)).or_default().push(value);
            }
        }
    }
    // A rule that matched nothing would cost nothing.
    audited
        .cpu_of("exec /opt/scenario/bin/as-root grep -q 'type=SYSCALL.*key=\"lava\"' /var/log/audit/audit.log")
        .context("auditd saw nothing")?;
    Ok(ratios)
}

/// A guest in which auditd watches.
fn audited(places: &Places) -> Result<Guest> {
    let mut guest = Guest::boot(places, Watcher::Nobody)?;
    let rule = format!("auditctl -a always,exit -F arch=b64 -S {SCOPE} -k lava");
    let start = format!(
        "export PATH=$PATH:/usr/sbin:/sbin; auditd && auditctl -D && auditctl -b 65536 && {rule} && auditctl -e 1"
    );
    guest.cpu_of(&format!("exec /opt/scenario/bin/as-root sh -c '{start}'"))?;
    Ok(guest)
}

/// The tap's own table of what its hooks cost over all workloads, and events per second of each.
fn hook_costs(places: &Places) -> Result<(Vec<String>, Vec<f64>)> {
    let mut guest = Guest::boot(places, Watcher::Tap(",costs=on"))?;
    let mut rates = Vec::new();
    for (_, script) in WORKLOADS {
        let done = guest.cpu_of(script)?;
        rates.push(done.events as f64 / done.wall.max(0.001));
    }
    let costs = guest.power_off()?;
    Ok((costs.lines().filter_map(|line| line.strip_prefix("lava-tap: cost: ").map(str::to_owned)).collect(), rates))
}

fn tell(rounds: usize, ratios: &mut Ratios, costs: &[String], rates: &[f64], starts: &mut [f64]) -> Result<()> {
    let columns: Vec<&'static str> = OUTSIDE.iter().map(|(column, _)| *column).chain(INSIDE).collect();
    println!("Medians (min to max) of {rounds} rounds. `bare`: CPU seconds; the others: times that.\n");
    println!("| workload | {} | events/s |", columns.join(" | "));
    println!("|---|{}---|", "---|".repeat(columns.len()));
    let mut json = serde_json::Map::new();
    for (number, (name, _)) in WORKLOADS.iter().enumerate() {
        let mut row = serde_json::Map::new();
        let mut cells = Vec::new();
        for column in &columns {
            let values = ratios.entry((number, *column)).or_default();
            cells.push(spread(values));
            row.insert((*column).to_owned(), serde_json::json!(values));
        }
        let rate = rates.get(number).copied().unwrap_or(f64::NAN);
        row.insert("events per second".into(), serde_json::json!(rate));
        println!("| {name} | {} | {rate:.0} |", cells.join(" | "));
        json.insert((*name).to_owned(), row.into());
    }
    println!("\n`lava run` to the task's first instruction: {} s\n", spread(starts));
    println!("| what each hook costs, over the four workloads |\n|---|");
    costs.iter().for_each(|line| println!("| {line} |"));
    let all = serde_json::json!({"rounds": rounds, "workloads": json, "hooks": costs, "first instruction, s": starts});
    let file = shell::target().join("bench.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&all)?).with_context(|| file.display().to_string())
}

fn spread(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    format!("{:.2} ({:.2} to {:.2})", at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

/// Seconds from the start of `lava run` to the exec of the task.
fn first_instruction(programs: &Path) -> Result<f64> {
    let folder = PathBuf::from(format!("/dev/shm/lava-bench-run-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let task = folder.join("first.sh");
    std::fs::write(&task, "#!/bin/sh\ntrue\n")?;
    let begin = Instant::now();
    let mut lava = shell::command(&programs.join("lava").to_string_lossy(), ["run", "--format", "jsonl"]);
    lava.arg(&task).arg("--out").arg(folder.join("sessions")).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = lava.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let found =
        lines.by_ref().map_while(Result::ok).find(|line| line.contains("process.exec") && line.contains("/first.sh"));
    let elapsed = begin.elapsed().as_secs_f64();
    lines.for_each(drop);
    child.wait()?;
    std::fs::remove_dir_all(&folder)?;
    found.map(|_| elapsed).context("the task was never executed")
}
