//! The guest's only network: an Ethernet peer on a Unix socket.
//!
//! QEMU connects with `-netdev stream,id=n0,server=off,addr.type=unix,addr.path=S,reconnect-ms=500`; each frame has its
//! length in front, 4 bytes, big-endian. A [`NetServer`] plays every host the guest can see on the virtual LAN
//! 10.77.0.0/24 and beyond it. It answers ARP, leases the guest its address, and either plays a LAN and the
//! Internet ([`Mode::Simulated`]) or refuses names and connections quickly, so that a task shows where it wants to go instead of hanging.
//! In [`Mode::Egress`] it refuses too, and stands between the guest and the real network for what the policy allows.
//! What [`Waits`] does neither before the policy has answered. Every frame is recorded in `traffic.pcapng`.
//!
//! *Invariant*: nothing gets out. The crate opens one Unix socket to listen on, and no socket of any host network, ever:
//! no packet of the guest reaches a host, a container or the Internet through it. In [`Mode::Egress`] it is handed another Unix socket, with
//! passt on the other end, and what goes there are packets of flows that the policy has allowed, and names (`egress`).
//!
//! *Invariant*: nothing is answered that was not recorded and reported first. A frame is in the capture before anything is said
//! of it, an event is with the [`Outlet`] (and the frame it names is in the file) before the answer is sent. If the
//! capture fails (disk full, or [`CAPTURE_LIMIT`] reached) the network goes silent: it reads and forgets, says so once
//! with `vm.gap`, and the summary carries the fault. A network without evidence would be worse than none.
//!
//! The addresses are those of [`lan`]; what is answered and how, that of `peer`.
//!
//! Limits: one guest; IPv4 only (IPv6, VLANs, fragments and packets with wrong checksums are recorded and dropped).

#![forbid(unsafe_code)]

mod authority;
mod capture;
mod content;
mod datagrams;
mod dhcp;
mod dns;
mod egress;
mod emit;
mod flow;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
pub mod lan;
mod peer;
mod server;
mod service;
mod stack;
mod stream;
#[cfg(test)]
mod tests;
mod transport;
mod uplink;
mod world;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use authority::Authority;
use lava_event::Outlet;
use world::World;

pub use authority::AuthorityError;
pub use capture::CAPTURE_LIMIT;
pub use content::{Content, ContentError};
pub use gate::Waits;
pub use stream::MAX_FRAME;

/// Where the network meets the micro-VM and the evidence.
#[derive(Debug)]
pub struct NetConfig {
    /// The Unix socket to listen on: must not exist yet. QEMU's user needs the right to connect to it (write
    /// permission); that is the caller's to arrange once [`NetServer::start`] has returned.
    pub socket: PathBuf,
    /// The capture to write (`traffic.pcapng`): must not exist yet.
    pub capture: PathBuf,
    /// The guest's MAC address. If given, frames from any other are recorded and reported, but not answered.
    pub mac_of_guest: Option<[u8; 6]>,
    /// What the guest is answered.
    pub mode: Mode,
    /// What the simulated web has; for all else something is made up.
    pub content: Content,
    /// Key of the authority that the guest trusts already ([`NetServer::authority`]); a new one is made if none is given.
    pub authority: Option<String>,
    /// What waits for the policy ([`Outlet::ask`]), and can so be refused, or diverted to the simulated network in every mode.
    pub waits: Waits,
    /// A socket that passt has the other end of: [`Mode::Egress`] needs it, the other modes close it.
    pub uplink: Option<UnixStream>,
}

/// What the guest is answered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mode {
    /// Names and connections are refused.
    #[default]
    Refuse,
    /// Every name has an address, made up and the same for the whole session (`net.dns`), every TCP connection is accepted, and
    /// what is said is recorded.
    Simulated,
    /// Names and connections are refused, but for what the policy has allowed: that goes to the real network. What does not wait for
    /// the policy is not allowed.
    Egress,
}

/// What the network saw, once it has ended.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetSummary {
    /// Frames in the capture, both directions.
    pub frames: u64,
    /// Sum of their lengths as captured, bytes.
    pub bytes: u64,
    /// What went wrong, in a sentence; the capture is complete up to there.
    pub fault: Option<String>,
    /// Why there was no way to the real network any more, in a sentence; the capture is complete.
    pub outage: Option<String>,
}

/// Why the network could not be started.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The socket could not be made.
    #[error("cannot listen on {}: {source}", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The capture could not be made.
    #[error("cannot create the capture {}: {source}", path.display())]
    Capture {
        /// The capture's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nobody to sign for TLS.
    #[error("the simulated network has no authority for TLS: {0}")]
    Authority(#[from] AuthorityError),
    /// There is no way to the real network.
    #[error("no way to the real network: {0}")]
    Uplink(io::Error),
    /// No thread, or no descriptor to stop it with.
    #[error("cannot start the network's thread: {0}")]
    Thread(io::Error),
}

/// The running network. Dropping it stops it too.
#[derive(Debug)]
pub struct NetServer {
    thread: Option<JoinHandle<NetSummary>>,
    /// Closing it ends the thread.
    wake: Option<UnixStream>,
    socket: PathBuf,
    certificate: Option<String>,
    authority: Option<String>,
}

impl NetServer {
    /// Creates socket and capture, and serves from a thread of its own. When this returns, QEMU can connect.
    ///
    /// # Errors
    /// [`NetError`] if the socket or the capture exist already or cannot be made, or no thread can be started.
    pub fn start(config: NetConfig, outlet: Arc<dyn Outlet>) -> Result<Self, NetError> {
        let (wake, woken) = UnixStream::pair().map_err(NetError::Thread)?;
        let socket = config.socket.clone();
        let world = match config.mode {
            Mode::Refuse if !config.waits.any() => None,
            mode => Some(World {
                sinkhole: mode != Mode::Simulated,
                ..World::new(
                    config.content.clone(),
                    config.authority.as_deref().map_or_else(Authority::new, Authority::restored)?,
                )
            }),
        };
        // Kept for those that come later, also if this network signs nothing.
        let own = world.as_ref().and_then(|world| world.authority.as_ref());
        let authority = own.map(|own| own.secret().to_owned()).or(config.authority.clone());
        let certificate = world.as_ref().and_then(|world| world.authority.as_ref()).map(|own| own.pem().to_owned());
        let server = server::Server::new(config, world, outlet, woken)?;
        let thread = std::thread::Builder::new().name("lava-net".into()).spawn(move || server.run());
        match thread {
            Ok(thread) => Ok(Self { thread: Some(thread), wake: Some(wake), socket, certificate, authority }),
            Err(error) => {
                let _ = std::fs::remove_file(&socket);
                Err(NetError::Thread(error))
            }
        }
    }

    /// The certificate of the authority that signs for every host of a simulated network, PEM: the guest is to trust it.
    #[must_use]
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// The key of the authority that the guest trusts, PKCS#8 as PEM, if there is one.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Ends the connection, completes the capture and removes the socket. Waits for an event that the [`Outlet`] is
    /// still taking.
    #[must_use]
    pub fn stop(mut self) -> NetSummary {
        self.end()
    }

    fn end(&mut self) -> NetSummary {
        self.wake = None;
        let Some(thread) = self.thread.take() else { return NetSummary::default() };
        let summary = thread.join().unwrap_or_else(|_| NetSummary {
            fault: Some("the network's thread panicked; the capture may lack its end".into()),
            ..NetSummary::default()
        });
        // It may be gone already (the session's directory was removed): nothing is lost by that.
        let _ = std::fs::remove_file(&self.socket);
        summary
    }
}

impl Drop for NetServer {
    fn drop(&mut self) {
        self.end();
    }
}
