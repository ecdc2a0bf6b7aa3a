//! Suricata rules (7.0): names asked for, in DNS, TLS and HTTP; addresses spoken to.

use std::fmt::Write as _;

use lava_event::Sha256;

use super::marks::Marks;
use super::{name, origin};
use crate::summary::Summary;

/// Rules of one's own have numbers from 1,000,000 to 1,999,999. Where in it follows from the session.
fn first_sid(summary: &Summary) -> u32 {
    let hash = Sha256::of(summary.manifest.session.0.as_bytes()).0;
    1_000_000 + u32::from_le_bytes([hash[0], hash[1], hash[2], 0]) % 99_000 * 10
}

/// All rules; `None` if the task reached for nothing that is fit.
pub(super) fn rules(summary: &Summary, marks: &Marks) -> Option<String> {
    let mut out = format!("# {}\n", origin(summary));
    let mut sid = first_sid(summary);
    let mut rule = |head: &str, what: &str, options: &str, confidence: u8, why: &str| {
        let id = name(summary);
        let sure = if confidence >= 80 { "High" } else { "Medium" };
        let _ = writeln!(out, "# confidence {confidence}: {why}");
        let _ = writeln!(
            out,
            "alert {head} (msg:\"LAVA {id}: {what}\"; {options} classtype:trojan-activity; sid:{sid}; rev:1; metadata:confidence {sure};)"
        );
        sid += 1;
    };
    for mark in &marks.names {
        let name = &mark.value;
        let any = "$HOME_NET any -> any any";
        // The first also matches names below it.
        let dns = format!("dns.query; dotprefix; content:\".{name}\"; nocase; endswith;");
        rule(&format!("dns {any}"), &format!("asks for {name}"), &dns, mark.confidence, &mark.why);
        let tls = format!("tls.sni; dotprefix; content:\".{name}\"; nocase; endswith;");
        rule(&format!("tls {any}"), &format!("TLS to {name}"), &tls, mark.confidence, &mark.why);
        let http = format!("http.host; dotprefix; content:\".{name}\"; endswith;");
        rule(&format!("http {any}"), &format!("HTTP to {name}"), &http, mark.confidence, &mark.why);
    }
    for mark in &marks.addresses {
        let head = format!("ip $HOME_NET any -> {} any", mark.value);
        let once = "threshold:type limit, track by_src, count 1, seconds 60;";
        rule(&head, &format!("speaks to {}", mark.value), once, mark.confidence, &mark.why);
    }
    (!marks.names.is_empty() || !marks.addresses.is_empty()).then_some(out)
}
