//! What our hosts do with a frame of the guest. No I/O and no clock: the same frames at the same times give the same answers, but for
//! what TLS draws at random.
//!
//! | The guest sends | We answer |
//! |---|---|
//! | ARP request for an address of the LAN that is not its own | yes, each address has its MAC |
//! | DHCP DISCOVER, REQUEST | OFFER, ACK or NAK |
//! | DNS query, to anybody | an address for every name; refusing: REFUSED |
//! | TCP to anybody | a connection (`stack`, `service`); refusing, or what belongs to no connection: RST |
//! | other UDP to anybody | nothing, it is recorded (`datagrams`); refusing: ICMP port unreachable |
//! | ping to the gateway | echo reply |
//! | all the rest: IPv6, VLAN, fragments, wrong checksums, multicast, spoofed senders | nothing |
//!
//! *Invariant*: an answer goes to the MAC address that asked (or is a DHCP broadcast), comes from a MAC address of ours,
//! and from the very address the guest spoke to; never from the guest's own.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lava_event::{Kind, NetEndpoint, Protocol};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet,
    IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

use crate::datagrams::Datagrams;
use crate::dhcp::{self, Lease};
use crate::emit::{self, Route};
use crate::flow::{Flows, Step};
use crate::stack::Stack;
use crate::world::{At, Ends, Told, World};
use crate::{Mode, dns, lan};

const DNS: u16 = 53;

/// What became of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The guest was told no.
    Refused,
    /// The guest was told nothing.
    Dropped,
    /// The guest got what it wanted.
    Answered,
    /// The guest may speak: what it says is taken.
    Accepted,
}

impl Verdict {
    /// The word in `net.flow`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::Answered => "answered",
            Self::Accepted => "accepted",
        }
    }
}

/// What a frame, or the passing of time, led to.
#[derive(Default, Debug)]
pub struct Handled {
    /// What is to be told, in this order.
    pub told: Vec<Told>,
    /// The frames to send, once that was told.
    pub answers: Vec<Vec<u8>>,
}

/// A packet's outcome, before the flow table is asked.
struct Outcome {
    protocol: Protocol,
    ports: (u16, u16),
    step: Step,
    verdict: Verdict,
    answer: Option<Vec<u8>>,
    lease: Option<Lease>,
    name: Option<dns::Asked>,
}

impl Outcome {
    fn dropped(protocol: Protocol, ports: (u16, u16)) -> Self {
        Self {
            protocol,
            ports,
            step: Step::default(),
            verdict: Verdict::Dropped,
            answer: None,
            lease: None,
            name: None,
        }
    }

    fn with(self, verdict: Verdict, answer: Vec<u8>) -> Self {
        Self { verdict, answer: Some(answer), ..self }
    }
}

/// An IPv4 packet and whether it may be answered.
struct Ipv4<'a> {
    /// The whole packet.
    bytes: &'a [u8],
    payload: &'a [u8],
    route: Route,
    /// It is whole and undamaged, comes from the guest's address and is addressed to a host of ours.
    sound: bool,
    /// The payload's first bytes are the transport header.
    first: bool,
    /// Our end and the guest's, for checksums.
    from_guest: Ipv4Addr,
}

impl Ipv4<'_> {
    fn ends(&self, (from, to): (u16, u16)) -> Ends {
        Ends {
            origin: NetEndpoint { address: self.from_guest.into(), port: from },
            destination: NetEndpoint { address: self.route.from.into(), port: to },
        }
    }
}

/// Everybody but the guest.
#[derive(Debug)]
pub struct Peer {
    guest: Option<EthernetAddress>,
    flows: Flows,
    /// What a simulated network has beyond the LAN; `None`: all is refused.
    simulated: Option<Simulated>,
}

/// The world that a simulated network plays.
#[derive(Debug)]
struct Simulated {
    world: World,
    stack: Stack,
    datagrams: Datagrams,
    /// The guest's card, as it last sent.
    mac: EthernetAddress,
}

impl Simulated {
    /// Frames with the packets that wait for the guest.
    fn frames(&mut self) -> Vec<Vec<u8>> {
        self.stack.packets().iter().filter_map(|packet| emit::to_guest(packet, self.mac)).collect()
    }
}

impl Peer {
    /// `guest`: the only MAC address that is answered, if it is known. `seed`: where TCP's sequence numbers come from.
    pub fn new(guest: Option<[u8; 6]>, mode: Mode, seed: u64) -> Self {
        let simulated = (mode == Mode::Simulated).then(|| Simulated {
            world: World::default(),
            stack: Stack::new(seed),
            datagrams: Datagrams::default(),
            mac: EthernetAddress::default(),
        });
        Self { guest: guest.map(EthernetAddress), flows: Flows::default(), simulated }
    }

    /// Takes a frame of the guest.
    pub fn handle(&mut self, bytes: &[u8], at: At) -> Handled {
        let Ok(frame) = EthernetFrame::new_checked(bytes) else { return Handled::default() };
        let mac = frame.src_addr();
        let known = mac.is_unicast() && self.guest.is_none_or(|guest| guest == mac);
        match frame.ethertype() {
            EthernetProtocol::Arp if known => {
                Handled { answers: arp(&frame).into_iter().collect(), ..Handled::default() }
            }
            EthernetProtocol::Ipv4 => self.ipv4(&frame, known, at),
            EthernetProtocol::Ipv6 => self.ipv6(frame.payload(), at),
            _ => Handled::default(),
        }
    }

    /// Lets time pass: call it when [`Peer::deadline`] has come.
    pub fn tick(&mut self, now: Duration) -> Handled {
        let mut handled = Handled::default();
        if let Some(simulated) = &mut self.simulated {
            simulated.stack.tick(now, &mut simulated.world, &mut handled.told);
            simulated.datagrams.tick(now, &mut simulated.world, &mut handled.told);
            handled.answers = simulated.frames();
        }
        handled
    }

    /// In how long [`Peer::tick`] is due; `None`: never.
    pub fn deadline(&mut self, now: Duration) -> Option<Duration> {
        self.simulated.as_mut().map(|simulated| simulated.stack.deadline(now))
    }

    /// TCP connections at this moment.
    #[cfg(test)]
    pub fn connections(&self) -> usize {
        self.simulated.as_ref().map_or(0, |simulated| simulated.stack.connections())
    }

    /// What is left to be told when the session ends.
    pub fn end(&mut self, now: Duration) -> Vec<Told> {
        let mut told = Vec::new();
        if let Some(simulated) = &mut self.simulated {
            simulated.stack.end(now, &mut simulated.world, &mut told);
            simulated.datagrams.end(now, &mut simulated.world, &mut told);
        }
        told
    }

    fn ipv4(&mut self, frame: &EthernetFrame<&[u8]>, known: bool, at: At) -> Handled {
        let Ok(packet) = Ipv4Packet::new_checked(frame.payload()) else { return Handled::default() };
        if packet.version() != 4 || packet.header_len() < 20 {
            return Handled::default();
        }
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        let whole = packet.verify_checksum() && !packet.more_frags() && packet.frag_offset() == 0;
        let ip = Ipv4 {
            bytes: &frame.payload()[..usize::from(packet.total_len())],
            payload: packet.payload(),
            route: Route { to_mac: frame.src_addr(), from_mac: frame.dst_addr(), to: source, from: destination },
            sound: known && whole && source == lan::GUEST && lan::reaches(destination, frame.dst_addr()),
            first: packet.frag_offset() == 0,
            from_guest: source,
        };
        if ip.sound
            && let Some(simulated) = &mut self.simulated
        {
            simulated.mac = frame.src_addr();
        }
        let (mut told, mut answers) = (Vec::new(), Vec::new());
        let outcome = match packet.next_header() {
            IpProtocol::Tcp => tcp(&ip, self.simulated.as_mut(), at, &mut told, &mut answers),
            IpProtocol::Udp => udp(&ip, known && whole, frame.dst_addr(), self.simulated.as_mut(), at, &mut told),
            IpProtocol::Icmp => icmp(&ip),
            _ => Outcome::dropped(Protocol::Other, (0, 0)),
        };
        let mut handled = self.note(source.into(), destination.into(), outcome, at);
        handled.told.append(&mut told);
        handled.answers.append(&mut answers);
        handled
    }

    /// Reported, never answered. Neighbour discovery and multicast membership (`ICMPv6` 130-143), which every guest
    /// chatters, are only recorded, as ARP is.
    fn ipv6(&mut self, bytes: &[u8], at: At) -> Handled {
        let Ok(packet) = Ipv6Packet::new_checked(bytes) else { return Handled::default() };
        let payload = packet.payload();
        let (protocol, ports) = match packet.next_header() {
            IpProtocol::Tcp => (Protocol::Tcp, ports(payload)),
            IpProtocol::Udp => (Protocol::Udp, ports(payload)),
            IpProtocol::Icmpv6 if matches!(payload.first(), Some(130..=143)) => return Handled::default(),
            IpProtocol::HopByHop => return Handled::default(), // Multicast membership comes behind it.
            IpProtocol::Icmpv6 => (Protocol::Icmp, (0, 0)),
            _ => (Protocol::Other, (0, 0)),
        };
        if packet.version() != 6 {
            return Handled::default();
        }
        let outcome = Outcome::dropped(protocol, ports);
        self.note(packet.src_addr().into(), packet.dst_addr().into(), outcome, at)
    }

    fn note(&mut self, origin: IpAddr, destination: IpAddr, outcome: Outcome, At { frame, .. }: At) -> Handled {
        let origin = NetEndpoint { address: origin, port: outcome.ports.0 };
        let destination = NetEndpoint { address: destination, port: outcome.ports.1 };
        let protocol = outcome.protocol;
        let fresh = self.flows.see((protocol, origin, destination), outcome.step);
        let flow = fresh.then(|| Kind::NetFlow {
            protocol,
            origin,
            destination,
            answer: outcome.verdict.word().into(),
            frame,
        });
        let lease = outcome.lease.map(|lease| Kind::NetLease {
            address: lan::GUEST.into(),
            host_name: lease.host_name.map(Into::into),
            frame,
        });
        let name = outcome.name.map(|asked| asked.told(Protocol::Udp, origin, frame));
        let told = [flow, lease, name].into_iter().flatten().map(|kind| (kind, Vec::new())).collect();
        Handled { told, answers: outcome.answer.into_iter().collect() }
    }
}

/// Source and destination port, which TCP and UDP have in the same place; 0 if cut off.
fn ports(payload: &[u8]) -> (u16, u16) {
    payload.first_chunk().map_or((0, 0), |&[a, b, c, d]| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

fn arp(frame: &EthernetFrame<&[u8]>) -> Option<Vec<u8>> {
    let packet = ArpPacket::new_checked(frame.payload()).ok()?;
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, target_protocol_addr, .. } =
        ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let ours = lan::is_neighbour(target_protocol_addr)
        && (frame.dst_addr().is_broadcast() || frame.dst_addr().0 == lan::mac_of(target_protocol_addr));
    // A guest that claims an address of ours gets no answer: an announcement asks nobody (RFC 5227).
    let asks = operation == ArpOperation::Request
        && source_hardware_addr == frame.src_addr()
        && source_protocol_addr != target_protocol_addr;
    (ours && asks).then(|| emit::arp_reply(target_protocol_addr, source_hardware_addr, source_protocol_addr))
}

fn tcp(
    ip: &Ipv4<'_>,
    simulated: Option<&mut Simulated>,
    at: At,
    told: &mut Vec<Told>,
    answers: &mut Vec<Vec<u8>>,
) -> Outcome {
    let ports = if ip.first { ports(ip.payload) } else { (0, 0) };
    let mut outcome = Outcome::dropped(Protocol::Tcp, ports);
    let Ok(segment) = TcpPacket::new_checked(ip.payload) else { return outcome };
    let intact = segment.verify_checksum(&ip.from_guest.into(), &ip.route.from.into());
    if !ip.sound || !intact || ports.0 == 0 || ports.1 == 0 {
        return outcome;
    }
    let opens = segment.syn() && !segment.ack() && !segment.rst();
    outcome.step = Step { opens, closes: true };
    if let Some(simulated) = simulated
        && (opens || simulated.stack.knows(&ip.ends(ports)))
    {
        let Simulated { stack, world, .. } = simulated;
        stack.packet(ip.bytes, ip.ends(ports), opens, at, world, told);
        outcome.step.closes = !stack.knows(&ip.ends(ports));
        *answers = simulated.frames();
        return Outcome { verdict: Verdict::Accepted, ..outcome };
    }
    if segment.rst() {
        return outcome;
    }
    outcome.with(Verdict::Refused, emit::tcp_reset(ip.route, &segment))
}

/// `whole`: the IPv4 packet is, whoever it is addressed to (a DHCP client has no address yet).
fn udp(
    ip: &Ipv4<'_>,
    whole: bool,
    to_mac: EthernetAddress,
    simulated: Option<&mut Simulated>,
    at: At,
    told: &mut Vec<Told>,
) -> Outcome {
    let ports = if ip.first { ports(ip.payload) } else { (0, 0) };
    let outcome = Outcome::dropped(Protocol::Udp, ports);
    let Ok(datagram) = UdpPacket::new_checked(ip.payload) else { return outcome };
    let intact = datagram.verify_checksum(&ip.from_guest.into(), &ip.route.from.into());
    if !whole || !intact {
        return outcome;
    }
    let to_dhcp = (ip.route.from.is_broadcast() && to_mac.is_broadcast())
        || (ip.route.from == lan::GATEWAY && to_mac.0 == lan::gateway_mac());
    if ports == (dhcp::CLIENT, dhcp::SERVER) && to_dhcp {
        return dhcp(ip, outcome, datagram.payload());
    }
    if !ip.sound || ports.0 == 0 || ports.1 == 0 {
        return outcome;
    }
    let Some(simulated) = simulated else {
        let refusal = if ports.1 == DNS { dns::refuse(datagram.payload()) } else { None };
        return match refusal {
            Some(reply) => outcome.with(Verdict::Refused, emit::udp(ip.route, DNS, ports.0, &reply)),
            None if ports.1 == DNS => outcome,
            None => outcome.with(Verdict::Refused, emit::port_unreachable(ip.route, ip.bytes)),
        };
    };
    if ports.1 == DNS {
        return match simulated.world.names.reply(datagram.payload()) {
            Some((reply, Some(asked))) => Outcome {
                name: Some(asked),
                ..outcome.with(Verdict::Answered, emit::udp(ip.route, DNS, ports.0, &reply))
            },
            Some((reply, None)) => outcome.with(Verdict::Refused, emit::udp(ip.route, DNS, ports.0, &reply)),
            None => outcome,
        };
    }
    simulated.datagrams.take(ip.ends(ports), datagram.payload(), at, &mut simulated.world, told);
    Outcome { verdict: Verdict::Accepted, ..outcome }
}

fn dhcp(ip: &Ipv4<'_>, outcome: Outcome, message: &[u8]) -> Outcome {
    let Some(reply) = dhcp::answer(message, ip.route.to_mac) else { return outcome };
    let route = Route {
        to_mac: if reply.broadcast { EthernetAddress::BROADCAST } else { ip.route.to_mac },
        to: if reply.broadcast { Ipv4Addr::BROADCAST } else { lan::GUEST },
        from_mac: EthernetAddress(lan::gateway_mac()),
        from: lan::GATEWAY,
    };
    let answer = emit::udp(route, dhcp::SERVER, dhcp::CLIENT, &reply.message);
    Outcome { lease: reply.lease, ..outcome.with(Verdict::Answered, answer) }
}

fn icmp(ip: &Ipv4<'_>) -> Outcome {
    let outcome = Outcome::dropped(Protocol::Icmp, (0, 0));
    let Ok(packet) = Icmpv4Packet::new_checked(ip.payload) else { return outcome };
    let ping = packet.msg_type() == Icmpv4Message::EchoRequest && packet.msg_code() == 0 && packet.verify_checksum();
    if !ip.sound || !ping || ip.route.from != lan::GATEWAY {
        return outcome;
    }
    let Some((head, data)) = ip.payload.split_first_chunk::<8>() else { return outcome };
    outcome.with(Verdict::Answered, emit::echo_reply(ip.route, [head[4], head[5], head[6], head[7]], data))
}
