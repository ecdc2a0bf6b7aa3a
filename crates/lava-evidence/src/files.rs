//! Writing files so that what is there is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

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

/// Reads to the end, piece by piece.
pub(crate) fn pieces(reader: &mut dyn Read, mut take: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => take(&piece[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// All bytes of a file of at most `max`.
pub(crate) fn read_bounded(path: &Path, max: usize) -> Result<Vec<u8>, Error> {
    let mut file = File::open(path).map_err(|error| Error::io("read", path, error))?;
    read_all(&mut file, path, max)
}

/// All bytes that a reader gives, if they are at most `max`; `path` is for the error.
pub(crate) fn read_all(reader: &mut dyn Read, path: &Path, max: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    reader.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|error| Error::io("read", path, error))?;
    if bytes.len() > max {
        let limit = if max >> 20 > 0 { format!("{} MiB", max >> 20) } else { format!("{max} bytes") };
        let problem = format!("longer than {limit}: LAVA writes no such file");
        return Err(Error::Malformed { path: path.to_path_buf(), problem });
    }
    Ok(bytes)
}
