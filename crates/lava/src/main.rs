//! The `lava` command, and the only place that wires the stages of the pipeline together.
#![forbid(unsafe_code)]

mod baseline;
mod bundle;
mod ctl;
mod doctor;
mod egress;
mod export;
mod files;
mod image;
mod output;
mod pack;
mod places;
mod policy;
mod prepare;
mod remediate;
mod replay;
mod rules;
mod run;
mod screen;
mod serve;
mod show;
mod symbols;
mod template;
mod terminal;
mod trace;
mod yara;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Opens an untrusted thing in a micro-VM, watches it from outside, and shows what it did.
#[derive(Parser)]
#[command(name = "lava", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Open a task in a micro-VM and watch it.
    ///
    /// Exit code: 0 nothing found, 3 threat found, 1 failed, 2 usage.
    Run(run::Run),
    /// Show a session: verdict, kill chain, trace, decisions.
    Show {
        /// A session's folder, its id, its bundle, or `latest`.
        session: String,
        /// Instead, the events that carry the processor's registers: these, and how the program came there.
        #[arg(long)]
        registers: bool,
        /// Folder of sessions, if not the usual one.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Print a session's events.
    Events {
        /// A session's folder, its id, its bundle, or `latest`.
        session: String,
        /// Only events of this kind, or of this group: `process.exec`, `file`.
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// As lines to read, or one JSON object a line.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        /// Folder of sessions, if not the usual one.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// List what a session changed in the guest's file system, as its disk tells it: what the task changed first.
    Files(files::Files),
    /// List what undoing a session's changes in the guest's file system means, or undo them on a copy of its disk and prove it:
    /// docs/remediate.md.
    ///
    /// Exit code: 0 every path is as it was before the session, 1 one is not, or it failed.
    Remediate(remediate::Remediate),
    /// Play a recorded session again: the trace grows as it did, thought of by today's detectors. No micro-VM is started.
    Replay(replay::Replay),
    /// Print a session's graph: simplified, unfolded step by step or whole; all of it or an interval.
    Trace(trace::Options),
    /// Write a session in a format that other tools read: docs/exports.md tells what is in each.
    Export(export::Export),
    /// Write a remediation pack: rules, block lists, queries and steps from what the findings rest on.
    Pack(pack::Pack),
    /// Put a session into one signed file: docs/bundle.md.
    Bundle(bundle::Bundle),
    /// Hold a session, or a bundle, against its hashes, its chain and its signature.
    ///
    /// Exit code: 0 every byte is as it was written (a bundle: and signed with the given key, or your own), 1 not, 4 a bundle that is as it
    /// was signed, but with a key that is not known here.
    Verify(bundle::Verify),
    /// Print the public key that signs your bundles; it is made if there is none.
    Key,
    /// Check a policy, or try it on recorded sessions.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Build, list, show and remove guest images: the disks that micro-VMs boot from.
    #[command(subcommand)]
    Image(image::Command),
    /// Make, list, show and remove templates: guests that have booted, from which micro-VMs are cloned.
    #[command(subcommand)]
    Template(template::Command),
    /// Pause, resume, stop or discard a session that runs at another terminal, read its registers, answer what waits.
    Ctl(ctl::Ctl),
    /// Write the picture on a session's screen to a file: now if it runs, else as it was last seen.
    Screen(screen::Screen),
    /// Write a guest kernel's symbols, or with --isf its symbols and types for Volatility 3.
    Symbols(symbols::Options),
    /// Learn what is usual for a profile, show it, and list what of a session is not.
    #[command(subcommand)]
    Baseline(baseline::Command),
    /// Search what a session kept (the task, files it wrote, what it said and was sent) with YARA rules.
    ///
    /// Exit code: 0 nothing matches, 3 something does, 1 failed.
    Yara(yara::Options),
    /// Say which Sigma and YARA rules can be used, and why the others can't.
    #[command(subcommand)]
    Rules(rules::Command),
    /// Serve the console: sessions in a browser, live and recorded.
    Serve(serve::Serve),
    /// List the recorded sessions.
    Sessions {
        /// Folder of sessions, if not the usual one.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Say what of this host is ready, what is missing, and how to fix it.
    Doctor,
}

/// How output is written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON object a line, for programs.
    Jsonl,
}

/// Nothing found.
const CLEAN: u8 = 0;
/// LAVA failed.
const FAILED: u8 = 1;
/// A threat was found.
const THREAT: u8 = 3;
/// Signed by somebody, but by whom is not known.
const UNKNOWN_KEY: u8 = 4;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let swept = places::sweep();
    for swept in &swept {
        let what = swept.problem.as_ref().map_or("was removed".to_owned(), |why| format!("can't be removed: {why}"));
        eprintln!("lava: what {} left, whose `lava` was killed, {what}", swept.runtime_dir.display());
    }
    let done = match command {
        Command::Run(run) => run.run(),
        Command::Show { session, registers: true, out } => show::registers(&session, out.as_deref()).map(|()| CLEAN),
        Command::Show { session, registers: false, out } => show::session(&session, out.as_deref()).map(|()| CLEAN),
        Command::Events { session, kind, format, out } => {
            show::events(&session, kind.as_deref(), format, out.as_deref()).map(|()| CLEAN)
        }
        Command::Files(files) => files.run().map(|()| CLEAN),
        Command::Remediate(options) => options.run(),
        Command::Replay(replay) => replay.run().map(|()| CLEAN),
        Command::Trace(options) => options.run().map(|()| CLEAN),
        Command::Export(export) => export.run().map(|()| CLEAN),
        Command::Pack(pack) => pack.run().map(|()| CLEAN),
        Command::Bundle(bundle) => bundle.run().map(|()| CLEAN),
        Command::Verify(verify) => verify.run(),
        Command::Key => bundle::key().map(|()| CLEAN),
        Command::Policy(command) => policy::command(&command),
        Command::Screen(screen) => screen.run().map(|()| CLEAN),
        Command::Symbols(options) => options.run().map(|()| CLEAN),
        Command::Image(command) => image::command(&command).map(|()| CLEAN),
        Command::Template(command) => template::command(&command).map(|()| CLEAN),
        Command::Ctl(ctl) => ctl.run().map(|()| CLEAN),
        Command::Baseline(command) => baseline::command(&command),
        Command::Yara(options) => options.run(),
        Command::Rules(command) => rules::command(&command),
        Command::Serve(serve) => serve::run(serve).map(|()| CLEAN),
        Command::Sessions { out } => show::sessions(out.as_deref()).map(|()| CLEAN),
        Command::Doctor => doctor::run(&swept),
    };
    ExitCode::from(done.unwrap_or_else(|error| {
        // `lava events | head` closes the pipe: that is no failure to talk about.
        let pipe = error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe);
        if !pipe {
            eprintln!("lava: {}", told(&error));
        }
        FAILED
    }))
}

/// The error and its causes; a cause whose words stand in what is said already is not said again.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match cause.trim_end() {
        known if said.contains(known) => said,
        first if said.is_empty() => first.to_owned(),
        more => format!("{said}: {more}"),
    })
}
