//! What happens on sockets: connections, flows on the wire, and bytes from process to process.

use lava_event::{Event, Grade, Kind, NetEndpoint, ProcessKey, Protocol};

use crate::channels::End;
use crate::graph::Graph;
use crate::store::Happening;
use crate::{NodeKind, TaintRule, Verb, cut};

impl Graph {
    pub(crate) fn network(&mut self, event: &Event, actor: ProcessKey) {
        match &event.kind {
            Kind::NetConnect { protocol, destination: Some(to), .. } if *protocol != Protocol::Unix => {
                self.channels.ask(*protocol, *to, actor);
                self.connects(event, actor, *protocol, *to, Grade::Observed, 1);
            }
            Kind::NetFlowOwner { protocol, origin, destination } => {
                self.owned(event, actor, *protocol, *origin, *destination);
            }
            Kind::NetAccept { protocol, local: Some(local), remote: Some(remote), .. } => {
                if let Some(flow) = self.channels.own(*protocol, *local, *remote, actor) {
                    self.connects(&flow, actor, *protocol, *remote, Grade::Observed, 0);
                }
            }
            Kind::NetTransfer { .. } => self.transfer(event, actor),
            _ => {}
        }
    }

    fn owned(
        &mut self,
        event: &Event,
        actor: ProcessKey,
        protocol: Protocol,
        origin: NetEndpoint,
        destination: NetEndpoint,
    ) {
        let waited = self.channels.own(protocol, origin, destination, actor);
        // Loopback is within the machine: what matters of it are the transfers.
        if !destination.address.is_loopback() {
            self.connects(event, actor, protocol, destination, Grade::Observed, 0);
        }
        if let Some(flow) = waited {
            self.connects(&flow, actor, protocol, destination, Grade::Observed, 0);
        }
    }

    /// A flow on the wire: nobody acts, so its process comes from the socket layer.
    pub(crate) fn wire(&mut self, event: &Event, protocol: Protocol, origin: NetEndpoint, destination: NetEndpoint) {
        if let Some((owner, grade)) = self.channels.wire(event, protocol, origin, destination) {
            self.connects(event, owner, protocol, destination, grade, 0);
        }
    }

    /// A tainted process reaches for an endpoint. `count` is 0 for what only confirms a connection; it is one if nothing else
    /// told of it.
    fn connects(
        &mut self,
        event: &Event,
        actor: ProcessKey,
        protocol: Protocol,
        to: NetEndpoint,
        grade: Grade,
        count: u64,
    ) {
        let Some(process) = self.tainted_node(actor) else { return };
        let name = format!("{}:{} {protocol:?}", to.address, to.port).to_lowercase();
        let node = self.named(event, NodeKind::Endpoint, name);
        let count = if self.store.has_edge(process, node, Verb::Connects) { count } else { 1 };
        let happening = Happening { grade, ..Happening::observed(process, Verb::Connects, node) };
        self.store.happen(event, happening.of(count, 0));
    }

    fn transfer(&mut self, event: &Event, actor: ProcessKey) {
        let Kind::NetTransfer { protocol, local, remote, path, socket, peer, sent, received, sends, receives } =
            &event.kind
        else {
            return;
        };
        if path.as_ref().is_some_and(|path| cut::is_shared_socket(path.bytes())) {
            return;
        }
        let (own, other) = match protocol {
            Protocol::Unix => (Some(End::Unix(*socket)), peer.map(End::Unix)),
            protocol => match (local, remote) {
                (Some(local), Some(remote)) => {
                    let own = End::internet(*protocol, *local, *remote);
                    (Some(own), Some(End::internet(*protocol, *remote, *local)))
                }
                _ => (None, None),
            },
        };
        if *sends > 0
            && self.is_tainted(actor)
            && let Some(own) = own
        {
            // Told at the end of a long time, the receiving may have been told long ago.
            for receiver in self.channels.tainted_send(own, actor) {
                self.passes(event, actor, receiver, Grade::Inferred, (*sends, *sent));
            }
        }
        if *receives > 0
            && let Some(other) = other
            && let Some(sender) = self.channels.receive(other, actor)
        {
            self.passes(event, sender, actor, Grade::Observed, (*receives, *received));
        }
    }

    /// Bytes went from a tainted process to another.
    fn passes(
        &mut self,
        event: &Event,
        sender: ProcessKey,
        receiver: ProcessKey,
        grade: Grade,
        (count, bytes): (u64, u64),
    ) {
        let Some(from) = self.tainted_node(sender) else { return };
        let Some(state) = self.processes.get(receiver).cloned() else { return };
        if sender == receiver || self.is_cut(state.exe.bytes()) {
            return;
        }
        if !state.tainted {
            self.taint_process(event, receiver, TaintRule::Received, grade);
        }
        let happening = Happening { grade, ..Happening::observed(from, Verb::Sends, state.node) };
        self.store.happen(event, happening.of(count, bytes));
    }

    /// Whose a `net.flow` of the wire is, and how we know.
    #[must_use]
    pub fn flow_owner(&self, net_flow: lava_event::EventSeq) -> Option<(ProcessKey, Grade)> {
        self.channels.owner(net_flow)
    }
}
