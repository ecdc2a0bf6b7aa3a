//! What goes wrong with a session folder, said so that the reader knows what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why a session could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system is full, or a quota is reached.
    #[error(
        "no space left for {}: free some on that file system, or give another evidence folder; what was written before stays valid", path.display()
    )]
    DiskFull {
        /// What was being written.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Anything else the system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// `create`, `write`, `read`...
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// There is a session of this name.
    #[error("{} exists already; evidence is never written over: give another name, or remove it", .0.display())]
    Exists(PathBuf),
    /// The id cannot name a folder.
    #[error("{0:?} is no session id: 1 to 64 letters, digits, `-` or `_` (LAVA makes 26-character ULIDs)")]
    BadId(String),
    /// No manifest in it.
    #[error("{} is no session: it has no manifest.json (give the folder that holds events.jsonl)", .0.display())]
    NotASession(PathBuf),
    /// A file that does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// A line that does not hold what it should. Later lines can still be read.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// It was changed after it was written: a signature over it would hide that.
    #[error("{} was changed after it was written ({problem}): it is not signed; `lava verify` tells all", path.display())]
    Tampered {
        /// The session.
        path: PathBuf,
        /// The first thing that is wrong.
        problem: String,
    },
    /// An artifact whose bytes do not have the hash it came with.
    #[error("an artifact named {0} has other bytes: its producer is broken; it was not stored")]
    WrongArtifact(lava_event::Sha256),
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, source },
            _ => Self::Io { doing, path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_where_and_what_to_do() {
        let error = Error::io("write", Path::new("/e/events.jsonl"), io::ErrorKind::StorageFull.into());
        assert!(matches!(error, Error::DiskFull { .. }));
        let text = error.to_string();
        assert!(text.contains("/e/events.jsonl") && text.contains("free some"), "{text}");
    }
}
