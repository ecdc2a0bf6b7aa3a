//! Where a flow or a name waits for the policy, before the guest gets anything.
//!
//! | The answer | A connection | A datagram's flow | A ping | A name |
//! |---|---|---|---|---|
//! | allow | what the mode does with it; egress: it goes on to the real network | likewise | likewise | likewise; egress: the host's resolver is asked |
//! | deny | RST | ICMP port unreachable; on port 53 REFUSED | nothing | the name does not exist (NXDOMAIN) |
//! | remediate | the simulated network takes it, whatever the mode: a sinkhole | likewise | it is answered | it gets a made-up address |
//!
//! Limits: asked about once for each connection, and once for each flow of datagrams as long as it is remembered (`flow`). What is
//! dropped without a policy is not asked about, nor is DHCP, without which there is no network. A datagram on port 53 is a flow first and
//! a question then: it waits twice if both kinds do. In egress mode the gateway is the way to the host's resolver, and only the name waits there.

use lava_event::{Action, Kind, NetEndpoint, Protocol};

use crate::dns::{self, Asked};
use crate::peer::Verdict;
use crate::world::{Context, Ends, Report};

/// What of the network waits for the policy.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Waits {
    /// Each new flow: `net.flow`.
    pub flows: bool,
    /// Each question for a name: `net.dns`.
    pub names: bool,
}

impl Waits {
    /// Those of these kinds (dotted names) that are the network's.
    #[must_use]
    pub fn of(kinds: &[&str]) -> Self {
        Self { flows: kinds.contains(&"net.flow"), names: kinds.contains(&"net.dns") }
    }

    /// True if anything does.
    #[must_use]
    pub const fn any(self) -> bool {
        self.flows || self.names
    }
}

/// What becomes of something for each answer, a sentence for the analyst.
#[derive(Clone, Copy, Debug)]
pub struct Outcomes {
    pub allow: &'static str,
    pub deny: &'static str,
    pub remediate: &'static str,
}

impl Outcomes {
    pub const fn of(self, action: Action) -> &'static str {
        match action {
            Action::Allow => self.allow,
            Action::Deny => self.deny,
            Action::Remediate => self.remediate,
        }
    }
}

/// Who asks the policy.
pub trait Gate {
    /// What waits.
    fn waits(&self) -> Waits;
    /// Waits for the answer about what has not happened yet. `outcomes`: what will have become of it.
    fn ask(&mut self, kind: Kind, outcomes: Outcomes) -> Action;
}

/// Nothing waits.
pub struct Open;

impl Gate for Open {
    fn waits(&self) -> Waits {
        Waits::default()
    }

    fn ask(&mut self, _: Kind, _: Outcomes) -> Action {
        Action::Allow
    }
}

/// True if the simulated network takes a flow: `would`, without a policy it does.
pub const fn takes(ruling: Option<Action>, would: bool) -> bool {
    match ruling {
        None | Some(Action::Allow) => would,
        Some(Action::Deny) => false,
        Some(Action::Remediate) => true,
    }
}

impl Report<'_> {
    /// The policy's answer about a flow of which this is the first packet; `None`: it is not asked. `allow`: what becomes of it if it
    /// is allowed.
    pub fn flow(&mut self, protocol: Protocol, ends: Ends, allow: &'static str, frame: u64) -> Option<Action> {
        if !self.waits().flows {
            return None;
        }
        let Ends { origin, destination } = ends;
        let kind = Kind::NetFlow { protocol, origin, destination, answer: "asked".into(), frame };
        let deny = match protocol {
            Protocol::Tcp => "refused: the guest got a reset",
            Protocol::Udp => "refused: the guest was told that nobody is there",
            _ => "dropped: the guest got no answer",
        };
        let remediate = "diverted: the simulated network took it in the place of whom the guest wanted";
        Some(self.ask(kind, Outcomes { allow, deny, remediate }))
    }
}

/// What becomes of a name that the policy does not allow.
const DENIED: &str = "the guest was told that the name does not exist";
const DIVERTED: &str = "diverted: answered as the simulated network has it";

/// What becomes of a question for a real name.
#[derive(Debug)]
pub enum Named {
    /// The guest has this reply.
    Told(Vec<u8>, Verdict),
    /// The host's resolver is asked this.
    Passes(Asked),
}

impl Context<'_, '_> {
    /// What becomes of a message on port 53 that is for the host's resolver; `None` if it is no query. No name goes there that the
    /// policy does not allow.
    pub fn real_name(&mut self, origin: NetEndpoint, query: &[u8]) -> Option<Named> {
        let refused = || dns::refuse(query).map(|reply| Named::Told(reply, Verdict::Refused));
        let Some((reply, asked)) = self.world.names.answer(query) else { return refused() };
        let shown = Asked { address: None, ..asked.clone() };
        let kind = shown.told(Protocol::Udp, origin, self.at.frame);
        if !self.report.waits().names || !dns::is_plain(query) {
            self.tell(kind, None);
            return refused();
        }
        let outcomes = Outcomes { allow: "the host's resolver is asked", deny: DENIED, remediate: DIVERTED };
        match self.report.ask(kind, outcomes) {
            Action::Allow => Some(Named::Passes(asked)),
            Action::Deny => dns::nonexistent(query).map(|reply| Named::Told(reply, Verdict::Refused)),
            Action::Remediate => Some(Named::Told(reply, Verdict::Answered)),
        }
    }

    /// The reply to a message on port 53, and what that is; `None` if it is no query. What is asked for is told, or asked
    /// about. `takes`: names have addresses here.
    pub fn name(
        &mut self,
        protocol: Protocol,
        origin: NetEndpoint,
        query: &[u8],
        takes: bool,
    ) -> Option<(Vec<u8>, Verdict)> {
        let refused = || dns::refuse(query).map(|reply| (reply, Verdict::Refused));
        let waits = self.report.waits().names;
        if !takes && !waits {
            return refused();
        }
        let Some((reply, asked)) = self.world.names.answer(query) else { return refused() };
        let shown = Asked { address: asked.address.filter(|_| takes), ..asked };
        let kind = shown.told(protocol, origin, self.at.frame);
        if !waits {
            self.tell(kind, None);
            return Some((reply, Verdict::Answered));
        }
        let allow = if takes {
            "answered, as the simulated network has it"
        } else {
            "refused, as all names are without a policy"
        };
        let outcomes = Outcomes { allow, deny: DENIED, remediate: DIVERTED };
        match self.report.ask(kind, outcomes) {
            Action::Allow if !takes => refused(),
            Action::Allow | Action::Remediate => Some((reply, Verdict::Answered)),
            Action::Deny => dns::nonexistent(query).map(|reply| (reply, Verdict::Refused)),
        }
    }
}
