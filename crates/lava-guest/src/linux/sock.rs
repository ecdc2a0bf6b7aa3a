//! Sockets: what `struct socket`, `struct sock` and `struct unix_sock` say of both ends.
//!
//! The offsets stand apart from [`Layout`]: a kernel whose types lack them loses the hooks on sockets, not all of them.
//! Structs and members: include/linux/net.h, include/net/sock.h, include/net/af_unix.h (Linux 6.1 and 6.12).
//!
//! Limits: as for all readers no lock is taken: the end of a connection that is being made or closed may be missing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::member;
use crate::btf::{TypeError, Types};
use crate::layout::Layout;
use crate::memory::{Unreadable, Virtual};

/// Address families (include/linux/socket.h).
pub const AF_UNIX: u16 = 1;
/// Internet protocol, version 4.
pub const AF_INET: u16 = 2;
/// Internet protocol, version 6.
pub const AF_INET6: u16 = 10;
/// The kernel's own message bus.
pub const AF_NETLINK: u16 = 16;
/// Frames as they are on the wire.
pub const AF_PACKET: u16 = 17;

/// `SOCK_DGRAM` (include/linux/net.h).
pub const DATAGRAM: u16 = 2;
/// `SOCK_RAW`: has no ports.
pub const RAW: u16 = 3;

/// Bytes of a Unix name (`UNIX_PATH_MAX`, include/uapi/linux/un.h).
const MAX_NAME: usize = 108;

/// Offsets that only sockets need, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    /// `socket.file`.
    pub file: u64,
    /// `file.private_data`: the socket of a socket's file.
    pub private_data: u64,
    /// `socket_alloc.socket`.
    pub socket_in_alloc: u64,
    /// `socket_alloc.vfs_inode`.
    pub inode_in_alloc: u64,
    /// `sock.sk_socket`.
    pub sk_socket: u64,
    /// `unix_sock.addr`.
    pub unix_addr: u64,
    /// `unix_sock.peer`.
    pub unix_peer: u64,
    /// `unix_address.len`: of the family and the name.
    pub unix_len: u64,
    /// `unix_address.name`: a `sockaddr_un`.
    pub unix_name: u64,
}

impl Offsets {
    /// Looks them up.
    ///
    /// # Errors
    /// The first that these types lack.
    pub fn resolve(types: &Types) -> Result<Self, TypeError> {
        let of = |strukt: &str, member: &str| types.offset(strukt, member);
        Ok(Self {
            file: of("socket", "file")?,
            private_data: of("file", "private_data")?,
            socket_in_alloc: of("socket_alloc", "socket")?,
            inode_in_alloc: of("socket_alloc", "vfs_inode")?,
            sk_socket: of("sock", "sk_socket")?,
            unix_addr: of("unix_sock", "addr")?,
            unix_peer: of("unix_sock", "peer")?,
            unix_len: of("unix_address", "len")?,
            unix_name: of("unix_address", "name")?,
        })
    }
}

/// A socket, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Socket {
    /// Inode number.
    pub inode: u64,
    /// `AF_*`.
    pub family: u16,
    /// `SOCK_*`.
    pub kind: u16,
    /// `IPPROTO_*` (include/uapi/linux/in.h), or the family's own number.
    pub protocol: u16,
    /// This end, for internet sockets that have a port.
    pub local: Option<SocketAddr>,
    /// The other end, for internet sockets that are connected.
    pub remote: Option<SocketAddr>,
    /// For Unix sockets: the name of this end, else of the other; an abstract name begins with `@`.
    pub name: Option<Vec<u8>>,
    /// For Unix sockets: inode number of the other end.
    pub peer: Option<u64>,
}

/// Reads the `struct socket` at `socket`.
///
/// # Errors
/// [`Unreadable`] if it, or its `struct sock`, cannot be read; ends that cannot be read are missing.
pub fn read_socket(memory: &dyn Virtual, layout: &Layout, o: &Offsets, socket: u64) -> Result<Socket, Unreadable> {
    let sk = memory.pointer(member(socket, layout.socket.sk)?)?;
    let mut found = Socket {
        inode: inode_of(memory, layout, o, socket)?,
        kind: memory.u16(member(socket, layout.socket.kind)?)?,
        ..read_sock(memory, layout, sk)?
    };
    if found.family == AF_UNIX {
        let peer = member(sk, o.unix_peer).and_then(|at| memory.pointer(at)).ok();
        found.peer = peer.and_then(|peer| {
            let other = memory.pointer(member(peer, o.sk_socket).ok()?).ok()?;
            inode_of(memory, layout, o, other).ok()
        });
        found.name = unix_name(memory, o, sk).or_else(|| unix_name(memory, o, peer?));
    }
    Ok(found)
}

/// Reads what the `struct sock` at `sk` says by itself: family, protocol and internet ends.
///
/// # Errors
/// [`Unreadable`] if any of it cannot be read.
pub fn read_sock(memory: &dyn Virtual, layout: &Layout, sk: u64) -> Result<Socket, Unreadable> {
    let l = &layout.sock;
    let at = |offset: u64| member(sk, offset);
    let mut found =
        Socket { family: memory.u16(at(l.family)?)?, protocol: memory.u16(at(l.protocol)?)?, ..Socket::default() };
    let v6 = |offset: Option<u64>| -> Result<IpAddr, Unreadable> {
        let mut bytes = [0; 16];
        memory.read(at(offset.ok_or(Unreadable { address: sk })?)?, &mut bytes)?;
        Ok(Ipv6Addr::from(bytes).to_canonical())
    };
    let v4 = |offset: u64| -> Result<IpAddr, Unreadable> {
        // In the order of the wire, as it lies in memory.
        Ok(Ipv4Addr::from(memory.u32(at(offset)?)?.to_le_bytes()).into())
    };
    let (source, destination) = match found.family {
        AF_INET => (v4(l.source)?, v4(l.destination)?),
        AF_INET6 => (v6(l.source6)?, v6(l.destination6)?),
        _ => return Ok(found),
    };
    let port = memory.u16(at(l.source_port)?)?;
    let remote_port = u16::from_be(memory.u16(at(l.destination_port)?)?);
    if port != 0 {
        found.local = Some(SocketAddr::new(source, port));
    }
    if remote_port != 0 {
        found.remote = Some(SocketAddr::new(destination, remote_port));
    }
    Ok(found)
}

/// Inode number of the `struct socket` at `socket`.
///
/// # Errors
/// [`Unreadable`] if it cannot be read.
pub fn inode_of(memory: &dyn Virtual, layout: &Layout, o: &Offsets, socket: u64) -> Result<u64, Unreadable> {
    let alloc = socket.checked_sub(o.socket_in_alloc).ok_or(Unreadable { address: socket })?;
    memory.u64(member(member(alloc, o.inode_in_alloc)?, layout.inode.i_ino)?)
}

fn unix_name(memory: &dyn Virtual, o: &Offsets, sk: u64) -> Option<Vec<u8>> {
    let address = memory.pointer(member(sk, o.unix_addr).ok()?).ok()?;
    let length = memory.u32(member(address, o.unix_len).ok()?).ok()?;
    // `sockaddr_un`: two bytes of family, then the name.
    let name = member(member(address, o.unix_name).ok()?, 2).ok()?;
    decode_unix_name(&memory.read_vec(name, u64::from(length.saturating_sub(2)), MAX_NAME))
}

/// A Unix address behind its family: an abstract name (NUL first) is shown with `@`; empty is no name.
pub fn decode_unix_name(bytes: &[u8]) -> Option<Vec<u8>> {
    match bytes.split_first() {
        None => None,
        Some((0, [])) => None,
        Some((0, name)) => Some([b"@", name].concat()),
        Some(_) => Some(bytes.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeGuest;

    const O: Offsets = Offsets {
        file: 16,
        private_data: 32,
        socket_in_alloc: 0,
        inode_in_alloc: 2048,
        sk_socket: 4000,
        unix_addr: 4008,
        unix_peer: 4016,
        unix_len: 4,
        unix_name: 8,
    };

    fn socket(guest: &mut FakeGuest, ino: u64, family: u16, kind: u16, protocol: u16) -> (u64, u64) {
        let l = guest.layout;
        let (socket, sk) = (guest.alloc(8192), guest.alloc(8192));
        guest.write_u64(socket + l.socket.sk, sk);
        guest.write(socket + l.socket.kind, &kind.to_le_bytes());
        guest.write_u64(socket + O.inode_in_alloc + l.inode.i_ino, ino);
        guest.write(sk + l.sock.family, &family.to_le_bytes());
        guest.write(sk + l.sock.protocol, &protocol.to_le_bytes());
        guest.write_u64(sk + O.sk_socket, socket);
        (socket, sk)
    }

    #[test]
    fn internet_sockets() {
        let mut guest = FakeGuest::new(crate::fake::layout(), false);
        let l = guest.layout;
        let (socket, sk) = socket(&mut guest, 77, AF_INET, 1, 6);
        guest.write(sk + l.sock.source, &[10, 77, 0, 2]);
        guest.write(sk + l.sock.source_port, &40000u16.to_le_bytes());
        let found = read_socket(&guest.space(), &l, &O, socket).unwrap();
        assert_eq!((found.inode, found.kind, found.protocol), (77, 1, 6));
        assert_eq!((found.local, found.remote), (Some("10.77.0.2:40000".parse().unwrap()), None));
        guest.write(sk + l.sock.destination, &[10, 77, 0, 3]);
        guest.write(sk + l.sock.destination_port, &22u16.to_be_bytes());
        let found = read_socket(&guest.space(), &l, &O, socket).unwrap();
        assert_eq!(found.remote, Some("10.77.0.3:22".parse().unwrap()));
    }

    #[test]
    fn a_mapped_address_is_what_goes_on_the_wire() {
        let mut guest = FakeGuest::new(crate::fake::layout(), false);
        let l = guest.layout;
        let (socket, sk) = socket(&mut guest, 78, AF_INET6, 2, 17);
        let mapped = "10.77.0.2".parse::<Ipv4Addr>().unwrap().to_ipv6_mapped();
        guest.write(sk + l.sock.source6.unwrap(), &mapped.octets());
        guest.write(sk + l.sock.source_port, &53u16.to_le_bytes());
        let found = read_socket(&guest.space(), &l, &O, socket).unwrap();
        assert_eq!(found.local, Some("10.77.0.2:53".parse().unwrap()));
    }

    #[test]
    fn unix_sockets_and_their_other_ends() {
        let mut guest = FakeGuest::new(crate::fake::layout(), false);
        let l = guest.layout;
        let (client, client_sk) = socket(&mut guest, 5, AF_UNIX, 1, 0);
        let (server, server_sk) = socket(&mut guest, 6, AF_UNIX, 1, 0);
        let name = guest.bytes(&[&[1, 0, 0, 0, 9, 0, 0, 0, 1, 0][..], b"/run/xy"].concat());
        guest.write_u64(server_sk + O.unix_addr, name);
        guest.write_u64(client_sk + O.unix_peer, server_sk);
        guest.write_u64(server_sk + O.unix_peer, 0xffff_dead_0000_0000);
        let found = read_socket(&guest.space(), &l, &O, client).unwrap();
        assert_eq!((found.peer, found.name.as_deref()), (Some(6), Some(&b"/run/xy"[..])));
        let found = read_socket(&guest.space(), &l, &O, server).unwrap();
        assert_eq!((found.peer, found.name.as_deref()), (None, Some(&b"/run/xy"[..])), "a wild peer is no peer");
        assert!(read_socket(&guest.space(), &l, &O, 0x1000).is_err());
    }

    #[test]
    fn names() {
        assert_eq!(decode_unix_name(b"\0bus"), Some(b"@bus".to_vec()));
        assert_eq!(decode_unix_name(b"/run/x\0rest"), Some(b"/run/x".to_vec()));
        assert_eq!(decode_unix_name(b""), None);
        assert_eq!(decode_unix_name(b"\0"), None);
    }
}
