//! The QEMU program: which one, and whether it is new enough.
//!
//! The tap needs the plugin API 4 (registers and memory), which came with QEMU 9.2; so did `reconnect-ms`.

pub(crate) mod cage;
pub(crate) mod command;
pub(crate) mod limits;
pub(crate) mod process;
pub(crate) mod tool;
pub(crate) mod users;

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::SystemTime;

use crate::lock;
pub use cage::check_cage;
pub use limits::check_limits;
pub use tool::CagedTools;

/// The program's name.
const PROGRAM: &str = "qemu-system-x86_64";
/// Names another program.
const OVERRIDE: &str = "LAVA_QEMU";
/// The oldest that will do.
pub const OLDEST: Version = Version { major: 9, minor: 2, patch: 0 };

/// A version of QEMU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version {
    /// 10 in 10.0.2.
    pub major: u32,
    /// 0 in 10.0.2.
    pub minor: u32,
    /// 2 in 10.0.2.
    pub patch: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A QEMU that will do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Qemu {
    /// The program.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
}

/// Why there is no QEMU to run.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// None found.
    #[error("{PROGRAM} was not found on PATH: run `cargo xtask setup`, or set {OVERRIDE} to the program")]
    Missing,
    /// The override names nothing that can be run.
    #[error("{OVERRIDE} is {}, which is no program: correct it, or unset it and run `cargo xtask setup`", path.display())]
    Override {
        /// What it names.
        path: PathBuf,
    },
    /// It did not say its version.
    #[error("{} --version did not answer as QEMU does ({why}): run `cargo xtask setup`", path.display())]
    NoVersion {
        /// The program.
        path: PathBuf,
        /// What it said instead.
        why: String,
    },
    /// Too old.
    #[error("{} is QEMU {found}, LAVA needs {OLDEST} or newer: run `cargo xtask setup`", path.display())]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// A path that cannot be written on QEMU's command line.
    #[error("{} cannot be given to QEMU (not UTF-8, or with a line break): move it", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The path of a Unix socket is too long.
    #[error("the runtime folder's path is too long: {} has more than 107 bytes, the most a Unix socket's path has", path.display())]
    SocketPath {
        /// The socket's path.
        path: PathBuf,
    },
    /// A file that QEMU's unprivileged user may not read.
    #[error("{} must be readable by everybody, because QEMU does not run as root: chmod a+r it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
    /// No namespaces.
    #[error(
        "the cage around QEMU cannot be made, and without it LAVA starts nothing untrusted; bwrap says: {why}. As an ordinary user it \
         needs user namespaces (sysctl user.max_user_namespaces; on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0), in a \
         container the right to make namespaces"
    )]
    Cage {
        /// What bubblewrap says.
        why: String,
    },
    /// The file system or the kernel said no.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Finds QEMU: what `LAVA_QEMU` names, else the first on PATH.
///
/// # Errors
/// [`QemuError`], if there is none, or it is older than [`OLDEST`].
pub fn find() -> Result<Qemu, QemuError> {
    find_in(std::env::var_os(OVERRIDE).as_deref(), std::env::var_os("PATH").as_deref())
}

fn find_in(named: Option<&OsStr>, search: Option<&OsStr>) -> Result<Qemu, QemuError> {
    let path = match named.filter(|named| !named.is_empty()) {
        Some(named) if runs(Path::new(named)) => PathBuf::from(named),
        Some(named) => return Err(QemuError::Override { path: named.into() }),
        None => std::env::split_paths(search.unwrap_or_default())
            .map(|folder| folder.join(PROGRAM))
            .find(|path| runs(path))
            .ok_or(QemuError::Missing)?,
    };
    // Asking takes some hundredths of a second, and one start wants to know several times.
    static KNOWN: Mutex<Option<(Qemu, SystemTime)>> = Mutex::new(None);
    let changed = path.metadata().and_then(|file| file.modified()).ok();
    if let Some((qemu, then)) = &*lock(&KNOWN)
        && qemu.path == path
        && Some(*then) == changed
    {
        return Ok(qemu.clone());
    }
    let qemu = ask(path)?;
    *lock(&KNOWN) = changed.map(|changed| (qemu.clone(), changed));
    Ok(qemu)
}

/// Asks a QEMU for its version.
fn ask(path: PathBuf) -> Result<Qemu, QemuError> {
    let no_version = |why: String| QemuError::NoVersion { path: path.clone(), why };
    let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| no_version(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = || no_version(text.lines().next().unwrap_or("nothing").chars().take(100).collect());
    let version = version_in(&text).ok_or_else(said)?;
    if version < OLDEST {
        return Err(QemuError::TooOld { path, found: version });
    }
    Ok(Qemu { path, version })
}

fn runs(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// The version in what `--version` prints: `QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)`.
fn version_in(text: &str) -> Option<Version> {
    let rest = text.split_once("QEMU emulator version ")?.1;
    let number = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = number.split('.').map(|part| part.parse().ok());
    Some(Version { major: parts.next()??, minor: parts.next()??, patch: parts.next().flatten().unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let check = |text, expected: Option<(u32, u32, u32)>| {
            assert_eq!(version_in(text).map(|v| (v.major, v.minor, v.patch)), expected, "{text}");
        };
        check("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\n", Some((10, 0, 2)));
        check("QEMU emulator version 9.2\n", Some((9, 2, 0)));
        check("QEMU emulator version 9.1.50-rc1", Some((9, 1, 50)));
        check("QEMU emulator version x", None);
        check("bash 5", None);
    }

    #[test]
    fn errors_say_what_to_do() {
        let folder = tempfile::tempdir().expect("folder");
        let fake = |text: &str| {
            let path = folder.path().join(PROGRAM);
            std::fs::write(&path, format!("#!/bin/sh\necho '{text}'\n")).expect("fake");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("mode");
            find_in(None, Some(folder.path().as_os_str()))
        };
        assert!(matches!(find_in(None, Some(folder.path().as_os_str())), Err(QemuError::Missing)));
        assert!(matches!(find_in(Some("/no/qemu".as_ref()), None), Err(QemuError::Override { .. })));
        let old = fake("QEMU emulator version 7.2.9").expect_err("old").to_string();
        assert!(old.contains("7.2.9") && old.contains("cargo xtask setup"), "{old}");
        assert!(matches!(fake("what"), Err(QemuError::NoVersion { .. })));
        assert_eq!(fake("QEMU emulator version 9.2.0").expect("new").version, OLDEST);
    }
}
