//! `lava export`: a session in a format that other tools read.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use lava_evidence::Session;
use lava_export::{Follower, Format, Framing, Scope, Step, Target, TlsFiles};

use crate::{output, show};

/// Options of `lava export`.
#[derive(clap::Args)]
pub struct Export {
    /// A session's folder, its id, its bundle, or `latest`.
    session: String,
    /// The format.
    #[arg(long, value_parser = format())]
    format: Format,
    /// Every event of the guest, or the whole graph; without it, what the task did and what findings rest on.
    #[arg(long)]
    all: bool,
    /// The file to write, instead of standard output. It is there when it is whole, or not at all.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Give lines as the session writes them, until it ends. Goes with ecs, ocsf, cef and syslog.
    #[arg(long, conflicts_with = "out")]
    follow: bool,
    /// Where the lines go, instead of standard output: tls://HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT or unix:///PATH.
    #[arg(long, value_name = "ADDRESS", requires = "follow")]
    to: Option<String>,
    /// How lines are told apart in a stream: each with its length in front (RFC 6587; syslog, if not given), or a line feed behind each.
    #[arg(long, value_parser = framing(), requires = "to")]
    framing: Option<Framing>,
    /// Seconds that a line may wait for the other end to come back, before it is given up.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "to")]
    patience: u64,
    /// The CA of the collector's certificate (tls://), instead of those that this host trusts. PEM.
    #[arg(long, value_name = "FILE", requires = "to")]
    ca: Option<PathBuf>,
    /// Our own certificate, with its chain, for a collector that asks for one. PEM.
    #[arg(long, value_name = "FILE", requires_all = ["to", "key"])]
    cert: Option<PathBuf>,
    /// Its key. PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Folder of sessions, if not the usual one.
    #[arg(long, value_name = "DIR")]
    sessions: Option<PathBuf>,
}

/// How long after the last look it is looked again whether the session wrote more.
const LOOK: Duration = Duration::from_millis(200);

/// Reads a format's name, for clap.
fn format() -> impl TypedValueParser<Value = Format> {
    let values = Format::ALL.iter().map(|format| PossibleValue::new(format.name()).help(format.about()));
    PossibleValuesParser::new(values).try_map(|name| Format::named(&name).ok_or("there is no such format"))
}

/// Reads a framing's name, for clap.
fn framing() -> impl TypedValueParser<Value = Framing> {
    PossibleValuesParser::new(["octets", "newline"])
        .map(|name| if name == "octets" { Framing::Octets } else { Framing::Newline })
}

impl Export {
    /// Writes it, and says what it could not.
    pub fn run(&self) -> Result<()> {
        let session = show::find(&self.session, self.sessions.as_deref())?;
        let scope = if self.all { Scope::All } else { Scope::Task };
        if self.follow {
            return self.follow(&session, scope);
        }
        let write = |out: &mut dyn Write| Ok(lava_export::export(&session, self.format, scope, out)?);
        let exported = output::write(self.out.as_deref(), write)?;
        if exported.left_out > 0 {
            eprintln!("lava: {} mentions of things did not fit and are only in the event log", exported.left_out);
        }
        readable(exported.unreadable)
    }

    fn follow(&self, session: &Session, scope: Scope) -> Result<()> {
        let mut follower = Follower::open(session, self.format, scope)?;
        let Some(address) = &self.to else {
            let mut out = std::io::stdout().lock();
            every(&mut follower, |line| Ok(writeln!(out, "{line}")?))?;
            return readable(follower.unreadable);
        };
        let framing = self.framing.unwrap_or(Framing::of(self.format));
        let files = TlsFiles { ca: self.ca.clone(), identity: self.cert.clone().zip(self.key.clone()) };
        let mut target = Target::new(address, framing, Duration::from_secs(self.patience), &files)?;
        every(&mut follower, |line| target.send(line))?;
        if target.too_long > 0 {
            eprintln!(
                "lava: {} line(s) were longer than a datagram can be, and are only in the event log",
                target.too_long
            );
        }
        target.finish()?;
        readable(follower.unreadable)
    }
}

/// Has every line taken until the session has ended.
fn every(follower: &mut Follower<'_>, mut take: impl FnMut(&str) -> Result<(), lava_export::Error>) -> Result<()> {
    while follower.step(&mut take)? == Step::Waiting {
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn readable(unreadable: u64) -> Result<()> {
    if unreadable > 0 {
        bail!("{unreadable} line(s) of the log could not be read: `lava verify` tells more");
    }
    Ok(())
}
