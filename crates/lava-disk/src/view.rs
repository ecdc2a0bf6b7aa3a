//! The disk's bytes as the guest would read them, for tests and reports.

use std::io;
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
        if offset.checked_add(len as u64).is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        self.storage.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Makes the overlay a layer that other disks can lie on ([`crate::DiskConfig::layer`]): writes its map beside it. For a disk
    /// whose server has stopped.
    ///
    /// # Errors
    /// What the host's files say; an overlay that itself lies on a layer is refused.
    pub fn seal(&self) -> io::Result<()> {
        self.storage.seal()
    }

    /// The watched parts of the disk, as its base is laid out.
    #[must_use]
    pub fn regions(&self) -> &Regions {
        &self.regions
    }
}
