//! What a policy's answers mean where allowed flows reach the real network (`lava run --net egress`).
//!
//! There the default never allows: a flow or a name that no rule allows is denied, and the reason says which rule would allow it.
//! Addresses that are no stranger's ([`Nearby::what`]) are not reached by rules in general terms either: a rule that allows
//! or asks counts for such an address only if the address itself stands in its condition.
//!
//! *Invariant:* a dry run does not count here: what it allowed would leave the host.

use std::net::{IpAddr, Ipv4Addr};

use lava_event::{Action, Decision, Event, Kind};

use crate::Rule;

/// The IPv4 networks that the host is part of: its own addresses, and its neighbours'.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Nearby(Vec<(Ipv4Addr, u8)>);

impl Nearby {
    /// Networks by an address in each and the length of its prefix, bits (32 at most).
    pub fn new(networks: impl IntoIterator<Item = (Ipv4Addr, u8)>) -> Self {
        Self(networks.into_iter().map(|(address, length)| (address, length.min(32))).collect())
    }

    /// Reads what [`std::fmt::Display`] writes. What makes no sense is passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let network = |word: &str| {
            let (address, length) = word.split_once('/')?;
            Some((address.parse().ok()?, length.parse().ok()?))
        };
        Self::new(text.split_whitespace().filter_map(network))
    }

    /// What an address is if it is not one of a stranger on the Internet (the IANA's registry of special-purpose addresses, RFC 6890, and
    /// what the host itself is part of); `None`: it is.
    #[must_use]
    pub fn what(&self, address: IpAddr) -> Option<&'static str> {
        let IpAddr::V4(ip) = address else { return Some("no IPv4 address") };
        let within = |(network, length): &(Ipv4Addr, u8)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
            ip.to_bits() & mask == network.to_bits() & mask
        };
        match ip.octets() {
            [127, ..] => Some("the host itself (loopback)"),
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("in a private network"),
            [169, 254, ..] => Some("link-local: clouds have their metadata there"),
            [100, 64..=127, ..] => Some("in a carrier's private network"),
            [192, 0, 0, _] | [198, 18 | 19, ..] | [0 | 240..=255, ..] => Some("kept for special purposes"),
            [224..=239, ..] => Some("multicast"),
            _ if self.0.iter().any(within) => Some("in a network that this host is part of"),
            _ => None,
        }
    }

    /// True if the rule has a say about the event.
    pub(crate) fn counts(&self, rule: &Rule, event: &Event) -> bool {
        let Kind::NetFlow { destination, .. } = &event.kind else { return true };
        let gives = rule.ask.is_some() || rule.action == Action::Allow;
        !gives || self.what(destination.address).is_none() || rule.condition.addresses.contains(&destination.address)
    }

    /// The answer where no rule has allowed it.
    pub(crate) fn bounded(&self, decision: Decision, event: &Event) -> Decision {
        if decision.rule.is_some() || decision.action != Action::Allow {
            return decision;
        }
        let reason = match &event.kind {
            Kind::NetFlow { destination, .. } => {
                let (address, port) = (destination.address, destination.port);
                if let Some(what) = never(address) {
                    let reason =
                        format!("{address} is {what}: the real network is not reached there, whatever a rule says");
                    return Decision { action: Action::Deny, rule: None, reason: Some(reason) };
                }
                let needs = match self.what(address) {
                    Some(what) => format!("{address} is {what}, and needs a rule that names it"),
                    None => "no rule allows it".to_owned(),
                };
                format!(
                    "the real network is refused unless a rule allows it, and {needs}: when: event.kind == \"net.flow\" && \
                     event.destination.address == \"{address}\" && event.destination.port == {port}, action: allow"
                )
            }
            Kind::NetDns { .. } => {
                "the host's resolver is asked only for names that a rule allows: when: event.kind == \"net.dns\" && \
                 event.question == \"the.name\", action: allow"
                    .to_owned()
            }
            _ => return decision,
        };
        Decision { action: Action::Deny, rule: None, reason: Some(reason) }
    }
}

/// What an address is that no rule makes reachable: lava-net does not let it out.
fn never(address: IpAddr) -> Option<&'static str> {
    let IpAddr::V4(ip) = address else { return Some("no IPv4 address") };
    match ip.octets() {
        [127, ..] => Some("the host itself (loopback)"),
        [169, 254, ..] => Some("link-local: clouds have their metadata there"),
        [10, 77, 0, _] => Some("in the guest's virtual LAN, and nobody is there"),
        _ => None,
    }
}

/// `192.0.2.2/24 10.0.0.1/8`
impl std::fmt::Display for Nearby {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, (address, length)) in self.0.iter().enumerate() {
            write!(f, "{}{address}/{length}", if number == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}
