//! Under which names the guest was given an address.
//!
//! Limits: [`ADDRESSES`] addresses with [`NAMES`] names each; what comes behind them is not remembered, and a rule by name does not
//! match it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lava_event::{Event, Kind};

const ADDRESSES: usize = 4096;
const NAMES: usize = 16;

/// Names by address.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<IpAddr, Vec<String>>);

impl Names {
    /// Takes the session's next event.
    pub fn observe(&mut self, event: &Event) {
        let Kind::NetDns { question, addresses, .. } = &event.kind else { return };
        let Ok(name) = std::str::from_utf8(question.bytes()) else { return };
        for address in addresses {
            if self.0.len() >= ADDRESSES && !self.0.contains_key(address) {
                continue;
            }
            let names = self.0.entry(*address).or_default();
            if names.len() < NAMES && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }

    /// Those of the event's destination.
    pub fn of(&self, event: &Event) -> Vec<String> {
        match &event.kind {
            Kind::NetFlow { destination, .. } => self.0.get(&destination.address).cloned().unwrap_or_default(),
            _ => Vec::new(),
        }
    }
}
