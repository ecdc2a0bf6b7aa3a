//! Where a session's files are: in a folder, or in a bundle, which is read without being unpacked: no malware comes to lie on the disk.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lava_event::Sha256;

use crate::Error;
use crate::bundle::Archive;

/// The files of a session, by name.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Folder(PathBuf),
    Bundle(Arc<Archive>),
}

impl Place {
    /// The folder, or the bundle's file.
    pub(crate) fn root(&self) -> &Path {
        match self {
            Self::Folder(dir) => dir,
            Self::Bundle(archive) => archive.path(),
        }
    }

    /// How a file is called in messages.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Opens a file; `None` if there is none. A link, a pipe or a device is an error: a folder from elsewhere must not make us read
    /// elsewhere, or forever.
    pub(crate) fn open(&self, name: &str) -> Result<Option<Box<dyn Read + Send>>, Error> {
        let dir = match self {
            Self::Folder(dir) => dir,
            Self::Bundle(archive) => return Ok(archive.open(name)),
        };
        let path = dir.join(name);
        match fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_file() => {}
            Ok(_) => return Err(Error::Malformed { path, problem: "is no ordinary file".into() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path, error)),
        }
        let file = File::open(&path).map_err(|error| Error::io("read", &path, error))?;
        Ok(Some(Box::new(file)))
    }

    /// The hash of a file; `None` if there is none.
    pub(crate) fn hash(&self, name: &str) -> Result<Option<Sha256>, Error> {
        let Some(mut file) = self.open(name)? else { return Ok(None) };
        Sha256::of_reader(&mut file).map(Some).map_err(|error| Error::io("read", &self.path(name), error))
    }

    /// The artifacts' names and sizes, by name.
    pub(crate) fn artifacts(&self) -> Result<Vec<(String, u64)>, Error> {
        let dir = match self {
            Self::Folder(dir) => dir.join("artifacts"),
            Self::Bundle(archive) => return Ok(archive.below("artifacts/")),
        };
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &dir, error)),
        };
        let mut found: Vec<(String, u64)> = entries
            .flatten()
            .map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                (name, entry.metadata().map_or(0, |facts| facts.len()))
            })
            .collect();
        found.sort();
        Ok(found)
    }
}
