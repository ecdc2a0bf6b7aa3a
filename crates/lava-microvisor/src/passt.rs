//! passt: the way from the virtual network to the host's, with sockets of an unprivileged user (<https://passt.top>).
//!
//! It is given one end of a Unix socket, whose other end `lava-net` has; it sees no frame but those that `lava-net` sends on. Before it
//! takes the first it has put itself into namespaces of its own (but the network's, which is the host's), with an empty file system, without
//! capabilities, and behind a seccomp filter. It is told the guest's addresses, to forward no port to the guest, and to map no
//! address to the host's loopback (`--no-map-gw`).
//!
//! If LAVA runs as root, `setpriv` demotes it before it begins, to the session's user (`qemu::users`). It ends when the socket's other end
//! closes, so also with a supervisor that was killed; [`super::machine::sweep`] looks after it nevertheless.
//!
//! Limits: IPv4. The options are those of passt 2023-03-09 (Debian 12) and newer ones have them too.

use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lava_net::lan;

use crate::lock;
use crate::qemu::cage::SETPRIV;
use crate::qemu::process::{copy, how};

const PROGRAM: &str = "passt";
/// Where the host says who resolves names.
const RESOLVERS: &str = "/etc/resolv.conf";
/// Longest answer to a question for a MAC address, bytes.
const LONGEST: u64 = 1 << 16;
/// For it to come up: it reads the host's routes and addresses.
const COMING_UP: Duration = Duration::from_secs(20);
/// For it to go once its socket is closed.
const GOING: Duration = Duration::from_secs(5);
/// The socket's number for passt: 0 to 2 are not for it, newer ones close what is above.
const MOVE_SOCKET: &str = "exec 3<&0 </dev/null; exec \"$@\"";

/// Why there is no way to the real network.
#[derive(Debug, thiserror::Error)]
pub enum PasstError {
    /// There is none.
    #[error(
        "passt was not found on PATH: it is the way to the real network (package passt; `cargo xtask setup` installs it)"
    )]
    Missing,
    /// Nobody to ask for names.
    #[error(
        "{RESOLVERS} names no resolver with an IPv4 address (`nameserver 192.0.2.1`): no name could be resolved for the guest"
    )]
    NoResolver,
    /// It could not be started.
    #[error("cannot start {}: {source}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended, or does not answer.
    #[error("passt opens no way to the real network ({how}); it says: {said}")]
    NoWay {
        /// How it ended.
        how: String,
        /// What it complained.
        said: String,
    },
}

/// Where passt is.
///
/// # Errors
/// [`PasstError::Missing`].
pub fn find() -> Result<PathBuf, PasstError> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::split_paths(&search).map(|folder| folder.join(PROGRAM));
    paths.into_iter().find(|path| path.is_file()).ok_or(PasstError::Missing)
}

/// Whom the host asks for names.
///
/// # Errors
/// [`PasstError::NoResolver`].
pub fn resolver() -> Result<Ipv4Addr, PasstError> {
    let text = std::fs::read_to_string(RESOLVERS).unwrap_or_default();
    first_resolver(&text).ok_or(PasstError::NoResolver)
}

/// The first with an IPv4 address (resolv.conf(5)), read as passt reads it: one that passt does not see is none.
fn first_resolver(text: &str) -> Option<Ipv4Addr> {
    let address = |line: &str| line.strip_prefix("nameserver ")?.rsplit(' ').next()?.parse().ok();
    text.lines().find_map(address)
}

/// The running passt.
#[derive(Debug)]
pub(crate) struct Passt {
    child: Child,
    tail: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Passt {
    /// Starts it for a guest with this card, and waits until it answers. Returns the socket to it.
    pub fn start(user: Option<u32>, guest: [u8; 6]) -> Result<(Self, UnixStream), PasstError> {
        let path = find()?;
        // Without one passt would ask whoever listens on the host's loopback.
        resolver()?;
        let failed = |source| PasstError::Start { path: path.clone(), source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = command(&path, user);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        // It holds the other end of the socket, which has to go with passt.
        drop(command);
        let tail = Arc::new(Mutex::new(Vec::new()));
        let (kept, said) = (Arc::clone(&tail), child.stderr.take());
        let mut passt = Self { child, tail, reader: None };
        if let Some(said) = said {
            let read = move || copy(said, io::sink(), 0, Some(kept));
            passt.reader = Some(std::thread::Builder::new().name("passt-stderr".into()).spawn(read).map_err(failed)?);
        }
        match answers(&ours, guest) {
            Ok(()) => Ok((passt, ours)),
            Err(error) => {
                let ended = passt.child.try_wait().ok().flatten().map(how);
                let how = ended.unwrap_or_else(|| format!("it does not answer: {error}"));
                let _ = passt.child.kill();
                Err(PasstError::NoWay { how, said: passt.complaint() })
            }
        }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end, which the closing of its socket brings. Says how it ended if that was not well, and what it complained.
    pub fn stop(mut self) -> Option<String> {
        let deadline = Instant::now() + GOING;
        let mut status = self.child.try_wait().ok().flatten();
        while status.is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            status = self.child.try_wait().ok().flatten();
        }
        if status.is_some_and(|status| status.success()) {
            return None;
        }
        let how = status.map_or_else(|| "it did not end by itself and was killed".to_owned(), how);
        let _ = self.child.kill();
        let said = self.complaint();
        Some(if said.is_empty() { format!("passt: {how}") } else { format!("passt: {how}; it said: {said}") })
    }

    /// The end of what it complained, once it is gone.
    fn complaint(&mut self) -> String {
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let said = String::from_utf8_lossy(&lock(&self.tail)).into_owned();
        // Debian 12's complains first that it reaches no system log.
        let lines = said.lines().filter(|line| !line.is_empty() && !line.starts_with("Failed to send"));
        let lines: Vec<String> = lines.map(|line| line.chars().filter(|c| !c.is_control()).collect()).collect();
        lines.join("; ")
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        // It fails if passt is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command. A program that is started at the same moment could not inherit the socket: it is passt's standard input first.
fn command(path: &Path, user: Option<u32>) -> Command {
    let mac: Vec<String> = lan::gateway_mac().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", MOVE_SOCKET, "sh"]);
    if let Some(user) = user {
        let user = user.to_string();
        command.args([SETPRIV, "--reuid", &user, "--regid", &user, "--clear-groups", "--inh-caps=-all"]);
        command.args(["--bounding-set=-all", "--no-new-privs", "--"]);
    }
    command.arg(path).args(["--foreground", "--quiet", "--ipv4-only", "--fd", "3", "--mtu", "1500"]);
    command.args(["--address", &lan::GUEST.to_string(), "--netmask", &lan::NETMASK.to_string()]);
    command.args(["--gateway", &lan::GATEWAY.to_string(), "--mac-addr", &mac.join(":"), "--no-map-gw"]);
    // It finds the host's resolver itself: told by `--dns`, newer ones forward to 0.0.0.0 and Debian 12's to nobody.
    command.args(["--dns-forward", &lan::GATEWAY.to_string()]);
    command.args(["--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra", "--tcp-ports", "none", "--udp-ports", "none"]);
    command.env_clear().current_dir("/");
    command
}

/// Asks for the gateway's MAC address until it is told: then passt is up, and knows the guest's card.
fn answers(socket: &UnixStream, guest: [u8; 6]) -> io::Result<()> {
    let question = lan::arp_request(guest);
    let length = u32::try_from(question.len()).map_err(io::Error::other)?;
    socket.set_read_timeout(Some(COMING_UP))?;
    let mut stream = socket;
    stream.write_all(&[&length.to_be_bytes()[..], &question].concat())?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut answer = Vec::new();
    stream.take(u64::from(u32::from_be_bytes(head)).min(LONGEST)).read_to_end(&mut answer)?;
    socket.set_read_timeout(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::users::choose_user;

    #[test]
    fn the_first_resolver_with_an_ipv4_address_is_asked() {
        for (text, expected) in [
            (
                "# nameserver 1.1.1.1\nnameserver fd00::1\nnameserver\t8.8.8.8\nnameserver  127.0.0.53\nnameserver 9.9.9.9",
                Some([127, 0, 0, 53]),
            ),
            ("search example.org\nnameservers 1.1.1.1", None),
            ("", None),
        ] {
            assert_eq!(first_resolver(text), expected.map(Ipv4Addr::from), "{text}");
        }
    }

    #[test]
    fn it_answers_unprivileged_and_goes_with_its_socket() {
        let user = choose_user().expect("user");
        let (passt, socket) = Passt::start(user.as_ref().map(|user| user.id), [0x52, 0x54, 0, 1, 2, 3]).expect("passt");
        let status = std::fs::read_to_string(format!("/proc/{}/status", passt.id())).expect("status");
        let line =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("line").trim().to_owned();
        assert_eq!(line("CapEff:").trim_start_matches('0'), "");
        assert_eq!(line("Seccomp:"), "2", "it has a filter");
        assert!(!line("Uid:").split_whitespace().any(|id| id == "0"), "{status}");
        drop(socket);
        assert_eq!(passt.stop(), None, "it ended by itself, and well");
    }

    #[test]
    fn how_it_failed_is_told() {
        let user = choose_user().expect("user");
        let (mut passt, socket) = Passt::start(user.as_ref().map(|user| user.id), [2; 6]).expect("passt");
        passt.child.kill().expect("kill");
        let told = passt.stop().expect("told");
        assert!(told.contains("signal: 9"), "{told}");
        drop(socket);
    }
}
