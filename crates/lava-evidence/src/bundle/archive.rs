//! A bundle's members, read from where they lie in the file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::DeflateDecoder;

/// A member that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    pub(super) name: String,
    /// Where its bytes begin, and how many there are.
    pub(super) at: u64,
    pub(super) packed: u64,
    /// Bytes of content, by the list.
    pub(super) size: u64,
}

/// The members of a bundle. Reading one inflates it as it goes, and never beyond what the list says of its size.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    file: Arc<File>,
    /// By name.
    kept: Vec<Kept>,
}

impl Archive {
    /// Members, sorted by name, of a file.
    pub(super) fn new(path: &Path, file: Arc<File>, kept: Vec<Kept>) -> Self {
        Self { path: path.to_path_buf(), file, kept }
    }

    /// The bundle's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A member's content; `None` if there is none of that name.
    pub(crate) fn open(&self, name: &str) -> Option<Box<dyn Read + Send>> {
        let at = self.kept.binary_search_by(|kept| kept.name.as_str().cmp(name)).ok()?;
        let kept = self.kept.get(at)?;
        Some(Box::new(inflated(&self.file, kept).take(kept.size)))
    }

    /// Names, without the prefix, and sizes of the members whose name begins with it.
    pub(crate) fn below(&self, prefix: &str) -> Vec<(String, u64)> {
        let below = self.kept.iter().filter_map(|kept| Some((kept.name.strip_prefix(prefix)?.to_owned(), kept.size)));
        below.collect()
    }
}

/// A member's content, without a bound.
pub(super) fn inflated(file: &Arc<File>, kept: &Kept) -> DeflateDecoder<Piece> {
    DeflateDecoder::new(Piece::new(file, kept.at, kept.packed))
}

/// Some bytes of a file.
pub(super) struct Piece {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Piece {
    pub(super) fn new(file: &Arc<File>, at: u64, left: u64) -> Self {
        Self { file: Arc::clone(file), at, left }
    }
}

impl Read for Piece {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
