//! What waits for the policy, and what the guest gets for each answer.

use std::sync::{Arc, Mutex};

use lava_event::{Action, Event, Kind, Outlet, Produced, Protocol};
use smoltcp::wire::{DhcpMessageType, Ipv4Packet, TcpPacket, UdpPacket};

use super::guest::Guest;
use super::wire::{receive, send};
use super::{GATEWAY, IP, WORLD, arp, dhcp, emit, query, route, syn};
use crate::gate::{Gate, Outcomes, Waits};
use crate::peer::{Handled, Peer};
use crate::world::{At, World};
use crate::{Content, Mode, NetConfig, NetServer};

/// A policy that gives one answer to everything.
#[derive(Clone, Default)]
pub struct Scripted {
    waits: Waits,
    answer: Option<Action>,
    /// What was asked, and what became of it.
    asked: Arc<Mutex<Vec<(Kind, &'static str)>>>,
}

impl Scripted {
    pub fn new(answer: Action, kinds: &[&str]) -> Self {
        Self { waits: Waits::of(kinds), answer: Some(answer), ..Self::default() }
    }

    pub fn taken(&self) -> Vec<(Kind, &'static str)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Gate for Scripted {
    fn waits(&self) -> Waits {
        self.waits
    }

    fn ask(&mut self, kind: Kind, outcomes: Outcomes) -> Action {
        let answer = self.answer.unwrap();
        self.asked.lock().unwrap().push((kind, outcomes.of(answer)));
        answer
    }
}

const FLOWS: &[&str] = &["net.flow", "file.open"];
const NAMES: &[&str] = &["net.dns"];

fn peer(mode: Mode) -> Peer {
    Peer::new(None, Some(World { sinkhole: mode == Mode::Refuse, ..World::default() }), 0)
}

fn give(peer: &mut Peer, frame: &[u8], gate: &Scripted) -> (Option<Vec<u8>>, Vec<Kind>) {
    let Handled { told, mut answers, .. } = peer.handle(frame, At::default(), &mut gate.clone());
    assert!(answers.len() < 2);
    (answers.pop(), told.into_iter().map(|(kind, _)| kind).collect())
}

/// `reset` or `taken`.
fn segment(answer: Option<Vec<u8>>) -> &'static str {
    let answer = answer.unwrap();
    let packet = Ipv4Packet::new_checked(&answer[IP]).unwrap();
    let segment = TcpPacket::new_checked(packet.payload()).unwrap();
    match (segment.rst(), segment.syn() && segment.ack()) {
        (true, false) => "reset",
        (false, true) => "taken",
        _ => panic!("{segment}"),
    }
}

#[test]
fn a_connection_is_what_the_policy_says() {
    for (mode, answer, wanted) in [
        (Mode::Simulated, Action::Allow, "taken"),
        (Mode::Simulated, Action::Deny, "reset"),
        (Mode::Simulated, Action::Remediate, "taken"),
        (Mode::Refuse, Action::Allow, "reset"),
        (Mode::Refuse, Action::Deny, "reset"),
        (Mode::Refuse, Action::Remediate, "taken"),
    ] {
        let (mut peer, gate) = (peer(mode), Scripted::new(answer, FLOWS));
        let (reply, told) = give(&mut peer, &syn(WORLD, 4444, 1), &gate);
        assert_eq!(segment(reply), wanted, "{mode:?} {answer}");
        assert_eq!(told, [], "the question told of the flow");
        let asked = gate.taken();
        let [(Kind::NetFlow { protocol: Protocol::Tcp, destination, answer: said, .. }, _)] = &asked[..] else {
            panic!("{asked:?}")
        };
        assert_eq!((destination.to_string().as_str(), said.as_str()), ("192.0.2.7:4444", "asked"));
        give(&mut peer, &syn(WORLD, 4444, 1), &gate);
        let again = gate.taken().len();
        assert_eq!(again, usize::from(wanted == "reset"), "who was refused and asks again is asked about again");
    }
    let (mut peer, gate) = (peer(Mode::Simulated), Scripted::new(Action::Deny, NAMES));
    assert_eq!(segment(give(&mut peer, &syn(WORLD, 4444, 1), &gate).0), "taken", "no rule is about flows");
}

#[test]
fn a_flow_of_datagrams_is_asked_about_once() {
    let beacon = emit::udp(route(WORLD), 40_000, 4444, b"beacon");
    for (mode, answer, taken) in [
        (Mode::Simulated, Action::Allow, true),
        (Mode::Simulated, Action::Deny, false),
        (Mode::Refuse, Action::Allow, false),
        (Mode::Refuse, Action::Remediate, true),
    ] {
        let (mut peer, gate) = (peer(mode), Scripted::new(answer, FLOWS));
        for _ in 0..3 {
            let (reply, told) = give(&mut peer, &beacon, &gate);
            assert_eq!((reply.is_none(), told), (taken, vec![]), "{mode:?} {answer}");
        }
        assert_eq!(gate.taken().len(), 1);
        let streams = peer.end(std::time::Duration::ZERO);
        assert_eq!(streams.len(), usize::from(taken), "{streams:?}");
    }
}

#[test]
fn a_damaged_datagram_spares_no_question() {
    let (mut peer, gate) = (peer(Mode::Simulated), Scripted::new(Action::Deny, FLOWS));
    let beacon = emit::udp(route(WORLD), 40_000, 4444, b"beacon");
    let mut damaged = beacon.clone();
    *damaged.last_mut().unwrap() ^= 1; // Padding.
    damaged[emit::ETHERNET + 28] ^= 1; // The first byte of what it says: its checksum is wrong.
    for (frame, answered, asked) in [(&damaged, false, 0), (&beacon, true, 1), (&damaged, false, 0), (&beacon, true, 0)]
    {
        assert_eq!(give(&mut peer, frame, &gate).0.is_some(), answered, "refused, where it is taken note of");
        assert_eq!(gate.taken().len(), asked);
    }
    assert_eq!(peer.end(std::time::Duration::ZERO).len(), 0, "nothing was taken");
}

#[test]
fn pings_wait_and_what_makes_the_network_work_does_not() {
    let gate = Scripted::new(Action::Deny, FLOWS);
    let mut peer = peer(Mode::Simulated);
    for frame in [arp(GATEWAY), dhcp(DhcpMessageType::Discover, None)] {
        assert!(give(&mut peer, &frame, &gate).0.is_some());
    }
    assert_eq!(gate.taken(), []);
    assert_eq!(give(&mut peer, &super::wire::ping(GATEWAY), &gate).0, None);
    assert_eq!(gate.taken().len(), 1);
}

/// Code of the reply, and its number of addresses.
fn name(answer: Option<Vec<u8>>) -> (u8, u8) {
    let answer = answer.unwrap();
    let packet = Ipv4Packet::new_checked(&answer[IP]).unwrap();
    let reply = UdpPacket::new_checked(packet.payload()).unwrap().payload().to_vec();
    (reply[3] & 15, reply[7])
}

#[test]
fn a_name_is_what_the_policy_says() {
    for (mode, answer, reply, shown) in [
        (Mode::Simulated, Action::Allow, (0, 1), 1),
        (Mode::Simulated, Action::Deny, (3, 0), 1),
        (Mode::Simulated, Action::Remediate, (0, 1), 1),
        (Mode::Refuse, Action::Allow, (5, 0), 0),
        (Mode::Refuse, Action::Deny, (3, 0), 0),
        (Mode::Refuse, Action::Remediate, (0, 1), 0),
    ] {
        let (mut peer, gate) = (peer(mode), Scripted::new(answer, NAMES));
        let (bytes, told) = give(&mut peer, &query(), &gate);
        assert_eq!(name(bytes), reply, "{mode:?} {answer}");
        assert!(matches!(told[..], [Kind::NetFlow { .. }]), "{told:?}");
        let asked = gate.taken();
        let [(Kind::NetDns { question, addresses, .. }, _)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!((question, addresses.len()), (&"evil.example".into(), shown));
    }
    let (mut peer, gate) = (peer(Mode::Simulated), Scripted::new(Action::Deny, &["net.flow", "net.dns"]));
    assert_eq!(name(give(&mut peer, &query(), &gate).0), (5, 0), "the flow is refused before the name is asked for");
    assert_eq!(gate.taken().len(), 1);
}

#[test]
fn names_over_tcp_wait_too() {
    for (answer, code) in [(Action::Allow, 0), (Action::Deny, 3)] {
        let gate = Scripted::new(answer, NAMES);
        let mut guest = Guest::new(peer(Mode::Simulated));
        guest.gate = Box::new(gate.clone());
        let socket = guest.connect(GATEWAY, 53, 40_000);
        guest.settle();
        let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04evil\x07example\0\0\x01\0\x01";
        let heard = guest.say(socket, &[&[0, 30][..], question].concat());
        assert_eq!(heard[5] & 15, code);
        assert!(!guest.told.iter().any(|kind| matches!(kind, Kind::NetDns { .. })), "the question told of it");
        let asked = gate.taken();
        assert!(matches!(&asked[..], [(Kind::NetDns { protocol: Protocol::Tcp, .. }, _)]), "{asked:?}");
    }
}

/// Refuses, and looks into the capture when asked.
struct Refuses {
    capture: std::path::PathBuf,
    log: Mutex<Vec<String>>,
}

impl Outlet for Refuses {
    fn now_ns(&self) -> u64 {
        1_000
    }
    fn emit(&self, produced: Produced) {
        self.log.lock().unwrap().push(produced.event.kind.name().to_owned());
    }
    fn ask(&self, produced: Produced) -> Action {
        let Kind::NetFlow { frame, .. } = produced.event.kind else { panic!("{:?}", produced.event) };
        let capture = std::fs::read(&self.capture).unwrap();
        let there = capture.windows(20).any(|window| window == &syn(WORLD, 443, 1)[14..34]);
        self.log.lock().unwrap().push(format!("asked of frame {frame}, in the capture: {there}"));
        Action::Deny
    }
    fn settle(&self, event: &Event, action: Action, outcome: &str) {
        self.log.lock().unwrap().push(format!("{} {action}: {outcome}", event.kind.name()));
    }
}

#[test]
fn a_question_waits_on_the_wire() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, capture) = (directory.path().join("net.sock"), directory.path().join("traffic.pcapng"));
    let outlet = Arc::new(Refuses { capture: capture.clone(), log: Mutex::default() });
    let (mode, content, waits) = (Mode::Simulated, Content::default(), Waits::of(FLOWS));
    let config = NetConfig {
        socket: socket.clone(),
        capture,
        mac_of_guest: None,
        mode,
        content,
        waits,
        authority: None,
        uplink: None,
    };
    let server = NetServer::start(config, outlet.clone()).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    send(&mut stream, &syn(WORLD, 443, 1));
    assert_eq!(segment(Some(receive(&mut stream))), "reset");
    let summary = server.stop();
    assert_eq!((summary.frames, summary.fault), (2, None));
    let log = outlet.log.lock().unwrap();
    assert_eq!(
        *log,
        ["asked of frame 1, in the capture: true", "net.flow deny: refused: the guest got a reset"],
        "recorded, asked, answered, told"
    );
}
