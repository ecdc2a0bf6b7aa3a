//! What was said over the network, and which files there were: names asked for, HTTP, TLS, mail, other conversations; contents by hash.
//!
//! Rows that say the same are one row with a number. *Limits:* [`ROWS`] rows a table, [`NOTES`] notes a row; what does not fit is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use lava_event::{Event, GuestText, Kind, NetEndpoint, Sha256, dns_type};
use maud::{Markup, html};

use crate::text::{line, size, time};

/// Rows of a table.
const ROWS: usize = 400;
/// Notes of a row.
const NOTES: usize = 6;
/// Who did it: named at most.
const NAMED: usize = 5;
/// Longest cell, characters: a request's path is at most 2048 bytes.
const CELL: usize = 2200;

/// One table of the report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Topic {
    Dns,
    Http,
    Tls,
    Mail,
    Other,
    Files,
}

impl Topic {
    const NETWORK: [Self; 5] = [Self::Dns, Self::Http, Self::Tls, Self::Mail, Self::Other];

    const fn title(self) -> &'static str {
        match self {
            Self::Dns => "Names asked for (DNS)",
            Self::Http => "HTTP requests",
            Self::Tls => "TLS",
            Self::Mail => "Mail",
            Self::Other => "Other conversations",
            Self::Files => "Files",
        }
    }

    /// What its second column says.
    const fn second(self) -> &'static str {
        match self {
            Self::Dns | Self::Http => "Answer",
            Self::Tls | Self::Other => "Came to",
            Self::Mail => "Handed to",
            Self::Files => "SHA-256",
        }
    }
}

/// A row: what its event says beside what and how it ended.
#[derive(Default)]
struct Row {
    count: u64,
    first_ns: u64,
    by: BTreeSet<String>,
    notes: BTreeSet<String>,
}

/// Rows by topic and by what they say.
#[derive(Default)]
pub(super) struct Talk {
    rows: BTreeMap<Topic, BTreeMap<(String, String), Row>>,
    more: BTreeMap<Topic, u64>,
}

/// What one event says.
struct Said {
    topic: Topic,
    what: String,
    outcome: String,
    notes: Vec<String>,
}

impl Talk {
    pub(super) fn take(&mut self, event: &Event) {
        let Some(said) = said(&event.kind) else { return };
        let rows = self.rows.entry(said.topic).or_default();
        let key = (line(&said.what, CELL), line(&said.outcome, CELL));
        if rows.len() >= ROWS && !rows.contains_key(&key) {
            *self.more.entry(said.topic).or_default() += 1;
            return;
        }
        let row = rows.entry(key).or_insert_with(|| Row { first_ns: event.time_ns, ..Row::default() });
        row.count += 1;
        if row.by.len() < NAMED {
            row.by.extend(event.process.as_ref().map(|process| format!("{} ({})", process.comm, process.pid)));
        }
        for note in said.notes {
            if row.notes.len() < NOTES {
                row.notes.insert(line(&note, CELL));
            }
        }
    }

    fn table(&self, topic: Topic) -> Markup {
        let mut rows: Vec<_> = self.rows.get(&topic).into_iter().flatten().collect();
        rows.sort_by_key(|((what, _), row)| (row.first_ns, what.as_str()));
        html! {
            div.scroll tabindex="0" role="region" aria-label=(topic.title()) { table {
                thead { tr { th scope="col" { "What" } th scope="col" { (topic.second()) } th scope="col" { "Seen" } th scope="col" { "First" } th scope="col" { "By" } } }
                tbody { @for ((what, outcome), row) in rows {
                    tr {
                        td { code { (what) } @for note in &row.notes { small { (note) } } }
                        td { @if outcome.len() == 64 { code { (outcome) } } @else { (outcome) } }
                        td.n { (row.count) "×" } td.n { (time(row.first_ns)) }
                        td { (line(&row.by.iter().cloned().collect::<Vec<_>>().join(", "), 200)) }
                    }
                } }
            } }
            @if let Some(more) = self.more.get(&topic) { p { "and " (more) " more that did not fit: all are in events.jsonl" } }
        }
    }

    /// The tables of the network that have rows, below the list of connections.
    pub(super) fn network(&self) -> Markup {
        html! {
            @for topic in Topic::NETWORK.into_iter().filter(|topic| self.rows.contains_key(topic)) {
                h3 { (topic.title()) }
                (self.table(topic))
            }
        }
    }

    /// Contents that files had, by their hash.
    pub(super) fn files(&self) -> Markup {
        html! {
            section aria-labelledby="files" {
                h2 #files { (Topic::Files.title()) }
                @if self.rows.contains_key(&Topic::Files) {
                    p.mut { "Contents that were kept, by path: what the task wrote or brought." }
                    (self.table(Topic::Files))
                } @else { p { "No file's content was kept." } }
            }
        }
    }
}

fn said(kind: &Kind) -> Option<Said> {
    Some(match kind {
        Kind::NetDns { question, qtype, addresses, .. } => Said {
            topic: Topic::Dns,
            what: format!("{question} ({})", dns_type(*qtype)),
            outcome: if addresses.is_empty() { "no address".to_owned() } else { list(addresses) },
            notes: vec![],
        },
        Kind::NetHttp { .. } => http(kind)?,
        Kind::NetTls { destination, server_name, alpn, version, ja3, ja4, outcome, .. } => Said {
            topic: Topic::Tls,
            what: match server_name {
                Some(name) => format!("{name} at {destination}"),
                None => format!("no name, at {destination}"),
            },
            outcome: format!("{outcome} {version}").trim_end().to_owned(),
            notes: [("offers", list(alpn)), ("JA3", ja3.clone()), ("JA4", ja4.clone())]
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| format!("{name} {value}"))
                .collect(),
        },
        Kind::NetMail { destination, from, to, receivers, subject, bytes, sha256, complete, .. } => Said {
            topic: Topic::Mail,
            what: format!("from {from} to {}", receiving(to, *receivers)),
            outcome: destination.to_string(),
            notes: subject
                .iter()
                .map(|subject| format!("subject: {subject}"))
                .chain([body("mail", *bytes, sha256.as_ref(), *complete)])
                .collect(),
        },
        Kind::NetStream { protocol, destination, application, sent, received, ended, .. }
            if !matches!(application.as_str(), "http" | "tls" | "smtp") =>
        {
            Said {
                topic: Topic::Other,
                what: format!("{application} with {destination} ({protocol:?})"),
                outcome: format!("sent {}, received {}; ended by {ended}", size(*sent), size(*received)),
                notes: streamed(kind),
            }
        }
        Kind::FileContent { path, sha256, kept, complete, .. } => Said {
            topic: Topic::Files,
            what: path.to_string(),
            outcome: sha256.to_string(),
            notes: vec![format!("{}{}", size(*kept), if *complete { "" } else { ", the first of it" })],
        },
        _ => return None,
    })
}

fn http(kind: &Kind) -> Option<Said> {
    let Kind::NetHttp { destination, tls, method, host, path, user_agent, status, answer, .. } = kind else {
        return None;
    };
    let Kind::NetHttp { content_type, response_type, request_bytes, request_sha256, request_complete, .. } = kind
    else {
        return None;
    };
    let Kind::NetHttp { response_bytes, response_sha256, .. } = kind else { return None };
    let scheme = if *tls { "https" } else { "http" };
    let mut notes = vec![format!("at {destination}")];
    notes.extend(user_agent.iter().map(|agent| format!("user agent: {agent}")));
    notes.extend(content_type.iter().map(|kind| format!("sends {kind}")));
    if *request_bytes > 0 {
        notes.push(body("sent", *request_bytes, request_sha256.as_ref(), *request_complete));
    }
    if *response_bytes > 0 {
        notes.push(body(&format!("got {response_type}"), *response_bytes, response_sha256.as_ref(), true));
    }
    Some(Said {
        topic: Topic::Http,
        what: format!("{method} {scheme}://{host}{}{path}", port(destination, *tls)),
        outcome: if *status == 0 { "none".to_owned() } else { format!("{status} ({answer})") },
        notes,
    })
}

/// The port as an address shows it: not where it is the customary one.
fn port(destination: &NetEndpoint, tls: bool) -> String {
    let customary = if tls { 443 } else { 80 };
    if destination.port == customary { String::new() } else { format!(":{}", destination.port) }
}

fn streamed(kind: &Kind) -> Vec<String> {
    let Kind::NetStream { sent_sha256, received_sha256, complete, .. } = kind else { return vec![] };
    let cut = if *complete { "" } else { ", the first of it" };
    let note = |name: &str, hash: &Option<Sha256>| hash.map(|hash| format!("{name}{cut}: SHA-256 {hash}"));
    [note("sent", sent_sha256), note("received", received_sha256)].into_iter().flatten().collect()
}

fn body(name: &str, bytes: u64, sha256: Option<&Sha256>, complete: bool) -> String {
    let hash = sha256.map_or(", not kept".to_owned(), |hash| {
        format!("{}, SHA-256 {hash}", if complete { "" } else { " (kept: the first of it)" })
    });
    format!("{name} {}{hash}", size(bytes))
}

fn receiving(to: &[GuestText], receivers: u64) -> String {
    let shown = if to.is_empty() { "nobody".to_owned() } else { list(to) };
    let more = receivers.saturating_sub(to.len() as u64);
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

fn list(of: &[impl Display]) -> String {
    of.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
