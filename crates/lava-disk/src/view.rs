//! The disk's bytes as the guest would read them, for tests and reports.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::regions::Regions;
use crate::storage::Storage;

/// Reads base and overlay, merged, also while the server runs and after it has stopped.
#[derive(Clone, Debug)]
pub struct DiskView {
    pub(crate) storage: Arc<Storage>,
    pub(crate) regions: Arc<Regions>,
}

impl DiskView {
    /// Size of the disk, bytes: the base's, rounded up to a sector of 512.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.storage.size()
    }

    /// The `len` bytes from byte `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if that is not all inside the disk; what the host's files say otherwise.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        inside(offset, len, self.size())?;
        let mut bytes = vec![0; len];
        self.storage.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `buffer` with the bytes from byte `offset` on.
    ///
    /// # Errors
    /// As [`DiskView::read_at`].
    pub fn read_into(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        inside(offset, buffer.len(), self.size())?;
        self.storage.read(offset, buffer)
    }

    /// The disk as it was before the server started: without the overlay.
    #[must_use]
    pub fn base(&self) -> BaseView {
        BaseView { storage: Arc::clone(&self.storage) }
    }

    /// Makes the overlay a layer that other disks can lie on ([`crate::DiskConfig::layer`]): writes its map beside it. For a disk
    /// whose server has stopped.
    ///
    /// # Errors
    /// What the host's files say; an overlay that itself lies on a layer is refused.
    pub fn seal(&self) -> io::Result<()> {
        self.storage.seal()
    }

    /// Keeps, in two new files, what the session found and what it left, so that [`crate::KeptDisk`] reads both when the template and
    /// the overlay are gone. False, and no file, if these would be longer than `most` bytes together. For a disk whose server has stopped, or
    /// whose guest is held.
    ///
    /// # Errors
    /// What the host's files say; a file that exists is never overwritten.
    pub fn keep(&self, before: &Path, after: &Path, most: u64) -> io::Result<bool> {
        self.storage.keep(before, after, most)
    }

    /// Bytes that [`DiskView::keep`] would write now at most, but for some that tell where they belong.
    #[must_use]
    pub fn kept_at_most(&self) -> u64 {
        self.storage.kept_at_most()
    }

    /// The watched parts of the disk, as its base is laid out.
    #[must_use]
    pub fn regions(&self) -> &Regions {
        &self.regions
    }
}

/// Reads what the overlay lies on: the image, and a template's layer on it.
#[derive(Clone, Debug)]
pub struct BaseView {
    storage: Arc<Storage>,
}

impl BaseView {
    /// Size of the disk, bytes: as [`DiskView::size`].
    #[must_use]
    pub fn size(&self) -> u64 {
        self.storage.size()
    }

    /// Fills `buffer` with the bytes from byte `offset` on.
    ///
    /// # Errors
    /// As [`DiskView::read_at`].
    pub fn read_into(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        inside(offset, buffer.len(), self.size())?;
        self.storage.read_base(offset, buffer)
    }
}

pub(crate) fn inside(offset: u64, len: usize, size: u64) -> io::Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
