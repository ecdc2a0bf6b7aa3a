//! The cage: what QEMU's process sees of the host.
//!
//! `bwrap` (bubblewrap) gives it mount, network, process, IPC, host name and control group namespaces of its own. In them there are:
//! its program, the system's libraries and QEMU's firmware (read-only), the files that are shown to it below `/lava` (read-only), the
//! session's runtime folder, `/dev/null`, a `/proc` of its own processes, and a network without any interface but its own loopback.
//!
//! If LAVA runs as root, `bwrap` makes the namespaces as root, and `setpriv` (util-linux) demotes inside, before QEMU's first
//! instruction, to an unprivileged user without groups and capabilities. (`-run-with user=` dies under `-sandbox`.) Otherwise a user
//! namespace gives the right to make the others; QEMU gets no capabilities in it and may make no further ones.
//!
//! There is no way around it: where the cage can't be made, nothing is started.
//!
//! *Invariant:* the thread that starts it outlives the process: the kernel kills `bwrap` with it, and QEMU with `bwrap`.
//!
//! Limits: `/proc` tells what the host's processor, memory and kernel are.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::users::choose_user;
use super::{Qemu, QemuError, find};

/// Makes the namespaces.
pub(crate) const BWRAP: &str = "bwrap";
/// Demotes.
pub(crate) const SETPRIV: &str = "/usr/bin/setpriv";
/// Where programs are looked for; QEMU's whole environment.
const PATH: &str = "/usr/bin:/bin";
/// The system's libraries: Debian keeps those of its architecture in a folder of their own, others do not.
const MULTIARCH: &str = "/usr/lib/x86_64-linux-gnu";
/// Where the files shown lie for QEMU.
const SHOWN: &str = "/lava";
/// What QEMU needs beside its libraries, below the prefix it is installed in.
const FIRMWARE: [&str; 2] = ["share/qemu", "share/seabios"];

/// What one QEMU is given of the host.
pub(crate) struct Cage {
    user: Option<u32>,
    /// (option, path on the host, path for QEMU)
    binds: Vec<(&'static str, PathBuf, PathBuf)>,
}

impl Cage {
    /// An empty one; QEMU will run as `user`, or as we do.
    pub fn new(user: Option<u32>) -> Self {
        Self { user, binds: Vec::new() }
    }

    /// Shows QEMU a file, read-only; returns its path for QEMU.
    pub fn show(&mut self, path: &Path, name: &str) -> Result<PathBuf, QemuError> {
        let failed = |source| QemuError::Io { what: "cannot open", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if self.user.is_some() && file.metadata().map_err(failed)?.permissions().mode() & 0o004 == 0 {
            return Err(QemuError::Unreadable { path: path.to_owned() });
        }
        let inside = Path::new(SHOWN).join(name);
        self.binds.push(("--ro-bind", path.canonicalize().map_err(failed)?, inside.clone()));
        Ok(inside)
    }

    /// Shows another program, which lies beside the system's own, under its own path.
    pub fn program(&mut self, path: &Path) -> Result<(), QemuError> {
        let failed = |source| QemuError::Io { what: "cannot open", path: path.to_owned(), source };
        let program = path.canonicalize().map_err(failed)?;
        self.binds.push(("--ro-bind", program, path.to_owned()));
        Ok(())
    }

    /// Gives QEMU a folder, to write too, under its own path.
    pub fn give(&mut self, folder: &Path) {
        self.binds.push(("--bind", folder.to_owned(), folder.to_owned()));
    }

    /// The command that runs `program` in the cage; its arguments are to follow. `further` are options for `bwrap`.
    pub fn command(&self, program: &Path, further: &[String]) -> Result<Command, QemuError> {
        let failed = |source| QemuError::Io { what: "cannot open", path: program.to_owned(), source };
        let program = program.canonicalize().map_err(failed)?;
        let mut command = Command::new(BWRAP);
        command.args(["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]);
        command.args(["--hostname", "lava", "--as-pid-1", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]);
        match self.user {
            None => command.args(["--unshare-user", "--disable-userns"]),
            // For setpriv, which gives them up.
            Some(_) => {
                command.args(["CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"].into_iter().flat_map(|cap| ["--cap-add", cap]))
            }
        };
        if self.user.is_some() {
            bind(&mut command, "--ro-bind", SETPRIV.as_ref(), SETPRIV.as_ref());
        }
        system(&mut command, &program);
        command.args(["--dir", "/dev", "--dev-bind", "/dev/null", "/dev/null", "--proc", "/proc"]);
        for (option, outside, inside) in &self.binds {
            bind(&mut command, option, outside, inside);
        }
        command.args(["--remount-ro", "/"]).args(further).arg("--");
        if let Some(user) = self.user {
            let user = user.to_string();
            command.args([SETPRIV, "--reuid", &user, "--regid", &user, "--clear-groups", "--inh-caps=-all"]);
            // A change of user clears the wish to die with the parent: it is made anew.
            command.args(["--bounding-set=-all", "--no-new-privs", "--pdeathsig", "KILL", "--"]);
        }
        command.arg(program).env_clear().env("PATH", PATH).current_dir("/");
        Ok(command)
    }
}

/// Binds a file or folder of the host's. The folders on the way to it are made here: `bwrap` would close them to other users.
fn bind(command: &mut Command, option: &str, outside: &Path, inside: &Path) {
    if let Some(folder) = inside.parent().filter(|folder| folder.parent().is_some()) {
        command.arg("--dir").arg(folder);
    }
    command.arg(option).args([outside, inside]);
}

/// The program, the libraries, the firmware.
fn system(command: &mut Command, program: &Path) {
    let libraries = if Path::new(MULTIARCH).is_dir() { MULTIARCH } else { "/usr/lib" };
    let mut show = |path: &Path| bind(command, "--ro-bind-try", path, path);
    show(program);
    show(Path::new(libraries));
    show(Path::new("/usr/lib64"));
    show(Path::new("/etc/ld.so.cache"));
    let usr = Path::new("/usr");
    // PREFIX/bin/qemu-system-x86_64
    let own = program.parent().and_then(Path::parent).filter(|&prefix| prefix != usr && prefix != Path::new("/"));
    for folder in FIRMWARE {
        show(&usr.join(folder));
    }
    if let Some(prefix) = own {
        for folder in ["lib", "lib64"].iter().chain(&FIRMWARE) {
            show(&prefix.join(folder));
        }
    }
    for folder in ["/lib", "/lib64"] {
        // Merged into /usr on today's systems.
        match std::fs::read_link(folder) {
            Ok(to) => command.arg("--symlink").arg(to).arg(folder),
            Err(_) => command.args(["--ro-bind-try", folder, folder]),
        };
    }
}

/// What `bwrap` said when it could not make the cage, and what helps.
pub(crate) fn cannot(said: &str) -> QemuError {
    QemuError::Cage { why: if said.is_empty() { "it says nothing".into() } else { said.trim().to_owned() } }
}

/// Starts QEMU in a cage, to ask for its version only: whether it works on this host.
///
/// # Errors
/// [`QemuError`], if there is no QEMU, no bubblewrap, or the host does not let it make namespaces.
pub fn check_cage() -> Result<String, QemuError> {
    let Qemu { path, version } = find()?;
    let user = choose_user()?;
    let mut command = Cage::new(user.as_ref().map(|user| user.id)).command(&path, &[])?;
    let Output { status, stdout, stderr } =
        command.arg("--version").stdin(Stdio::null()).output().map_err(not_started)?;
    if !status.success() || !stdout.starts_with(b"QEMU") {
        return Err(cannot(&String::from_utf8_lossy(&stderr)));
    }
    Ok(match user {
        Some(user) => format!("QEMU {version} runs in namespaces of its own, as a user of its own ({}...)", user.id),
        None => format!("QEMU {version} runs in namespaces of its own, made by a user namespace"),
    })
}

/// `bwrap` could not be started.
pub(crate) fn not_started(source: std::io::Error) -> QemuError {
    QemuError::Io {
        what: "cannot start (package bubblewrap; `cargo xtask setup` installs it)",
        path: BWRAP.into(),
        source,
    }
}
