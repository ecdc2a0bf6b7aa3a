//! The repository's own commands: `cargo xtask demo`, `cargo xtask test` and what they are made of.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod demo;
mod deps;
mod evaluate;
mod fuzz;
mod setup;
mod shell;
mod test;
mod validators;
mod web;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing on this host. Says what, before it does.
    Setup,
    /// Make the Python environment with the exports' validators; prints its Python, for LAVA_TEST_VALIDATORS.
    Validators,
    /// Build LAVA (release): the `lava` command and the tap.
    Build,
    /// Build the console's page into web/dist, unless it is there and newer than its sources.
    Web,
    /// Build the guest image, unless it is there.
    Image,
    /// Build the scenarios.
    Scenarios,
    /// Set up, build, and play the seed's attack.
    Demo,
    /// Set up, build, check and run every test.
    Test,
    /// Hold the crates' dependencies against the list in ARCHITECTURE.md.
    Deps,
    /// Measure what SPECIFICATION.md promises.
    Bench {
        /// Rounds per figure.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Instead, only the analysis (graph, detectors, policy): events per second over sessions of ten million events. No guest is
        /// started.
        #[arg(long)]
        analysis: bool,
        /// With --analysis: a recorded session's folder, that is played over and over too.
        #[arg(long, value_name = "DIR", requires = "analysis")]
        session: Option<std::path::PathBuf>,
        /// Instead, only the console: event to pixels in a browser, a session of a million events, fifty viewers.
        #[arg(long, conflicts_with = "analysis")]
        console: bool,
        /// Instead, only many micro-VMs at a time: memory of twenty idle ones, ten attacks at once.
        #[arg(long, conflicts_with_all = ["analysis", "console"])]
        many: bool,
    },
    /// Play tasks that were not written for LAVA's detectors, and see what these say.
    #[command(subcommand)]
    Evaluate(evaluate::What),
    /// Fuzz everything that reads bytes from the guest.
    Fuzz {
        /// Seconds per target.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup => setup::run(),
        Command::Validators => validators::run().map(|python| println!("{}", python.display())),
        Command::Build => build::lava().map(drop),
        Command::Web => web::build(),
        Command::Image => build::image().map(drop),
        Command::Scenarios => build::scenarios().map(drop),
        Command::Demo => demo::run(),
        Command::Test => test::run(),
        Command::Deps => deps::run(),
        Command::Bench { analysis: true, session, .. } => bench::analysis(session.as_deref()),
        Command::Bench { console: true, .. } => bench::console(),
        Command::Bench { many: true, .. } => bench::many(),
        Command::Bench { rounds, .. } => bench::run(rounds),
        Command::Evaluate(what) => evaluate::run(&what),
        Command::Fuzz { seconds } => fuzz::run(seconds),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
