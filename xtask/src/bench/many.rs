//! `cargo xtask bench --many`: what many micro-VMs at a time cost.
//!
//! * Idle clones of one template: memory of each, `lava run` and its QEMU, as the host's kernel shares it out (PSS); what they share,
//!   the template's pages and the programs', counts once, divided among them.
//! * The shipped attack, ten times at once: every session must end with its verdict.
//!
//! Limit: reads other users' `/proc/PID/smaps_rollup`, so it needs root where QEMU is given a user of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::demo::THREAT;
use crate::shell;

/// Clones that idle at a time.
const IDLE: usize = 20;
/// Attacks at a time.
const ATTACKS: usize = 10;
/// Longest wait for all clones to run their task, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// Micro-VMs that were started, and the folder of their sessions; both go with it.
struct Many {
    folder: PathBuf,
    running: Vec<Child>,
}

impl Many {
    fn new() -> Result<Self> {
        let folder = PathBuf::from(format!("/dev/shm/lava-bench-many-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self { folder, running: Vec::new() })
    }

    fn start(&mut self, mut lava: Command) -> Result<()> {
        lava.arg("--out").arg(&self.folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.running.push(lava.spawn().context("lava run")?);
        Ok(())
    }

    /// Sessions whose task has been run.
    fn begun(&self) -> Result<usize> {
        let mut begun = 0;
        for entry in std::fs::read_dir(&self.folder)? {
            let log = std::fs::read_to_string(entry?.path().join("events.jsonl")).unwrap_or_default();
            begun += usize::from(log.lines().any(|line| line.contains("process.exec") && line.contains("/idle.sh")));
        }
        Ok(begun)
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        for child in &mut self.running {
            // It takes its QEMU with it; one that has ended already is none.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Measures both and prints a Markdown table.
pub fn run(programs: &Path, scenarios: &Path) -> Result<()> {
    let lava = programs.join("lava");
    println!("| figure | measured |\n|---|---|");
    let (each, first) = idle(&lava)?;
    println!("| memory of each of {IDLE} idle clones of one template (one alone: {first:.0} MiB) | {each:.0} MiB |");
    let seconds = attacks(&lava, scenarios)?;
    println!("| {ATTACKS} attacks at once, all found, from the first's start to the last's end | {seconds:.0} s |");
    Ok(())
}

/// MiB of each, and of one while it is alone.
fn idle(lava: &Path) -> Result<(f64, f64)> {
    let mut many = Many::new()?;
    let task = many.folder.join("idle.sh");
    std::fs::write(&task, "#!/bin/sh\nexec sleep 3600\n")?;
    let mut alone = 0.0;
    for number in 1..=IDLE {
        let mut run = shell::command(&lava.to_string_lossy(), ["run", "--policy", "observe", "--timeout", "3600"]);
        run.arg(&task);
        many.start(run)?;
        if number == 1 {
            wait_for(&many, 1)?;
            alone = memory(&many.running)?;
        }
    }
    wait_for(&many, IDLE)?;
    Ok((memory(&many.running)? / IDLE as f64, alone))
}

fn wait_for(many: &Many, count: usize) -> Result<()> {
    let begin = Instant::now();
    while many.begun()? < count {
        ensure!(begin.elapsed() < PATIENCE, "of {count} tasks only {} were begun in {PATIENCE:?}", many.begun()?);
        std::thread::sleep(Duration::from_millis(200));
    }
    // What it does once, right after the task's start, is not idling.
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

/// MiB of these processes and all that descend from them.
fn memory(of: &[Child]) -> Result<f64> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // It may be gone by now.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let (mut left, mut kib): (Vec<u32>, f64) = (of.iter().map(Child::id).collect(), 0.0);
    while let Some(pid) = left.pop() {
        left.extend(children.get(&pid).into_iter().flatten());
        let file = format!("/proc/{pid}/smaps_rollup");
        let text = std::fs::read_to_string(&file).with_context(|| file.clone())?;
        let pss =
            text.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<f64>().ok());
        kib += pss.with_context(|| format!("{file} names no Pss"))?;
    }
    Ok(kib / 1024.0)
}

/// Seconds that they take.
fn attacks(lava: &Path, scenarios: &Path) -> Result<f64> {
    // The first makes the template, which is made once: without it each of the ten would.
    together(lava, scenarios, 1)?;
    together(lava, scenarios, ATTACKS)
}

fn together(lava: &Path, scenarios: &Path, count: usize) -> Result<f64> {
    let mut many = Many::new()?;
    let begin = Instant::now();
    for _ in 0..count {
        let mut run = shell::command(&lava.to_string_lossy(), ["run", "--profile", "scenarios/drive-by/profile.toml"]);
        run.args(["--policy", "protect", "--timeout", "600", "--disk"]);
        run.arg(scenarios.join("scenario.img")).arg(scenarios.join("applet.jar"));
        many.start(run)?;
    }
    for child in &mut many.running {
        let status = child.wait()?;
        ensure!(status.code() == Some(THREAT), "an attack ended with {status}; a threat found is exit code {THREAT}");
    }
    Ok(begin.elapsed().as_secs_f64())
}
