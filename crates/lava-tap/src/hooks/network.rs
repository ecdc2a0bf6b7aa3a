//! Sockets, from the socket layer: made, bound, listening, connected, accepted, and whose flow on the wire is whose.
//!
//! Limits: `net.connect` is told when it is asked for, whatever becomes of it; netlink is told as `net.socket` only; owners of
//! flows are told for TCP and UDP (packets that a process makes itself, and ICMP, have none); what is bound to port 0 is told with
//! the port that it got.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;

use lava_event::{GuestText, Kind, NetEndpoint, Process, ProcessKey, Protocol};
use lava_guest::btf::{TypeError, Types};
use lava_guest::linux::sock::{self, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX};
use lava_guest::memory::{Unreadable, Virtual};

use super::transfer;
use crate::introspect::Context;
use crate::missing::Missing;
use crate::returns::Then;

/// Size of the largest address (`struct sockaddr_storage`).
const MAX_ADDRESS: usize = 128;
/// Flows remembered, so that only a flow's first packet is told; beyond that some are told again.
const MAX_FLOWS: usize = 64 * 1024;

/// Names of families (include/linux/socket.h), types (include/linux/net.h) and netlink's parts (include/uapi/linux/netlink.h).
const FAMILIES: [(u16, &str); 9] = [
    (AF_UNIX, "unix"),
    (AF_INET, "inet"),
    (AF_INET6, "inet6"),
    (AF_NETLINK, "netlink"),
    (AF_PACKET, "packet"),
    (31, "bluetooth"),
    (38, "alg"),
    (40, "vsock"),
    (44, "xdp"),
];
const TYPES: [(u16, &str); 6] = [(1, "stream"), (2, "dgram"), (3, "raw"), (4, "rdm"), (5, "seqpacket"), (10, "packet")];
const NETLINK: [(u16, &str); 12] = [
    (0, "route"),
    (2, "usersock"),
    (4, "sock_diag"),
    (6, "xfrm"),
    (7, "selinux"),
    (9, "audit"),
    (11, "connector"),
    (12, "netfilter"),
    (15, "kobject_uevent"),
    (16, "generic"),
    (20, "rdma"),
    (21, "crypto"),
];

fn named(table: &[(u16, &str)], number: u16) -> String {
    table.iter().find(|(n, _)| *n == number).map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// Both ends of a socket, in the vocabulary's form.
#[derive(Clone, Debug)]
pub struct Ends {
    pub protocol: Protocol,
    pub local: Option<NetEndpoint>,
    pub remote: Option<NetEndpoint>,
    pub path: Option<GuestText>,
    pub inode: u64,
    pub peer: Option<u64>,
    /// False for a socket each of whose messages may go elsewhere.
    pub connected: bool,
}

impl Default for Ends {
    fn default() -> Self {
        let protocol = Protocol::Other;
        Self { protocol, local: None, remote: None, path: None, inode: 0, peer: None, connected: false }
    }
}

/// Flows whose owner was told.
#[derive(Default)]
pub struct Flows {
    told: Mutex<HashSet<(Protocol, NetEndpoint, NetEndpoint, ProcessKey)>>,
    offsets: Option<FlowOffsets>,
}

/// Members of `struct flowi4` and `struct flowi6` (include/net/flow.h).
struct FlowOffsets {
    source4: u64,
    destination4: u64,
    ports4: u64,
    source6: u64,
    destination6: u64,
    ports6: u64,
}

impl FlowOffsets {
    fn resolve(types: &Types) -> Result<Self, TypeError> {
        let of = |strukt: &str, member: &str| types.offset(strukt, member);
        Ok(Self {
            source4: of("flowi4", "saddr")?,
            destination4: of("flowi4", "daddr")?,
            ports4: of("flowi4", "uli")?,
            source6: of("flowi6", "saddr")?,
            destination6: of("flowi6", "daddr")?,
            ports6: of("flowi6", "uli")?,
        })
    }
}

impl Flows {
    /// What these types lack goes to `missing`.
    pub fn resolve(types: &Types, missing: &mut Missing) -> Self {
        Self { offsets: missing.unless("owners of UDP flows", FlowOffsets::resolve(types)), told: Mutex::default() }
    }

    /// The guest was reset.
    pub fn clear(&self) {
        if let Ok(mut told) = self.told.lock() {
            told.clear();
        }
    }
}

/// include/uapi/linux/in.h; Unix sockets have none of these.
fn transport(family: u16, protocol: u16) -> Protocol {
    match (family, protocol) {
        (AF_UNIX, _) => Protocol::Unix,
        (AF_INET | AF_INET6, 6) => Protocol::Tcp,
        (AF_INET | AF_INET6, 17) => Protocol::Udp,
        (AF_INET | AF_INET6, 1 | 58) => Protocol::Icmp,
        _ => Protocol::Other,
    }
}

const fn endpoint(address: SocketAddr) -> NetEndpoint {
    NetEndpoint { address: address.ip(), port: address.port() }
}

/// Both ends of the `struct socket` at `socket`; nothing for netlink.
pub fn ends(context: &Context<'_>, socket: u64) -> Result<Option<Ends>, Unreadable> {
    let Some(offsets) = &context.tap.sockets else { return Ok(None) };
    let found = sock::read_socket(&context.memory(), context.layout(), offsets, socket)?;
    if found.family == AF_NETLINK {
        return Ok(None);
    }
    // What a raw socket has for a port is its protocol.
    let port = |end: NetEndpoint| if found.kind == sock::RAW { NetEndpoint { port: 0, ..end } } else { end };
    Ok(Some(Ends {
        protocol: transport(found.family, found.protocol),
        local: found.local.map(endpoint).map(port),
        remote: found.remote.map(endpoint),
        path: found.name.map(GuestText::from),
        inode: found.inode,
        peer: found.peer,
        connected: found.remote.is_some() || found.family == AF_UNIX,
    }))
}

/// The internet address of a `struct msghdr`, where it has one.
pub fn message_address(context: &Context<'_>, message: u64) -> Option<NetEndpoint> {
    let offsets = context.tap.message?;
    let memory = context.memory();
    let name = memory.pointer(message.wrapping_add(offsets.0)).ok()?;
    let length = memory.u32(message.wrapping_add(offsets.1)).ok()?;
    let address = memory.read_vec(name, u64::from(length), MAX_ADDRESS);
    let (family, rest) = address.split_first_chunk::<2>()?;
    decode(u16::from_ne_bytes(*family), 0, rest)?.1
}

/// `security_socket_post_create(sock, family, type, protocol, kern)`
pub fn create(context: &Context<'_>) -> Result<(), Unreadable> {
    if context.argument(4)? & 0xffff_ffff != 0 {
        return Ok(());
    }
    let (memory, layout) = (context.memory(), context.layout());
    let number = |index: usize| context.argument(index).map(|value| value as u16);
    let (family, kind, asked) = (number(1)?, number(2)?, number(3)?);
    let given = memory
        .pointer(context.argument(0)?.wrapping_add(layout.socket.sk))
        .and_then(|sk| memory.u16(sk.wrapping_add(layout.sock.protocol)));
    let protocol = transport(family, given.unwrap_or(asked));
    // Netlink's types are all the same: which part of the kernel is spoken to says more.
    let way = if family == AF_NETLINK { named(&NETLINK, asked) } else { named(&TYPES, kind) };
    context.emit(Kind::NetSocket { family: named(&FAMILIES, family), way, protocol })
}

/// `security_socket_bind(sock, ..)` and `security_socket_listen(sock, ..)`: says which socket the call around it is on.
pub fn subject(context: &Context<'_>) -> Result<(), Unreadable> {
    transfer::within(context, context.argument(0)?, None).map(drop)
}

/// `__sys_bind(fd, ..)`, `__sys_bind_socket(sock, ..)`: told when it is bound, with the port that it got.
pub fn bind(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    transfer::around(
        context,
        None,
        Box::new(|context, socket, _, _| match ends(context, socket)? {
            Some(Ends { protocol, local, path, .. }) => context.emit(Kind::NetBind { protocol, address: local, path }),
            None => Ok(()),
        }),
    )
}

/// `__sys_listen(fd, ..)`, `__sys_listen_socket(sock, ..)`: told when it listens.
pub fn listen(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    transfer::around(
        context,
        None,
        Box::new(|context, socket, _, _| match ends(context, socket)? {
            Some(Ends { protocol, local, path, .. }) => {
                context.emit(Kind::NetListen { protocol, address: local, path })
            }
            None => Ok(()),
        }),
    )
}

/// `do_accept(file, ..)`: returns the new connection's file.
pub fn accept(_context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    Ok(Some(Box::new(|context, result| {
        let (Some(file), Some(offsets)) = (result.pointer(), &context.tap.sockets) else { return Ok(()) };
        let socket = context.memory().pointer(file.wrapping_add(offsets.private_data))?;
        let Some(ends) = ends(context, socket)? else { return Ok(()) };
        let process = context.process(&context.current()?);
        transfer::accepted(context, socket, &process, &ends)?;
        let Ends { protocol, local, remote, path, .. } = ends;
        context.tap.emitter.emit(context.vcpu, Some(process), Kind::NetAccept { protocol, local, remote, path });
        Ok(())
    })))
}

/// `security_socket_connect(sock, address, addrlen)`: the address is the kernel's own copy.
pub fn connect(context: &Context<'_>) -> Result<(), Unreadable> {
    let (memory, layout) = (context.memory(), context.layout());
    let socket = context.argument(0)?;
    let address = memory.read_vec(context.argument(1)?, context.argument(2)? & 0xffff_ffff, MAX_ADDRESS);
    let protocol = memory
        .pointer(socket.wrapping_add(layout.socket.sk))
        .and_then(|sk| memory.u16(sk.wrapping_add(layout.sock.protocol)))
        .unwrap_or(0);
    let Some((family, rest)) = address.split_first_chunk::<2>() else { return Ok(()) };
    let family = u16::from_ne_bytes(*family);
    // Not a network's address (AF_UNSPEC dissolves a connection; netlink, vsock...): nothing that the kind can tell.
    let Some((protocol, destination, path)) = decode(family, protocol, rest) else { return Ok(()) };
    let process = context.process(&context.current()?);
    context.tap.emitter.emit(context.vcpu, Some(process), Kind::NetConnect { protocol, destination, path });
    Ok(())
}

/// An address behind its family: protocol, network end, Unix path.
fn decode(family: u16, protocol: u16, rest: &[u8]) -> Option<(Protocol, Option<NetEndpoint>, Option<GuestText>)> {
    let end = |address: IpAddr, port: &[u8; 2]| {
        let end = NetEndpoint { address: address.to_canonical(), port: u16::from_be_bytes(*port) };
        (transport(family, protocol), Some(end), None)
    };
    match family {
        AF_INET => {
            let (port, rest) = rest.split_first_chunk::<2>()?;
            Some(end(Ipv4Addr::from(*rest.first_chunk::<4>()?).into(), port))
        }
        AF_INET6 => {
            let (port, rest) = rest.split_first_chunk::<2>()?;
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            Some(end(Ipv6Addr::from(*rest.first_chunk::<16>()?).into(), port))
        }
        AF_UNIX => Some((Protocol::Unix, None, Some(sock::decode_unix_name(rest).unwrap_or_default().into()))),
        _ => None,
    }
}

/// `tcp_connect(sk)`: both ends are chosen, the first packet is about to be sent.
pub fn tcp_flow(context: &Context<'_>) -> Result<(), Unreadable> {
    let found = sock::read_sock(&context.memory(), context.layout(), context.argument(0)?)?;
    match (found.local, found.remote) {
        (Some(local), Some(remote)) => owner(context, Protocol::Tcp, endpoint(local), endpoint(remote)),
        _ => Ok(()),
    }
}

/// `udp_send_skb(skb, fl4, cork)`
pub fn udp_flow(context: &Context<'_>) -> Result<(), Unreadable> {
    let Some(offsets) = &context.tap.flows.offsets else { return Ok(()) };
    let (memory, flow) = (context.memory(), context.argument(0)?);
    let address = |offset: u64| -> Result<IpAddr, Unreadable> {
        Ok(Ipv4Addr::from(memory.u32(flow.wrapping_add(offset))?.to_le_bytes()).into())
    };
    let (from, to) = (address(offsets.source4)?, address(offsets.destination4)?);
    udp_owner(context, from, to, flow.wrapping_add(offsets.ports4))
}

/// `udp_v6_send_skb(skb, fl6, cork)`
pub fn udp6_flow(context: &Context<'_>) -> Result<(), Unreadable> {
    let Some(offsets) = &context.tap.flows.offsets else { return Ok(()) };
    let (memory, flow) = (context.memory(), context.argument(0)?);
    let address = |offset: u64| -> Result<IpAddr, Unreadable> {
        let mut bytes = [0; 16];
        memory.read(flow.wrapping_add(offset), &mut bytes)?;
        Ok(Ipv6Addr::from(bytes).to_canonical())
    };
    let (from, to) = (address(offsets.source6)?, address(offsets.destination6)?);
    udp_owner(context, from, to, flow.wrapping_add(offsets.ports6))
}

/// `union flowi_uli`: destination port, then source port (include/net/flow.h).
fn udp_owner(context: &Context<'_>, from: IpAddr, to: IpAddr, ports: u64) -> Result<(), Unreadable> {
    let port = |offset: u64| context.memory().u16(ports.wrapping_add(offset)).map(u16::from_be);
    let destination = NetEndpoint { address: to, port: port(0)? };
    owner(context, Protocol::Udp, NetEndpoint { address: from, port: port(2)? }, destination)
}

fn owner(
    context: &Context<'_>,
    protocol: Protocol,
    origin: NetEndpoint,
    destination: NetEndpoint,
) -> Result<(), Unreadable> {
    let process: Process = context.process(&context.current()?);
    if protocol == Protocol::Udp {
        let Ok(mut told) = context.tap.flows.told.lock() else { return Ok(()) };
        if told.len() >= MAX_FLOWS {
            told.clear();
        }
        if !told.insert((protocol, origin, destination, process.key())) {
            return Ok(());
        }
    }
    let kind = Kind::NetFlowOwner { protocol, origin, destination };
    context.tap.emitter.emit(context.vcpu, Some(process), kind);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let (protocol, end, _) = decode(AF_INET, 6, &[0, 22, 10, 77, 0, 3, 0, 0]).unwrap();
        assert_eq!((protocol, end.unwrap().to_string_for_test()), (Protocol::Tcp, "10.77.0.3:22".into()));
        let (_, _, path) = decode(AF_UNIX, 0, b"/run/x\0rest").unwrap();
        assert_eq!(path.unwrap(), GuestText::from("/run/x"));
        let (_, _, path) = decode(AF_UNIX, 0, b"\0name").unwrap();
        assert_eq!(path.unwrap(), GuestText::from("@name"));
        assert!(decode(AF_INET6, 6, &[0; 8]).is_none());
        assert!(decode(0, 0, &[]).is_none());
        let mapped = "10.77.0.3".parse::<Ipv4Addr>().unwrap().to_ipv6_mapped();
        let bytes = [&[0, 53, 0, 0, 0, 0][..], &mapped.octets()].concat();
        let (protocol, end, _) = decode(AF_INET6, 17, &bytes).unwrap();
        assert_eq!((protocol, end.unwrap().to_string_for_test()), (Protocol::Udp, "10.77.0.3:53".into()));
    }

    #[test]
    fn names() {
        assert_eq!(named(&FAMILIES, 17), "packet");
        assert_eq!(named(&FAMILIES, 99), "99");
        assert_eq!(named(&NETLINK, 9), "audit");
        assert_eq!(transport(AF_NETLINK, 6), Protocol::Other, "another family's numbers mean other things");
    }

    trait ForTest {
        fn to_string_for_test(&self) -> String;
    }
    impl ForTest for NetEndpoint {
        fn to_string_for_test(&self) -> String {
            format!("{}:{}", self.address, self.port)
        }
    }
}
