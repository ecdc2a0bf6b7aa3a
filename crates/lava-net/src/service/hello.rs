//! The TLS client's hello: what it asks for, and the fingerprints that threat intelligence knows clients by.
//!
//! JA3: <https://github.com/salesforce/ja3>. JA4: <https://github.com/FoxIO-LLC/ja4>, technical_details/JA4.md (the client's
//! fingerprint, BSD 3-Clause). Both leave out GREASE (RFC 8701).

use lava_event::{Kind, Sha256};
use md5::{Digest, Md5};
use tls_parser::{SNIType, TlsExtension, parse_tls_client_hello_extension, parse_tls_handshake_client_hello};

use crate::world::Ends;

/// A hello is not longer, bytes.
pub const LONGEST: usize = 64 << 10;
/// Content type of a record (RFC 8446 section 5.1) and type of the message within (section 4).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Longest fragment of a record that carries a hello, bytes (section 5.1).
const LONGEST_RECORD: usize = 1 << 14;
const SNI: u16 = 0;
const ALPN: u16 = 16;
/// Protocols that are told.
const MOST_PROTOCOLS: usize = 8;

/// What was read.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Hello {
    /// The name asked for.
    pub server_name: Option<Vec<u8>>,
    /// Protocols offered within.
    pub alpn: Vec<Vec<u8>>,
    pub ja3: String,
    pub ja4: String,
}

impl Hello {
    /// The event: what TLS came to (`outcome`), and by which version.
    pub fn told(&self, ends: Ends, version: &str, outcome: &str, frame: u64) -> Kind {
        Kind::NetTls {
            origin: ends.origin,
            destination: ends.destination,
            server_name: self.server_name.clone().map(Into::into),
            alpn: self.alpn.iter().cloned().map(Into::into).collect(),
            version: version.to_owned(),
            ja3: self.ja3.clone(),
            ja4: self.ja4.clone(),
            outcome: outcome.to_owned(),
            frame,
        }
    }
}

/// How far reading came.
#[derive(PartialEq, Eq, Debug)]
pub enum Read {
    More,
    Whole(Hello),
    /// It is no hello, or too long.
    Bad,
}

/// Reads a hello from the first bytes of a connection.
pub fn read(bytes: &[u8]) -> Read {
    let Some(message) = message(bytes) else { return Read::Bad };
    let Some((head, body)) = message.split_first_chunk::<4>() else { return Read::More };
    let length = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
    if head[0] != CLIENT_HELLO || length > LONGEST {
        return Read::Bad;
    }
    let Some(body) = body.get(..length) else { return Read::More };
    parse(body).map_or(Read::Bad, Read::Whole)
}

/// The handshake's bytes that are there, out of their records; `None` if something else is.
fn message(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if head[0] != HANDSHAKE || head[1] != 3 || length == 0 || length > LONGEST_RECORD {
            return None;
        }
        message.extend_from_slice(&rest[..length.min(rest.len())]);
        bytes = rest.get(length..).unwrap_or_default();
    }
    Some(message)
}

/// Lists of a hello, without GREASE.
#[derive(Default)]
struct Lists {
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    groups: Vec<u16>,
    formats: Vec<u16>,
    signatures: Vec<u16>,
    versions: Vec<u16>,
}

fn parse(body: &[u8]) -> Option<Hello> {
    let (_, hello) = parse_tls_handshake_client_hello(body).ok()?;
    let mut lists = Lists { ciphers: plain(hello.ciphers.iter().map(|cipher| cipher.0)), ..Lists::default() };
    let (mut server_name, mut alpn) = (None, Vec::new());
    for (kind, whole) in extensions(hello.ext.unwrap_or_default()) {
        lists.extensions.extend(plain([kind]));
        match parse_tls_client_hello_extension(whole).map(|(_, extension)| extension) {
            Ok(TlsExtension::SNI(names)) => {
                let named = names.iter().find(|(kind, name)| *kind == SNIType::HostName && name.len() < 256);
                server_name = named.map(|(_, name)| name.to_ascii_lowercase());
            }
            Ok(TlsExtension::ALPN(protocols)) => {
                alpn = protocols.iter().take(MOST_PROTOCOLS).map(|protocol| protocol.to_vec()).collect();
            }
            Ok(TlsExtension::EllipticCurves(groups)) => lists.groups = plain(groups.iter().map(|group| group.0)),
            Ok(TlsExtension::EcPointFormats(formats)) => {
                lists.formats = formats.iter().map(|format| u16::from(*format)).collect();
            }
            Ok(TlsExtension::SignatureAlgorithms(algorithms)) => lists.signatures = plain(algorithms),
            Ok(TlsExtension::SupportedVersions(versions)) => {
                lists.versions = plain(versions.iter().map(|version| version.0));
            }
            _ => {}
        }
    }
    let ja3 = ja3(hello.version.0, &lists);
    let ja4 = ja4(hello.version.0, &lists, server_name.is_some(), alpn.first().map_or(&[], Vec::as_slice));
    Some(Hello { server_name, alpn, ja3, ja4 })
}

/// Types of the extensions, and each as it stands there.
fn extensions(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some((&[a, b, c, d], rest)) = bytes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([c, d]));
        if length > rest.len() {
            break;
        }
        found.push((u16::from_be_bytes([a, b]), &bytes[..4 + length]));
        bytes = &rest[length..];
    }
    found
}

/// Without GREASE: both bytes are the same and end in `a`.
fn plain(values: impl IntoIterator<Item = u16>) -> Vec<u16> {
    values.into_iter().filter(|value| value & 0x0f0f != 0x0a0a || value >> 8 != value & 0xff).collect()
}

fn ja3(version: u16, lists: &Lists) -> String {
    let join = |values: &[u16]| values.iter().map(u16::to_string).collect::<Vec<_>>().join("-");
    let [ciphers, extensions] = [&lists.ciphers, &lists.extensions].map(|values| join(values));
    let text = format!("{version},{ciphers},{extensions},{},{}", join(&lists.groups), join(&lists.formats));
    Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ja4(version: u16, lists: &Lists, named: bool, protocol: &[u8]) -> String {
    let version = match lists.versions.iter().max().copied().unwrap_or(version) {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        _ => "00",
    };
    let protocol = match (protocol.first(), protocol.last()) {
        (Some(first), Some(last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() => {
            format!("{}{}", char::from(*first), char::from(*last))
        }
        (Some(first), Some(last)) => format!("{:x}{:x}", first >> 4, last & 15),
        _ => "00".to_owned(),
    };
    let hex = |values: &[u16]| values.iter().map(|value| format!("{value:04x}")).collect::<Vec<_>>().join(",");
    let hash = |text: &str| match text {
        "" => "000000000000".to_owned(),
        text => Sha256::of(text.as_bytes()).to_string()[..12].to_owned(),
    };
    let mut ciphers = lists.ciphers.clone();
    ciphers.sort_unstable();
    let mut extensions: Vec<u16> =
        lists.extensions.iter().copied().filter(|kind| ![SNI, ALPN].contains(kind)).collect();
    extensions.sort_unstable();
    let mut text = hex(&extensions);
    if !lists.signatures.is_empty() {
        text = format!("{text}_{}", hex(&lists.signatures));
    }
    format!(
        "t{version}{}{:02}{:02}{protocol}_{}_{}",
        if named { 'd' } else { 'i' },
        ciphers.len().min(99),
        lists.extensions.len().min(99),
        hash(&hex(&ciphers)),
        hash(&text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of JA4's technical details.
    #[test]
    fn ja4_of_the_specification() {
        let signatures = vec![0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];
        let lists = Lists {
            ciphers: vec![
                0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d,
                0x002f, 0x0035,
            ],
            extensions: vec![
                0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012, 0x002b, 0xff01,
                0x000b, 0x000a, 0x0015,
            ],
            signatures,
            versions: vec![0x0304, 0x0303],
            ..Lists::default()
        };
        assert_eq!(ja4(0x0303, &lists, true, b"h2"), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    /// The example of JA3's README.
    #[test]
    fn ja3_of_the_specification() {
        let lists = Lists {
            ciphers: vec![47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4],
            extensions: vec![0, 10, 11],
            groups: vec![23, 24, 25],
            formats: vec![0],
            ..Lists::default()
        };
        assert_eq!(ja3(769, &lists), "ada70206e40642a3e4461f35503241d5");
    }

    #[test]
    fn what_is_no_hello_is_none_and_a_torn_one_waits() {
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Read::Bad);
        assert_eq!(read(&[22, 3, 1, 0, 5, 1, 0, 0]), Read::More);
        assert_eq!(read(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 9]), Read::Bad);
        assert_eq!(read(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), Read::Bad);
        assert_eq!(plain([0x0a0a, 0xfafa, 0x0a1a, 0x1301]), [0x0a1a, 0x1301]);
    }
}
