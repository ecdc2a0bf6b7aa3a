//! A session in the formats that other tools read.
//!
//! [`export`] reads a session's folder once, from its first event to its last, and writes one [`Format`]. Formats of events write a
//! line for each as it comes (`lines.rs`); formats of findings and of the graph write when all was read, from a summary of bounded
//! size (`summary.rs`). One module for each format.
//!
//! [`Follower`] gives the lines of a session while it runs, and a [`Target`] takes them to a collector.
//!
//! [`pack()`] makes what defenders' tools load out of what findings rest on (`pack/`): rules, block lists, queries, steps.
//!
//! *Invariants:* the same session gives the same bytes: times are the session's, identifiers follow from what they name. Whatever a
//! guest can choose is first made harmless as text (`text.rs`), then escaped for its format. Memory does not grow with the log.
//!
//! *Limits:* an export is as true as the folder: `lava verify` says whether that was changed. What was left out for its number is counted.
#![forbid(unsafe_code)]

mod attack;
mod cef;
mod clock;
mod drawing;
mod ecs;
mod error;
mod facts;
mod follow;
mod ids;
mod indicators;
mod isf;
mod lines;
mod misp;
mod navigator;
mod ocsf;
mod pack;
mod pdf;
mod picture;
mod remedy;
mod send;
mod stix;
mod summary;
mod syslog;
mod text;
mod tls;
mod walk;
mod web;

use std::io::Write;

use lava_evidence::Session;

pub use error::Error;
pub use follow::{Follower, Step};
pub use isf::isf;
pub use lines::Scope;
pub use pack::{Pack, pack};
pub use send::{Framing, Target};
use summary::Summary;
pub use tls::TlsFiles;

/// What was exported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    /// Lines of the log that could not be read.
    pub unreadable: u64,
    /// Mentions of things that did not fit.
    pub left_out: u64,
}

macro_rules! formats {
    ($($Format:ident $name:literal $extension:literal $about:literal,)*) => {
        /// A format.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Format {
            $(#[doc = $about] $Format,)*
        }

        impl Format {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$Format),*];

            /// Its name at the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Format => $name,)* }
            }

            /// The customary end of a file's name.
            #[must_use]
            pub const fn extension(self) -> &'static str {
                match self { $(Self::$Format => $extension,)* }
            }

            /// What it is, in a line.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$Format => $about,)* }
            }
        }
    };
}

formats! {
    Stix "stix" "json" "STIX 2.1 bundle: what was found, for threat-intelligence platforms",
    Misp "misp" "json" "MISP event",
    Navigator "navigator" "json" "layer for the ATT&CK Navigator (4.5)",
    IndicatorsCsv "indicators-csv" "csv" "indicators, for spreadsheets",
    IndicatorsJson "indicators-json" "json" "indicators, for scripts",
    Ecs "ecs" "ndjson" "Elastic Common Schema 9.4: events and findings, a line each",
    Ocsf "ocsf" "ndjson" "OCSF 1.5: events and findings, a line each",
    Cef "cef" "cef" "ArcSight CEF: events and findings, a line each",
    Syslog "syslog" "log" "syslog (RFC 5424): events and findings, a line each",
    GraphMl "graphml" "graphml" "the graph as GraphML",
    Dot "dot" "dot" "the graph for Graphviz",
    Cytoscape "cytoscape" "cyjs" "the graph as Cytoscape.js JSON",
    Png "png" "png" "the graph as a picture",
    Pdf "pdf" "pdf" "the report on paper: verdict, kill chain, findings, timeline, network, files, decisions",
}

impl Format {
    /// The format of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|format| format.name() == name)
    }

    /// How to write it, if it is one of events.
    fn lines(self) -> Option<&'static dyn lines::Lines> {
        match self {
            Self::Ecs => Some(&ecs::Ecs),
            Self::Ocsf => Some(&ocsf::Ocsf),
            Self::Cef => Some(&cef::Cef),
            Self::Syslog => Some(&syslog::Syslog),
            _ => None,
        }
    }
}

/// Writes a session in a format.
///
/// # Errors
/// If the session cannot be read, or the export cannot be written. A line of the log that is none is counted and left out.
pub fn export(session: &Session, format: Format, scope: Scope, out: &mut dyn Write) -> Result<Exported, Error> {
    if let Some(lines) = format.lines() {
        return lines::write(session, lines, scope, out);
    }
    let summary = Summary::of(session)?;
    match format {
        Format::Stix => stix::write(&summary, out)?,
        Format::Misp => misp::write(&summary, out)?,
        Format::Navigator => navigator::write(&summary, out)?,
        Format::IndicatorsCsv => indicators::csv(&summary, out)?,
        Format::IndicatorsJson => indicators::json(&summary, out)?,
        Format::GraphMl => drawing::graphml(&summary, scope, out)?,
        Format::Dot => drawing::dot(&summary, scope, out)?,
        Format::Cytoscape => drawing::cytoscape(&summary, scope, out)?,
        Format::Png => picture::png(&summary.trace, out)?,
        Format::Pdf => pdf::write(session, &summary, out)?,
        Format::Ecs | Format::Ocsf | Format::Cef | Format::Syslog => {}
    }
    Ok(Exported { unreadable: summary.unreadable, left_out: summary.left_out })
}
