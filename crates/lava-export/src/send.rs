//! Lines to a collector: over TLS, TCP, UDP or a Unix socket.
//!
//! *What arrives:* a line counts as sent when the system has taken it. If the other end goes away, the line that could not be sent is
//! sent again whole, on a new connection. Lines that the system had taken and the other end had not read are lost then; a line of which
//! it was the answer that was lost comes twice. TCP syslog has no receipts (RFC 6587 section 3.1), so nobody can tell. Each line has an
//! identifier of its own by which a receiver can tell that it has it. UDP promises nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::tls::{self, Tls, TlsFiles};
use crate::{Error, Format};

/// Longest wait for one connection, and for a peer that takes nothing.
const CONNECT: Duration = Duration::from_secs(10);
const WRITE: Duration = Duration::from_secs(30);
/// First and longest wait before it is tried again.
const SOON: Duration = Duration::from_millis(100);
const LATER: Duration = Duration::from_secs(5);
/// How long the other end may take to say that it has read all.
const GOODBYE: Duration = Duration::from_secs(30);

/// How lines are told apart in a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// Its length in front of each (RFC 6587 section 3.4.1).
    Octets,
    /// A line feed behind each.
    Newline,
}

impl Framing {
    /// The customary one.
    #[must_use]
    pub fn of(format: Format) -> Self {
        if format == Format::Syslog { Self::Octets } else { Self::Newline }
    }
}

#[derive(Debug)]
enum To {
    Tls(String, Tls),
    Tcp(String),
    Udp(String),
    Unix(PathBuf),
}

#[derive(Debug)]
enum Wire {
    Tls(Box<tls::Stream>),
    Tcp(TcpStream),
    Udp(UdpSocket),
    Unix(UnixStream),
    Datagrams(UnixDatagram),
}

/// Where lines go.
#[derive(Debug)]
pub struct Target {
    to: To,
    framing: Framing,
    patience: Duration,
    wire: Option<Wire>,
    /// Lines that are longer than a datagram can be: not sent.
    pub too_long: u64,
}

impl Target {
    /// `tls://HOST:PORT`, `tcp://HOST:PORT`, `udp://HOST:PORT`, `unix:///PATH`. Nothing is connected before the first line. `patience`: how
    /// long a line may wait for the other end to come back. `files` are for TLS.
    ///
    /// # Errors
    /// If it is none of these, or TLS can't use a file.
    pub fn new(address: &str, framing: Framing, patience: Duration, files: &TlsFiles) -> Result<Self, Error> {
        let to = match address.split_once("://") {
            Some(("tls", at)) if at.contains(':') => To::Tls(at.to_owned(), Tls::new(at, files)?),
            Some(("tcp", at)) if at.contains(':') => To::Tcp(at.to_owned()),
            Some(("udp", at)) if at.contains(':') => To::Udp(at.to_owned()),
            Some(("unix", path)) if path.starts_with('/') => To::Unix(path.into()),
            _ => return Err(Error::Target(address.to_owned())),
        };
        Ok(Self { to, framing, patience, wire: None, too_long: 0 })
    }

    /// Sends a line, and waits for the other end to come back if it is away.
    ///
    /// # Errors
    /// If it stays away.
    pub fn send(&mut self, line: &str) -> Result<(), Error> {
        let until = Instant::now() + self.patience;
        let mut wait = SOON;
        loop {
            match self.try_send(line) {
                Ok(()) => return Ok(()),
                // EMSGSIZE: it will not become shorter.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                    self.too_long += 1;
                    return Ok(());
                }
                // A certificate will not become another one.
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    return Err(Error::Refused { to: self.name(), error });
                }
                Err(error) => {
                    self.wire = None;
                    if Instant::now() + wait > until {
                        return Err(Error::Send { to: self.name(), error });
                    }
                }
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(LATER);
        }
    }

    fn try_send(&mut self, line: &str) -> std::io::Result<()> {
        // A peer that has closed takes one more write without a word, and drops it.
        if let Some(wire) = &mut self.wire
            && wire.is_closed()?
        {
            self.wire = None;
        }
        let wire = match self.wire.take() {
            Some(wire) => wire,
            None => self.to.connect()?,
        };
        match self.wire.insert(wire) {
            Wire::Tls(stream) => tls::write(stream, &framed(self.framing, line)),
            Wire::Tcp(stream) => stream.write_all(&framed(self.framing, line)),
            Wire::Unix(stream) => stream.write_all(&framed(self.framing, line)),
            Wire::Udp(socket) => socket.send(line.as_bytes()).map(drop),
            Wire::Datagrams(socket) => socket.send(line.as_bytes()).map(drop),
        }
    }

    /// Says that this was all, and waits until the other end has read it.
    ///
    /// # Errors
    /// If it does not say so in time: what it has read is not known then.
    pub fn finish(mut self) -> Result<(), Error> {
        let ended = match self.wire.take() {
            Some(Wire::Tls(mut stream)) => {
                stream.conn.send_close_notify();
                let told = stream.flush().and_then(|()| stream.sock.shutdown(Shutdown::Write));
                let told = told.and_then(|()| stream.sock.set_read_timeout(Some(GOODBYE)));
                match told.and_then(|()| read_all(stream)) {
                    // It closed without saying so in TLS, as many do.
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
                    ended => ended,
                }
            }
            Some(Wire::Tcp(stream)) => {
                let told = stream.shutdown(Shutdown::Write).and_then(|()| stream.set_read_timeout(Some(GOODBYE)));
                told.and_then(|()| read_all(stream))
            }
            Some(Wire::Unix(stream)) => {
                let told = stream.shutdown(Shutdown::Write).and_then(|()| stream.set_read_timeout(Some(GOODBYE)));
                told.and_then(|()| read_all(stream))
            }
            _ => Ok(()),
        };
        ended.map_err(|error| {
            if error.kind() == ErrorKind::InvalidData {
                return Error::Refused { to: self.name(), error };
            }
            let late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            let silent =
                || std::io::Error::new(ErrorKind::TimedOut, "all was sent, but it has not closed the connection");
            Error::Send { to: self.name(), error: if late { silent() } else { error } }
        })
    }

    fn name(&self) -> String {
        match &self.to {
            To::Tls(at, _) => format!("tls://{at}"),
            To::Tcp(at) => format!("tcp://{at}"),
            To::Udp(at) => format!("udp://{at}"),
            To::Unix(path) => format!("unix://{}", path.display()),
        }
    }
}

/// Reads to the end; a collector answers nothing, and what it does answer is nobody's.
fn read_all(mut from: impl Read) -> std::io::Result<()> {
    let mut nothing = [0; 512];
    for _ in 0..1024 {
        if from.read(&mut nothing)? == 0 {
            return Ok(());
        }
    }
    Ok(())
}

fn framed(framing: Framing, line: &str) -> Vec<u8> {
    match framing {
        Framing::Octets => format!("{} {line}", line.len()).into_bytes(),
        Framing::Newline => format!("{line}\n").into_bytes(),
    }
}

impl To {
    fn connect(&self) -> std::io::Result<Wire> {
        match self {
            Self::Tls(at, tls) => {
                let stream = tcp(at)?;
                // While hands are shaken.
                stream.set_read_timeout(Some(CONNECT))?;
                Ok(Wire::Tls(Box::new(tls.connect(stream)?)))
            }
            Self::Tcp(at) => tcp(at).map(Wire::Tcp),
            Self::Udp(at) => {
                let address = at.to_socket_addrs()?.next().ok_or(ErrorKind::AddrNotAvailable)?;
                let own = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(own)?;
                socket.connect(address)?;
                Ok(Wire::Udp(socket))
            }
            Self::Unix(path) => match UnixStream::connect(path) {
                Ok(stream) => {
                    stream.set_write_timeout(Some(WRITE))?;
                    Ok(Wire::Unix(stream))
                }
                // `/dev/log` and its like take datagrams.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PROTOTYPE.raw_os_error()) => {
                    let socket = UnixDatagram::unbound()?;
                    socket.connect(path)?;
                    Ok(Wire::Datagrams(socket))
                }
                Err(error) => Err(error),
            },
        }
    }
}

fn tcp(at: &str) -> std::io::Result<TcpStream> {
    let mut failed = ErrorKind::AddrNotAvailable.into();
    for address in at.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => {
                stream.set_write_timeout(Some(WRITE))?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

impl Wire {
    /// True if the other end of a stream has closed it, or it broke. An error if it said why it refuses us.
    fn is_closed(&mut self) -> std::io::Result<bool> {
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        let peeked = match self {
            Self::Tls(stream) => return tls::is_closed(stream),
            Self::Tcp(stream) => rustix::net::recv(stream, &mut [0_u8; 1][..], flags),
            Self::Unix(stream) => rustix::net::recv(stream, &mut [0_u8; 1][..], flags),
            Self::Udp(_) | Self::Datagrams(_) => return Ok(false),
        };
        Ok(match peeked {
            Ok((count, _)) => count == 0,
            Err(error) => error != rustix::io::Errno::AGAIN,
        })
    }
}
