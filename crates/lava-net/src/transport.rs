//! What our hosts do with a TCP segment, a datagram, a ping: the table is at the head of `peer`.

use std::net::Ipv4Addr;

use lava_event::{Action, Protocol};
use smoltcp::wire::{EthernetAddress, Icmpv4Message, Icmpv4Packet, TcpPacket, UdpPacket};

use crate::dhcp;
use crate::egress::Egress;
use crate::emit::{self, Route};
use crate::flow::Step;
use crate::gate::{Named, takes};
use crate::peer::{Ipv4, Outcome, Peer, Simulated, Verdict};
use crate::world::{At, Context, Report};
use crate::{dns, lan};

/// Where names are asked for.
pub const DNS: u16 = 53;

/// Source and destination port, which TCP and UDP have in the same place; 0 if cut off.
pub fn ports(payload: &[u8]) -> (u16, u16) {
    payload.first_chunk().map_or((0, 0), |&[a, b, c, d]| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

impl Peer {
    pub(crate) fn tcp(&mut self, ip: &Ipv4<'_>, at: At, report: &mut Report<'_>) -> Outcome {
        let ports = if ip.first { ports(ip.payload) } else { (0, 0) };
        let mut outcome = Outcome::dropped(Protocol::Tcp, ports);
        let Ok(segment) = TcpPacket::new_checked(ip.payload) else { return outcome };
        let intact = segment.verify_checksum(&ip.from_guest.into(), &ip.route.from.into());
        if !ip.sound || !intact || ports.0 == 0 || ports.1 == 0 {
            return outcome;
        }
        let ends = ip.ends(ports);
        let opens = segment.syn() && !segment.ack() && !segment.rst();
        outcome.step = Step { opens, closes: true };
        let goes_on = self.simulated.as_ref().is_some_and(|simulated| simulated.stack.knows(&ends));
        let would = self.simulates() && lan::accepts(ip.route.from, ports.1);
        let passes = self.egress.as_ref().is_some_and(|egress| egress.knows(ends, &segment));
        let leads_out = self.leads_out(ip.route.from);
        if opens && !goes_on && !passes {
            let would = match (would, leads_out) {
                (_, true) => Verdict::Passed,
                (true, false) => Verdict::Accepted,
                (false, false) => Verdict::Refused,
            };
            outcome = ruled(outcome, report.flow(Protocol::Tcp, ends, self.if_allowed(would), at.frame));
        }
        if let (Some(egress), Some(simulated)) = (&mut self.egress, &mut self.simulated)
            && (passes || (opens && !goes_on && leads_out && outcome.ruling == Some(Action::Allow)))
        {
            egress.segment(ends, ip.frame, &segment, at, &mut simulated.world, report);
            outcome.step.closes = !egress.has(Protocol::Tcp, ends);
            return Outcome { verdict: Verdict::Passed, ..outcome };
        }
        if let Some(simulated) = &mut self.simulated
            && (goes_on || (opens && takes(outcome.ruling, would)))
        {
            let Simulated { stack, world, .. } = simulated;
            stack.packet(ip.bytes, ends, opens, at, world, report);
            outcome.step.closes = !stack.knows(&ends);
            return Outcome { verdict: Verdict::Accepted, answers: simulated.frames(), ..outcome };
        }
        if segment.rst() {
            return outcome;
        }
        outcome.with(Verdict::Refused, emit::tcp_reset(ip.route, &segment))
    }

    pub(crate) fn udp(&mut self, ip: &Ipv4<'_>, at: At, report: &mut Report<'_>) -> Outcome {
        let ports = if ip.first { ports(ip.payload) } else { (0, 0) };
        let mut outcome = Outcome::dropped(Protocol::Udp, ports);
        let Ok(datagram) = UdpPacket::new_checked(ip.payload) else { return outcome };
        let intact = datagram.verify_checksum(&ip.from_guest.into(), &ip.route.from.into());
        if !ip.whole || !intact {
            return outcome;
        }
        let to_mac = ip.route.from_mac;
        let to_dhcp = (ip.route.from.is_broadcast() && to_mac.is_broadcast())
            || (ip.route.from == lan::GATEWAY && to_mac.0 == lan::gateway_mac());
        if ports == (dhcp::CLIENT, dhcp::SERVER) && to_dhcp {
            return dhcp(ip, outcome, datagram.payload());
        }
        if !ip.sound || ports.0 == 0 || ports.1 == 0 {
            return outcome;
        }
        let (simulates, leads_out) = (self.simulates(), self.leads_out(ip.route.from));
        let would = match (simulates, ports.1) {
            _ if leads_out => Verdict::Passed,
            (false, _) => Verdict::Refused,
            (true, DNS) => Verdict::Answered,
            (true, _) => Verdict::Accepted,
        };
        // What the gateway is asked for goes to the host's resolver, and waits as a name.
        let resolves =
            ports.1 == DNS && ip.route.from == lan::GATEWAY && self.egress.as_ref().is_some_and(Egress::is_open);
        if !resolves {
            outcome = self.ruled(ip, outcome, would, at, report);
        }
        let takes = takes(outcome.ruling, simulates);
        let passes = resolves || (leads_out && outcome.ruling == Some(Action::Allow));
        if ports.1 == DNS {
            return match passes {
                true => self.real_name(ip, outcome, datagram.payload(), at, report),
                false => self.name(ip, outcome, datagram.payload(), takes, at, report),
            };
        }
        if passes {
            return self.pass(ip, outcome, datagram.payload(), at, report);
        }
        let Some(simulated) = self.simulated.as_mut().filter(|_| takes) else {
            return outcome.with(Verdict::Refused, emit::port_unreachable(ip.route, ip.bytes));
        };
        simulated.datagrams.take(ip.ends(ports), datagram.payload(), at, &mut simulated.world, report);
        Outcome { verdict: Verdict::Accepted, ..outcome }
    }

    /// Sends a datagram or a ping of an allowed flow on to the real network.
    fn pass(&mut self, ip: &Ipv4<'_>, outcome: Outcome, payload: &[u8], at: At, report: &mut Report<'_>) -> Outcome {
        let (Some(egress), Some(simulated)) = (&mut self.egress, &mut self.simulated) else { return outcome };
        let flow = (outcome.protocol, ip.ends(outcome.ports));
        egress.datagram(flow, ip.frame, payload, at, &mut simulated.world, report);
        Outcome { verdict: Verdict::Passed, ..outcome }
    }

    /// A datagram on port 53 of the host's resolver, or of a real host.
    fn real_name(&mut self, ip: &Ipv4<'_>, outcome: Outcome, query: &[u8], at: At, report: &mut Report<'_>) -> Outcome {
        let (Some(egress), Some(simulated)) = (&mut self.egress, &mut self.simulated) else { return outcome };
        let ends = ip.ends(outcome.ports);
        let named = Context { at, world: &mut simulated.world, report }.real_name(ends.origin, query);
        match (named, query) {
            (Some(Named::Passes(asked)), [a, b, ..]) => {
                egress.question(ends, u16::from_be_bytes([*a, *b]), asked, at.frame);
                self.pass(ip, outcome, query, at, report)
            }
            (Some(Named::Told(reply, verdict)), _) => {
                let to = outcome.ports.0;
                outcome.with(verdict, emit::udp(ip.route, DNS, to, &reply))
            }
            _ => outcome,
        }
    }

    /// A datagram on port 53.
    fn name(
        &mut self,
        ip: &Ipv4<'_>,
        outcome: Outcome,
        query: &[u8],
        takes: bool,
        at: At,
        report: &mut Report<'_>,
    ) -> Outcome {
        let reply = match &mut self.simulated {
            Some(simulated) if outcome.ruling != Some(Action::Deny) => {
                let origin = ip.ends(outcome.ports).origin;
                Context { at, world: &mut simulated.world, report }.name(Protocol::Udp, origin, query, takes)
            }
            _ => dns::refuse(query).map(|reply| (reply, Verdict::Refused)),
        };
        let Some((reply, verdict)) = reply else { return outcome };
        let to = outcome.ports.0;
        outcome.with(verdict, emit::udp(ip.route, DNS, to, &reply))
    }

    pub(crate) fn icmp(&mut self, ip: &Ipv4<'_>, at: At, report: &mut Report<'_>) -> Outcome {
        let outcome = Outcome::dropped(Protocol::Icmp, (0, 0));
        let Ok(packet) = Icmpv4Packet::new_checked(ip.payload) else { return outcome };
        let ping =
            packet.msg_type() == Icmpv4Message::EchoRequest && packet.msg_code() == 0 && packet.verify_checksum();
        let leads_out = self.leads_out(ip.route.from);
        if !ip.sound || !ping || !(self.simulates() || ip.route.from == lan::GATEWAY || leads_out) {
            return outcome;
        }
        let would = if leads_out { Verdict::Passed } else { Verdict::Answered };
        let outcome = self.ruled(ip, outcome, would, at, report);
        if leads_out && outcome.ruling != Some(Action::Remediate) {
            let allowed = outcome.ruling == Some(Action::Allow);
            return if allowed { self.pass(ip, outcome, packet.data(), at, report) } else { outcome };
        }
        let Some((head, data)) = ip.payload.split_first_chunk::<8>().filter(|_| takes(outcome.ruling, true)) else {
            return outcome;
        };
        outcome.with(Verdict::Answered, emit::echo_reply(ip.route, [head[4], head[5], head[6], head[7]], data))
    }

    /// With what the policy says of the packet's flow: asked if it was not yet. A flow that is known may have begun with a packet that
    /// is not asked about, a damaged one.
    fn ruled(&self, ip: &Ipv4<'_>, outcome: Outcome, would: Verdict, at: At, report: &mut Report<'_>) -> Outcome {
        let ends = ip.ends(outcome.ports);
        match self.flows.ruling(&(outcome.protocol, ends.origin, ends.destination)) {
            Some(ruling) => Outcome { ruling: Some(ruling), ..outcome },
            None => {
                let ruling = report.flow(outcome.protocol, ends, self.if_allowed(would), at.frame);
                ruled(outcome, ruling)
            }
        }
    }
}

/// With the answer to a question about the flow.
fn ruled(outcome: Outcome, ruling: Option<Action>) -> Outcome {
    Outcome { ruling, asked: ruling.is_some(), ..outcome }
}

fn dhcp(ip: &Ipv4<'_>, outcome: Outcome, message: &[u8]) -> Outcome {
    let Some(reply) = dhcp::answer(message, ip.route.to_mac) else { return outcome };
    let route = Route {
        to_mac: if reply.broadcast { EthernetAddress::BROADCAST } else { ip.route.to_mac },
        to: if reply.broadcast { Ipv4Addr::BROADCAST } else { lan::GUEST },
        from_mac: EthernetAddress(lan::gateway_mac()),
        from: lan::GATEWAY,
    };
    let answer = emit::udp(route, dhcp::SERVER, dhcp::CLIENT, &reply.message);
    Outcome { lease: reply.lease, ..outcome.with(Verdict::Answered, answer) }
}
