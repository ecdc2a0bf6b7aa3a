//! A guest with a TCP of its own (smoltcp's) on the other end of the cable, and a clock that runs as fast as it is asked to.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use lava_event::{Artifact, Kind};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::{GATEWAY, GUEST, MAC, WORLD, emit, route};
use crate::capture::{Capture, Direction};
use crate::gate::{Gate, Open};
use crate::peer::{Handled, Peer};
use crate::world::{At, World};

/// The guest, its cable, and everybody else.
pub struct Guest {
    interface: Interface,
    cable: Cable,
    sockets: SocketSet<'static>,
    pub peer: Peer,
    pub now: Duration,
    frames: u64,
    pub told: Vec<Kind>,
    pub artifacts: Vec<Artifact>,
    pub capture: Option<Capture>,
    pub gate: Box<dyn Gate>,
    /// Who plays the real network, and the frames that came to it.
    pub outside: Option<Peer>,
    pub passed: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Cable {
    inbound: VecDeque<Vec<u8>>,
    outbound: VecDeque<Vec<u8>>,
}

pub struct In(Vec<u8>);
pub struct Out<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let filled = fill(&mut frame);
        self.0.push_back(frame);
        filled
    }
}

impl Device for Cable {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;
    fn receive(&mut self, _: Instant) -> Option<(In, Out<'_>)> {
        let frame = self.inbound.pop_front()?;
        Some((In(frame), Out(&mut self.outbound)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Out<'_>> {
        Some(Out(&mut self.outbound))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

impl Guest {
    pub fn new(peer: Peer) -> Self {
        let mut cable = Cable::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ethernet(MAC)), &mut cable, Instant::ZERO);
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(GUEST.into(), 24)).unwrap());
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        let sockets = SocketSet::new(Vec::new());
        let (told, artifacts) = (Vec::new(), Vec::new());
        Self {
            interface,
            cable,
            sockets,
            peer,
            now: Duration::ZERO,
            frames: 0,
            told,
            artifacts,
            capture: None,
            gate: Box::new(Open),
            outside: None,
            passed: Vec::new(),
        }
    }

    pub fn connect(&mut self, to: Ipv4Addr, port: u16, from: u16) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 60 << 10]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.connect(self.interface.context(), (to, port), from).unwrap();
        self.sockets.add(socket)
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn took(&mut self, handled: Handled) -> usize {
        let count = handled.answers.len();
        if let Some(capture) = &mut self.capture {
            assert!(handled.secrets.is_empty(), "time alone brings no keys");
            for frame in &handled.answers {
                let length = u32::try_from(frame.len()).unwrap();
                let time = u64::try_from(self.now.as_nanos()).unwrap();
                capture.record(frame, length, Direction::Outbound, time).unwrap();
            }
        }
        self.cable.inbound.extend(handled.answers);
        for (kind, artifacts) in handled.told {
            self.told.push(kind);
            self.artifacts.extend(artifacts);
        }
        for frame in handled.onward {
            let at = At { now: self.now, frame: 0 };
            let answers = self.outside.as_mut().map(|outside| outside.handle(&frame, at, &mut Open).answers);
            self.passed.push(frame);
            answers.into_iter().flatten().for_each(|answer| self.hear_from_outside(&answer));
        }
        count
    }

    /// Gives the peer a frame of the real network's.
    pub fn hear_from_outside(&mut self, frame: &[u8]) {
        let handled = self.peer.arrived(frame, self.now, &mut *self.gate);
        self.took(handled);
    }

    /// The way to the real network is cut.
    pub fn cut_off(&mut self) {
        let handled = self.peer.lost(self.now, &mut *self.gate);
        self.took(handled);
    }

    /// Gives the peer a frame that the guest's TCP did not make; how many answers came.
    pub fn raw(&mut self, frame: &[u8]) -> usize {
        self.frames += 1;
        let mut handled = self.peer.handle(frame, At { now: self.now, frame: self.frames }, &mut *self.gate);
        let secrets = std::mem::take(&mut handled.secrets);
        if let Some(capture) = &mut self.capture {
            if !secrets.is_empty() {
                capture.secrets(&secrets).unwrap();
            }
            let length = u32::try_from(frame.len()).unwrap();
            let time = u64::try_from(self.now.as_nanos()).unwrap();
            capture.record(frame, length, Direction::Inbound, time).unwrap();
        }
        self.took(handled)
    }

    /// Lets frames go to and fro until nobody has anything to say.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.now += Duration::from_micros(50);
            let now = Instant::from_micros(i64::try_from(self.now.as_micros()).unwrap());
            self.interface.poll(now, &mut self.cable, &mut self.sockets);
            let quiet = self.cable.outbound.is_empty();
            while let Some(frame) = self.cable.outbound.pop_front() {
                self.raw(&frame);
            }
            let mut ticked = 0;
            if self.peer.deadline(self.now) == Some(Duration::ZERO) {
                let handled = self.peer.tick(self.now, &mut *self.gate);
                ticked = self.took(handled);
            }
            if let Some(outside) = &mut self.outside
                && outside.deadline(self.now) == Some(Duration::ZERO)
            {
                let answers = outside.tick(self.now, &mut Open).answers;
                ticked += answers.len();
                answers.iter().for_each(|answer| self.hear_from_outside(answer));
            }
            if quiet && ticked == 0 && self.cable.inbound.is_empty() {
                return;
            }
        }
        panic!("they never come to rest");
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(500);
            let handled = self.peer.tick(self.now, &mut *self.gate);
            self.took(handled);
            self.settle();
        }
    }

    /// Sends all of `bytes` and returns all that came by then.
    pub fn say(&mut self, handle: SocketHandle, bytes: &[u8]) -> Vec<u8> {
        let (mut rest, mut heard) = (bytes, Vec::new());
        loop {
            let sent = if rest.is_empty() { 0 } else { self.socket(handle).send_slice(rest).unwrap_or(rest.len()) };
            rest = &rest[sent..];
            self.settle();
            let got = self.hear(handle);
            if rest.is_empty() && got.is_empty() {
                return heard;
            }
            heard.extend(got);
        }
    }

    fn hear(&mut self, handle: SocketHandle) -> Vec<u8> {
        let heard = self.socket(handle).recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap_or_default();
        if !heard.is_empty() {
            self.settle(); // The room is told of.
        }
        heard
    }

    /// What was told of streams: application, bytes from and to the guest, how it ended.
    pub fn streams(&self) -> Vec<(String, u64, u64, String)> {
        let of = |kind: &Kind| match kind {
            Kind::NetStream { application, sent, received, ended, .. } => {
                Some((application.clone(), *sent, *received, ended.clone()))
            }
            _ => None,
        };
        self.told.iter().filter_map(of).collect()
    }

    pub fn end(&mut self) {
        let told = self.peer.end(self.now);
        self.took(Handled { told, ..Handled::default() });
    }
}

pub fn simulated() -> Guest {
    Guest::new(Peer::new(None, Some(World::default()), 7))
}

#[test]
fn any_port_of_any_host_is_a_connection_and_recorded() {
    let mut guest = simulated();
    for (number, (to, port)) in [(WORLD, 4444), (WORLD, 31_337), (Ipv4Addr::new(8, 8, 8, 8), 1)].into_iter().enumerate()
    {
        let from = 40_000 + u16::try_from(number).unwrap();
        let socket = guest.connect(to, port, from);
        guest.settle();
        assert!(guest.socket(socket).may_send(), "{to}:{port}");
        assert_eq!(guest.say(socket, b"hello"), b"");
        guest.socket(socket).close();
        guest.settle();
        assert_eq!(guest.streams().last(), Some(&("unknown".into(), 5, 0, "guest".into())));
        assert_eq!(&guest.artifacts.last().unwrap().bytes[..], b"hello");
    }
    assert!(guest.told.iter().any(|kind| matches!(kind, Kind::NetFlow { answer, .. } if answer == "accepted")));
}

#[test]
fn a_host_that_speaks_first_is_believed() {
    let mut guest = simulated();
    let socket = guest.connect(WORLD, 22, 40_000);
    guest.settle();
    let banner = guest.say(socket, b"");
    assert!(banner.starts_with(b"SSH-2.0-OpenSSH") && banner.ends_with(b"\r\n"));
    guest.socket(socket).abort();
    guest.settle();
    assert_eq!(guest.streams(), [("ssh".into(), 0, banner.len() as u64, "reset".into())]);
}

#[test]
fn much_is_taken_and_the_first_of_it_kept() {
    let mut guest = simulated();
    let socket = guest.connect(WORLD, 9, 40_000);
    guest.settle();
    let much: Vec<u8> = (0..3 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
    guest.say(socket, &much);
    guest.end();
    let Some(Kind::NetStream { sent, complete: false, ended, .. }) = guest.told.last() else {
        panic!("{:?}", guest.told)
    };
    assert_eq!((*sent, ended.as_str()), (much.len() as u64, "session"));
    assert_eq!(guest.artifacts[0].bytes[..], much[..crate::service::KEEP]);
}

#[test]
fn datagrams_are_taken_and_told_when_they_stop() {
    let mut guest = simulated();
    for _ in 0..2 {
        assert_eq!(guest.raw(&emit::udp(route(WORLD), 40_000, 4444, b"beacon")), 0);
    }
    assert_eq!(guest.streams().len(), 0);
    guest.wait(Duration::from_secs(40));
    assert_eq!(guest.streams(), [("unknown".into(), 12, 0, "idle".into())]);
    assert_eq!(&guest.artifacts[0].bytes[..], b"beaconbeacon");
}

#[test]
fn the_lan_has_some_hosts_with_some_ports() {
    let mut guest = simulated();
    let neighbour = |last| Ipv4Addr::new(10, 77, 0, last);
    let open = guest.connect(neighbour(20), 22, 40_000);
    let closed = guest.connect(neighbour(20), 445, 40_001);
    let nobody = guest.connect(neighbour(99), 22, 40_002);
    guest.settle();
    assert!(guest.say(open, b"").starts_with(b"SSH-2.0-"));
    assert!(!guest.socket(closed).is_open(), "refused");
    assert!(guest.socket(nobody).is_open() && !guest.socket(nobody).may_send(), "nobody answers");
    assert_eq!(guest.raw(&super::arp(neighbour(99))), 0);
    assert_eq!(guest.raw(&super::arp(neighbour(21))), 1);
}
