//! The guest's only network: an Ethernet peer on a Unix socket.
//!
//! QEMU connects with `-netdev stream,id=n0,server=off,addr.type=unix,addr.path=S,reconnect-ms=500`; each frame has its
//! length in front, 4 bytes, big-endian. A [`NetServer`] plays every host the guest can see on the virtual LAN
//! 10.77.0.0/24 and beyond it. It answers ARP, leases the guest its address, refuses connections and (unless
//! [`Mode::Simulated`]) names quickly, so that a task shows where it wants to go instead of hanging, and records every
//! frame in `traffic.pcapng`.
//!
//! *Invariant*: nothing gets out. The crate opens one Unix socket to listen on, and no socket of any host network, ever:
//! no packet of the guest reaches a host, a container or the Internet through it.
//!
//! *Invariant*: nothing is answered that was not recorded and reported first. A frame is in the capture before it is
//! looked at, an event is with the [`Outlet`] (and the frame it names is in the file) before the answer is sent. If the
//! capture fails (disk full, or [`CAPTURE_LIMIT`] reached) the network goes silent: it reads and forgets, says so once
//! with `vm.gap`, and the summary carries the fault. A network without evidence would be worse than none.
//!
//! The addresses are those of [`lan`]; what is answered and how, that of `peer`.
//!
//! Limits: one guest; IPv4 only (IPv6, VLANs, fragments and packets with wrong checksums are recorded and dropped); no
//! host behind the gateway serves anything yet.

#![forbid(unsafe_code)]

mod capture;
mod datagrams;
mod dhcp;
mod dns;
mod emit;
mod flow;
pub mod lan;
mod peer;
mod server;
mod service;
mod stack;
mod stream;
#[cfg(test)]
mod tests;
mod world;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use lava_event::Outlet;

pub use capture::CAPTURE_LIMIT;
pub use stream::MAX_FRAME;

/// Where the network meets the micro-VM and the evidence.
#[derive(Clone, Debug)]
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
}

impl NetServer {
    /// Creates socket and capture, and serves from a thread of its own. When this returns, QEMU can connect.
    ///
    /// # Errors
    /// [`NetError`] if the socket or the capture exist already or cannot be made, or no thread can be started.
    pub fn start(config: NetConfig, outlet: Arc<dyn Outlet>) -> Result<Self, NetError> {
        let (wake, woken) = UnixStream::pair().map_err(NetError::Thread)?;
        let socket = config.socket.clone();
        let server = server::Server::new(config, outlet, woken)?;
        let thread = std::thread::Builder::new().name("lava-net".into()).spawn(move || server.run());
        match thread {
            Ok(thread) => Ok(Self { thread: Some(thread), wake: Some(wake), socket }),
            Err(error) => {
                let _ = std::fs::remove_file(&socket);
                Err(NetError::Thread(error))
            }
        }
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
