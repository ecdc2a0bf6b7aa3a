//! Why an export could not be made.

use std::io;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The session's folder.
    #[error(transparent)]
    Session(#[from] lava_evidence::Error),
    /// Where the export goes.
    #[error("cannot write the export: {0}")]
    Write(#[from] io::Error),
    /// A time that is none.
    #[error(
        "manifest.json: {field} is {value:?}, which is no RFC 3339 time: the manifest was changed; `lava verify` tells more"
    )]
    Time {
        /// Its field in the manifest.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// The graph as a picture.
    #[error("cannot draw the graph: {0}; trace.svg in the session's folder has it")]
    Picture(String),
    /// A format that is not one of lines.
    #[error("{0} is written when all was read: only ecs, ocsf, cef and syslog can be followed")]
    NoLines(&'static str),
    /// No address that lines could go to.
    #[error("{0:?} is no address to send to: tls://HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT or unix:///PATH")]
    Target(String),
    /// A file that TLS needs.
    #[error("{what}: {problem}; `--ca`, `--cert` and `--key` take PEM files")]
    Tls {
        /// Which.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The two ends do not trust each other: waiting helps nobody.
    #[error(
        "{to}: {error}; `--ca FILE` names the CA that the collector's certificate is of, `--cert` and `--key` are ours"
    )]
    Refused {
        /// Its address.
        to: String,
        /// What TLS said.
        error: io::Error,
    },
    /// The other end.
    #[error("cannot send to {to}: {error}; what was sent before may have been read or not")]
    Send {
        /// Its address.
        to: String,
        /// What the system said.
        error: io::Error,
    },
    /// A font that LAVA brings.
    #[error("LAVA's own font can't be read: {0}; this is a fault of LAVA")]
    Font(String),
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Write(error.into())
    }
}
