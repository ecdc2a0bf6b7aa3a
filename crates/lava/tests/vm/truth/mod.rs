//! Ground truth that is not ours: what strace saw, compared with what LAVA told, as counted sentences.

pub mod expected;
pub mod seen;
pub mod strace;

use std::collections::{BTreeMap, BTreeSet};

/// What was done, and how often: `exec PATH`, `write PATH` (opened for writing), `create PATH`, `rename A -> B`, `unlink PATH`,
/// `connect END`, `bind END`, `chmod MODE PATH`, `ids OLD -> NEW`.
pub type Operations = BTreeMap<String, usize>;

pub fn tell(operations: &mut Operations, operation: String) {
    *operations.entry(operation).or_default() += 1;
}

/// Which port the kernel chose for a bind to port 0 strace doesn't tell (net.ipv4.ip_local_port_range: 32768 to 60999).
pub fn bind_end(end: &str) -> String {
    let port = end.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match port {
        Some((host, 0 | 32768..=60999)) => format!("{host}:chosen"),
        _ => end.to_owned(),
    }
}

/// Lines for every operation that one side has more often than the other, and per kind of operation recall and precision.
pub fn differences(workload: &str, truth: &Operations, ours: &Operations) -> Vec<String> {
    let mut lines = Vec::new();
    let mut counts = BTreeMap::<&str, [usize; 3]>::new();
    for operation in truth.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
        let (expected, told) = (truth.get(operation).copied().unwrap_or(0), ours.get(operation).copied().unwrap_or(0));
        let kind = operation.split(' ').next().unwrap_or_default();
        let count = counts.entry(kind).or_default();
        count[0] += expected;
        count[1] += told;
        count[2] += expected.min(told);
        if expected != told {
            lines.push(format!("{workload}: strace {expected}, LAVA {told}: {operation:?}"));
        }
    }
    for (kind, [expected, told, both]) in counts {
        if expected != both || told != both {
            lines.push(format!("{workload}: {kind}: recall {both}/{expected}, precision {both}/{told}"));
        }
    }
    lines
}
