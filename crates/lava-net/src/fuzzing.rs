//! Ways in for `fuzz/`: what reads the guest's bytes, without socket, thread and clock. Not for anybody else.

use std::time::Duration;

use lava_event::{Action, Kind, NetEndpoint};
use smoltcp::wire::{EthernetFrame, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};

use crate::gate::{Gate, Open, Outcomes, Waits};
use crate::lan;
use crate::peer::Peer;
use crate::service::Service;
use crate::world::{At, Context, Ends, Report, World};

/// Ports at which something of its own is spoken, and one that listens.
const PORTS: &[u16] = &[80, 25, 53, 22, 6667, 443, 465, 4444, 23];

/// Pieces with their length, one byte, in front.
fn pieces(mut bytes: &[u8], longest: usize) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((&length, rest)) = bytes.split_first() {
        let (piece, rest) = rest.split_at(usize::from(length).min(longest).min(rest.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// Frames of a guest to a whole simulated network, with their checksums put right, and a second between them.
pub fn frames(bytes: &[u8]) {
    let mut peer = Peer::new(None, Some(World::default()), 0);
    for (number, piece) in (1..).zip(pieces(bytes, 255)) {
        let now = Duration::from_secs(number);
        let mut frame = piece.to_vec();
        mend(&mut frame);
        let handled = peer.handle(&frame, At { now, frame: number }, &mut Open);
        assert!(handled.answers.iter().all(|answer| EthernetFrame::new_checked(answer).is_ok()));
        peer.tick(now, &mut Open);
        peer.deadline(now);
    }
    peer.end(Duration::from_secs(1 << 20));
}

/// A policy that allows everything.
struct Allows;

impl Gate for Allows {
    fn waits(&self) -> Waits {
        Waits { flows: true, names: true }
    }

    fn ask(&mut self, _: Kind, _: Outcomes) -> Action {
        Action::Allow
    }
}

/// Frames of a guest to the way to the real network, and of the real network to it, by turns.
pub fn outside(bytes: &[u8]) {
    let mut peer = Peer::with_egress(None, World::default(), 0);
    for (number, piece) in (1..).zip(pieces(bytes, 255)) {
        let now = Duration::from_secs(number);
        let mut frame = piece.to_vec();
        mend(&mut frame);
        let handled = match number % 2 {
            1 => peer.handle(&frame, At { now, frame: number }, &mut Allows),
            _ => peer.arrived(&frame, now, &mut Allows),
        };
        let whole = |frame: &Vec<u8>| EthernetFrame::new_checked(frame).is_ok();
        assert!(handled.answers.iter().chain(&handled.onward).all(whole));
        peer.tick(now, &mut Allows);
    }
    peer.lost(Duration::from_secs(1 << 20), &mut Allows);
    peer.end(Duration::from_secs(1 << 20));
}

/// Puts the checksums of a frame right, as far as it is one.
fn mend(frame: &mut [u8]) {
    let Ok(mut ethernet) = EthernetFrame::new_checked(frame) else { return };
    let Ok(mut packet) = Ipv4Packet::new_checked(ethernet.payload_mut()) else { return };
    packet.fill_checksum();
    let (from, to, protocol) = (packet.src_addr().into(), packet.dst_addr().into(), packet.next_header());
    match protocol {
        IpProtocol::Tcp => {
            if let Ok(mut segment) = TcpPacket::new_checked(packet.payload_mut()) {
                segment.fill_checksum(&from, &to);
            }
        }
        IpProtocol::Udp => {
            if let Ok(mut datagram) = UdpPacket::new_checked(packet.payload_mut()) {
                datagram.fill_checksum(&from, &to);
            }
        }
        _ => {}
    }
}

/// What a guest says over one connection; the first byte chooses the port.
pub fn conversation(bytes: &[u8]) {
    let Some((&port, said)) = bytes.split_first() else { return };
    let port = PORTS[usize::from(port) % PORTS.len()];
    let ends = Ends {
        origin: NetEndpoint { address: lan::GUEST.into(), port: 40_000 },
        destination: NetEndpoint { address: [198, 18, 0, 1].into(), port },
    };
    let (mut world, mut open) = (World::default(), Open);
    let mut report = Report::new(&mut open);
    let mut context = Context { at: At::default(), world: &mut world, report: &mut report };
    let mut service = Service::new(ends);
    service.opened(&mut context);
    for piece in pieces(said, 255) {
        if service.hungry() {
            service.receive(piece, &mut context);
        }
        assert!(service.produce(1460).len() <= 1460);
    }
    service.guest_closed(&mut context);
    while !service.produce(1460).is_empty() {}
    assert!(service.finished(), "who hears everything sees the end");
    service.end(&mut context);
}
