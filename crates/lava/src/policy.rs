//! `lava policy check FILE`, `lava policy test FILE SESSION...`

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use lava_analysis::WhatIf;
use lava_event::GuestText;
use lava_policy::{Nearby, Policy};

use crate::terminal::{Live, Style};
use crate::{CLEAN, baseline, prepare, replay, show};

/// Rules that could not be evaluated are told this often a session.
const MAX_FAULTS: usize = 10;

/// What is done with a policy.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Read it, and say what waits for it. Mistakes are shown with their lines underlined.
    Check {
        /// A file, or the name of a shipped policy.
        policy: String,
    },
    /// Decide recorded sessions anew, and list every decision that would have been another.
    ///
    /// Exit code: 0 none, 3 there are some, 1 a session or the policy cannot be read.
    Test {
        /// A file, or the name of a shipped policy.
        policy: String,
        /// Sessions: folders, ids, or `latest`.
        #[arg(required = true)]
        sessions: Vec<String>,
        /// Folder of sessions, if not the usual one.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// A decision would have been another.
const DIFFERS: u8 = 3;

/// Runs it; returns the exit code.
pub fn command(command: &Command) -> Result<u8> {
    match command {
        Command::Check { policy } => check(policy).map(|()| CLEAN),
        Command::Test { policy, sessions, out } => test(policy, sessions, out.as_deref()),
    }
}

fn check(wanted: &str) -> Result<()> {
    let (policy, hash) = prepare::policy(wanted)?;
    println!("policy:    {} (sha256 {hash})", policy.name());
    if !policy.description().is_empty() {
        println!("           {}", policy.description());
    }
    println!("waits for: {}", waits_for(&policy));
    for profile in policy.profiles() {
        println!("for {}: waits for {}", GuestText::from(profile), waits_for(&policy.for_profile(profile)));
    }
    Ok(())
}

/// What it waits for, and whether its answers count.
fn waits_for(policy: &Policy) -> String {
    let waits: Vec<_> = policy.waits_for().collect();
    let waits = if waits.is_empty() { "nothing".to_owned() } else { waits.join(", ") };
    if policy.is_dry_run() { format!("{waits} (dry run: everything is allowed)") } else { waits }
}

fn test(wanted: &str, sessions: &[String], out: Option<&Path>) -> Result<u8> {
    let (policy, _) = prepare::policy(wanted)?;
    let (mut differences, mut unreadable) = (0u64, 0u64);
    for name in sessions {
        differences += one(&policy, name, out, &mut unreadable)?;
    }
    if unreadable > 0 {
        bail!("{unreadable} line(s) of the logs could not be read: `lava verify` tells more");
    }
    Ok(if differences == 0 { CLEAN } else { DIFFERS })
}

fn one(policy: &Policy, name: &str, root: Option<&Path>, unreadable: &mut u64) -> Result<u64> {
    let session = show::find(name, root)?;
    let (live, style) = (Live::new(false), Style::of_stdout());
    let out = &mut std::io::stdout().lock();
    let manifest = session.manifest();
    // As it would answer a task of this profile if it were no dry run.
    let policy = policy.for_profile(&manifest.profile).with_dry_run(false);
    let option = |name: &str| manifest.options.get(name).map(String::as_str).unwrap_or_default();
    let policy = &match option("net") {
        "egress" => policy.with_real_network(Nearby::parse(option("nearby"))),
        _ => policy,
    };
    writeln!(
        out,
        "{} {}: recorded under {}, now under {}",
        style.bold(&manifest.session.to_string()),
        manifest.task.name,
        manifest.policy.name,
        policy.name()
    )?;
    // What can't be read is told in the second pass.
    let mut what_if =
        WhatIf::new(policy, session.events()?.flatten()).with_baseline(baseline::usual(&manifest.profile)?);
    let (mut differences, mut faults) = (0u64, 0);
    for event in replay::events(&session, &live, unreadable)? {
        let (difference, failed) = what_if.observe(&event);
        for fault in failed {
            faults += 1;
            if faults <= MAX_FAULTS {
                live.progress(&format!("rule {} could not be evaluated: {}", fault.rule, fault.message));
            }
        }
        let Some(difference) = difference else { continue };
        differences += 1;
        writeln!(out, "{}", show::line(&event))?;
        let rule = difference.now.rule.as_deref().unwrap_or("default");
        writeln!(out, "        was: {}; now: {} by {rule}", difference.recorded, difference.now.action)?;
        if let Some(reason) = &difference.now.reason {
            writeln!(out, "        {reason}")?;
        }
        if differences == 1 {
            writeln!(out, "        (what follows happened because of the recorded answer)")?;
        }
    }
    if faults > MAX_FAULTS {
        live.progress(&format!("{} more such faults", faults - MAX_FAULTS));
    }
    writeln!(out, "{} of {} decisions differ", differences, what_if.decided())?;
    Ok(differences)
}
