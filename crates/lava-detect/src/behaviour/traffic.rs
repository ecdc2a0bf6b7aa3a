//! Propagate: what the task said to the (simulated) Internet: tools fetched, files sent away, data in names.
//!
//! Each speaks of a conversation whose process descends from the task, as the stream joined it. What only looks like these is
//! told by the acts, as information.
//!
//! * *observed*: the very bytes that came over HTTP are a file that the task ran; the very bytes of a file that the task wrote went
//!   out;
//! * *inferred*: a process that had read the user's files or secrets sent at least as many bytes as it had read of one.
//!
//! Limits: data that was packed or encrypted in memory before it went, in another process than the one that read, is not seen; of
//! files, [`MOST`] are remembered.

use std::collections::{BTreeMap, BTreeSet};

use lava_event::{Event, EventSeq, Grade, Kind, ProcessKey, Severity, Sha256, Stage};

use super::{Behaviour, Context, Hit, execute};
use crate::{About, glob, path};

static FETCHED: About = About {
    id: "traffic.tool",
    technique: "T1105",
    stage: Stage::Propagate,
    severity: Severity::Medium,
    why: "What came over the network was stored and run: the task is the first stage of something, and who answers decides what of.",
    false_positives: "Installers and package managers.",
};
static SENT: About = About {
    id: "traffic.file_sent",
    technique: "T1041",
    stage: Stage::Propagate,
    severity: Severity::Medium,
    why: "A file that the task had put together left the machine, byte for byte.",
    false_positives: "Programs that report their failures; uploads that the user asked for.",
};
static READ_AND_SENT: About = About {
    id: "traffic.data_sent",
    technique: "T1041",
    stage: Stage::Propagate,
    severity: Severity::High,
    why: "The program read what is the user's, or secret, and then sent at least as much to another machine.",
    false_positives: "Backup and synchronisation programs, mail programs, uploads that the user asked for.",
};
static NAMES: About = About {
    id: "traffic.names",
    technique: "T1071.004",
    stage: Stage::Propagate,
    severity: Severity::Medium,
    why: "Many different names below one, each long and without words in it: data goes out in them, and orders come back.",
    false_positives: "Blocklists and antivirus programs that ask for hashes as names; some content delivery networks.",
};

/// Files, processes and names that are remembered, of each.
const MOST: usize = 4096;
/// Precious files that are remembered of one process.
const MOST_OF_ONE: usize = 64;
/// Shorter content is the same by chance, bytes.
const SHORTEST: u64 = 16;
/// Names below one that make a tunnel.
const TUNNEL: usize = 8;
/// A label that is data: at least so long, characters, and with so much in each, bits. Words have some 2.5 to 3.5.
const LONG_LABEL: usize = 28;
const DENSE: f64 = 3.6;
/// What is the user's, or secret. Configuration that every program reads (`~/.curlrc`, `/etc/passwd`) is not among it.
const PRECIOUS: &[&str] = &[
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/ssh/ssh_host_*_key",
    "/etc/ssl/private/**",
    "~/.ssh/id_*",
    "~/.ssh/authorized_keys",
    "~/.ssh/known_hosts",
    "~/.aws/**",
    "~/.azure/**",
    "~/.kube/**",
    "~/.docker/**",
    "~/.gnupg/**",
    "~/.git-credentials",
    "~/.netrc",
    "~/.bash_history",
    "~/.mozilla/**",
    "~/.config/google-chrome/**",
    "~/.config/chromium/**",
    "~/.bitcoin/**",
    "~/.electrum/**",
    "~/.password-store/**",
    "~/*.kdbx",
    "~/Documents/**",
    "~/Desktop/**",
    "~/Downloads/**",
    "~/Pictures/**",
    "~/Music/**",
    "~/Videos/**",
    "/srv/**",
    "/var/www/**",
    "/var/mail/**",
    "/var/backups/**",
];

/// What came over HTTP.
#[derive(Clone)]
struct Came {
    from: String,
    seq: EventSeq,
}

/// A precious file that a process read.
struct Taken {
    path: Vec<u8>,
    bytes: u64,
    seq: EventSeq,
}

/// What is remembered of the session's conversations.
#[derive(Default)]
pub(super) struct Traffic {
    /// Answers, by their content.
    came: BTreeMap<Sha256, Came>,
    /// Files with such content, by their path.
    stored: BTreeMap<Vec<u8>, Came>,
    /// Files that the task wrote, by their content.
    written: BTreeMap<Sha256, (Vec<u8>, EventSeq)>,
    taken: BTreeMap<ProcessKey, Vec<Taken>>,
    /// By the name above.
    below: BTreeMap<Vec<u8>, Below>,
}

/// Names below one that look like data, and the events that asked for them.
#[derive(Default)]
struct Below {
    names: BTreeSet<Vec<u8>>,
    events: Vec<EventSeq>,
}

impl Behaviour for Traffic {
    fn about(&self) -> Vec<&'static About> {
        vec![&FETCHED, &SENT, &READ_AND_SENT, &NAMES]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        let Some(actor) = context.tainted_actor() else { return };
        let event = context.event;
        match &event.kind {
            Kind::NetHttp {
                host, path, tls, response_sha256, response_bytes, request_sha256, request_bytes, ..
            } => {
                let scheme = if *tls { "https" } else { "http" };
                let url = path::shown(&[scheme.as_bytes(), b"://", host.bytes(), path.bytes()].concat());
                if let (Some(content), SHORTEST..) = (response_sha256, *response_bytes)
                    && self.came.len() < MOST
                {
                    self.came.entry(*content).or_insert(Came { from: url.clone(), seq: event.seq });
                }
                self.sent(context, actor, &url, *request_sha256, *request_bytes, hits);
            }
            Kind::NetStream { application, destination, sent, sent_sha256, .. }
                if !["http", "tls"].contains(&application.as_str()) =>
            {
                self.sent(context, actor, &destination.to_string(), *sent_sha256, *sent, hits);
            }
            Kind::FileContent { path, sha256, kept: SHORTEST.., complete: true, .. } => {
                if let Some(came) = self.came.get(sha256)
                    && self.stored.len() < MOST
                {
                    self.stored.insert(path.bytes().to_vec(), came.clone());
                } else if self.written.len() < MOST {
                    self.written.insert(*sha256, (path.bytes().to_vec(), event.seq));
                }
            }
            Kind::FileRename { from, to, .. } => {
                if let Some(came) = self.stored.remove(from.bytes()) {
                    self.stored.insert(to.bytes().to_vec(), came);
                }
            }
            Kind::FileRead { path, file, bytes, .. } => self.read(event, actor, path.bytes(), (*bytes).min(file.size)),
            Kind::ProcessExec { .. } => self.run(context, hits),
            Kind::NetDns { question, .. } => self.name(context, question.bytes(), hits),
            _ => {}
        }
    }
}

impl Traffic {
    fn run(&self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        let Some(run) = execute::dropped(context) else { return };
        let Some(came) = self.stored.get(&run.dropped.path) else { return };
        let title = format!("{} was run: it is what came from {}", path::shown(&run.dropped.path), came.from);
        let mut hit = Hit::new(&FETCHED, context, title, run.dropped.path.clone());
        hit.events.push(came.seq);
        hits.push(hit);
    }

    fn read(&mut self, event: &Event, actor: ProcessKey, path: &[u8], bytes: u64) {
        if bytes < SHORTEST || !PRECIOUS.iter().any(|pattern| glob::matches(pattern, path)) {
            return;
        }
        if self.taken.len() >= MOST && !self.taken.contains_key(&actor) {
            return;
        }
        let taken = self.taken.entry(actor).or_default();
        if let Some(known) = taken.iter_mut().find(|taken| taken.path == path) {
            known.bytes = known.bytes.max(bytes);
        } else if taken.len() < MOST_OF_ONE {
            taken.push(Taken { path: path.to_vec(), bytes, seq: event.seq });
        }
    }

    /// So many bytes went to `to`; `content` is what they were, as far as it was kept.
    fn sent(
        &self,
        context: &Context<'_>,
        actor: ProcessKey,
        to: &str,
        content: Option<Sha256>,
        bytes: u64,
        hits: &mut Vec<Hit>,
    ) {
        if bytes < SHORTEST {
            return;
        }
        if let Some((path, seq)) = content.and_then(|content| self.written.get(&content)) {
            let title = format!("{} sent {} to {to}", context.program(), path::shown(path));
            let mut hit = Hit::new(&SENT, context, title, path.clone());
            hit.events.push(*seq);
            hits.push(hit);
        }
        for taken in self.taken.get(&actor).into_iter().flatten().filter(|taken| taken.bytes <= bytes) {
            let shown = path::shown(&taken.path);
            let title =
                format!("{} read {shown} ({} bytes) and sent {bytes} bytes to {to}", context.program(), taken.bytes);
            let mut hit = Hit::new(&READ_AND_SENT, context, title, taken.path.clone());
            hit.grade = Grade::Inferred;
            hit.events.push(taken.seq);
            hits.push(hit);
        }
    }

    fn name(&mut self, context: &Context<'_>, name: &[u8], hits: &mut Vec<Hit>) {
        let Some((data, above)) = split(name) else { return };
        if !data.iter().any(|label| is_data(label)) || (self.below.len() >= MOST && !self.below.contains_key(above)) {
            return;
        }
        let Below { names, events } = self.below.entry(above.to_vec()).or_default();
        if names.len() >= TUNNEL || !names.insert(name.to_vec()) {
            return;
        }
        events.push(context.event.seq);
        if names.len() == TUNNEL {
            let title = format!(
                "{} asked for {TUNNEL} names below {} that look like data",
                context.program(),
                path::shown(above)
            );
            let mut hit = Hit::new(&NAMES, context, title, above.to_vec());
            hit.events.extend(events.iter());
            hits.push(hit);
        }
    }
}

/// The labels below the last two, and these two: `x.y.evil.example` is `x`, `y` below `evil.example`.
fn split(name: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    let dots: Vec<usize> = name.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at).collect();
    let at = *dots.get(dots.len().checked_sub(2)?)?;
    Some((name[..at].split(|byte| *byte == b'.').collect(), &name[at + 1..]))
}

/// Hyphens part words, and hardly ever stand in data.
fn is_data(label: &[u8]) -> bool {
    let dense = |part: &[u8]| entropy(part) >= DENSE || part.iter().all(u8::is_ascii_hexdigit);
    label.split(|byte| *byte == b'-').any(|part| part.len() >= LONG_LABEL && dense(part))
}

/// Bits in each byte.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = BTreeMap::<u8, u32>::new();
    for &byte in bytes {
        *counts.entry(byte).or_default() += 1;
    }
    let all = bytes.len() as f64;
    counts.values().map(|&count| f64::from(count) / all).map(|share| -share * share.log2()).sum()
}

#[cfg(test)]
mod tests {
    use lava_event::{FileId, GuestText, NetEndpoint, Process, Protocol, Source};

    use super::*;
    use crate::{Detector, Taint};

    struct All;

    impl Taint for All {
        fn task_started(&self) -> bool {
            true
        }
        fn is_tainted(&self, process: ProcessKey) -> bool {
            process.pid != 99
        }
        fn is_task_file(&self, _: &GuestText) -> bool {
            false
        }
        fn is_host(&self, _: ProcessKey) -> bool {
            false
        }
        fn parent(&self, _: ProcessKey) -> Option<ProcessKey> {
            None
        }
        fn attributed(&self, _: EventSeq) -> Option<ProcessKey> {
            None
        }
    }

    /// The findings of this behaviour over a story of (pid, event).
    fn check(story: impl IntoIterator<Item = (u32, Kind)>, expected: &[(&str, &str)]) {
        let mut detector = Detector::new();
        let mut found = Vec::new();
        for (seq, (pid, kind)) in (1..).zip(story) {
            let exe = GuestText::from("/usr/bin/curl");
            let process = Process { pid, tid: pid, start_ns: 1, ppid: 1, uid: 0, comm: "curl".into(), exe };
            let event = Event { seq, process: Some(process), ..Event::new(seq, Source::Net, kind) };
            found.extend(detector.observe(&event, &All));
        }
        found.retain(|finding| finding.detector.starts_with("traffic."));
        let found: Vec<_> = found.iter().map(|f| (f.detector.as_str(), f.title.as_str())).collect();
        assert_eq!(found, expected);
    }

    fn end(port: u16) -> NetEndpoint {
        NetEndpoint { address: [198, 18, 0, 1].into(), port }
    }

    fn http(request: &[u8], response: &[u8]) -> Kind {
        let content = |bytes: &[u8]| (!bytes.is_empty()).then(|| Sha256::of(bytes));
        Kind::NetHttp {
            origin: end(1),
            destination: end(80),
            tls: false,
            method: "POST".into(),
            host: "c2".into(),
            path: "/x".into(),
            user_agent: None,
            content_type: None,
            status: 200,
            answer: "default".into(),
            response_type: String::new(),
            request_bytes: request.len() as u64,
            request_sha256: content(request),
            request_complete: true,
            response_bytes: response.len() as u64,
            response_sha256: content(response),
            frame: 1,
        }
    }

    fn file(inode: u64, size: u64) -> FileId {
        FileId { device: (254, 1), inode, mode: 0o100_755, uid: 0, gid: 0, size, node: None }
    }

    fn wrote(path: &str, inode: u64, bytes: &[u8]) -> [Kind; 2] {
        let (path, file, size) = (GuestText::from(path), file(inode, bytes.len() as u64), bytes.len() as u64);
        let content = Sha256::of(bytes);
        [
            Kind::FileCreate {
                path: path.clone(),
                file: Some(file),
                what: lava_event::FileType::Regular,
                target: None,
            },
            Kind::FileContent { path, file, sha256: content, kept: size, complete: true },
        ]
    }

    fn exec(path: &str, inode: u64) -> Kind {
        Kind::ProcessExec {
            path: path.into(),
            argv: vec![path.into()],
            envp: Vec::new(),
            truncated: false,
            cwd: "/".into(),
            file: file(inode, 1),
            interpreter: None,
        }
    }

    fn read(path: &str, bytes: u64) -> Kind {
        Kind::FileRead { path: path.into(), file: file(3, bytes), ranges: Vec::new(), bytes: 4096, count: 1 }
    }

    #[test]
    fn what_came_and_was_run_is_a_tool() {
        let payload = b"#!/bin/sh\necho a payload\n";
        let told = [("traffic.tool", "/tmp/p was run: it is what came from http://c2/x")];
        let [create, content] = wrote("/tmp/p", 5, payload);
        check([(1, http(b"", payload)), (1, create.clone()), (1, content.clone()), (2, exec("/tmp/p", 5))], &told);
        check([(1, create.clone()), (1, content.clone()), (2, exec("/tmp/p", 5))], &[]);
        check([(99, http(b"", payload)), (1, create), (1, content), (2, exec("/tmp/p", 5))], &[]);
    }

    #[test]
    fn files_that_leave_are_told() {
        let loot = b"everything that was found";
        let [create, content] = wrote("/tmp/loot.tgz", 5, loot);
        let told = [("traffic.file_sent", "/usr/bin/curl sent /tmp/loot.tgz to http://c2/x")];
        check([(1, create.clone()), (1, content.clone()), (2, http(loot, b""))], &told);
        check([(1, create), (1, content), (2, http(b"something else entirely", b""))], &[]);

        let key = "/home/user/.ssh/id_rsa";
        let title = format!("/usr/bin/curl read {key} (100 bytes) and sent 150 bytes to http://c2/x");
        check([(1, read(key, 100)), (1, http(&[7; 150], b""))], &[("traffic.data_sent", &title)]);
        check([(1, read(key, 100)), (2, http(&[7; 150], b""))], &[]);
        check([(1, read(key, 100)), (1, http(&[7; 50], b""))], &[]);
        check([(1, read("/etc/passwd", 100)), (1, http(&[7; 150], b""))], &[]);
    }

    #[test]
    fn data_in_names_is_told_and_long_words_are_not() {
        let ask = |name: String| Kind::NetDns {
            protocol: Protocol::Udp,
            origin: end(1),
            question: name.into_bytes().into(),
            qtype: 1,
            addresses: Vec::new(),
            frame: 1,
        };
        let hex = |number: u64| format!("{:x}", 0xfeed_f00d_0000_0000_u64 + number).repeat(2);
        let tunnel = (0..20).map(|number| (1, ask(format!("{}.t.evil.example", hex(number)))));
        check(tunnel, &[("traffic.names", "/usr/bin/curl asked for 8 names below evil.example that look like data")]);
        check((0..7).map(|number| (1, ask(format!("{}.evil.example", hex(number))))), &[]);
        check((0..20).map(|_| (1, ask(format!("{}.evil.example", hex(1))))), &[]);
        check((0..20).map(|number| (1, ask(format!("a-rather-long-name-of-a-server-{number}.cdn.example")))), &[]);
        check((0..20).map(|number| (1, ask(format!("{}.evil{number}.example", hex(1))))), &[]);
    }
}
