//! The way to the real network: which flows take it, and what is said over them.
//!
//! On its other end stands passt (<https://passt.top>) with sockets of the host's. A frame of the guest goes on as it is if the policy
//! has allowed its flow, a frame of passt's goes to the guest as it is if it belongs to such a flow; all else ends here, unrecorded if
//! it is passt's. What is said is kept in the order in which the ends take it (what was sent again counts once) and told when a flow ends
//! (`net.stream`), the guest's first words of TLS at once (`net.tls`). A name that was allowed goes to the host's resolver; what it
//! answers is told (`net.dns`) before the guest has it.
//!
//! *Invariant:* no frame goes on whose flow has no answer *allow*. Nothing goes to the virtual LAN's addresses but names to the gateway.
//!
//! Limits: [`MOST`] flows at a time: one too many ends the one that was silent longest, with a reset both ways. Only IPv4, whole
//! packets, TCP, UDP and pings. [`QUESTIONS`] names that wait for their answer, the oldest is forgotten first: its answer is not told, so
//! `trace.names` lacks it. HTTP is not taken apart.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lava_event::{Kind, NetEndpoint, Protocol};
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet, IpProtocol, Ipv4Packet, TcpPacket,
    UdpPacket,
};

use crate::dns::{self, Asked};
use crate::emit::{self, Route};
use crate::lan;
use crate::service::KEEP;
use crate::service::hello::{self, Read};
use crate::transport::{DNS, ports};
use crate::world::{At, Budget, Context, Ends, Kept, Report, World};

/// Flows at a time.
pub const MOST: usize = 1024;
/// Questions that wait for their answer.
pub const QUESTIONS: usize = 256;
/// Bytes of each direction that are kept of datagrams.
const KEEP_DATAGRAMS: usize = 64 << 10;
/// How long the other end may take to accept a connection: longer than Linux tries (tcp_syn_retries, tcp(7)).
const HALF_OPEN: Duration = Duration::from_secs(150);
/// How long a connection is remembered that both ends have closed: for the last acknowledgements.
const CLOSING: Duration = Duration::from_secs(10);
/// Datagrams or pings that were silent so long have ended.
const IDLE: Duration = Duration::from_secs(60);
/// How often the first bytes of a connection are looked at for a hello of TLS.
const LOOKS: u8 = 32;

/// A flow: what, and between whom.
type Flow = (Protocol, Ends);

/// What goes one way.
#[derive(Debug)]
struct Way {
    /// TCP: the next number in sequence, once there is one.
    next: Option<i32>,
    /// TCP: nothing more comes.
    closed: bool,
    kept: Kept,
}

impl Way {
    const fn new(keep: usize) -> Self {
        Self { next: None, closed: false, kept: Kept::new(keep) }
    }

    /// Takes what of a segment is next in sequence, as the other end does. What runs ahead comes again.
    fn take(&mut self, segment: &TcpPacket<&[u8]>, budget: &mut Budget) {
        let sequence = segment.seq_number().0;
        if segment.syn() {
            self.next.get_or_insert(sequence.wrapping_add(1));
            return;
        }
        let Some(next) = self.next.filter(|_| !self.closed) else { return };
        let known = usize::try_from(next.wrapping_sub(sequence)).ok();
        let Some(fresh) = known.and_then(|known| segment.payload().get(known..)) else { return };
        self.kept.add(fresh, budget);
        self.closed = segment.fin();
        let count = i32::try_from(fresh.len()).unwrap_or(0).wrapping_add(self.closed.into());
        self.next = Some(next.wrapping_add(count));
    }
}

/// A flow that goes on.
#[derive(Debug)]
struct Passage {
    /// Its first frame.
    frame: u64,
    /// When something last went either way.
    active: Duration,
    sent: Way,
    received: Way,
    /// Who closed first.
    closed_by: Option<&'static str>,
    /// It was told how it ended; what is left are acknowledgements.
    told: bool,
    /// How often its beginning may still be looked at.
    looks: u8,
}

/// A name that the resolver was asked for.
#[derive(Debug)]
struct Question {
    asked: Asked,
    frame: u64,
}

/// All flows to the real network.
#[derive(Debug)]
pub struct Egress {
    open: bool,
    guest: EthernetAddress,
    flows: BTreeMap<Flow, Passage>,
    /// By who asked whom, and the question's number.
    questions: BTreeMap<(Ends, u16), Question>,
    /// Frames for passt.
    pub onward: Vec<Vec<u8>>,
    /// Frames for the guest.
    pub inbound: Vec<Vec<u8>>,
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            open: true,
            guest: EthernetAddress::default(),
            flows: BTreeMap::new(),
            questions: BTreeMap::new(),
            onward: Vec::new(),
            inbound: Vec::new(),
        }
    }
}

impl Egress {
    /// False once passt is gone.
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// The guest's card, as it last sent.
    pub const fn seen(&mut self, guest: EthernetAddress) {
        self.guest = guest;
    }

    /// True if a segment belongs to a connection that goes on. One that opens belongs to it only if it opens the same.
    pub fn knows(&self, ends: Ends, segment: &TcpPacket<&[u8]>) -> bool {
        let Some(passage) = self.flows.get(&(Protocol::Tcp, ends)) else { return false };
        let again = || passage.received.next.is_none() && passage.sent.next == Some(after(segment));
        !segment.syn() || segment.ack() || again()
    }

    /// True if that flow goes on.
    pub fn has(&self, protocol: Protocol, ends: Ends) -> bool {
        self.flows.contains_key(&(protocol, ends))
    }

    /// Sends a segment of an allowed connection on: its frame.
    pub fn segment(
        &mut self,
        ends: Ends,
        frame: &[u8],
        segment: &TcpPacket<&[u8]>,
        at: At,
        world: &mut World,
        report: &mut Report<'_>,
    ) {
        let flow = (Protocol::Tcp, ends);
        if segment.syn() && !self.knows(ends, segment) {
            // The guest uses its port again.
            self.finish(flow, "reset", at.now, world, report);
        }
        let passage = self.passage(flow, KEEP, at, world, report);
        passage.sent.take(segment, &mut world.budget);
        if passage.looks > 0 && passage.sent.kept.total() > 0 {
            passage.looks -= 1;
            match hello::read(passage.sent.kept.bytes()) {
                Read::More => {}
                Read::Bad => passage.looks = 0,
                Read::Whole(hello) => {
                    passage.looks = 0;
                    let kind = hello.told(ends, "", "passed on: it is not ended here, and stays encrypted", at.frame);
                    Context { at, world, report }.tell(kind, None);
                }
            }
        }
        self.onward.push(frame.to_vec());
        self.closes(flow, segment.rst(), "guest", at.now, world, report);
    }

    /// Sends a datagram, or a ping, of an allowed flow on: its frame.
    pub fn datagram(
        &mut self,
        (protocol, ends): Flow,
        frame: &[u8],
        payload: &[u8],
        at: At,
        world: &mut World,
        report: &mut Report<'_>,
    ) {
        let passage = self.passage((protocol, ends), KEEP_DATAGRAMS, at, world, report);
        passage.sent.kept.add(payload, &mut world.budget);
        self.onward.push(frame.to_vec());
    }

    /// Notes what the resolver is asked now.
    pub fn question(&mut self, ends: Ends, number: u16, asked: Asked, frame: u64) {
        if self.questions.len() >= QUESTIONS
            && let Some(oldest) = self.questions.iter().min_by_key(|(_, question)| question.frame).map(|(key, _)| *key)
        {
            self.questions.remove(&oldest);
        }
        self.questions.insert((ends, number), Question { asked, frame });
    }

    /// The flow; made if it is new.
    fn passage(&mut self, flow: Flow, keep: usize, at: At, world: &mut World, report: &mut Report<'_>) -> &mut Passage {
        if self.flows.len() >= MOST
            && !self.flows.contains_key(&flow)
            && let Some(victim) = self.least_missed()
        {
            self.reset(victim);
            self.finish(victim, "evicted", at.now, world, report);
        }
        let fresh = || Passage {
            frame: at.frame,
            active: at.now,
            sent: Way::new(keep),
            received: Way::new(keep),
            closed_by: None,
            told: false,
            looks: LOOKS,
        };
        let passage = self.flows.entry(flow).or_insert_with(fresh);
        passage.active = at.now;
        passage
    }

    fn least_missed(&self) -> Option<Flow> {
        self.flows.iter().min_by_key(|(_, passage)| (!passage.told, passage.active)).map(|(flow, _)| *flow)
    }

    /// Takes a frame of passt's.
    pub fn arrived(&mut self, bytes: &[u8], now: Duration, world: &mut World, report: &mut Report<'_>) {
        let Ok(frame) = EthernetFrame::new_checked(bytes) else { return };
        let meant = frame.dst_addr() == self.guest && frame.src_addr().0 == lan::gateway_mac();
        if !self.open || !meant || frame.ethertype() != EthernetProtocol::Ipv4 {
            return;
        }
        let Ok(packet) = Ipv4Packet::new_checked(frame.payload()) else { return };
        let whole = packet.version() == 4 && packet.header_len() >= 20 && packet.dst_addr() == lan::GUEST;
        if !whole || packet.more_frags() || packet.frag_offset() != 0 {
            return;
        }
        let (from, payload) = (packet.src_addr(), packet.payload());
        match packet.next_header() {
            IpProtocol::Tcp => self.tcp(bytes, from, payload, now, world, report),
            IpProtocol::Udp => self.udp(bytes, from, payload, now, world, report),
            IpProtocol::Icmp => self.icmp(bytes, from, payload, now, world),
            _ => {}
        }
    }

    fn tcp(
        &mut self,
        frame: &[u8],
        from: Ipv4Addr,
        payload: &[u8],
        now: Duration,
        world: &mut World,
        report: &mut Report<'_>,
    ) {
        let Ok(segment) = TcpPacket::new_checked(payload) else { return };
        let flow = (Protocol::Tcp, ends(from, segment.src_port(), segment.dst_port()));
        let Some(passage) = self.flows.get_mut(&flow) else { return };
        passage.active = now;
        passage.received.take(&segment, &mut world.budget);
        self.inbound.push(frame.to_vec());
        self.closes(flow, segment.rst(), "network", now, world, report);
    }

    fn udp(
        &mut self,
        frame: &[u8],
        from: Ipv4Addr,
        payload: &[u8],
        now: Duration,
        world: &mut World,
        report: &mut Report<'_>,
    ) {
        let Ok(datagram) = UdpPacket::new_checked(payload) else { return };
        let ends = ends(from, datagram.src_port(), datagram.dst_port());
        let Some(passage) = self.flows.get_mut(&(Protocol::Udp, ends)) else { return };
        passage.active = now;
        passage.received.kept.add(datagram.payload(), &mut world.budget);
        self.inbound.push(frame.to_vec());
        if ends.destination.port != DNS {
            return;
        }
        let Some((number, addresses)) = dns::heard(datagram.payload()) else { return };
        let Some(Question { asked, frame }) = self.questions.remove(&(ends, number)) else { return };
        // The question was told when the policy was asked.
        if !addresses.is_empty() {
            let kind = asked.answered(Protocol::Udp, addresses, ends.origin, frame);
            Context { at: At { now, frame }, world, report }.tell(kind, None);
        }
    }

    /// Replies to pings, and what routers and hosts say of a flow.
    fn icmp(&mut self, frame: &[u8], from: Ipv4Addr, payload: &[u8], now: Duration, world: &mut World) {
        let Ok(packet) = Icmpv4Packet::new_checked(payload) else { return };
        let flow = match packet.msg_type() {
            Icmpv4Message::EchoReply => Some((Protocol::Icmp, ends(from, 0, 0))),
            Icmpv4Message::DstUnreachable | Icmpv4Message::TimeExceeded => quoted(packet.data()),
            _ => None,
        };
        let Some((flow, passage)) = flow.and_then(|flow| Some((flow, self.flows.get_mut(&flow)?))) else { return };
        passage.active = now;
        if flow.0 == Protocol::Icmp {
            passage.received.kept.add(packet.data(), &mut world.budget);
        }
        self.inbound.push(frame.to_vec());
    }

    /// Notices that a connection is over.
    fn closes(
        &mut self,
        flow: Flow,
        reset: bool,
        by: &'static str,
        now: Duration,
        world: &mut World,
        report: &mut Report<'_>,
    ) {
        if reset {
            return self.finish(flow, "reset", now, world, report);
        }
        let Some(passage) = self.flows.get_mut(&flow) else { return };
        if passage.sent.closed || passage.received.closed {
            let first = *passage.closed_by.get_or_insert(by);
            if passage.sent.closed && passage.received.closed && !passage.told {
                passage.tell(flow, first, now, world, report);
            }
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Duration, world: &mut World, report: &mut Report<'_>) {
        let over = |(protocol, _): &Flow, passage: &Passage| {
            let silent = now.saturating_sub(passage.active);
            match protocol {
                Protocol::Tcp if passage.told => silent > CLOSING,
                Protocol::Tcp => passage.received.next.is_none() && silent > HALF_OPEN,
                _ => silent > IDLE,
            }
        };
        let ended: Vec<Flow> =
            self.flows.iter().filter(|(flow, passage)| over(flow, passage)).map(|(flow, _)| *flow).collect();
        for flow in ended {
            self.finish(flow, "idle", now, world, report);
        }
    }

    /// passt is gone: connections are reset, all flows end.
    pub fn lost(&mut self, now: Duration, world: &mut World, report: &mut Report<'_>) {
        let all: Vec<Flow> = self.flows.keys().copied().collect();
        all.into_iter().for_each(|flow| self.reset(flow));
        self.end("network", now, world, report);
        self.open = false;
        self.onward.clear();
    }

    /// Tells of all that are left.
    pub fn end(&mut self, ended: &'static str, now: Duration, world: &mut World, report: &mut Report<'_>) {
        while let Some((&flow, _)) = self.flows.first_key_value() {
            self.finish(flow, ended, now, world, report);
        }
        self.questions.clear();
    }

    /// Forgets a flow, and tells what it was.
    fn finish(&mut self, flow: Flow, ended: &str, now: Duration, world: &mut World, report: &mut Report<'_>) {
        if let Some(mut passage) = self.flows.remove(&flow) {
            passage.tell(flow, ended, now, world, report);
        }
    }

    /// Ends a connection for both ends, in the name of the other.
    fn reset(&mut self, flow: Flow) {
        let (Protocol::Tcp, ends) = flow else { return };
        let Some(passage) = self.flows.get(&flow).filter(|passage| !passage.told) else { return };
        let IpAddr::V4(other) = ends.destination.address else { return };
        let (ours, theirs) = (passage.sent.next, passage.received.next);
        let gateway = EthernetAddress(lan::gateway_mac());
        let (from, to) = (ends.origin.port, ends.destination.port);
        let route = Route { to_mac: self.guest, from_mac: gateway, to: lan::GUEST, from: other };
        self.inbound.push(emit::reset(route, (to, from), theirs.unwrap_or(0), ours));
        let route = Route { to_mac: gateway, from_mac: self.guest, to: other, from: lan::GUEST };
        self.onward.push(emit::reset(route, (from, to), ours.unwrap_or(0), theirs));
    }
}

impl Passage {
    /// Tells what it was, once, if it came to anything that no other event tells.
    fn tell(&mut self, (protocol, ends): Flow, ended: &str, now: Duration, world: &mut World, report: &mut Report<'_>) {
        let refused = protocol == Protocol::Tcp && self.received.next.is_none();
        let name = protocol == Protocol::Udp && ends.destination.port == DNS;
        if std::mem::replace(&mut self.told, true) || refused || name {
            return;
        }
        let (sent, received) = (self.sent.kept.artifact(), self.received.kept.artifact());
        let kind = Kind::NetStream {
            protocol,
            origin: ends.origin,
            destination: ends.destination,
            application: "unknown".to_owned(),
            sent: self.sent.kept.total(),
            received: self.received.kept.total(),
            sent_sha256: sent.as_ref().map(|artifact| artifact.sha256),
            received_sha256: received.as_ref().map(|artifact| artifact.sha256),
            complete: self.sent.kept.is_whole() && self.received.kept.is_whole(),
            ended: ended.to_owned(),
            frame: self.frame,
        };
        Context { at: At { now, frame: self.frame }, world, report }.tell(kind, sent.into_iter().chain(received));
    }
}

/// The number behind a SYN's.
fn after(segment: &TcpPacket<&[u8]>) -> i32 {
    segment.seq_number().0.wrapping_add(1)
}

/// The ends of what comes from there to a port of the guest's.
fn ends(from: Ipv4Addr, from_port: u16, to_port: u16) -> Ends {
    Ends {
        origin: NetEndpoint { address: lan::GUEST.into(), port: to_port },
        destination: NetEndpoint { address: from.into(), port: from_port },
    }
}

/// The flow of a packet of the guest's, of which an error of ICMP quotes the beginning (RFC 792).
fn quoted(packet: &[u8]) -> Option<Flow> {
    let head: &[u8; 20] = packet.first_chunk()?;
    let payload = packet.get(usize::from(head[0] & 15) * 4..)?;
    let (from, to) = ports(payload);
    let other = Ipv4Addr::from([head[16], head[17], head[18], head[19]]);
    match IpProtocol::from(head[9]) {
        IpProtocol::Tcp => Some((Protocol::Tcp, ends(other, to, from))),
        IpProtocol::Udp => Some((Protocol::Udp, ends(other, to, from))),
        IpProtocol::Icmp => Some((Protocol::Icmp, ends(other, 0, 0))),
        _ => None,
    }
}
