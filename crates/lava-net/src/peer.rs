//! What our hosts do with a frame of the guest. No I/O and no clock: the same frames at the same times give the same answers, but for
//! what TLS draws at random.
//!
//! | The guest sends | We answer |
//! |---|---|
//! | ARP request for an address of the LAN | yes if somebody is there (`lan`), each address has its MAC; refusing: all are there |
//! | DHCP DISCOVER, REQUEST | OFFER, ACK or NAK |
//! | DNS query, to anybody | an address for every name; refusing: REFUSED |
//! | TCP to anybody | a connection (`stack`, `service`); refusing, closed ports of the LAN, what belongs to no connection: RST |
//! | other UDP to anybody | nothing, it is recorded (`datagrams`); refusing: ICMP port unreachable |
//! | ping to anybody | echo reply; refusing: from the gateway alone |
//! | names to the gateway, TCP, UDP and pings beyond the LAN, in egress mode, if the policy allows them | nothing: they go on to the real network (`egress`) |
//! | all the rest: IPv6, VLAN, fragments, wrong checksums, multicast, spoofed senders | nothing |
//!
//! What waits for the policy, and what becomes of it then: `gate`. TCP, UDP and ICMP: `transport`.
//!
//! *Invariant*: an answer goes to the MAC address that asked (or is a DHCP broadcast), comes from a MAC address of ours,
//! and from the very address the guest spoke to; never from the guest's own.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lava_event::{Action, Kind, NetEndpoint, Protocol};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet,
    Ipv6Packet,
};

use crate::datagrams::Datagrams;
use crate::dhcp::Lease;
use crate::egress::Egress;
use crate::emit::{self, Route};
use crate::flow::{Flows, Step};
use crate::gate::{Gate, Open};
use crate::lan;
use crate::stack::Stack;
use crate::transport::ports;
use crate::world::{At, Ends, Report, Told, World};

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
    /// It went on to the real network.
    Passed,
}

impl Verdict {
    /// The word in `net.flow`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::Answered => "answered",
            Self::Accepted => "accepted",
            Self::Passed => "passed",
        }
    }
}

/// What a frame, or the passing of time, led to.
#[derive(Default, Debug)]
pub struct Handled {
    /// What is to be told, in this order.
    pub told: Vec<Told>,
    /// Keys of TLS, in Wireshark's format: the capture wants them before the frames that they open.
    pub secrets: String,
    /// The frames to send, once that was told.
    pub answers: Vec<Vec<u8>>,
    /// The frames for the real network, likewise.
    pub onward: Vec<Vec<u8>>,
}

/// A packet's outcome, before the flow table is asked.
pub(crate) struct Outcome {
    pub protocol: Protocol,
    pub ports: (u16, u16),
    pub step: Step,
    pub verdict: Verdict,
    pub answers: Vec<Vec<u8>>,
    pub lease: Option<Lease>,
    /// What the policy says of the flow.
    pub ruling: Option<Action>,
    /// The policy was asked now: that told of the flow.
    pub asked: bool,
}

impl Outcome {
    pub fn dropped(protocol: Protocol, ports: (u16, u16)) -> Self {
        Self {
            protocol,
            ports,
            step: Step::default(),
            verdict: Verdict::Dropped,
            answers: Vec::new(),
            lease: None,
            ruling: None,
            asked: false,
        }
    }

    pub fn with(self, verdict: Verdict, answer: Vec<u8>) -> Self {
        Self { verdict, answers: vec![answer], ..self }
    }
}

/// An IPv4 packet and whether it may be answered.
pub(crate) struct Ipv4<'a> {
    /// The frame, without what fills it up.
    pub frame: &'a [u8],
    /// The whole packet.
    pub bytes: &'a [u8],
    pub payload: &'a [u8],
    pub route: Route,
    /// It is whole and undamaged, comes from the guest's address and is addressed to a host of ours.
    pub sound: bool,
    /// The payload's first bytes are the transport header.
    pub first: bool,
    /// It is whole and undamaged and comes from the guest's card, whatever its addresses (a DHCP client has none yet).
    pub whole: bool,
    /// The guest's address, for checksums.
    pub from_guest: Ipv4Addr,
}

impl Ipv4<'_> {
    pub fn ends(&self, (from, to): (u16, u16)) -> Ends {
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
    pub(crate) flows: Flows,
    /// What a simulated network has beyond the LAN; `None`: all is refused.
    pub(crate) simulated: Option<Simulated>,
    /// The way to the real network, if there is one.
    pub(crate) egress: Option<Egress>,
}

/// The world that a simulated network plays.
#[derive(Debug)]
pub(crate) struct Simulated {
    pub world: World,
    pub stack: Stack,
    pub datagrams: Datagrams,
    /// The guest's card, as it last sent.
    mac: EthernetAddress,
}

impl Simulated {
    /// Frames with the packets that wait for the guest.
    pub fn frames(&mut self) -> Vec<Vec<u8>> {
        self.stack.packets().iter().filter_map(|packet| emit::to_guest(packet, self.mac)).collect()
    }
}

impl Peer {
    /// `guest`: the only MAC address that is answered, if it is known. `seed`: where TCP's sequence numbers come from.
    /// `world`: what a simulated network plays; without it all is refused, and nothing can wait for the policy.
    pub fn new(guest: Option<[u8; 6]>, world: Option<World>, seed: u64) -> Self {
        let simulated = world.map(|world| Simulated {
            world,
            stack: Stack::new(seed),
            datagrams: Datagrams::default(),
            mac: EthernetAddress::default(),
        });
        Self { guest: guest.map(EthernetAddress), flows: Flows::default(), simulated, egress: None }
    }

    /// The same with a way to the real network. `world` is for what the policy diverts.
    pub fn with_egress(guest: Option<[u8; 6]>, world: World, seed: u64) -> Self {
        let world = World { sinkhole: true, ..world };
        Self { egress: Some(Egress::default()), ..Self::new(guest, Some(world), seed) }
    }

    /// True if the guest finds a network without the policy's help.
    pub(crate) fn simulates(&self) -> bool {
        self.simulated.as_ref().is_some_and(|simulated| !simulated.world.sinkhole)
    }

    /// True if packets to that address can go on to the real network.
    pub(crate) fn leads_out(&self, to: Ipv4Addr) -> bool {
        self.egress.as_ref().is_some_and(Egress::is_open) && !lan::is_local(to)
    }

    /// What becomes of a flow that the policy allows, a sentence for the analyst. `would`: the same in a word.
    pub(crate) fn if_allowed(&self, would: Verdict) -> &'static str {
        match (would, &self.egress) {
            (Verdict::Passed, _) => "let through to the real network",
            (Verdict::Refused, Some(egress)) if !egress.is_open() => "refused: the way to the real network is gone",
            (Verdict::Refused, Some(_)) => "refused: nobody is there on the virtual LAN",
            (Verdict::Refused, None) => "refused, as it is without a policy",
            (Verdict::Dropped, _) => "dropped, as it is without a policy",
            (Verdict::Answered | Verdict::Accepted, _) => "the simulated network took it",
        }
    }

    /// Takes a frame of the real network's.
    pub fn arrived(&mut self, bytes: &[u8], now: Duration, gate: &mut dyn Gate) -> Handled {
        self.outside(gate, |egress, world, report| egress.arrived(bytes, now, world, report))
    }

    /// The way to the real network is gone.
    pub fn lost(&mut self, now: Duration, gate: &mut dyn Gate) -> Handled {
        self.outside(gate, |egress, world, report| egress.lost(now, world, report))
    }

    fn outside(&mut self, gate: &mut dyn Gate, act: impl FnOnce(&mut Egress, &mut World, &mut Report<'_>)) -> Handled {
        let (Some(egress), Some(simulated)) = (&mut self.egress, &mut self.simulated) else {
            return Handled::default();
        };
        let mut report = Report::new(gate);
        act(egress, &mut simulated.world, &mut report);
        let told = report.told;
        self.with_frames(Handled { told, ..Handled::default() })
    }

    /// With the frames that wait for either side of the way to the real network.
    fn with_frames(&mut self, mut handled: Handled) -> Handled {
        if let Some(egress) = &mut self.egress {
            handled.answers.append(&mut egress.inbound);
            handled.onward.append(&mut egress.onward);
        }
        handled
    }

    /// Takes a frame of the guest; `gate` answers for the policy meanwhile.
    pub fn handle(&mut self, bytes: &[u8], at: At, gate: &mut dyn Gate) -> Handled {
        let Ok(frame) = EthernetFrame::new_checked(bytes) else { return Handled::default() };
        let mac = frame.src_addr();
        let known = mac.is_unicast() && self.guest.is_none_or(|guest| guest == mac);
        match frame.ethertype() {
            EthernetProtocol::Arp if known => {
                let answer = arp(&frame, self.simulates());
                Handled { answers: answer.into_iter().collect(), ..Handled::default() }
            }
            EthernetProtocol::Ipv4 => self.ipv4(&frame, known, at, Report::new(gate)),
            EthernetProtocol::Ipv6 => self.ipv6(frame.payload(), at),
            _ => Handled::default(),
        }
    }

    /// Lets time pass: call it when [`Peer::deadline`] has come.
    pub fn tick(&mut self, now: Duration, gate: &mut dyn Gate) -> Handled {
        let Some(simulated) = &mut self.simulated else { return Handled::default() };
        let mut report = Report::new(gate);
        simulated.stack.tick(now, &mut simulated.world, &mut report);
        simulated.datagrams.tick(now, &mut simulated.world, &mut report);
        if let Some(egress) = &mut self.egress {
            egress.tick(now, &mut simulated.world, &mut report);
        }
        let secrets = std::mem::take(&mut simulated.world.secrets);
        let handled = Handled { told: report.told, secrets, answers: simulated.frames(), onward: Vec::new() };
        self.with_frames(handled)
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
        let mut open = Open;
        let mut report = Report::new(&mut open);
        if let Some(simulated) = &mut self.simulated {
            simulated.stack.end(now, &mut simulated.world, &mut report);
            simulated.datagrams.end(now, &mut simulated.world, &mut report);
            if let Some(egress) = &mut self.egress {
                egress.end("session", now, &mut simulated.world, &mut report);
            }
        }
        report.told
    }

    fn ipv4(&mut self, frame: &EthernetFrame<&[u8]>, known: bool, at: At, mut report: Report<'_>) -> Handled {
        let bytes: &[u8] = frame.as_ref();
        let Ok(packet) = Ipv4Packet::new_checked(frame.payload()) else { return Handled::default() };
        if packet.version() != 4 || packet.header_len() < 20 {
            return Handled::default();
        }
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        let whole = packet.verify_checksum() && !packet.more_frags() && packet.frag_offset() == 0;
        let length = usize::from(packet.total_len());
        let ip = Ipv4 {
            frame: &bytes[..emit::ETHERNET + length],
            bytes: &frame.payload()[..length],
            payload: packet.payload(),
            route: Route { to_mac: frame.src_addr(), from_mac: frame.dst_addr(), to: source, from: destination },
            sound: known
                && whole
                && source == lan::GUEST
                && lan::reaches(destination, frame.dst_addr())
                && (!self.simulates() || lan::exists(destination)),
            first: packet.frag_offset() == 0,
            whole: known && whole,
            from_guest: source,
        };
        if ip.sound
            && let Some(simulated) = &mut self.simulated
        {
            simulated.mac = frame.src_addr();
            if let Some(egress) = &mut self.egress {
                egress.seen(frame.src_addr());
            }
        }
        let outcome = match packet.next_header() {
            IpProtocol::Tcp => self.tcp(&ip, at, &mut report),
            IpProtocol::Udp => self.udp(&ip, at, &mut report),
            IpProtocol::Icmp => self.icmp(&ip, at, &mut report),
            _ => Outcome::dropped(Protocol::Other, (0, 0)),
        };
        let mut handled = self.note(source.into(), destination.into(), outcome, at);
        handled.told.append(&mut report.told);
        handled.secrets =
            self.simulated.as_mut().map(|simulated| std::mem::take(&mut simulated.world.secrets)).unwrap_or_default();
        self.with_frames(handled)
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
        let fresh = self.flows.see((protocol, origin, destination), outcome.step, outcome.ruling);
        let flow = (fresh && !outcome.asked).then(|| Kind::NetFlow {
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
        let told = [flow, lease].into_iter().flatten().map(|kind| (kind, Vec::new())).collect();
        Handled { told, answers: outcome.answers, ..Handled::default() }
    }
}

fn arp(frame: &EthernetFrame<&[u8]>, simulated: bool) -> Option<Vec<u8>> {
    let packet = ArpPacket::new_checked(frame.payload()).ok()?;
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, target_protocol_addr, .. } =
        ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let ours = lan::is_neighbour(target_protocol_addr)
        && (!simulated || lan::exists(target_protocol_addr))
        && (frame.dst_addr().is_broadcast() || frame.dst_addr().0 == lan::mac_of(target_protocol_addr));
    // A guest that claims an address of ours gets no answer: an announcement asks nobody (RFC 5227).
    let asks = operation == ArpOperation::Request
        && source_hardware_addr == frame.src_addr()
        && source_protocol_addr != target_protocol_addr;
    (ours && asks).then(|| emit::arp_reply(target_protocol_addr, source_hardware_addr, source_protocol_addr))
}
