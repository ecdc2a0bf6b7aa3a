//! Guests that mean harm: what they can take is bounded, and honest connections go on.

use std::time::Duration;

use lava_event::Kind;
use proptest::prelude::*;

use super::guest::simulated;
use super::{WORLD, emit, route, syn};
use crate::stack::MOST;

#[test]
fn a_flood_of_syns_leaves_room_for_who_connects() {
    let mut guest = simulated();
    let socket = guest.connect(WORLD, 80, 50_000);
    guest.settle();
    for port in 1..=20_000_u16 {
        guest.raw(&syn(WORLD, port, 1));
        assert!(guest.peer.connections() <= MOST);
    }
    guest.wait(Duration::from_secs(15));
    assert_eq!(guest.peer.connections(), 1, "half-open ones do not last");
    assert!(guest.socket(socket).may_send());
    assert!(guest.streams().is_empty(), "no connection was made by any of them");
}

#[test]
fn connections_that_are_never_closed_are_bounded_and_end() {
    let mut guest = simulated();
    for number in 0..400_u16 {
        guest.connect(WORLD, 4000 + number, 30_000 + number);
        guest.settle();
    }
    assert_eq!(guest.peer.connections(), MOST);
    assert_eq!(guest.streams().iter().filter(|stream| stream.3 == "evicted").count(), 400 - MOST);
    guest.wait(Duration::from_secs(90));
    assert_eq!(guest.peer.connections(), 0, "silent ones are closed, and reset when the guest does not close them");
}

#[test]
fn datagrams_to_everywhere_are_bounded() {
    let mut guest = simulated();
    for port in 1..=5000 {
        guest.raw(&emit::udp(route(WORLD), 40_000, if port == 53 { 1 } else { port }, b"x"));
    }
    let told = guest.told.iter().filter(|kind| matches!(kind, Kind::NetStream { .. })).count();
    assert!(told >= 5000 - 1 - crate::datagrams::MOST, "{told}");
}

#[test]
fn heads_without_end_are_refused_and_slow_ones_are_bounded() {
    let mut guest = simulated();
    let socket = guest.connect(WORLD, 80, 50_000);
    guest.settle();
    let head = [
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"X-Padding: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(4000),
    ]
    .concat();
    let heard = guest.say(socket, &head);
    assert!(heard.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&heard));
    let told =
        guest.told.iter().any(|kind| matches!(kind, Kind::NetHttp { status: 431, path, .. } if *path == "/".into()));
    assert!(told, "{:?}", guest.told);

    // Slowloris: each sends a header from time to time, and never the last.
    let slow: Vec<_> = (0..300_u16).map(|number| guest.connect(WORLD, 8080, 20_000 + number)).collect();
    guest.settle();
    for _ in 0..10 {
        for &socket in &slow {
            // Some were put out already.
            let _ = guest.socket(socket).send_slice(b"X: y\r\n");
        }
        guest.wait(Duration::from_secs(20));
        assert!(guest.peer.connections() <= MOST);
    }
}

#[test]
fn a_guest_that_asks_and_never_listens_is_held_back() {
    let mut guest = simulated();
    let socket = guest.connect(WORLD, 80, 50_000);
    guest.settle();
    let requests = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2000);
    let mut rest = requests.as_slice();
    for _ in 0..200 {
        let sent = guest.socket(socket).send_slice(rest).unwrap();
        rest = &rest[sent..];
        guest.settle();
    }
    let answered = guest.told.iter().filter(|kind| matches!(kind, Kind::NetHttp { .. })).count();
    assert!(!rest.is_empty() || answered < 2000, "all {answered} were answered although nobody listens");
    let heard = guest.say(socket, b"");
    assert!(heard.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// What `fuzz/` runs for longer: pieces of protocols in any order, and noise.
    #[test]
    fn hostile_conversations(
        port in any::<u8>(),
        words in prop::collection::vec((0..16_usize, prop::collection::vec(any::<u8>(), 0..20)), 0..30),
    ) {
        const WORDS: [&[u8]; 16] = [
            b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.0\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n",
            b"\r\n\r\n", b"5\r\nabcde\r\n", b"0\r\n\r\n", b"EHLO x\r\n", b"MAIL FROM:<a>\r\n", b"DATA\r\n", b".\r\n",
            b"NICK x\r\nUSER\r\n", b"\x16\x03\x01\0\x05\x01\0\0\x01\0", b"\0\x05\0\0\0\0\0", b"Expect: 100-continue\r\n",
        ];
        let mut bytes = vec![port];
        for (word, noise) in words {
            for piece in [WORDS[word], &noise] {
                bytes.push(u8::try_from(piece.len()).unwrap());
                bytes.extend(piece);
            }
        }
        crate::fuzzing::conversation(&bytes);
        crate::fuzzing::frames(&bytes);
    }
}
