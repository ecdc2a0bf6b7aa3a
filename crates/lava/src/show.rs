//! `lava show [--registers]`, `lava events`, `lava sessions`: reading what was recorded.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lava_event::Event;
use lava_evidence::Session;

use crate::terminal::{self, Style, seconds};
use crate::{Format, bundle, places};

/// Finds a session by folder, bundle, id, beginning of the id, or `latest`.
pub fn find(name: &str, out: Option<&Path>) -> Result<Session> {
    let folder = Path::new(name);
    if folder.join("manifest.json").is_file() || folder.is_dir() {
        return Ok(Session::open(folder)?);
    }
    if folder.is_file() {
        return bundle::open(folder);
    }
    let root = places::sessions(out)?;
    let wanted = name.to_ascii_uppercase();
    let mut found: Vec<PathBuf> = std::fs::read_dir(&root)
        .with_context(|| format!("no sessions in {}", root.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|dir| {
            let id = dir.file_name().map(|id| id.to_string_lossy().to_ascii_uppercase()).unwrap_or_default();
            dir.join("manifest.json").is_file() && (name == "latest" || id.starts_with(&wanted))
        })
        .collect();
    found.sort();
    match (name, found.as_slice()) {
        (_, []) => bail!("there is no session {name} in {}: `lava sessions` lists them", root.display()),
        ("latest", [.., last]) => Ok(Session::open(last)?),
        (_, [one]) => Ok(Session::open(one)?),
        (_, many) => bail!("{name} is the beginning of {} sessions: write more of it", many.len()),
    }
}

/// `lava show`
pub fn session(name: &str, out: Option<&Path>) -> Result<()> {
    let session = find(name, out)?;
    let (style, manifest) = (Style::of_stdout(), session.manifest());
    let out = &mut std::io::stdout().lock();
    let verdict = manifest.verdict.map_or("unknown".to_owned(), |verdict| style.verdict(verdict));
    writeln!(out, "{} {verdict}   ({})", style.bold("verdict:"), places::state(manifest))?;
    writeln!(out, "task:     {} ({} bytes, sha256 {})", manifest.task.name, manifest.task.size, manifest.task.sha256)?;
    writeln!(out, "profile:  {}   policy: {}", manifest.profile, manifest.policy.name)?;
    writeln!(out, "guest:    Linux {}, QEMU {}", manifest.image.kernel, manifest.qemu)?;
    if let Some(parent) = &manifest.parent {
        let lava_evidence::Parent { session, snapshot, events, .. } = &**parent;
        writeln!(out, "from:     snapshot {snapshot} of session {session}: the first {events} events are that one's")?;
    }
    writeln!(out, "time:     {} to {}", manifest.started, manifest.ended.as_deref().unwrap_or("(not closed)"))?;
    writeln!(
        out,
        "recorded: {} events, {} findings, {} artifacts",
        manifest.events, manifest.findings, manifest.artifacts
    )?;
    if let (Some(before), Some(after)) = (manifest.mbr_before, manifest.mbr_after) {
        let changed = if before == after { "unchanged" } else { "CHANGED" };
        writeln!(out, "MBR:      {changed} (before {before}, after {after})")?;
    }
    if let Some(detail) = &manifest.detail {
        writeln!(out, "note:     {detail}")?;
    }
    match session.trace() {
        Ok(trace) => {
            terminal::explanation(&trace, style, out)?;
            terminal::kill_chain(&trace, style, out)?;
            terminal::noticed(&trace, style, out)?;
            terminal::ranked(&trace, style, out)?;
            terminal::decisions(&trace, out)?;
        }
        Err(error) => writeln!(out, "no trace: {error}")?,
    }
    let chain = session.verify_chain()?;
    writeln!(out, "evidence: {}", if chain.intact() { "intact" } else { "NOT INTACT" })?;
    for problem in &chain.problems {
        writeln!(out, "  {problem}")?;
    }
    let report = session.dir().join("report.html");
    match report.is_file() {
        true => writeln!(out, "report:   {}", report.display())?,
        false => writeln!(out, "report:   report.html in {}", session.dir().display())?,
    }
    Ok(())
}

/// `lava events`
pub fn events(name: &str, kind: Option<&str>, format: Format, out: Option<&Path>) -> Result<()> {
    let session = find(name, out)?;
    let out = &mut std::io::BufWriter::new(std::io::stdout().lock());
    for event in session.events()? {
        let event = event?;
        let is = event.kind.name();
        if kind.is_some_and(|kind| is != kind && is.split_once('.').map(|(group, _)| group) != Some(kind)) {
            continue;
        }
        match format {
            Format::Jsonl => writeln!(out, "{}", serde_json::to_string(&event)?)?,
            Format::Text => writeln!(out, "{}", line(&event))?,
        }
    }
    out.flush()?;
    Ok(())
}

/// `lava show --registers`: the events that carry registers, with these and the backtrace.
pub fn registers(name: &str, out: Option<&Path>) -> Result<()> {
    let session = find(name, out)?;
    let out = &mut std::io::BufWriter::new(std::io::stdout().lock());
    let mut any = false;
    for event in session.events()? {
        let event = event?;
        let Some(registers) = &event.registers else { continue };
        any = true;
        writeln!(out, "{}", line(&event))?;
        for row in registers.iter().collect::<Vec<_>>().chunks(4) {
            let cells: Vec<String> = row.iter().map(|(name, value)| format!("{name:>9} {value:016x}")).collect();
            writeln!(out, "{}", cells.join(" "))?;
        }
        let backtrace = event.backtrace.as_deref();
        for (title, frames) in backtrace.map(|b| [("kernel", &b.kernel), ("program", &b.user)]).into_iter().flatten() {
            for frame in frames {
                writeln!(out, "  {title:<8} {:016x} {}", frame.address, frame.place)?;
            }
        }
        writeln!(out)?;
    }
    if !any {
        writeln!(out, "no event of this session carries registers")?;
    }
    out.flush()?;
    Ok(())
}

/// One event in one line. Everything from the guest is escaped by its type.
pub fn line(event: &Event) -> String {
    let who = event.process.as_ref().map_or("-".to_owned(), |process| format!("{}[{}]", process.comm, process.pid));
    let what = event.kind.sentence();
    format!("{:>7} {} {:<22} {who:<22} {what}", event.seq, seconds(event.time_ns), event.kind.name())
}

/// `lava sessions`
pub fn sessions(out: Option<&Path>) -> Result<()> {
    let root = places::sessions(out)?;
    if !root.exists() {
        println!("no sessions yet in {}", root.display());
        return Ok(());
    }
    let style = Style::of_stdout();
    let out = &mut std::io::stdout().lock();
    for listed in Session::list(&root)? {
        match listed.session {
            Ok(session) => {
                let manifest = session.manifest();
                let verdict = manifest.verdict.map_or("-".to_owned(), |verdict| style.verdict(verdict));
                writeln!(
                    out,
                    "{}  {}  {verdict:<10}  {:<11}  {}",
                    manifest.session,
                    manifest.started,
                    places::state(manifest),
                    manifest.task.name
                )?;
            }
            Err(error) => writeln!(out, "{}: {error}", listed.dir.display())?,
        }
    }
    Ok(())
}
