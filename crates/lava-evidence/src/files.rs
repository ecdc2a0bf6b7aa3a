//! Writing files so that what is there is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use lava_event::Sha256;
use sha2::Digest;

use crate::Error;

/// A folder only its owner can enter: there is malware in it.
pub(crate) fn create_dir(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().mode(0o700).create(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists(path.to_path_buf()),
        _ => Error::io("create", path, error),
    })
}

/// A new file to append to.
pub(crate) fn create(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| Error::io("create", path, error))
}

/// Marks the file as being written, until it is closed or its process ends, however that ends.
pub(crate) fn lock(path: &Path, file: &File) -> Result<(), Error> {
    let locked = rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    locked.map_err(|error| Error::io("lock", path, error.into()))
}

/// True if somebody has marked it so.
pub(crate) fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let locked = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
    locked == Err(rustix::io::Errno::WOULDBLOCK)
}

/// The whole content or none of it, also after a crash.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
    written.and_then(|()| fs::rename(part, path)).map_err(|error| {
        let _ = fs::remove_file(part); // Half a file helps nobody; that it cannot be removed changes nothing.
        Error::io("write", path, error)
    })
}

/// The hash of a file, read in pieces; `None` if there is none.
pub(crate) fn hash(path: &Path) -> Result<Option<Sha256>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let mut reader = BufReader::new(file);
    let mut hasher = sha2::Sha256::new();
    let mut piece = [0; 64 * 1024];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(Some(Sha256(hasher.finalize().into()))),
            Ok(n) => hasher.update(&piece[..n]),
            Err(error) => return Err(Error::io("read", path, error)),
        }
    }
}
