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
    /// A font that LAVA brings.
    #[error("LAVA's own font can't be read: {0}; this is a fault of LAVA")]
    Font(String),
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Write(error.into())
    }
}
