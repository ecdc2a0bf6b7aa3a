//! From an id in a request to a session's folder, and nowhere else.
//!
//! *Boundary:* ids and names come from the network, and a folder may have been handed over by others: a link in it is not followed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use lava_evidence::Session;

use crate::error::{Answer, ApiError};

/// Whether it can name a session: what `SessionWriter` takes for an id.
pub fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The folder of this id, if there is one.
pub fn find(root: &Path, id: &str) -> Option<PathBuf> {
    let dir = is_id(id).then(|| root.join(id))?;
    std::fs::symlink_metadata(&dir).is_ok_and(|facts| facts.is_dir()).then_some(dir)
}

/// Opens the session of this id.
pub fn open(root: &Path, id: &str) -> Answer<Session> {
    let dir = find(root, id).ok_or_else(|| ApiError::not_found("such session"))?;
    let session = Session::open(&dir)?;
    if session.manifest().session.0 == id {
        Ok(session)
    } else {
        Err(ApiError::conflict(format!("the folder {id} holds another session: give it its own name")))
    }
}

/// The newest ids first, at most `limit`, older than `before`. Hidden folders are not sessions.
pub fn list(root: &Path, limit: usize, before: Option<&str>) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut ids: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|id| is_id(id) && before.is_none_or(|before| id.as_str() < before))
        .collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    ids.truncate(limit);
    ids
}

/// Opens an ordinary file to read; no link, no device, no pipe.
pub fn open_file(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        // It is a link: for us there is nothing.
        Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => io::ErrorKind::NotFound.into(),
        _ => error,
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
}
