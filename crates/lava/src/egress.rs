//! What `lava run --net egress` wants to be there before anything starts, and what of the real network is near this host.

use anyhow::{Context, Result, bail};
use lava_microvisor::passt;
use lava_policy::{Nearby, Policy};

/// The policy for a session whose network is the real one.
pub fn bound(policy: Policy) -> Result<(Policy, Nearby)> {
    if policy.is_dry_run() {
        bail!(
            "a dry run allows everything, and with --net egress that would leave this host: run it with --net simulated, and without \
             `dry_run` here"
        );
    }
    if !policy.may_allow_flows() {
        bail!(
            "the policy {} has no rule that allows a connection, so with --net egress nothing could be reached: write rules about \
             net.flow (and net.dns for names) that allow what the task may reach (README, \"The real network\"), or use --net simulated",
            policy.name()
        );
    }
    passt::find()?;
    passt::resolver()?;
    let nearby = nearby()?;
    Ok((policy.with_real_network(nearby.clone()), nearby))
}

/// The networks that this host's interfaces are in.
fn nearby() -> Result<Nearby> {
    let interfaces = nix::ifaddrs::getifaddrs().context("cannot list this host's network addresses")?;
    let networks = interfaces.filter_map(|interface| {
        let address = interface.address?.as_sockaddr_in()?.ip();
        let mask = interface.netmask.and_then(|mask| Some(mask.as_sockaddr_in()?.ip().to_bits().count_ones()));
        Some((address, mask.and_then(|ones| u8::try_from(ones).ok()).unwrap_or(32)))
    });
    Ok(Nearby::new(networks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::compile("p", text).unwrap_or_else(|_| panic!("{text}"))
    }

    #[test]
    fn what_could_reach_nothing_or_everything_is_refused_with_what_to_do() {
        let observe = policy(lava_policy::builtin("observe").expect("shipped"));
        let error = bound(observe).expect_err("no rule").to_string();
        assert!(error.contains("observe") && error.contains("net.flow"), "{error}");
        let dry = "policy: dry\ndefault: allow\ndry_run: true\nrules:\n  - {name: a, when: 'event.kind == \"net.flow\"', action: allow}\n";
        let error = bound(policy(dry)).expect_err("dry run").to_string();
        assert!(error.contains("dry run"), "{error}");
    }

    #[test]
    fn the_host_s_own_addresses_are_near() {
        let nearby = nearby().expect("interfaces");
        assert!(nearby.to_string().contains("127.0.0.1/8"), "{nearby}");
    }
}
