//! Sockets, from the socket layer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lava_event::{GuestText, Kind, NetEndpoint, Protocol};
use lava_guest::memory::{Unreadable, Virtual};

use crate::introspect::Context;

/// Address families (include/linux/socket.h).
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// Size of the largest address (`struct sockaddr_storage`).
const MAX_ADDRESS: usize = 128;

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
    // include/uapi/linux/in.h
    let transport = match protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        1 | 58 => Protocol::Icmp,
        _ => Protocol::Other,
    };
    match family {
        AF_INET => {
            let (port, rest) = rest.split_first_chunk::<2>()?;
            let address = IpAddr::V4(Ipv4Addr::from(*rest.first_chunk::<4>()?));
            Some((transport, Some(NetEndpoint { address, port: u16::from_be_bytes(*port) }), None))
        }
        AF_INET6 => {
            let (port, rest) = rest.split_first_chunk::<2>()?;
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            let address = IpAddr::V6(Ipv6Addr::from(*rest.first_chunk::<16>()?));
            Some((transport, Some(NetEndpoint { address, port: u16::from_be_bytes(*port) }), None))
        }
        AF_UNIX => {
            let name = match rest.split_first() {
                // An abstract name: NUL first, then bytes up to the given length.
                Some((0, name)) => [b"@", name].concat(),
                _ => rest.split(|&byte| byte == 0).next().unwrap_or_default().to_vec(),
            };
            Some((Protocol::Unix, None, Some(name.into())))
        }
        _ => None,
    }
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
