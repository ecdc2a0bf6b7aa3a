//! TCP with every address and port: each connection that the guest asks for is accepted by a socket made for it.
//!
//! The TCP itself is smoltcp's, without a device: packets go in and out by hand, and time comes with them.
//!
//! Limits: [`MOST`] connections at a time, each with [`BUFFER`] bytes per direction; one too many ends the one that is least
//! likely to be missed: half-open, then silent longest. A connection that stays silent for [`IDLE`] is closed, one that
//! the guest does not close for its part is reset after [`CLOSING`].

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use lava_event::{Kind, Protocol};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use crate::lan;
use crate::service::Service;
use crate::world::{At, Context, Ends, Report, World};

/// Connections at a time.
pub const MOST: usize = 256;
/// Bytes that wait in a connection, per direction: no window scaling is needed for them.
const BUFFER: usize = 32 << 10;
/// How long a guest may take from its SYN to its ACK.
const HALF_OPEN: Duration = Duration::from_secs(10);
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(60);
/// How long a guest may take to close its side once we have closed ours.
const CLOSING: Duration = Duration::from_secs(20);
/// Ethernet's.
const MTU: usize = 1500;
/// Packets to the guest that wait here: what is more waits in the sockets.
const BURST: usize = 64;
/// How often what has no timer of its own is looked at.
const TICK: Duration = Duration::from_secs(1);

struct Connection {
    socket: SocketHandle,
    service: Service,
    opened: At,
    /// When bytes last went either way.
    active: Duration,
    established: bool,
    /// When we closed our side.
    closed: Option<Duration>,
    guest_closed: bool,
    /// On the wire, from the guest and to it.
    bytes: (u64, u64),
}

/// The TCP of everybody but the guest.
pub struct Stack {
    interface: Interface,
    device: Queues,
    sockets: SocketSet<'static>,
    connections: BTreeMap<Ends, Connection>,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack").field("connections", &self.connections.len()).finish_non_exhaustive()
    }
}

impl Stack {
    /// `seed`: where the initial sequence numbers come from.
    pub fn new(seed: u64) -> Self {
        let mut device = Queues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.set_any_ip(true);
        interface.update_ip_addrs(|addresses| {
            // There is room for one address, and a fresh interface has none.
            let _ = addresses.push(IpCidr::new(lan::GATEWAY.into(), 24));
        });
        // Any address is accepted that is routed to one of ours.
        let _ = interface.routes_mut().add_default_ipv4_route(lan::GATEWAY);
        Self { interface, device, sockets: SocketSet::new(Vec::new()), connections: BTreeMap::new() }
    }

    /// True if a segment of this flow belongs to a connection that goes on.
    pub fn knows(&self, ends: &Ends) -> bool {
        self.connections.contains_key(ends)
    }

    /// Takes a sound IPv4 packet with a TCP segment. `opens`: it is a SYN, and is accepted if it begins a connection.
    pub fn packet(
        &mut self,
        packet: &[u8],
        ends: Ends,
        opens: bool,
        at: At,
        world: &mut World,
        report: &mut Report<'_>,
    ) {
        if opens && !self.knows(&ends) {
            self.accept(ends, at, world, report);
        }
        self.device.inbound.push_back(packet.to_vec());
        self.poll(at.now);
        self.serve(ends, at, world, report);
        self.poll(at.now);
    }

    fn accept(&mut self, ends: Ends, at: At, world: &mut World, report: &mut Report<'_>) {
        if self.connections.len() >= MOST
            && let Some(victim) = self.least_missed()
        {
            self.abort(victim);
            self.finish(victim, "evicted", at, world, report);
        }
        let IpAddress::Ipv4(address) = IpAddress::from(ends.destination.address) else { return };
        let (inbound, outbound) = (SocketBuffer::new(vec![0; BUFFER]), SocketBuffer::new(vec![0; BUFFER]));
        let mut socket = Socket::new(inbound, outbound);
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let endpoint = IpListenEndpoint { addr: Some(address.into()), port: ends.destination.port };
        // Fails for port 0 alone, which the peer drops.
        if socket.listen(endpoint).is_err() {
            return;
        }
        let connection = Connection {
            socket: self.sockets.add(socket),
            service: Service::new(ends),
            opened: at,
            active: at.now,
            established: false,
            closed: None,
            guest_closed: false,
            bytes: (0, 0),
        };
        self.connections.insert(ends, connection);
    }

    /// The connection that goes if there are too many.
    fn least_missed(&self) -> Option<Ends> {
        let key = |connection: &Connection| (connection.established && connection.closed.is_none(), connection.active);
        self.connections.iter().min_by_key(|(_, connection)| key(connection)).map(|(ends, _)| *ends)
    }

    /// Ends a connection with a reset, which is sent at once.
    fn abort(&mut self, ends: Ends) {
        let Some(connection) = self.connections.get(&ends) else { return };
        let active = connection.active;
        self.sockets.get_mut::<Socket>(connection.socket).abort();
        self.poll(active);
    }

    /// Lets what has no frame of its own happen: retransmissions, limits of time.
    pub fn tick(&mut self, now: Duration, world: &mut World, report: &mut Report<'_>) {
        self.poll(now);
        let all: Vec<Ends> = self.connections.keys().copied().collect();
        for ends in all {
            let Some(connection) = self.connections.get(&ends) else { continue };
            let at = At { now, frame: connection.opened.frame };
            let silent = now.saturating_sub(connection.active);
            let closing = connection.closed.is_some_and(|since| now.saturating_sub(since) > CLOSING);
            if closing || (!connection.established && silent > HALF_OPEN) {
                self.abort(ends);
                self.finish(ends, "reset", at, world, report);
                continue;
            }
            if silent > IDLE
                && connection.closed.is_none()
                && let Some(connection) = self.connections.get_mut(&ends)
            {
                connection.closed = Some(now);
                self.sockets.get_mut::<Socket>(connection.socket).close();
            }
            self.serve(ends, at, world, report);
        }
        self.poll(now);
    }

    /// When [`Stack::tick`] is due.
    pub fn deadline(&mut self, now: Duration) -> Duration {
        if self.device.outbound.len() >= BURST {
            return Duration::ZERO;
        }
        let due = self.interface.poll_delay(instant(now), &self.sockets);
        due.map_or(TICK, |due| Duration::from_micros(due.total_micros()).min(TICK))
    }

    /// IPv4 packets for the guest.
    pub fn packets(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.device.outbound)
    }

    #[cfg(test)]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Ends all that is left: nothing is sent any more.
    pub fn end(&mut self, now: Duration, world: &mut World, report: &mut Report<'_>) {
        while let Some((&ends, connection)) = self.connections.first_key_value() {
            let at = At { now, frame: connection.opened.frame };
            self.finish(ends, "session", at, world, report);
        }
    }

    fn poll(&mut self, now: Duration) {
        self.interface.poll(instant(now), &mut self.device, &mut self.sockets);
    }

    /// Moves bytes between a connection's socket and its service until neither has more, and notices its end.
    fn serve(&mut self, ends: Ends, at: At, world: &mut World, report: &mut Report<'_>) {
        let Some(connection) = self.connections.get_mut(&ends) else { return };
        let socket = self.sockets.get_mut::<Socket>(connection.socket);
        let mut context = Context { at, world, report };
        let state = socket.state();
        if !connection.established && !matches!(state, State::Listen | State::SynReceived | State::Closed) {
            connection.established = true;
            connection.service.opened(&mut context);
        }
        let reset = matches!(state, State::Listen | State::Closed) && connection.closed.is_none();
        if connection.established {
            connection.exchange(socket, &mut context);
        }
        let ended = match socket.state() {
            _ if reset => Some("reset"),
            State::Closed | State::TimeWait if connection.guest_closed => Some("guest"),
            State::Closed | State::TimeWait => Some("network"),
            _ => None,
        };
        if let Some(ended) = ended {
            self.finish(ends, ended, at, world, report);
        }
    }

    /// Forgets a connection and tells what it was.
    fn finish(&mut self, ends: Ends, ended: &str, at: At, world: &mut World, report: &mut Report<'_>) {
        let Some(connection) = self.connections.remove(&ends) else { return };
        self.sockets.remove(connection.socket);
        if !connection.established {
            return; // `net.flow` told of it already.
        }
        let idle = ended == "network" && at.now.saturating_sub(connection.active) > IDLE;
        let mut context = Context { at, world, report };
        let record = connection.service.end(&mut context);
        let kind = Kind::NetStream {
            protocol: Protocol::Tcp,
            origin: ends.origin,
            destination: ends.destination,
            application: record.application.to_owned(),
            sent: connection.bytes.0,
            received: connection.bytes.1,
            sent_sha256: record.sent.as_ref().map(|artifact| artifact.sha256),
            received_sha256: record.received.as_ref().map(|artifact| artifact.sha256),
            complete: record.complete,
            ended: if idle { "idle" } else { ended }.to_owned(),
            frame: connection.opened.frame,
        };
        context.tell(kind, record.sent.into_iter().chain(record.received));
    }
}

impl Connection {
    fn exchange(&mut self, socket: &mut Socket<'_>, context: &mut Context<'_, '_>) {
        let now = context.at.now;
        let (moved, counted) = (self.bytes, |bytes: &Vec<u8>| bytes.len() as u64);
        loop {
            let mut idle = true;
            if self.service.hungry()
                && let Ok(bytes) = socket.recv(|bytes| (bytes.len(), bytes.to_vec()))
                && !bytes.is_empty()
            {
                self.bytes.0 += counted(&bytes);
                self.service.receive(&bytes, context);
                idle = false;
            }
            let room = socket.send_capacity() - socket.send_queue();
            if room > 0 && socket.may_send() {
                let bytes = self.service.produce(room);
                idle &= bytes.is_empty();
                self.bytes.1 += counted(&bytes);
                // There is room for all of it.
                let _ = socket.send_slice(&bytes);
            }
            if idle {
                break;
            }
        }
        if self.bytes != moved {
            self.active = now;
        }
        if !socket.may_recv() && !self.guest_closed && self.closed.is_none() {
            self.guest_closed = true;
            self.service.guest_closed(context);
        }
        if self.closed.is_none() && self.service.finished() {
            self.closed = Some(now);
            socket.close();
        }
    }
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// The "device": packets that came, packets that are to go.
#[derive(Default)]
struct Queues {
    inbound: VecDeque<Vec<u8>>,
    outbound: Vec<Vec<u8>>,
}

struct Arrived(Vec<u8>);
struct Departing<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Departing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let filled = fill(&mut packet);
        self.0.push(packet);
        filled
    }
}

impl Device for Queues {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Departing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Departing<'_>)> {
        let packet = self.inbound.pop_front()?;
        Some((Arrived(packet), Departing(&mut self.outbound)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Departing<'_>> {
        (self.outbound.len() < BURST).then_some(Departing(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}
