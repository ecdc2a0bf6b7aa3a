//! What was asked for by HTTP, as a URL.

use std::fmt::Write as _;
use std::net::IpAddr;

use lava_event::{GuestText, Kind};

use crate::text;

/// The URL of a request, in parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Url {
    pub(crate) scheme: &'static str,
    /// Whom the guest said it asks: a name or an address, or anything else that it put there.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    /// All of it, by the rules (RFC 3986): what is not allowed in a URL is percent-encoded.
    pub(crate) full: String,
}

impl Url {
    /// Of a `net.http`; `None` for all else.
    pub(crate) fn of(kind: &Kind) -> Option<Self> {
        let Kind::NetHttp { destination, tls, host, path, .. } = kind else { return None };
        let (scheme, usual) = if *tls { ("https", 443) } else { ("http", 80) };
        let asked = path.bytes();
        let (way, query) = match asked.iter().position(|byte| *byte == b'?') {
            Some(at) => (&asked[..at], Some(&asked[at + 1..])),
            None => (asked, None),
        };
        let mut full = format!("{scheme}://{}", encoded(host.bytes(), b""));
        if destination.port != usual {
            full += &format!(":{}", destination.port);
        }
        if !way.starts_with(b"/") {
            full.push('/');
        }
        full += &encoded(way, b"/:@!$&'()*+,;=%");
        if let Some(query) = query {
            full.push('?');
            full += &encoded(query, b"/?:@!$&'()*+,;=%");
        }
        let name = |bytes: &[u8]| text::name(&GuestText::from(bytes.to_vec()));
        let (host, path, query) = (text::name(host), name(way), query.map(name));
        Some(Self { scheme, host, port: destination.port, path, query, full })
    }

    /// The address, if the guest named none but that.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// Percent-encoded, but for letters, digits, `-._~` and `kept`; a `%` stays where it begins such a code.
fn encoded(bytes: &[u8], kept: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for (at, &byte) in bytes.iter().enumerate() {
        let code = || bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte);
        if plain && (byte != b'%' || code()) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use lava_event::NetEndpoint;

    use super::*;

    fn url(host: &str, port: u16, path: &[u8], tls: bool) -> Url {
        let destination = NetEndpoint { address: [198, 18, 0, 1].into(), port };
        let kind = Kind::NetHttp {
            origin: destination,
            destination,
            tls,
            method: "GET".into(),
            host: host.into(),
            path: GuestText::from(path.to_vec()),
            user_agent: None,
            content_type: None,
            status: 200,
            answer: "default".into(),
            response_type: String::new(),
            request_bytes: 0,
            request_sha256: None,
            request_complete: true,
            response_bytes: 0,
            response_sha256: None,
            frame: 1,
        };
        Url::of(&kind).unwrap()
    }

    #[test]
    fn urls_are_those_of_the_rules() {
        for (given, full) in [
            (url("c2.example", 80, b"/a/b?c=d&e", false), "http://c2.example/a/b?c=d&e"),
            (url("c2.example", 8443, b"/", true), "https://c2.example:8443/"),
            (url("198.18.0.1", 443, b"", true), "https://198.18.0.1/"),
            (
                url("<b>\u{e9}", 80, b"/%41%4 \xff#[x]?a?\"", false),
                "http://%3Cb%3E%C3%A9/%41%254%20%FF%23%5Bx%5D?a?%22",
            ),
        ] {
            assert_eq!(given.full, full);
        }
        assert_eq!(url("x", 80, b"/a?b?c", false).query.unwrap(), "b?c");
    }
}
