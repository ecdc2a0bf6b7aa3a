//! Builds the frames of our answers.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable,
    Icmpv4Message, Icmpv4Packet, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    UdpPacket, UdpRepr,
};

use crate::lan;

/// Ethernet header, bytes.
pub const ETHERNET: usize = 14;
/// IPv4 header without options, bytes.
const IPV4: usize = 20;
/// UDP header, bytes.
const UDP: usize = 8;
/// ICMP header of an error or an echo, bytes.
const ICMP: usize = 8;
/// Shortest frame on a wire without its checksum, bytes (IEEE 802.3).
const SHORTEST: usize = 60;
/// Longest ICMP error with its IPv4 header, bytes (RFC 1812 section 4.3.2.3).
const LONGEST_ERROR: usize = 576;
/// What our hosts start with, as Linux does.
const TTL: u8 = 64;

/// Ends of an answer: from a host of ours to the guest.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// MAC address of the guest, or broadcast.
    pub to_mac: EthernetAddress,
    /// The MAC address of ours that the answer comes from.
    pub from_mac: EthernetAddress,
    /// Address of the guest, or broadcast.
    pub to: Ipv4Addr,
    /// The address that the answer comes from.
    pub from: Ipv4Addr,
}

fn ethernet(to: EthernetAddress, from: EthernetAddress, ethertype: EthernetProtocol, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; (ETHERNET + length).max(SHORTEST)];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_dst_addr(to);
    frame.set_src_addr(from);
    frame.set_ethertype(ethertype);
    bytes
}

/// A frame with an IPv4 packet whose payload `fill` writes into zeroed bytes.
fn ipv4(route: Route, protocol: IpProtocol, length: usize, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = ethernet(route.to_mac, route.from_mac, EthernetProtocol::Ipv4, IPV4 + length);
    let header = Ipv4Repr {
        src_addr: route.from,
        dst_addr: route.to,
        next_header: protocol,
        payload_len: length,
        hop_limit: TTL,
    };
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[ETHERNET..]);
    header.emit(&mut packet, &ChecksumCapabilities::default());
    fill(packet.payload_mut());
    bytes
}

/// A frame with an IPv4 packet of ours for the guest; `None` if it is none.
pub fn to_guest(packet: &[u8], guest: EthernetAddress) -> Option<Vec<u8>> {
    let from = Ipv4Packet::new_checked(packet).ok()?.src_addr();
    let mut bytes = ethernet(guest, EthernetAddress(lan::mac_towards(from)), EthernetProtocol::Ipv4, packet.len());
    bytes[ETHERNET..ETHERNET + packet.len()].copy_from_slice(packet);
    Some(bytes)
}

/// `who` has the MAC address that belongs to it (RFC 826).
pub fn arp_reply(who: Ipv4Addr, asker_mac: EthernetAddress, asker: Ipv4Addr) -> Vec<u8> {
    let mac = EthernetAddress(lan::mac_of(who));
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: mac,
        source_protocol_addr: who,
        target_hardware_addr: asker_mac,
        target_protocol_addr: asker,
    };
    let mut bytes = ethernet(asker_mac, mac, EthernetProtocol::Arp, reply.buffer_len());
    reply.emit(&mut ArpPacket::new_unchecked(&mut bytes[ETHERNET..]));
    bytes
}

/// The guest asks who the gateway is (RFC 826).
pub fn arp_request(guest: EthernetAddress) -> Vec<u8> {
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: guest,
        source_protocol_addr: lan::GUEST,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: lan::GATEWAY,
    };
    let mut bytes = ethernet(EthernetAddress::BROADCAST, guest, EthernetProtocol::Arp, request.buffer_len());
    request.emit(&mut ArpPacket::new_unchecked(&mut bytes[ETHERNET..]));
    bytes
}

/// A datagram.
pub fn udp(route: Route, from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    ipv4(route, IpProtocol::Udp, UDP + payload.len(), |buffer| {
        UdpRepr { src_port: from_port, dst_port: to_port }.emit(
            &mut UdpPacket::new_unchecked(buffer),
            &route.from.into(),
            &route.to.into(),
            payload.len(),
            |body| body.copy_from_slice(payload),
            &ChecksumCapabilities::default(),
        );
    })
}

/// What a closed port says to a segment that is no reset (RFC 9293 section 3.10.7.1).
pub fn tcp_reset(route: Route, segment: &TcpPacket<&[u8]>) -> Vec<u8> {
    let (seq_number, ack_number) = if segment.ack() {
        (segment.ack_number(), None)
    } else {
        // SYN and FIN take a number each: `segment_len` counts them.
        (TcpSeqNumber(0), Some(TcpSeqNumber(segment.seq_number().0.wrapping_add_unsigned(length_of(segment)))))
    };
    reset(route, (segment.dst_port(), segment.src_port()), seq_number.0, ack_number.map(|number| number.0))
}

/// A reset from a port to another, with the number that is next in sequence, and what it acknowledges.
pub fn reset(route: Route, (from, to): (u16, u16), sequence: i32, acknowledged: Option<i32>) -> Vec<u8> {
    let reset = TcpRepr {
        src_port: from,
        dst_port: to,
        control: TcpControl::Rst,
        seq_number: TcpSeqNumber(sequence),
        ack_number: acknowledged.map(TcpSeqNumber),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    ipv4(route, IpProtocol::Tcp, reset.buffer_len(), |buffer| {
        reset.emit(
            &mut TcpPacket::new_unchecked(buffer),
            &route.from.into(),
            &route.to.into(),
            &ChecksumCapabilities::default(),
        );
    })
}

fn length_of(segment: &TcpPacket<&[u8]>) -> u32 {
    u32::try_from(segment.segment_len()).unwrap_or(u32::MAX)
}

/// "Port unreachable" with the head of `packet`, the guest's whole IPv4 packet (RFC 792, RFC 1812 section 4.3.2.3).
pub fn port_unreachable(route: Route, packet: &[u8]) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(LONGEST_ERROR - IPV4 - ICMP)];
    icmp(route, Icmpv4Message::DstUnreachable, Icmpv4DstUnreachable::PortUnreachable.into(), [0; 4], quoted)
}

/// Answer to a ping: `rest` is identifier and sequence number (RFC 792).
pub fn echo_reply(route: Route, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    icmp(route, Icmpv4Message::EchoReply, 0, rest, data)
}

fn icmp(route: Route, message: Icmpv4Message, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    ipv4(route, IpProtocol::Icmp, ICMP + data.len(), |buffer| {
        buffer[4..ICMP].copy_from_slice(&rest);
        buffer[ICMP..].copy_from_slice(data);
        let mut packet = Icmpv4Packet::new_unchecked(buffer);
        packet.set_msg_type(message);
        packet.set_msg_code(code);
        packet.fill_checksum();
    })
}
