//! The virtual LAN's addresses.
//!
//! 10.77.0.0/24: private (RFC 1918), and rare enough that malware which looks for its sandbox does not find QEMU's
//! well-known 10.0.2.0/24 or libvirt's 192.168.122.0/24. Every host has the MAC address 52:55 + its IPv4 address
//! (locally administered), so that each is a neighbour of its own on the wire.

use std::net::Ipv4Addr;

use smoltcp::wire::EthernetAddress;

/// Gateway, DHCP server and DNS server.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The guest's address, the only one that is leased.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 15);
/// The LAN's mask.
pub const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// The LAN's broadcast address.
pub const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 255);
/// How long the lease lasts, seconds: longer than any session, so that renewals do not clutter the capture.
pub const LEASE_SECONDS: u32 = 24 * 3600;

/// MAC address of the gateway.
#[must_use]
pub const fn gateway_mac() -> [u8; 6] {
    mac_of(GATEWAY)
}

/// MAC address of a host of ours.
#[must_use]
pub const fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x52, 0x55, a, b, c, d]
}

/// True for every address of the LAN that a host can have.
#[must_use]
pub const fn is_local(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    let [x, y, z, _] = GATEWAY.octets();
    a == x && b == y && c == z && d != 0 && d != 255
}

/// True for the LAN's addresses that we play: all but the guest's own.
#[must_use]
pub const fn is_neighbour(address: Ipv4Addr) -> bool {
    is_local(address) && address.octets()[3] != GUEST.octets()[3]
}

/// Who is on a simulated LAN, by the last number of the address, and the TCP ports that are open there: a gateway, a file server, a
/// printer, two Linux servers, a Windows workstation, a camera. All else is silent (no such host) or refused (no such port).
const HOSTS: &[(u8, &[u16])] = &[
    (1, &[53, 80, 443]),
    (3, &[22, 111, 139, 445, 2049]),
    (4, &[80, 515, 631, 9100]),
    (20, &[22, 80]),
    (21, &[135, 139, 445, 3389]),
    (22, &[22, 3306, 8080]),
    (30, &[23, 80, 554]),
];

fn open_ports(address: Ipv4Addr) -> Option<&'static [u16]> {
    let host = HOSTS.iter().find(|(last, _)| *last == address.octets()[3]);
    host.filter(|_| is_local(address)).map(|(_, ports)| *ports)
}

/// True if a simulated network has a host of that address: any beyond the LAN, and some of it.
pub(crate) fn exists(address: Ipv4Addr) -> bool {
    !is_local(address) || open_ports(address).is_some()
}

/// True if that host takes connections on this port: beyond the LAN on any.
pub(crate) fn accepts(address: Ipv4Addr, port: u16) -> bool {
    !is_local(address) || open_ports(address).is_some_and(|ports| ports.contains(&port))
}

/// True if a packet to `address` that was sent to `mac` reaches a host of ours: a neighbour under its own MAC address,
/// or the wide world through the gateway.
pub(crate) fn reaches(address: Ipv4Addr, mac: EthernetAddress) -> bool {
    let special = address.is_unspecified()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.octets()[0] == 0
        || address.octets()[0] >= 240
        || address == GUEST
        || address == BROADCAST
        || address == Ipv4Addr::new(10, 77, 0, 0);
    !special && mac.0 == mac_towards(address)
}

/// The MAC address under which the guest reaches an address: a neighbour's own, or the gateway's.
pub(crate) const fn mac_towards(address: Ipv4Addr) -> [u8; 6] {
    mac_of(if is_local(address) { address } else { GATEWAY })
}

/// A frame with which a guest of this MAC address asks for the gateway's (RFC 826).
#[must_use]
pub fn arp_request(guest: [u8; 6]) -> Vec<u8> {
    crate::emit::arp_request(EthernetAddress(guest))
}
