//! Propagate: the task reaches for other machines.
//!
//! Counted over all tainted processes together (a worm forks for each victim), from `net.connect` over TCP:
//! * [`HOSTS`] addresses on ports of remote services: lateral movement, by the service's technique once one service has
//!   that many addresses, or as remote services in general when several share them;
//! * [`ENDPOINTS`] different addresses and ports, web and name service left out: scanning.
//!
//! * [`PORTS`] ports of one address, this machine's own too: which services there are, of low severity.
//!
//! Each is said once, at the event with which the threshold is reached. Loopback counts for the last only.
//!
//! *Limit:* packets that a process makes itself (raw sockets) are on the wire only, with no process behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lava_event::{EventSeq, Kind, NetEndpoint, Protocol, Severity, Stage};

use super::{Behaviour, Context, Hit};
use crate::About;

/// Addresses on remote-service ports from which on it is said.
const HOSTS: usize = 5;
/// Addresses and ports from which on it is said.
const ENDPOINTS: usize = 10;
/// Ports of one address from which on it is said.
const PORTS: usize = 5;
/// Addresses whose ports are counted.
const MAX_ADDRESSES: usize = 1024;
/// Web, name and time service, where honest programs talk to many.
const COMMON: [u16; 6] = [53, 80, 123, 443, 853, 8080];

static REMOTE: About = About {
    id: "propagate.remote_services",
    technique: "T1021",
    stage: Stage::Propagate,
    severity: Severity::High,
    why: "Trying the login services of many machines is how malware moves on; opening a document is no reason for it.",
    false_positives: "Administration tools that work on many machines (Ansible, parallel ssh).",
};
static SCAN: About = About {
    id: "propagate.scan",
    technique: "T1046",
    stage: Stage::Propagate,
    severity: Severity::High,
    why: "Connections to many addresses and ports in one session: the task looks for machines and services to attack.",
    false_positives: "Peer-to-peer programs, network inventory, monitoring.",
};
static PORTS_TRIED: About = About {
    id: "propagate.ports_tried",
    technique: "T1046",
    stage: Stage::Propagate,
    severity: Severity::Low,
    why: "Several ports of one machine are tried: which services it offers decides how it is attacked.",
    false_positives: "Programs of several parts that talk to each other over the loopback interface.",
};

/// The technique for a remote service's port.
const SERVICES: [(u16, &str); 11] = [
    (22, "T1021.004"),
    (23, "T1021"),
    (135, "T1021.003"),
    (139, "T1021.002"),
    (445, "T1021.002"),
    (512, "T1021"),
    (513, "T1021"),
    (3389, "T1021.001"),
    (5900, "T1021.005"),
    (5985, "T1021.006"),
    (5986, "T1021.006"),
];

/// First event for each thing; once the threshold is reached nothing more is kept.
struct Seen<T> {
    first: BTreeMap<T, EventSeq>,
    done: bool,
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self { first: BTreeMap::new(), done: false }
    }
}

impl<T: Ord> Seen<T> {
    /// Adds one; at the threshold, once, gives the events of all.
    fn add(&mut self, what: T, seq: EventSeq, threshold: usize) -> Option<Vec<EventSeq>> {
        if self.done {
            return None;
        }
        self.first.entry(what).or_insert(seq);
        (self.first.len() >= threshold).then(|| {
            self.done = true;
            std::mem::take(&mut self.first).into_values().collect()
        })
    }
}

#[derive(Default)]
pub(super) struct Propagate {
    services: BTreeMap<&'static str, Seen<IpAddr>>,
    any_service: Seen<IpAddr>,
    endpoints: Seen<(IpAddr, u16)>,
    ports: BTreeSet<u16>,
    of_address: BTreeMap<IpAddr, Seen<u16>>,
}

impl Behaviour for Propagate {
    fn about(&self) -> Vec<&'static About> {
        vec![&REMOTE, &SCAN, &PORTS_TRIED]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        let Kind::NetConnect { protocol: Protocol::Tcp, destination: Some(to), .. } = &context.event.kind else {
            return;
        };
        if context.tainted_actor().is_none() || to.address.is_unspecified() {
            return;
        }
        self.ports_of(context, *to, hits);
        if to.address.is_loopback() {
            return;
        }
        self.remote_service(context, *to, hits);
        if COMMON.contains(&to.port) {
            return;
        }
        let seq = context.event.seq;
        if let Some(events) = self.endpoints.add((to.address, to.port), seq, ENDPOINTS) {
            let title = format!("{} tried {ENDPOINTS} different addresses and ports", context.program());
            let mut hit = Hit::new(&SCAN, context, title, Vec::new());
            hit.events.extend(events);
            hits.push(hit);
        }
    }
}

impl Propagate {
    fn ports_of(&mut self, context: &Context<'_>, to: NetEndpoint, hits: &mut Vec<Hit>) {
        if self.of_address.len() >= MAX_ADDRESSES && !self.of_address.contains_key(&to.address) {
            return;
        }
        let seen = self.of_address.entry(to.address).or_default();
        if let Some(events) = seen.add(to.port, context.event.seq, PORTS) {
            let title = format!("{} tried {PORTS} ports of {}", context.program(), to.address);
            let mut hit = Hit::new(&PORTS_TRIED, context, title, to.address.to_string().into_bytes());
            hit.events.extend(events);
            hits.push(hit);
        }
    }

    fn remote_service(&mut self, context: &Context<'_>, to: NetEndpoint, hits: &mut Vec<Hit>) {
        let Some(&(_, technique)) = SERVICES.iter().find(|(port, _)| *port == to.port) else { return };
        if self.ports.len() < SERVICES.len() {
            self.ports.insert(to.port);
        }
        let seq = context.event.seq;
        let of_one = self.services.entry(technique).or_default().add(to.address, seq, HOSTS);
        let of_any = self.any_service.add(to.address, seq, HOSTS);
        let (events, technique, ports) = match (of_one, of_any) {
            (Some(events), _) => (events, technique, vec![to.port]),
            (None, Some(events)) => (events, REMOTE.technique, self.ports.iter().copied().collect()),
            (None, None) => return,
        };
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let title = format!("{} tried to reach {HOSTS} machines on port {}", context.program(), ports.join(", "));
        let mut hit = Hit::new(&REMOTE, context, title, technique.as_bytes().to_vec());
        hit.technique = technique;
        hit.events.extend(events);
        hits.push(hit);
    }
}

#[cfg(test)]
pub(crate) fn techniques() -> Vec<&'static str> {
    SERVICES.iter().map(|(_, technique)| *technique).collect()
}
