//! `cargo xtask evaluate`: what detection says of tasks that we did not write for it, each in a micro-VM of its own.
//!
//! * `atomics`: Atomic Red Team's tests for Linux. Was the technique found that the test is of, or its parent?
//! * `benign`: honest work. Nothing but *clean* should come out.
//!
//! Both print a table row by row, and write it to a Markdown file in docs/. They judge the findings of a session as anybody reads them,
//! from `findings.jsonl`.
//!
//! Limits: an atomic whose programs are not in the guest image, or that needs a network, shows less than it would elsewhere.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::{build, shell};

/// Seconds a task may take.
const TIMEOUT: &str = "90";

/// What is played.
#[derive(clap::Subcommand)]
pub enum What {
    /// Atomic Red Team's tests.
    Atomics {
        /// The tests: JSON with a list `atomics` of {technique, name, guid, executor, elevation_required, command}.
        #[arg(long, value_name = "FILE", default_value = "../shared/atomics/open.json")]
        file: PathBuf,
        /// Only tests whose technique begins with one of these.
        #[arg(value_name = "TECHNIQUE")]
        only: Vec<String>,
    },
    /// The honest work of scenarios/benign/workloads.toml.
    Benign {
        /// Only work whose name begins with one of these.
        #[arg(value_name = "NAME")]
        only: Vec<String>,
    },
}

#[derive(Deserialize)]
struct Atomics {
    source: String,
    commit: String,
    licence: String,
    atomics: Vec<Atomic>,
}

#[derive(Deserialize)]
struct Atomic {
    technique: String,
    name: String,
    executor: String,
    elevation_required: bool,
    command: String,
}

/// scenarios/atomics.toml
#[derive(Deserialize)]
struct Explained {
    miss: Vec<Miss>,
}

/// Why a test is not found.
#[derive(Deserialize)]
struct Miss {
    technique: String,
    name: String,
    why: String,
}

#[derive(Deserialize)]
struct Workloads {
    workload: Vec<Workload>,
}

#[derive(Deserialize)]
struct Workload {
    name: String,
    #[serde(default)]
    root: bool,
    script: String,
}

/// Plays them.
pub fn run(what: &What) -> Result<()> {
    let lava = build::as_tested()?.0.join("lava");
    match what {
        What::Atomics { file, only } => atomics(&lava, &shell::root().join(file), only),
        What::Benign { only } => benign(&lava, only),
    }
}

/// True if nothing is chosen, or `name` begins with one of the chosen.
fn chosen(name: &str, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|begin| name.starts_with(begin.as_str()))
}

fn read<T: serde::de::DeserializeOwned>(file: &Path, parse: impl Fn(&str) -> Result<T>) -> Result<T> {
    let text = fs::read_to_string(file).with_context(|| format!("{} (name another with --file)", file.display()))?;
    parse(&text).with_context(|| file.display().to_string())
}

fn atomics(lava: &Path, file: &Path, only: &[String]) -> Result<()> {
    let all: Atomics = read(file, |text| Ok(serde_json::from_str(text)?))?;
    let explained: Explained = read(&shell::root().join("scenarios/atomics.toml"), |text| Ok(toml::from_str(text)?))?;
    let why = |atomic: &Atomic| {
        let miss = explained.miss.iter().find(|miss| miss.technique == atomic.technique && miss.name == atomic.name);
        miss.map_or_else(String::new, |miss| format!(" {}", miss.why))
    };
    let mut table = String::from("| technique | test | as | result | findings |\n|---|---|---|---|---|\n");
    let (mut played, mut right, mut other) = (0u32, 0u32, 0u32);
    for atomic in all.atomics.iter().filter(|atomic| chosen(&atomic.technique, only)) {
        let Atomic { technique, name, executor, elevation_required: root, command } = atomic;
        let ran = play(lava, &format!("#!/bin/{executor}\n{command}\n"), *root)?;
        played += 1;
        let parent = technique.split('.').next().unwrap_or(technique);
        let is_right = |id: &String| id == technique || id == parent;
        let result = if ran.techniques.iter().any(is_right) {
            right += 1;
            "**found**".to_owned()
        } else if ran.techniques.is_empty() {
            format!("nothing.{}", why(atomic))
        } else {
            other += 1;
            format!("other.{}", why(atomic))
        };
        let who = if *root { "root" } else { "user" };
        let row = format!(
            "| {technique} | {} | {who} | {result}{} | {} |",
            cell(name),
            ran.trouble(),
            ran.techniques.join(", ")
        );
        println!("{row}");
        let _ = writeln!(table, "{row}");
    }
    let summary = format!(
        "{right} of {played} found with the technique or its parent ({} %), {other} with another one only, {} with nothing.",
        right * 100 / played.max(1),
        played - right - other
    );
    println!("\n{summary}");
    let head = format!(
        "# Atomic Red Team\n\n`cargo xtask evaluate atomics` plays each test in a micro-VM and reads the findings. Tests: {}, commit {}, {}.\n\n{summary}\n\n",
        all.source, all.commit, all.licence
    );
    write(only, "atomics.md", &(head + &table))
}

fn benign(lava: &Path, only: &[String]) -> Result<()> {
    let file = shell::root().join("scenarios/benign/workloads.toml");
    let all: Workloads = read(&file, |text| Ok(toml::from_str(text)?))?;
    let mut table = String::from("| work | as | verdict | findings |\n|---|---|---|---|\n");
    let (mut played, mut malicious, mut suspicious) = (0u32, 0u32, 0u32);
    for Workload { name, root, script } in all.workload.iter().filter(|work| chosen(&work.name, only)) {
        let ran = play(lava, &format!("#!/bin/bash\nset -e\n{script}\n"), *root)?;
        played += 1;
        malicious += u32::from(ran.verdict == "malicious");
        suspicious += u32::from(ran.verdict == "suspicious");
        let who = if *root { "root" } else { "user" };
        let failed = if ran.code == Some(0) { String::new() } else { format!(" (exit code {:?})", ran.code) };
        let row =
            format!("| {name}{failed} | {who} | {}{} | {} |", ran.verdict, ran.trouble(), cell(&ran.titles.join("; ")));
        println!("{row}");
        let _ = writeln!(table, "{row}");
    }
    let summary = format!("{played} pieces of work: {malicious} malicious, {suspicious} suspicious.");
    println!("\n{summary}");
    let head = format!(
        "# Honest work\n\n`cargo xtask evaluate benign` plays scenarios/benign/workloads.toml, each in a micro-VM. {summary}\n\n"
    );
    write(only, "benign.md", &(head + &table))
}

/// The table into docs/, unless only a part was played.
fn write(only: &[String], name: &str, text: &str) -> Result<()> {
    if !only.is_empty() {
        return Ok(());
    }
    let file = shell::root().join("docs").join(name);
    fs::write(&file, text).with_context(|| file.display().to_string())
}

/// What is safe within a row of a Markdown table.
fn cell(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().replace('|', "\\|")
}

/// What one session left.
struct Ran {
    verdict: String,
    state: String,
    /// The task's exit code, where it ended by itself.
    code: Option<i64>,
    /// Techniques found, each once, in the order found.
    techniques: Vec<String>,
    titles: Vec<String>,
}

impl Ran {
    /// A session that did not end as it should says less than it could.
    fn trouble(&self) -> String {
        if self.state == "closed" { String::new() } else { format!(" (session {})", self.state) }
    }
}

/// Plays one script, and forgets the session.
fn play(lava: &Path, script: &str, root: bool) -> Result<Ran> {
    let folder = shell::target().join("evaluate");
    // What an earlier run that was killed left behind.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let task = folder.join("task.sh");
    fs::write(&task, script).with_context(|| task.display().to_string())?;
    let mut command = shell::command(&lava.to_string_lossy(), ["run", "--timeout", TIMEOUT]);
    command.arg(&task).arg("--out").arg(folder.join("sessions"));
    if root {
        command.arg("--root");
    }
    let output = command.stdin(Stdio::null()).output().context("lava run")?;
    let session = fs::read_dir(folder.join("sessions")).ok().and_then(|mut entries| entries.next()?.ok());
    let Some(session) = session else {
        bail!("lava run made no session: {}", String::from_utf8_lossy(&output.stderr));
    };
    let dir = session.path();
    let manifest: Value = read(&dir.join("manifest.json"), |text| Ok(serde_json::from_str(text)?))?;
    let lines = fs::read_to_string(dir.join("findings.jsonl")).context("findings.jsonl")?;
    let findings: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut techniques: Vec<String> = Vec::new();
    for finding in &findings {
        let id = finding["technique"]["id"].as_str().unwrap_or_default().to_owned();
        if !techniques.contains(&id) {
            techniques.push(id);
        }
    }
    let text = |name: &str| manifest[name].as_str().unwrap_or("unknown").to_owned();
    Ok(Ran {
        verdict: text("verdict"),
        state: text("state"),
        code: task_exit(&dir),
        techniques,
        titles: findings.iter().filter_map(|finding| Some(finding["title"].as_str()?.to_owned())).collect(),
    })
}

fn task_exit(dir: &Path) -> Option<i64> {
    let log = fs::read_to_string(dir.join("events.jsonl")).ok()?;
    let line = log.lines().rev().find(|line| line.contains("\"vm.task_exit\""))?;
    serde_json::from_str::<Value>(line).ok()?["code"].as_i64()
}
