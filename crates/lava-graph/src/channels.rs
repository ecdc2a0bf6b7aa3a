//! Sockets between processes of the guest, and whose flows on the wire are whose.
//!
//! A connection's two ends are found by the inode numbers of a Unix socket and its other end, or by the two addresses of an
//! internet connection within the guest. What a tainted process sent is remembered by end; who receives from it is
//! tainted, *observed*: both the sending and the receiving were seen at the socket. Where the receiver was seen to receive only
//! before that, the sums may hide the order: *inferred*.
//!
//! Limits: bounded; past the bounds older ends are forgotten. An unconnected Unix datagram socket has no other end. That what
//! was received is what was sent, and not what another process sent through the same end, is not compared.

use std::collections::{BTreeMap, VecDeque};

use lava_event::{Event, EventSeq, Grade, NetEndpoint, ProcessKey, Protocol};

/// Ends remembered, senders and receivers each.
const MAX_ENDS: usize = 65_536;
/// Flows remembered: with an owner, and waiting for one.
const MAX_FLOWS: usize = 65_536;
/// Receivers of one end.
const MAX_RECEIVERS: usize = 16;

/// Where bytes come from or go to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum End {
    /// A Unix socket, by inode number.
    Unix(u64),
    /// An internet socket: protocol, own address, the other's address.
    Internet(u8, (std::net::IpAddr, u16), (std::net::IpAddr, u16)),
}

impl End {
    pub(crate) fn internet(protocol: Protocol, own: NetEndpoint, other: NetEndpoint) -> Self {
        Self::Internet(protocol as u8, (own.address, own.port), (other.address, other.port))
    }
}

/// A table that forgets its oldest entries.
#[derive(Clone, Debug)]
struct Recent<K, V> {
    all: BTreeMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<K: Ord + Copy, V> Recent<K, V> {
    fn entry(&mut self, key: K, bound: usize, new: impl FnOnce() -> V) -> &mut V {
        if !self.all.contains_key(&key) {
            // What was taken out in between still stands in the order.
            while self.order.len() >= bound
                && let Some(old) = self.order.pop_front()
            {
                self.all.remove(&old);
            }
            self.order.push_back(key);
        }
        self.all.entry(key).or_insert_with(new)
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.all.get(key)
    }

    fn clear(&mut self) {
        self.all.clear();
        self.order.clear();
    }
}

type Flow = (u8, (std::net::IpAddr, u16), (std::net::IpAddr, u16));

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Channels {
    /// By the sending end: the tainted process that sent last.
    sent: Recent<End, ProcessKey>,
    /// By the sending end: who received from it.
    received: Recent<End, Vec<ProcessKey>>,
    owners: Recent<Flow, ProcessKey>,
    /// Who asked for a connection to there last.
    asked: Recent<(u8, (std::net::IpAddr, u16)), ProcessKey>,
    waiting: Recent<Flow, Event>,
    found: BTreeMap<EventSeq, (ProcessKey, Grade)>,
}

impl Channels {
    /// A tainted process sent from `end`: who has received from it so far.
    pub(crate) fn tainted_send(&mut self, end: End, sender: ProcessKey) -> Vec<ProcessKey> {
        *self.sent.entry(end, MAX_ENDS, || sender) = sender;
        self.received.get(&end).cloned().unwrap_or_default()
    }

    /// Somebody received what came from `end`: the tainted process that sent there.
    pub(crate) fn receive(&mut self, end: End, receiver: ProcessKey) -> Option<ProcessKey> {
        let known = self.received.entry(end, MAX_ENDS, Vec::new);
        if !known.contains(&receiver) && known.len() < MAX_RECEIVERS {
            known.push(receiver);
        }
        self.sent.get(&end).copied()
    }

    fn flow(protocol: Protocol, a: NetEndpoint, b: NetEndpoint) -> Flow {
        (protocol as u8, (a.address, a.port), (b.address, b.port))
    }

    /// A process owns a flow: the `net.flow` that waited for this.
    pub(crate) fn own(
        &mut self,
        protocol: Protocol,
        origin: NetEndpoint,
        destination: NetEndpoint,
        owner: ProcessKey,
    ) -> Option<Event> {
        let flow = Self::flow(protocol, origin, destination);
        *self.owners.entry(flow, MAX_FLOWS, || owner) = owner;
        let waited = self.waiting.all.remove(&flow)?;
        self.found(waited.seq, owner, Grade::Observed);
        Some(waited)
    }

    /// A process asked for a connection.
    pub(crate) fn ask(&mut self, protocol: Protocol, to: NetEndpoint, process: ProcessKey) {
        let key = (protocol as u8, (to.address, to.port));
        *self.asked.entry(key, MAX_FLOWS, || process) = process;
    }

    /// A flow is on the wire: whose it is, if that is known; else it waits.
    pub(crate) fn wire(
        &mut self,
        event: &Event,
        protocol: Protocol,
        origin: NetEndpoint,
        destination: NetEndpoint,
    ) -> Option<(ProcessKey, Grade)> {
        let flow = Self::flow(protocol, origin, destination);
        if let Some(&owner) = self.owners.get(&flow) {
            self.found(event.seq, owner, Grade::Observed);
            return Some((owner, Grade::Observed));
        }
        self.waiting.entry(flow, MAX_FLOWS, || event.clone());
        let asked = self.asked.get(&(flow.0, flow.2)).copied()?;
        self.found(event.seq, asked, Grade::Inferred);
        Some((asked, Grade::Inferred))
    }

    fn found(&mut self, flow: EventSeq, owner: ProcessKey, grade: Grade) {
        if self.found.len() < MAX_FLOWS {
            self.found.insert(flow, (owner, grade));
        }
    }

    /// Whose a `net.flow` is, and how surely.
    pub(crate) fn owner(&self, flow: EventSeq) -> Option<(ProcessKey, Grade)> {
        self.found.get(&flow).copied()
    }

    /// The guest restarted: all sockets are gone.
    pub(crate) fn reset(&mut self) {
        self.sent.clear();
        self.received.clear();
        self.owners.clear();
        self.asked.clear();
        self.waiting.clear();
    }
}
