//! What goes on to the real network, which a simulated one plays here, and what does not.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lava_event::{Action, Event, Kind, Outlet, Produced, Protocol};
use proptest::prelude::*;
use smoltcp::wire::{EthernetAddress, TcpPacket};

use super::gate::Scripted;
use super::guest::Guest;
use super::wire::{ping, receive, send};
use super::{GATEWAY, GUEST, IP, MAC, WORLD, arp, emit, lan, query, route, syn};
use crate::egress::MOST;
use crate::emit::Route;
use crate::peer::Peer;
use crate::world::World;
use crate::{Content, Mode, NetConfig, NetServer, Waits};

const BOTH: &[&str] = &["net.flow", "net.dns"];

/// A guest whose policy gives this answer to everything.
fn guest(answer: Action, kinds: &[&str]) -> (Guest, Scripted) {
    let gate = Scripted::new(answer, kinds);
    let mut guest = Guest::new(Peer::with_egress(None, World::default(), 7));
    guest.outside = Some(Peer::new(None, Some(World::default()), 9));
    guest.gate = Box::new(gate.clone());
    (guest, gate)
}

/// Protocol and what became of each flow that was asked about.
fn flows(gate: &Scripted) -> Vec<(Protocol, &'static str)> {
    let of = |(kind, outcome): &(Kind, &'static str)| match kind {
        Kind::NetFlow { protocol, .. } => Some((*protocol, *outcome)),
        _ => None,
    };
    gate.taken().iter().filter_map(of).collect()
}

#[test]
fn an_allowed_connection_goes_on_and_what_was_said_is_kept() {
    let (mut guest, gate) = guest(Action::Allow, BOTH);
    let socket = guest.connect(WORLD, 80, 40_000);
    guest.settle();
    let request = b"GET /x HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    let heard = guest.say(socket, request);
    assert!(heard.starts_with(b"HTTP/1.1 "), "{}", String::from_utf8_lossy(&heard));
    guest.socket(socket).close();
    guest.settle();
    assert_eq!(flows(&gate), [(Protocol::Tcp, "let through to the real network")]);
    assert_eq!(guest.streams(), [("unknown".into(), request.len() as u64, heard.len() as u64, "network".into())]);
    let kept: Vec<&[u8]> = guest.artifacts.iter().map(|artifact| &artifact.bytes[..]).collect();
    assert_eq!(kept, [&request[..], &heard]);
    assert!(guest.passed.iter().all(|frame| frame[..6] == lan::gateway_mac() && frame[6..12] == MAC.0));
    guest.wait(Duration::from_secs(30));
    guest.end();
    assert_eq!(guest.streams().len(), 1, "told once");
}

#[test]
fn what_is_not_allowed_does_not_go_on() {
    for (answer, kinds, taken) in [
        (Action::Deny, BOTH, false),
        (Action::Remediate, BOTH, true),
        // Nothing waits: nothing is allowed.
        (Action::Allow, &[], false),
    ] {
        let (mut guest, _) = guest(answer, kinds);
        let socket = guest.connect(WORLD, 4444, 40_000);
        guest.settle();
        assert_eq!(guest.socket(socket).may_send(), taken, "{answer} {kinds:?}");
        guest.raw(&emit::udp(route(WORLD), 40_000, 4444, b"beacon"));
        guest.raw(&query());
        guest.raw(&ping(WORLD));
        guest.raw(&emit::udp(route(WORLD), 40_000, 53, &query()[42..]));
        guest.settle();
        assert_eq!(guest.passed.len(), 0, "{answer} {kinds:?}");
    }
}

#[test]
fn neither_the_host_nor_its_neighbours_are_reached_through_the_virtual_lan() {
    let (mut guest, gate) = guest(Action::Allow, BOTH);
    let special = [[127, 0, 0, 1], [169, 254, 169, 254], [224, 0, 0, 251], [255, 255, 255, 255], [0, 0, 0, 0]];
    let local = [GATEWAY, Ipv4Addr::new(10, 77, 0, 3), GUEST, Ipv4Addr::new(10, 77, 0, 255)];
    for to in special.map(Ipv4Addr::from).into_iter().chain(local) {
        for mac in [lan::gateway_mac(), lan::mac_of(to), [0xff; 6]] {
            let to_mac = EthernetAddress(mac);
            let mut frame = syn(to, 22, 1);
            frame[..6].copy_from_slice(&mac);
            guest.raw(&frame);
            guest.raw(&emit::udp(Route { to_mac, ..route(to) }, 40_000, 161, b"x"));
        }
    }
    assert_eq!(guest.passed.len(), 0);
    assert!(flows(&gate).iter().all(|(_, outcome)| outcome.starts_with("refused: nobody is there")));
}

#[test]
fn datagrams_and_pings_go_on_and_come_back() {
    let (mut guest, gate) = guest(Action::Allow, BOTH);
    for _ in 0..2 {
        assert_eq!(guest.raw(&emit::udp(route(WORLD), 40_000, 4444, b"beacon")), 0);
    }
    guest.hear_from_outside(&emit::udp(back(WORLD), 4444, 40_000, b"order"));
    guest.raw(&ping(WORLD));
    assert_eq!(guest.passed.len(), 3);
    assert_eq!(flows(&gate).len(), 2, "asked once for each");
    guest.wait(Duration::from_secs(70));
    let streams = guest.streams();
    assert_eq!(streams.len(), 2, "{streams:?}");
    assert!(streams.contains(&("unknown".into(), 12, 5, "idle".into())), "{streams:?}");
    guest.raw(&emit::udp(route(WORLD), 40_000, 4444, b"beacon"));
    assert_eq!((guest.passed.len(), gate.taken().len()), (4, 0), "the answer is remembered");
}

/// From a host of the real network to the guest.
fn back(from: Ipv4Addr) -> Route {
    Route { to_mac: MAC, from_mac: EthernetAddress(lan::gateway_mac()), to: GUEST, from }
}

#[test]
fn nobody_comes_in_uninvited() {
    let (mut guest, _) = guest(Action::Allow, BOTH);
    guest.raw(&emit::udp(route(WORLD), 40_000, 4444, b"beacon"));
    let heard = |guest: &mut Guest, frame: &[u8]| {
        let handled = guest.peer.arrived(frame, guest.now, &mut *guest.gate);
        handled.answers.len() + handled.told.len() + handled.onward.len()
    };
    assert_eq!(heard(&mut guest, &emit::udp(back(WORLD), 4444, 40_000, b"order")), 1);
    let stranger = Ipv4Addr::new(192, 0, 2, 8);
    let elsewhere = Route { to: Ipv4Addr::BROADCAST, ..back(WORLD) };
    for frame in [
        emit::udp(back(WORLD), 4445, 40_000, b"x"),
        emit::udp(back(WORLD), 4444, 40_001, b"x"),
        emit::udp(back(stranger), 4444, 40_000, b"x"),
        emit::udp(Route { from_mac: MAC, ..back(WORLD) }, 4444, 40_000, b"x"),
        emit::udp(Route { to_mac: EthernetAddress::BROADCAST, ..back(WORLD) }, 4444, 40_000, b"x"),
        emit::udp(elsewhere, 4444, 40_000, b"x"),
        emit::reset(back(WORLD), (4444, 40_000), 1, Some(1)),
        emit::echo_reply(back(WORLD), [0; 4], b""),
        emit::port_unreachable(back(GATEWAY), &emit::udp(route(stranger), 40_000, 4444, b"x")[IP]),
        arp(GUEST),
        vec![],
    ] {
        assert_eq!(heard(&mut guest, &frame), 0, "{frame:02x?}");
    }
    let unreachable = emit::port_unreachable(back(GATEWAY), &emit::udp(route(WORLD), 40_000, 4444, b"x")[IP]);
    assert_eq!(heard(&mut guest, &unreachable), 1, "what is said of the guest's own flow");
}

#[test]
fn an_allowed_name_is_resolved_and_told_with_the_answer() {
    let (mut guest, gate) = guest(Action::Allow, BOTH);
    assert_eq!(guest.raw(&query()), 0, "the answer comes from outside");
    let asked = gate.taken();
    let [(Kind::NetDns { question, addresses, .. }, "the host's resolver is asked")] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!((question, addresses.len()), (&"evil.example".into(), 0), "no flow was asked about");
    let told: Vec<_> = guest.told.iter().filter(|kind| matches!(kind, Kind::NetDns { .. })).collect();
    let [Kind::NetDns { question, addresses, frame: 1, .. }] = &told[..] else { panic!("{told:?}") };
    assert_eq!((question, &addresses[..]), (&"evil.example".into(), &[[198, 18, 0, 1].into()][..]));
    guest.end();
    assert_eq!(guest.streams().len(), 0, "names are told as such");

    let (mut guest, gate) = self::guest(Action::Deny, BOTH);
    assert_eq!(guest.raw(&query()), 1, "it does not exist");
    assert_eq!((guest.passed.len(), gate.taken().len()), (0, 1));
}

#[test]
fn a_name_that_could_be_read_as_another_goes_nowhere() {
    let (mut guest, gate) = guest(Action::Allow, BOTH);
    for name in [&b"\x0cevil.example\x03org\0"[..], b"\x03a\0b\0", b"\x01*\0", b"\x02a \0", b"\x02\xc3\xa4\0", b"\0"] {
        let message = [&b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0"[..], name, b"\0\x01\0\x01"].concat();
        assert_eq!(guest.raw(&emit::udp(route(GATEWAY), 40_000, 53, &message)), 1, "refused");
    }
    let message = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05_dmarc\x07example\0\0\x10\0\x01";
    guest.raw(&emit::udp(route(GATEWAY), 40_000, 53, &message[..]));
    assert_eq!((guest.passed.len(), gate.taken().len()), (0, 0), "its label is not as long as it says");
    let message = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x06_dmarc\x07example\0\0\x10\0\x01";
    guest.raw(&emit::udp(route(GATEWAY), 40_000, 53, &message[..]));
    assert_eq!((guest.passed.len(), gate.taken().len()), (1, 1));
}

#[test]
fn when_the_way_is_gone_connections_are_reset_and_no_more_go_on() {
    let (mut guest, gate) = guest(Action::Allow, BOTH);
    let open = guest.connect(WORLD, 4444, 40_000);
    guest.settle();
    guest.say(open, b"hello");
    let count = guest.passed.len();
    guest.cut_off();
    guest.settle();
    assert!(!guest.socket(open).is_open(), "reset");
    assert_eq!(guest.streams(), [("unknown".into(), 5, 0, "network".into())]);
    gate.taken();
    let late = guest.connect(WORLD, 4444, 40_001);
    guest.settle();
    assert!(!guest.socket(late).is_open());
    assert_eq!(flows(&gate), [(Protocol::Tcp, "refused: the way to the real network is gone")]);
    guest.raw(&emit::udp(route(WORLD), 40_000, 4444, b"beacon"));
    assert_eq!(guest.raw(&query()), 1);
    assert_eq!(guest.passed.len(), count);
}

#[test]
fn a_port_that_is_used_again_is_asked_about_again() {
    let (mut guest, gate) = guest(Action::Allow, BOTH);
    guest.outside = None;
    for (sequence, asked) in [(1, 1), (1, 0), (2, 1)] {
        guest.raw(&syn(WORLD, 80, sequence));
        assert_eq!(gate.taken().len(), asked, "{sequence}");
    }
    assert_eq!(guest.passed.len(), 3);
}

#[test]
fn flows_are_bounded() {
    let (mut guest, _) = guest(Action::Allow, BOTH);
    // Nobody answers.
    guest.outside = None;
    for number in 0..MOST + 10 {
        let to = Ipv4Addr::from_bits(Ipv4Addr::new(93, 0, 0, 0).to_bits() + u32::try_from(number).unwrap());
        guest.now += Duration::from_millis(1);
        guest.raw(&syn(to, 80, 1));
    }
    let resets = guest
        .passed
        .iter()
        .filter(|frame| TcpPacket::new_checked(&frame[emit::ETHERNET + 20..]).is_ok_and(|segment| segment.rst()));
    assert_eq!(resets.count(), 10, "the oldest are ended on the other side too");
    guest.end();
    assert_eq!(guest.streams().len(), 0, "nothing came of them, and that they were asked for is told");
}

#[test]
fn what_is_sent_again_counts_once() {
    let (mut guest, _) = guest(Action::Allow, BOTH);
    let open = guest.connect(WORLD, 4444, 40_000);
    guest.settle();
    guest.say(open, b"hello");
    let data = guest.passed.iter().find(|frame| frame.ends_with(b"hello")).unwrap().clone();
    let mut ahead = data.clone();
    ahead[emit::ETHERNET + 20 + 4 + 2] ^= 1; // The sequence number, by 256.
    mend(&mut ahead);
    for frame in [&data, &ahead, &data] {
        guest.raw(frame);
    }
    guest.say(open, b" again");
    guest.socket(open).abort();
    guest.settle();
    assert_eq!(guest.streams(), [("unknown".into(), 11, 0, "reset".into())]);
    assert_eq!(&guest.artifacts[0].bytes[..], b"hello again");
}

/// Puts the checksum of a segment to the world right.
fn mend(frame: &mut [u8]) {
    let mut segment = TcpPacket::new_unchecked(&mut frame[emit::ETHERNET + 20..]);
    segment.fill_checksum(&GUEST.into(), &WORLD.into());
}

#[test]
fn the_first_words_of_tls_are_told() {
    use rustls::pki_types::ServerName;
    let (mut guest, _) = guest(Action::Allow, BOTH);
    let open = guest.connect(WORLD, 443, 40_000);
    guest.settle();
    let roots = rustls::RootCertStore::empty();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("c2.evil.example").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let (first, rest) = hello.split_at(100);
    guest.say(open, first);
    assert!(!guest.told.iter().any(|kind| matches!(kind, Kind::NetTls { .. })), "it is not whole");
    guest.say(open, rest);
    let told = guest.told.iter().find_map(|kind| match kind {
        Kind::NetTls { server_name, ja4, outcome, .. } => Some((server_name.clone(), ja4.clone(), outcome.clone())),
        _ => None,
    });
    let (name, ja4, outcome) = told.unwrap();
    assert_eq!(name, Some("c2.evil.example".into()));
    assert!(ja4.starts_with('t') && outcome.starts_with("passed on"), "{ja4} {outcome}");
}

proptest! {
    #[test]
    fn hostile_frames_of_the_real_network_are_looked_at_without_panic(mut bytes: Vec<u8>, cut in 0usize..60, at in 0usize..60, by: u8) {
        let (mut guest, _) = guest(Action::Allow, BOTH);
        guest.raw(&query());
        guest.raw(&syn(WORLD, 80, 1));
        guest.hear_from_outside(&bytes);
        let mut frame = emit::udp(back(GATEWAY), 53, 40_001, &bytes);
        guest.hear_from_outside(&frame);
        frame[at % 42] ^= by;
        frame.truncate(frame.len() - cut.min(frame.len()));
        guest.hear_from_outside(&frame);
        bytes.splice(0..0, *b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x04evil\x07example\0\0\x01\0\x01");
        guest.hear_from_outside(&emit::udp(back(GATEWAY), 53, 40_001, &bytes));
        guest.settle();
    }
}

/// Allows everything, and writes down the order of things.
#[derive(Default)]
struct Allows(Mutex<Vec<String>>);

impl Outlet for Allows {
    fn now_ns(&self) -> u64 {
        1_000
    }
    fn emit(&self, produced: Produced) {
        self.0.lock().unwrap().push(produced.event.kind.name().to_owned());
    }
    fn ask(&self, produced: Produced) -> Action {
        self.0.lock().unwrap().push(format!("asked: {}", produced.event.kind.name()));
        Action::Allow
    }
    fn settle(&self, event: &Event, action: Action, outcome: &str) {
        self.0.lock().unwrap().push(format!("{} {action}: {outcome}", event.kind.name()));
    }
}

#[test]
fn the_server_stands_between_the_cable_and_the_real_network() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, capture) = (directory.path().join("net.sock"), directory.path().join("traffic.pcapng"));
    let outlet = Arc::new(Allows::default());
    let (ours, mut passt) = UnixStream::pair().unwrap();
    let config = NetConfig {
        socket: socket.clone(),
        capture: capture.clone(),
        mac_of_guest: Some(MAC.0),
        mode: Mode::Egress,
        content: Content::default(),
        waits: Waits::of(BOTH),
        authority: None,
        uplink: Some(ours),
    };
    let server = NetServer::start(config, outlet.clone()).unwrap();
    let mut guest = UnixStream::connect(&socket).unwrap();
    send(&mut guest, &syn(WORLD, 443, 1));
    assert_eq!(receive(&mut passt), syn(WORLD, 443, 1), "as the guest sent it");
    // Nobody's, and then the guest's.
    send(&mut passt, &arp(GUEST));
    let reset = emit::reset(back(WORLD), (443, 40_000), 0, Some(2));
    send(&mut passt, &reset);
    assert_eq!(receive(&mut guest), reset);
    send(&mut guest, &syn(WORLD, 443, 5));
    receive(&mut passt);
    drop(passt);
    let ended = receive(&mut guest);
    assert!(TcpPacket::new_checked(&ended[emit::ETHERNET + 20..]).unwrap().rst(), "what was open is reset");
    let summary = server.stop();
    assert_eq!((summary.frames, summary.fault), (4, None), "the stranger's frame is not in the capture");
    let outage = summary.outage.unwrap();
    assert!(outage.contains("the way to the real network was gone"), "{outage}");
    let log = outlet.0.lock().unwrap();
    let let_through = "net.flow allow: let through to the real network";
    assert_eq!(*log, ["asked: net.flow", let_through, "asked: net.flow", let_through]);
}

#[test]
fn without_a_way_there_is_no_server() {
    let directory = tempfile::tempdir().unwrap();
    let config = NetConfig {
        socket: directory.path().join("net.sock"),
        capture: directory.path().join("traffic.pcapng"),
        mac_of_guest: None,
        mode: Mode::Egress,
        content: Content::default(),
        waits: Waits::of(BOTH),
        authority: None,
        uplink: None,
    };
    let error = NetServer::start(config, Arc::new(Allows::default())).unwrap_err().to_string();
    assert!(error.contains("no way to the real network"), "{error}");
}
