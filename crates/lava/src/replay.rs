//! `lava replay`: a recorded session again, from its log alone.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lava_analysis::Analysis;
use lava_detect::Detector;
use lava_event::{Event, Finding};
use lava_evidence::Session;
use lava_yara::Scanner;

use crate::terminal::{self, Live, Style};
use crate::{baseline, rules, show, yara};

/// Options of `lava replay`.
#[derive(clap::Args)]
pub struct Replay {
    /// A session's folder, its id, its bundle, or `latest`.
    session: String,
    /// How fast: 1 as it happened, 10 ten times as fast. If not given, as fast as it can be read.
    #[arg(long, value_name = "N", value_parser = speed)]
    speed: Option<f64>,
    /// Stop at this second of the session: what was known then is the result.
    #[arg(long, value_name = "S", value_parser = moment)]
    until: Option<f64>,
    /// Folder of Sigma rules that are matched too.
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    #[command(flatten)]
    baseline: baseline::Choice,
    /// Folder of YARA rules (*.yar, *.yara), or one file, for what the session kept.
    #[arg(long, value_name = "DIR")]
    yara: Option<PathBuf>,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn speed(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|speed| (0.001..=1e6).contains(speed));
    number.ok_or_else(|| "a number from 0.001 to 1000000".to_owned())
}

/// Seconds of a session.
pub fn moment(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|second| (0.0..=1e9).contains(second));
    number.ok_or_else(|| "seconds, from 0".to_owned())
}

impl Replay {
    /// Plays it, and says what came out.
    pub fn run(&self) -> Result<()> {
        let session = show::find(&self.session, self.out.as_deref())?;
        let checked = rules::load_any(self.rules.as_deref())?;
        let loaded = yara::load_any(self.yara.as_deref())?;
        let mut scanner = loaded.as_ref().map(|loaded| Scanner::new(&loaded.rules));
        let usual = self.baseline.load(&session.manifest().profile)?.map(|chosen| chosen.baseline);
        let mut analysis = Analysis::with_detector(Detector::with_rules(checked.rules)).with_baseline(usual);
        let (live, mut pace) = (Live::new(false), Pace::new(self.speed));
        let end = self.until.map_or(u64::MAX, |second| (second * 1e9) as u64);
        let mut unreadable = 0u64;
        for event in events(&session, &live, &mut unreadable)? {
            if event.time_ns > end {
                break;
            }
            pace.wait(event.time_ns);
            live.event(&event);
            analysis.observe(&event).findings.iter().for_each(|finding| live.finding(finding));
            if let Some(scanner) = &mut scanner {
                for finding in yara::scan(Some(scanner), &yara::recorded(&session, event)?, &live) {
                    analysis.take_in(&finding);
                    live.finding(&finding);
                }
            }
        }
        let trace = analysis.graph().trace();
        terminal::summary(&trace, Style::of_stdout(), &mut std::io::stdout())?;
        if self.until.is_none() {
            compare(&session, &trace.findings, &mut std::io::stdout())?;
        }
        if unreadable > 0 {
            bail!("{unreadable} line(s) of the log could not be read: `lava verify` tells more");
        }
        Ok(())
    }
}

/// The session's events. A line that is none is told, counted and left out.
pub fn events<'a>(
    session: &Session,
    live: &'a Live,
    unreadable: &'a mut u64,
) -> Result<impl Iterator<Item = Event> + use<'a>> {
    Ok(session.events()?.filter_map(|event| {
        event
            .inspect_err(|error| {
                *unreadable += 1;
                live.progress(&error.to_string());
            })
            .ok()
    }))
}

/// Says what today's detectors find otherwise than those of the day it was recorded.
fn compare(session: &Session, now: &[Finding], out: &mut impl Write) -> std::io::Result<()> {
    let Ok(then) = session.findings() else {
        return writeln!(out, "findings: {}; those of the recording can't be read", now.len());
    };
    let names = |findings: &[Finding]| -> BTreeSet<(String, String)> {
        findings.iter().map(|finding| (finding.detector.clone(), finding.title.clone())).collect()
    };
    let (was, is) = (names(&then), names(now));
    if was == is {
        writeln!(out, "findings: {}, the same as when it was recorded", now.len())?;
    }
    for (detector, title) in is.difference(&was) {
        writeln!(out, "only now:  {title} ({detector})")?;
    }
    for (detector, title) in was.difference(&is) {
        writeln!(out, "only then: {title} ({detector})")?;
    }
    Ok(())
}

/// Waits as long as it took, divided by the speed.
struct Pace {
    speed: Option<f64>,
    begun: Option<(Instant, u64)>,
}

impl Pace {
    const fn new(speed: Option<f64>) -> Self {
        Self { speed, begun: None }
    }

    fn wait(&mut self, time_ns: u64) {
        let Some(speed) = self.speed else { return };
        let (start, first_ns) = *self.begun.get_or_insert_with(|| (Instant::now(), time_ns));
        let due = Duration::try_from_secs_f64(time_ns.saturating_sub(first_ns) as f64 / 1e9 / speed);
        // A time that no clock can hold is the log's mistake: go on.
        let due = due.unwrap_or_default();
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
}
