//! TLS to a collector (RFC 5425), by rustls.
//!
//! The collector's certificate is checked in any case: against the CA that the user names, or those that this host trusts.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::Error;

/// Records that are looked at before each line: what a collector says is not for us, and may be without end.
const RECORDS: usize = 64;

/// Files, all PEM.
#[derive(Clone, Default, Debug)]
pub struct TlsFiles {
    /// The CAs that are trusted, and no others; those that this host trusts, if not given.
    pub ca: Option<PathBuf>,
    /// Our own certificate with its chain, and its key, where the collector asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// An encrypted connection.
pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// For the collector at `HOST:PORT`.
    pub(crate) fn new(at: &str, files: &TlsFiles) -> Result<Self, Error> {
        let host = at.rsplit_once(':').map_or(at, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::Target(format!("tls://{at}")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trusted = roots(files.ca.as_deref())?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Tls { what: "TLS".into(), problem: error.to_string() })?
            .with_root_certificates(trusted);
        let config = match &files.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
                let chain = certificates(certificate)?;
                builder.with_client_auth_cert(chain, secret).map_err(|error| unusable(certificate, &error))?
            }
        };
        Ok(Self { config: Arc::new(config), name })
    }

    /// Shakes hands. The stream's timeouts hold.
    pub(crate) fn connect(&self, stream: TcpStream) -> io::Result<Stream> {
        let connection = ClientConnection::new(self.config.clone(), self.name.clone()).map_err(invalid)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => io::Error::new(
                    ErrorKind::TimedOut,
                    "it does not answer TLS's first message: is that its port for TLS?",
                ),
                _ => error,
            })?;
        }
        Ok(stream)
    }
}

/// Writes all of it. Where the other end has closed the connection, the error is what it said before, if it refuses us.
pub(crate) fn write(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).and_then(|()| stream.flush()).map_err(|error| match is_closed(stream) {
        Err(refused) if refused.kind() == ErrorKind::InvalidData => refused,
        _ => error,
    })
}

/// True if the other end has closed it. What it said until now is taken and dropped: tickets, an alert.
///
/// # Errors
/// Of kind `InvalidData`, what it refuses us for.
pub(crate) fn is_closed(stream: &mut Stream) -> io::Result<bool> {
    for _ in 0..RECORDS {
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        match rustix::net::recv(&stream.sock, &mut [0_u8; 1][..], flags) {
            Ok((0, _)) => return Ok(true),
            Ok(_) => {}
            Err(error) => return Ok(error != rustix::io::Errno::AGAIN),
        }
        if stream.conn.read_tls(&mut stream.sock)? == 0 {
            return Ok(true);
        }
        let state = stream.conn.process_new_packets().map_err(invalid)?;
        if state.peer_has_closed() {
            return Ok(true);
        }
        let mut nothing = [0; 4096];
        while matches!(stream.conn.reader().read(&mut nothing), Ok(count) if count > 0) {}
    }
    Ok(false)
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

fn unusable(file: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Tls { what: file.display().to_string(), problem: error.to_string() }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = read.map_err(|error| unusable(file, &error))?;
    if all.is_empty() { Err(unusable(file, &"it holds no certificate")) } else { Ok(all) }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| unusable(file, &error))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
                return Err(Error::Tls { what: "the CAs that this host trusts".into(), problem: why });
            }
        }
    }
    Ok(roots)
}
