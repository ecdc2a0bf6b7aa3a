//! The pool of unprivileged users that QEMUs run as when LAVA runs as root.
//!
//! No two sessions that run at the same time share a user: each holds the lock of a file of its user's number.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::QemuError;

/// User ids nobody else has: systemd leaves 60578..61183 unused (`docs/UIDS-GIDS.md`).
const USERS: std::ops::Range<u32> = 60600..61100;

/// Where the users' lock files lie; only root may write there.
const LOCKS: &str = "/run/lava-users";

/// The unprivileged user a QEMU runs as. It is ours alone as long as this lives; if we are killed, the kernel gives it back.
pub(crate) struct User {
    pub id: u32,
    _lock: File,
}

/// The user QEMU is to run as: `None` is our own, if that is unprivileged already.
pub(crate) fn choose_user() -> Result<Option<User>, QemuError> {
    if rustix::process::geteuid().is_root() { take_user(Path::new(LOCKS)).map(Some) } else { Ok(None) }
}

/// The first user whose lock nobody holds. The files stay: to remove one could give two sessions a lock of the same name.
fn take_user(folder: &Path) -> Result<User, QemuError> {
    let failed = |path: &Path, source| QemuError::Io { what: "cannot lock", path: path.to_owned(), source };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| failed(folder, source))?;
    for id in USERS {
        let path = folder.join(id.to_string());
        let lock = File::options().create(true).append(true).open(&path).map_err(|source| failed(&path, source))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(User { id, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(failed(&path, error.into())),
        }
    }
    Err(failed(folder, io::Error::other("every user of the pool is taken: too many sessions at once")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_one_sessions_alone_until_it_is_given_back() {
        let folder = tempfile::tempdir().expect("folder");
        let take = || take_user(folder.path()).expect("a user");
        let (first, second) = (take(), take());
        assert_ne!(first.id, second.id);
        let given_back = first.id;
        drop(first);
        assert_eq!(take().id, given_back);
        let _all: Vec<User> = USERS.skip(1).map(|_| take()).collect();
        assert!(take_user(folder.path()).is_err(), "the pool is used up");
        drop(second);
    }
}
