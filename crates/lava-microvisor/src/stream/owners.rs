//! Whose a conversation on the wire is: the network sees no processes, the tap sees who sends on which flow. Both meet here.
//!
//! Limits: the last [`CAPACITY`] flows are known. A socket that was handed on belongs to whoever sent first.

use std::collections::{HashMap, VecDeque};

use lava_event::{Event, Kind, NetEndpoint, Process, Protocol, Source};

/// Flows that are remembered.
const CAPACITY: usize = 8192;

type Flow = (Protocol, NetEndpoint, NetEndpoint);

#[derive(Default)]
pub(super) struct Owners {
    by_flow: HashMap<Flow, Process>,
    order: VecDeque<Flow>,
    /// Who asked last from this port: a query for a name is answered without its other end in the event.
    by_origin: HashMap<(Protocol, NetEndpoint), Process>,
}

impl Owners {
    /// Remembers what the event says of a flow's owner, or puts the owner's name to it. Events come in the stream's order.
    pub fn join(&mut self, event: &mut Event) {
        match (&event.kind, &event.process) {
            (Kind::NetFlowOwner { protocol, origin, destination }, Some(process)) if event.source == Source::Tap => {
                let process = process.clone();
                self.own((*protocol, *origin, *destination), process);
            }
            (kind, None) if event.source == Source::Net => event.process = self.of(kind).cloned(),
            _ => {}
        }
    }

    fn own(&mut self, flow: Flow, process: Process) {
        let (protocol, origin, _) = flow;
        self.by_origin.insert((protocol, origin), process.clone());
        if self.by_flow.insert(flow, process).is_none() {
            self.order.push_back(flow);
        }
        while self.order.len() > CAPACITY {
            let Some(oldest) = self.order.pop_front() else { break };
            self.by_flow.remove(&oldest);
            self.by_origin.remove(&(oldest.0, oldest.1));
        }
    }

    fn of(&self, kind: &Kind) -> Option<&Process> {
        let (protocol, origin, destination) = match kind {
            Kind::NetFlow { protocol, origin, destination, .. }
            | Kind::NetStream { protocol, origin, destination, .. } => (*protocol, origin, destination),
            Kind::NetHttp { origin, destination, .. }
            | Kind::NetTls { origin, destination, .. }
            | Kind::NetMail { origin, destination, .. } => (Protocol::Tcp, origin, destination),
            Kind::NetDns { protocol, origin, .. } => return self.by_origin.get(&(*protocol, *origin)),
            _ => return None,
        };
        self.by_flow.get(&(protocol, *origin, *destination))
    }
}

#[cfg(test)]
mod tests {
    use lava_event::GuestText;

    use super::*;

    fn end(port: u16) -> NetEndpoint {
        NetEndpoint { address: [10, 77, 0, 15].into(), port }
    }

    fn process(pid: u32) -> Process {
        let comm = GuestText::from("curl");
        Process { pid, tid: pid, start_ns: 1, ppid: 1, uid: 0, exe: comm.clone(), comm }
    }

    fn owned(owners: &mut Owners, pid: u32, port: u16, source: Source) {
        let kind = Kind::NetFlowOwner { protocol: Protocol::Tcp, origin: end(port), destination: end(80) };
        owners.join(&mut Event { process: Some(process(pid)), ..Event::new(0, source, kind) });
    }

    fn asked(owners: &mut Owners, port: u16) -> Option<u32> {
        let kind = Kind::NetMail {
            origin: end(port),
            destination: end(80),
            from: "a".into(),
            to: Vec::new(),
            receivers: 0,
            subject: None,
            bytes: 0,
            sha256: None,
            complete: true,
            frame: 1,
        };
        let mut event = Event::new(0, Source::Net, kind);
        owners.join(&mut event);
        event.process.map(|process| process.pid)
    }

    #[test]
    fn a_conversation_is_whose_flow_it_is_and_no_more_are_remembered_than_fit() {
        let mut owners = Owners::default();
        owned(&mut owners, 7, 1, Source::Tap);
        owned(&mut owners, 8, 2, Source::Net);
        assert_eq!((asked(&mut owners, 1), asked(&mut owners, 2)), (Some(7), None));
        owned(&mut owners, 9, 1, Source::Tap);
        assert_eq!(asked(&mut owners, 1), Some(9), "the port was used again");
        for port in 2..10_000 {
            owned(&mut owners, 10, port, Source::Tap);
        }
        assert_eq!((asked(&mut owners, 1), asked(&mut owners, 9_999)), (None, Some(10)));
        assert_eq!((owners.by_flow.len(), owners.by_origin.len()), (CAPACITY, CAPACITY));
    }
}
