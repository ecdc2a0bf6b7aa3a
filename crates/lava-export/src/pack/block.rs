//! Block lists: nftables, a hosts file, a plain list of names for a resolver.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::marks::Marks;
use super::{name, origin};
use crate::summary::Summary;

/// A table of its own, so that removing it removes all: `nft delete table inet lava_...`.
pub(super) fn nftables(summary: &Summary, marks: &Marks) -> Option<String> {
    if marks.addresses.is_empty() {
        return None;
    }
    let mut out =
        format!("#!/usr/sbin/nft -f\n# {}\ntable inet lava_{} {{\n", origin(summary), name(summary).to_lowercase());
    let of = |v4: bool| marks.addresses.iter().filter(move |mark| mark.value.is_ipv4() == v4);
    for (set, kind, v4) in [("bad4", "ipv4_addr", true), ("bad6", "ipv6_addr", false)] {
        let _ = writeln!(out, "\tset {set} {{\n\t\ttype {kind}");
        let all: Vec<IpAddr> = of(v4).map(|mark| mark.value).collect();
        if !all.is_empty() {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            let _ = writeln!(out, "\t\telements = {{ {} }}", all.join(", "));
        }
        out.push_str("\t}\n");
    }
    for hook in ["output", "forward"] {
        let _ = write!(
            out,
            "\tchain {hook} {{\n\t\ttype filter hook {hook} priority -10; policy accept;\n\t\tip daddr @bad4 counter reject\n\t\tip6 daddr @bad6 counter reject\n\t}}\n"
        );
    }
    out.push_str("}\n");
    Some(out)
}

/// Lines for `/etc/hosts`.
pub(super) fn hosts(summary: &Summary, marks: &Marks) -> Option<String> {
    let lines: String = marks.names.iter().map(|mark| format!("0.0.0.0 {0}\n:: {0}\n", mark.value)).collect();
    (!lines.is_empty()).then(|| format!("# {}\n{lines}", origin(summary)))
}

/// A name a line.
pub(super) fn domains(marks: &Marks) -> Option<String> {
    let lines: String = marks.names.iter().map(|mark| format!("{}\n", mark.value)).collect();
    (!lines.is_empty()).then_some(lines)
}
