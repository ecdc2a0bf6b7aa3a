//! Persist and propagate: sockets that documents and honest scripts do not open.
//!
//! * waiting for TCP connections from other machines: a bind shell, a back door. Loopback does not count;
//! * a packet socket: everything that goes over the wire can be read, passwords among it.

use lava_event::{Kind, Protocol, Severity, Stage};

use super::{Behaviour, Context, Hit};
use crate::About;

static LISTEN: About = About {
    id: "persist.listener",
    technique: "T1571",
    stage: Stage::Persist,
    severity: Severity::Medium,
    why: "The task waits for connections from other machines: a way back in for who knows of it.",
    false_positives: "Servers, peer-to-peer programs, tests of network code.",
};
static SNIFF: About = About {
    id: "propagate.sniffing",
    technique: "T1040",
    stage: Stage::Propagate,
    severity: Severity::High,
    why: "A packet socket sees all traffic of the machine: that is how passwords and further victims are found.",
    false_positives: "Network tools (tcpdump, dhclient, arping).",
};

pub(super) struct Sockets;

impl Behaviour for Sockets {
    fn about(&self) -> Vec<&'static About> {
        vec![&LISTEN, &SNIFF]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        if context.tainted_actor().is_none() {
            return;
        }
        match &context.event.kind {
            Kind::NetListen { protocol: Protocol::Tcp, address: Some(at), .. } if !at.address.is_loopback() => {
                let title = format!("{} waits for connections on port {}", context.program(), at.port);
                hits.push(Hit::new(&LISTEN, context, title, at.port.to_string().into_bytes()));
            }
            Kind::NetSocket { family, .. } if family == "packet" => {
                let title = format!("{} opened a packet socket", context.program());
                hits.push(Hit::new(&SNIFF, context, title, Vec::new()));
            }
            _ => {}
        }
    }
}
