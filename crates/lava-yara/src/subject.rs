//! Which contents are searched, and what each is in the words of a finding's title; `None` for what is not the task's (screenshots, a disk's bytes).

use lava_event::{Kind, Sha256};

pub(crate) fn of(kind: &Kind, content: Sha256) -> Option<String> {
    let is = |sha256: &Option<Sha256>| *sha256 == Some(content);
    Some(match kind {
        Kind::VmTask { name, .. } => format!("the task {}", lava_event::GuestText::from(name.as_str())),
        Kind::VmMember { path, .. } => format!("{path}, of the task's archive"),
        Kind::FileContent { path, .. } => format!("{path}, which was written"),
        Kind::NetHttp { host, path, request_sha256, .. } if is(request_sha256) => {
            format!("what was sent to {host}{path}")
        }
        Kind::NetHttp { host, path, .. } => format!("what {host}{path} answered"),
        Kind::NetMail { from, .. } => format!("the mail from {from}"),
        Kind::NetStream { destination, sent_sha256, .. } => {
            let what = if is(sent_sha256) { "was sent to" } else { "came from" };
            format!("what {what} {}, port {}", destination.address, destination.port)
        }
        _ => return None,
    })
}

/// The contents that an event brought and that are searched.
#[must_use]
pub fn contents(kind: &Kind) -> Vec<Sha256> {
    match kind {
        Kind::VmTask { sha256, .. } | Kind::FileContent { sha256, .. } => vec![*sha256],
        Kind::VmMember { sha256, .. } | Kind::NetMail { sha256, .. } => sha256.iter().copied().collect(),
        Kind::NetHttp { request_sha256: one, response_sha256: other, .. }
        | Kind::NetStream { sent_sha256: one, received_sha256: other, .. } => {
            one.iter().chain(other).copied().collect()
        }
        _ => Vec::new(),
    }
}
