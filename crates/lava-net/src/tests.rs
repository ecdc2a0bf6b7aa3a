//! Frames in, frames out; and the whole server over its socket, judged by Wireshark's tools.

mod egress;
mod gate;
mod guest;
mod hostile;
mod talks;
mod wire;

use std::net::Ipv4Addr;

use lava_event::{Kind, NetEndpoint, Protocol};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame,
    EthernetProtocol, Icmpv4Message, Icmpv4Packet, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket,
};

use crate::Mode;
use crate::capture::{Capture, Direction, Sink};
use crate::emit::{self, Route};
use crate::flow::{CAPACITY, Flows, Step};
use crate::gate::Open;
use crate::lan::{self, GATEWAY, GUEST};
use crate::peer::{Handled, Peer};
use crate::stream::{Deframer, MAX_FRAME, Read};
use crate::world::{At, World};

const MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 1, 2, 3]);
const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const IP: std::ops::RangeFrom<usize> = emit::ETHERNET..;

/// From the guest to `to`.
fn route(to: Ipv4Addr) -> Route {
    let mac = if lan::is_local(to) { lan::mac_of(to) } else { lan::gateway_mac() };
    Route { to_mac: EthernetAddress(mac), from_mac: MAC, to, from: GUEST }
}

fn syn(to: Ipv4Addr, port: u16, sequence: i32) -> Vec<u8> {
    let segment = TcpRepr {
        src_port: 40_000,
        dst_port: port,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(sequence),
        ack_number: None,
        window_len: 64_240,
        window_scale: None,
        max_seg_size: Some(1460),
        sack_permitted: true,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let ip = Ipv4Repr {
        src_addr: GUEST,
        dst_addr: to,
        next_header: IpProtocol::Tcp,
        payload_len: segment.buffer_len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; emit::ETHERNET + ip.buffer_len() + segment.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_src_addr(MAC);
    frame.set_dst_addr(route(to).to_mac);
    frame.set_ethertype(EthernetProtocol::Ipv4);
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &ChecksumCapabilities::default());
    let mut tcp = TcpPacket::new_unchecked(packet.payload_mut());
    segment.emit(&mut tcp, &GUEST.into(), &to.into(), &ChecksumCapabilities::default());
    bytes
}

fn arp(target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0; emit::ETHERNET + 28];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_src_addr(MAC);
    frame.set_dst_addr(EthernetAddress::BROADCAST);
    frame.set_ethertype(EthernetProtocol::Arp);
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: MAC,
        source_protocol_addr: GUEST,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    request.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

fn dhcp(message_type: DhcpMessageType, requested_ip: Option<Ipv4Addr>) -> Vec<u8> {
    let unset = Ipv4Address::UNSPECIFIED;
    let name = [smoltcp::wire::DhcpOption { kind: 12, data: b"victim" }];
    let message = DhcpRepr {
        message_type,
        transaction_id: 7,
        secs: 0,
        client_hardware_address: MAC,
        client_ip: unset,
        your_ip: unset,
        server_ip: unset,
        router: None,
        subnet_mask: None,
        relay_agent_ip: unset,
        broadcast: false,
        requested_ip,
        client_identifier: Some(MAC),
        server_identifier: None,
        parameter_request_list: Some(&[1, 3, 6]),
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &name,
    };
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut DhcpPacket::new_unchecked(bytes.as_mut_slice())).unwrap();
    let route = Route { to_mac: EthernetAddress::BROADCAST, from_mac: MAC, to: Ipv4Addr::BROADCAST, from: unset };
    emit::udp(route, 68, 67, &bytes)
}

fn query() -> Vec<u8> {
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04evil\x07example\0\0\x01\0\x01";
    emit::udp(route(GATEWAY), 40_001, 53, question)
}

fn peer(mode: Mode) -> Peer {
    Peer::new(None, (mode == Mode::Simulated).then(World::default), 0)
}

/// What came of a frame: the flow and what it got, all that was told, the answer.
struct Came {
    flow: Option<(Protocol, NetEndpoint, String)>,
    told: Vec<Kind>,
    answer: Option<Vec<u8>>,
}

fn give(peer: &mut Peer, frame: &[u8]) -> Came {
    let Handled { told, mut answers, .. } = peer.handle(frame, At::default(), &mut Open);
    let told: Vec<Kind> = told.into_iter().map(|(kind, _)| kind).collect();
    assert!(answers.len() < 2);
    let flow = told.iter().find_map(|kind| match kind {
        Kind::NetFlow { protocol, destination, answer, .. } => Some((*protocol, *destination, answer.clone())),
        _ => None,
    });
    Came { flow, told, answer: answers.pop() }
}

#[test]
fn arp_is_answered_for_everybody_but_the_guest() {
    let mut peer = peer(Mode::Refuse);
    for last in 0..=255 {
        let target = Ipv4Addr::new(10, 77, 0, last);
        let answer = give(&mut peer, &arp(target)).answer;
        assert_eq!(answer.is_some(), !matches!(last, 0 | 15 | 255), "{target}");
        let Some(answer) = answer else { continue };
        let ArpRepr::EthernetIpv4 { source_hardware_addr, source_protocol_addr, .. } =
            ArpRepr::parse(&ArpPacket::new_checked(&answer[IP]).unwrap()).unwrap()
        else {
            panic!("no ARP")
        };
        assert_eq!((source_hardware_addr.0, source_protocol_addr), (lan::mac_of(target), target));
    }
    assert!(give(&mut peer, &arp(WORLD)).answer.is_none());
    assert!(
        give(&mut Peer::new(Some([2, 0, 0, 0, 0, 9]), None, 0), &arp(GATEWAY)).answer.is_none(),
        "another MAC address"
    );
}

#[test]
fn dhcp_leases_the_one_address() {
    let mut peer = peer(Mode::Refuse);
    let cases = [
        (DhcpMessageType::Discover, None, Some(DhcpMessageType::Offer)),
        (DhcpMessageType::Request, Some(GUEST), Some(DhcpMessageType::Ack)),
        (DhcpMessageType::Request, Some(WORLD), Some(DhcpMessageType::Nak)),
        (DhcpMessageType::Release, None, None),
        (DhcpMessageType::Inform, None, None),
    ];
    for (asked, address, expected) in cases {
        let handled = give(&mut peer, &dhcp(asked, address));
        let lease = handled
            .told
            .iter()
            .any(|kind| matches!(kind, Kind::NetLease { host_name: Some(name), .. } if *name == "victim".into()));
        assert_eq!(lease, expected == Some(DhcpMessageType::Ack));
        let Some(expected) = expected else {
            assert!(handled.answer.is_none());
            continue;
        };
        let answer = handled.answer.unwrap();
        let packet = Ipv4Packet::new_checked(&answer[IP]).unwrap();
        let datagram = UdpPacket::new_checked(packet.payload()).unwrap();
        let message = DhcpPacket::new_checked(datagram.payload()).unwrap();
        let reply = DhcpRepr::parse(&message).unwrap();
        assert_eq!((reply.message_type, reply.transaction_id), (expected, 7));
        let granted = expected != DhcpMessageType::Nak;
        assert_eq!(reply.your_ip, if granted { GUEST } else { Ipv4Address::UNSPECIFIED });
        assert_eq!(reply.router, granted.then_some(GATEWAY));
        assert_eq!(reply.lease_duration, granted.then_some(lan::LEASE_SECONDS));
        assert_eq!(reply.dns_servers.map(|servers| servers.to_vec()), granted.then(|| vec![GATEWAY]));
    }
}

#[test]
fn syn_is_reset_with_its_numbers() {
    for to in [WORLD, GATEWAY, Ipv4Addr::new(10, 77, 0, 99)] {
        let answer = give(&mut peer(Mode::Refuse), &syn(to, 443, -1)).answer.unwrap();
        let packet = Ipv4Packet::new_checked(&answer[IP]).unwrap();
        assert_eq!((packet.src_addr(), packet.dst_addr()), (to, GUEST));
        let reset = TcpPacket::new_checked(packet.payload()).unwrap();
        assert!(reset.rst() && reset.ack() && reset.verify_checksum(&to.into(), &GUEST.into()));
        assert_eq!((reset.seq_number().0, reset.ack_number().0), (0, 0), "-1 + 1: the numbers wrap");
        assert_eq!((reset.src_port(), reset.dst_port()), (443, 40_000));
    }
}

#[test]
fn udp_is_unreachable_and_dns_refused() {
    let mut peer = peer(Mode::Refuse);
    let asked = emit::udp(route(WORLD), 40_000, 4444, b"beacon");
    let handled = give(&mut peer, &asked);
    assert_eq!(handled.flow.unwrap().2, "refused");
    let answer = handled.answer.unwrap();
    let packet = Ipv4Packet::new_checked(&answer[IP]).unwrap();
    let icmp = Icmpv4Packet::new_checked(packet.payload()).unwrap();
    assert_eq!((icmp.msg_type(), icmp.msg_code()), (Icmpv4Message::DstUnreachable, 3));
    assert!(icmp.verify_checksum());
    assert_eq!(icmp.data(), &asked[14..14 + 34]);

    let answer = give(&mut peer, &query()).answer.unwrap();
    let packet = Ipv4Packet::new_checked(&answer[IP]).unwrap();
    let reply = UdpPacket::new_checked(packet.payload()).unwrap();
    assert_eq!(&reply.payload()[..6], b"\x12\x34\x81\x05\0\x01");
    assert!(reply.payload().ends_with(b"\x04evil\x07example\0\0\x01\0\x01"));
}

fn question(name: &[u8], qtype: u8) -> Vec<u8> {
    let mut message = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split(|byte| *byte == b'.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label);
    }
    message.extend([0, 0, qtype, 0, 1]);
    emit::udp(route(GATEWAY), 40_001, 53, &message)
}

#[test]
fn a_simulated_network_gives_every_name_one_address() {
    let mut peer = peer(Mode::Simulated);
    let mut ask = |name: &[u8], qtype| {
        let handled = give(&mut peer, &question(name, qtype));
        let bytes = handled.answer.unwrap();
        let packet = Ipv4Packet::new_checked(&bytes[IP]).unwrap();
        let reply = UdpPacket::new_checked(packet.payload()).unwrap().payload().to_vec();
        let asked = handled.told.into_iter().find_map(|kind| match kind {
            Kind::NetDns { question, addresses, .. } => Some((question, addresses.first().copied())),
            _ => None,
        });
        (asked, reply)
    };
    let (first, reply) = ask(b"Evil.example", 1);
    let (name, address) = first.unwrap();
    let address = address.unwrap();
    assert_eq!(name, "evil.example".into());
    let std::net::IpAddr::V4(address) = address else { panic!("{address}") };
    assert!(!lan::is_local(address));
    assert_eq!(&reply[..8], b"\x12\x34\x81\x80\0\x01\0\x01");
    assert!(reply.ends_with(&address.octets()));
    assert_eq!(ask(b"evil.EXAMPLE", 1).0.unwrap().1, Some(address.into()), "it keeps its address");
    assert_ne!(ask(b"other.example", 1).0.unwrap().1, Some(address.into()));
    let (aaaa, reply) = ask(b"evil.example", 28);
    assert_eq!(aaaa.unwrap().1, None);
    assert_eq!(&reply[..8], b"\x12\x34\x81\x80\0\x01\0\0", "no error and no record");
    for number in 0..crate::dns::CAPACITY - 2 {
        assert!(ask(format!("n{number}").as_bytes(), 1).0.is_some());
    }
    let (beyond, reply) = ask(b"beyond.example", 1);
    assert_eq!((beyond, reply[3]), (None, 5), "bounded");
    assert_eq!(ask(b"evil.example", 1).0.unwrap().1, Some(address.into()));
}

#[test]
fn what_is_damaged_spoofed_or_multicast_gets_no_answer() {
    let damaged = |at: usize, to: u8| {
        let mut frame = syn(WORLD, 80, 1);
        frame[at] ^= to;
        frame
    };
    // Fragment flag, IPv4 checksum, TCP checksum, destination MAC address, sender's address.
    for frame in [damaged(20, 0x20), damaged(24, 1), damaged(50, 1), damaged(5, 1), damaged(29, 1)] {
        assert!(give(&mut peer(Mode::Refuse), &frame).answer.is_none());
    }
    let multicast = emit::udp(route(Ipv4Addr::new(224, 0, 0, 251)), 5353, 5353, b"?");
    let handled = give(&mut peer(Mode::Refuse), &multicast);
    assert_eq!((handled.flow.unwrap().2.as_str(), handled.answer), ("dropped", None));
}

#[test]
fn a_flow_is_reported_once_and_again_when_it_is_reopened() {
    let mut peer = peer(Mode::Refuse);
    let datagram = emit::udp(route(WORLD), 1, 2, b"");
    assert_eq!(give(&mut peer, &datagram).flow.unwrap().0, Protocol::Udp);
    assert!(give(&mut peer, &datagram).flow.is_none());
    assert!(give(&mut peer, &syn(WORLD, 80, 1)).flow.is_some());
    assert!(give(&mut peer, &syn(WORLD, 80, 2)).flow.is_some(), "the reset closed the first");

    let mut flows = Flows::default();
    for port in 0..=u16::MAX {
        let end = lava_event::NetEndpoint { address: WORLD.into(), port };
        assert!(flows.see((Protocol::Tcp, end, end), Step::default(), None));
    }
    assert_eq!(flows.sizes(), (CAPACITY, CAPACITY));
}

#[test]
fn the_stream_is_cut_into_frames() {
    let mut deframer = Deframer::default();
    deframer.push(&[0, 0, 0, 0, 0, 0, 0, 2, 7]);
    assert_eq!(deframer.next(), Read::Frame(&[]));
    assert_eq!(deframer.next(), Read::More);
    assert_eq!(deframer.remainder(), Some((2, [7].as_slice())));
    deframer.push(&[8, 0, 1, 0x10, 1, 9]);
    assert_eq!(deframer.next(), Read::Frame(&[7, 8]));
    let claimed = u32::try_from(MAX_FRAME).unwrap() + 1;
    assert_eq!(deframer.next(), Read::Broken { claimed, head: &[9] });
}

/// A disk with room for so many bytes.
struct Full(Vec<u8>, usize);

impl std::io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = bytes.len().min(self.1 - self.0.len());
        self.0.extend(&bytes[..room]);
        if room == 0 { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(room) }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink for Full {
    fn cut(&mut self, length: u64) -> std::io::Result<()> {
        self.0.truncate(usize::try_from(length).unwrap());
        Ok(())
    }
    fn sync(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_leaves_whole_blocks() {
    let mut capture = Capture::begin(Full(Vec::new(), 500), 0, u64::MAX).unwrap();
    capture.record(&[0; 60], 60, Direction::Inbound, 0).unwrap();
    capture.flush().unwrap();
    capture.record(&[0; 600], 600, Direction::Inbound, 0).unwrap();
    capture.flush().unwrap_err();
    assert_eq!(capture.counts(), (1, 60));
    let mut small = Capture::begin(Full(Vec::new(), 500), 0, 300).unwrap();
    small.record(&[0; 600], 600, Direction::Inbound, 0).unwrap_err();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever comes: no panic, and an answer goes back to the guest from a host of ours.
    #[test]
    fn hostile_frames(
        base in 0..6_usize,
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<Option<prop::sample::Index>>(),
        random in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut frame = match base {
            0 => random,
            1 => syn(WORLD, 80, 1),
            2 => arp(GATEWAY),
            3 => dhcp(DhcpMessageType::Request, Some(GUEST)),
            4 => query(),
            _ => emit::echo_reply(route(GATEWAY), [0; 4], &random),
        };
        for (at, value) in noise {
            if !frame.is_empty() {
                let at = at.index(frame.len());
                frame[at] = value;
            }
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len() + 1));
        }
        if let Some(answer) = give(&mut peer(Mode::Refuse), &frame).answer {
            let sent = EthernetFrame::new_checked(&frame[..]).unwrap();
            let reply = EthernetFrame::new_checked(&answer[..]).unwrap();
            let from = reply.src_addr().0;
            prop_assert_eq!(&from[..5], &[0x52, 0x55, 10, 77, 0]);
            prop_assert!(lan::is_neighbour(Ipv4Addr::new(10, 77, 0, from[5])));
            prop_assert!(reply.dst_addr() == sent.src_addr() || reply.dst_addr().is_broadcast());
            if reply.ethertype() == EthernetProtocol::Ipv4 {
                let packet = Ipv4Packet::new_checked(reply.payload()).unwrap();
                prop_assert!(packet.src_addr() != GUEST && packet.verify_checksum());
                let to = packet.dst_addr();
                prop_assert!(to == GUEST || to.is_broadcast());
            }
        }
    }
}
