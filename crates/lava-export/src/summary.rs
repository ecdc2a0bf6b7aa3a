//! What a session comes to: what the task ran, wrote, reached for and asked for, and which findings rest on it.
//!
//! For the formats that describe a session, not its events. *Memory:* at most [`THINGS`] things of [`BYTES`] text in all; what comes
//! after that is counted in `left_out`, and every format says the number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lava_event::{
    DiskRegion, EventSeq, FileId, FileType, Finding, Grade, GuestText, Kind, NetEndpoint, ProcessKey, Protocol,
    Severity, Sha256,
};
use lava_evidence::{Manifest, Session};
use lava_graph::{Graph, Trace};

use crate::clock::Clock;
use crate::stix::objects::is_domain;
use crate::walk::{Item, Seen, walk};
use crate::web::Url;
use crate::{Error, text};

/// Things kept.
const THINGS: usize = 20_000;
/// Bytes of their texts.
const BYTES: usize = 64 << 20;
/// Contents kept of one path.
const CONTENTS: usize = 8;

/// What a thing is, in the order in which things are listed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Key {
    /// A program that a process of the task became: the process, and the event that showed it.
    Program(ProcessKey, EventSeq),
    /// A file that the task changed, by its path.
    File(String),
    /// An end that the task tried to reach.
    Address(IpAddr, u16, &'static str),
    /// A name that the guest asked for: of the resolver, by HTTP or in TLS.
    Name(String),
    /// What the task asked for by HTTP.
    Url(String),
    /// A kernel module that the task loaded.
    Module(String),
    /// A part of a disk that starts the machine.
    Area(String, DiskRegion),
}

/// A content that a file had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    pub(crate) sha256: Sha256,
    /// Bytes.
    pub(crate) size: u64,
}

/// What is known of a thing beside its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum About {
    Program {
        /// Path of the program file.
        path: String,
        /// As one line; empty if no exec was seen (a fork that goes on as its parent's program).
        command: String,
        cwd: String,
        uid: u32,
        parent: Option<Box<Key>>,
    },
    File {
        /// Whole contents, oldest first.
        contents: Vec<Content>,
        /// True if it was not there before the task made it.
        created: bool,
        executed: bool,
        deleted: bool,
    },
    Address {
        /// True if our simulated network made it up: it means nothing elsewhere.
        made_up: bool,
        /// Our end, of the first packet or transfer whose end is known.
        source: Option<NetEndpoint>,
        sent: u64,
        received: u64,
    },
    Name {
        /// What the guest was answered.
        answers: Vec<IpAddr>,
        /// False if any program of the guest may have asked.
        by_task: bool,
    },
    /// The first request.
    Url {
        /// True if it names an address that our simulated network made up: it means nothing elsewhere.
        made_up: bool,
        url: Url,
        method: String,
        user_agent: Option<String>,
        source: NetEndpoint,
        destination: NetEndpoint,
    },
    Module,
    Area {
        before: Option<Sha256>,
        after: Option<Sha256>,
    },
}

/// A thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Thing {
    pub(crate) about: About,
    /// Session time, ns.
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// Events.
    pub(crate) count: u64,
    /// The findings that rest on one of these events.
    pub(crate) findings: BTreeSet<usize>,
    /// The program that did it first.
    pub(crate) by: Option<Key>,
}

/// How surely something tells of an attack: from the findings that rest on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Weight {
    /// Of the worst finding.
    pub(crate) severity: Severity,
    /// The best grade among the findings that count.
    pub(crate) grade: Grade,
}

/// The session in short.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) manifest: Manifest,
    pub(crate) clock: Clock,
    pub(crate) findings: Vec<Finding>,
    pub(crate) trace: Trace,
    pub(crate) graph: Graph,
    pub(crate) things: BTreeMap<Key, Thing>,
    /// Path of the task's content in the guest.
    pub(crate) task_path: Option<String>,
    pub(crate) left_out: u64,
    pub(crate) unreadable: u64,
}

impl Summary {
    /// Reads the session.
    pub(crate) fn of(session: &Session) -> Result<Self, Error> {
        let mut gather = Gather::default();
        let walked = walk(session, |item| {
            if let Item::Event(seen) = item {
                gather.event(&seen);
            }
            Ok(())
        })?;
        let clock = Clock::of(session.manifest())?;
        gather.mark_made_up();
        Ok(Self {
            manifest: text::manifest(session.manifest()),
            clock,
            trace: walked.graph.trace(),
            graph: walked.graph,
            findings: walked.findings,
            things: gather.things,
            task_path: gather.task_path,
            left_out: gather.left_out,
            unreadable: walked.unreadable,
        })
    }

    /// What the findings say of a thing; `None` if none that counts rests on it.
    pub(crate) fn weight(&self, thing: &Thing) -> Option<Weight> {
        let counting = thing.findings.iter().filter_map(|&n| self.findings.get(n)).filter(|f| f.severity.counts());
        counting.fold(None, |best: Option<Weight>, finding| {
            Some(Weight {
                severity: best.map_or(finding.severity, |b| b.severity.max(finding.severity)),
                grade: best.map_or(finding.grade, |b| b.grade.max(finding.grade)),
            })
        })
    }
}

/// True for the addresses that our simulated network gives to names.
fn is_made_up(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(ip) if matches!(ip.octets(), [198, 18 | 19, ..]))
}

/// True for an address that is somebody's on the internet, or may be: not of a local network, a provider's (RFC 6598) or a test
/// bench's (RFC 2544), not of the machine itself, not reserved.
pub(crate) fn is_outside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_unspecified()
                || matches!(ip.octets(), [100, 64..=127, ..] | [198, 18 | 19, ..] | [0 | 240..=255, ..]))
        }
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => is_outside(ip.into()),
            None => {
                !(ip.is_loopback()
                    || ip.is_unspecified()
                    || ip.is_multicast()
                    || ip.is_unique_local()
                    || ip.is_unicast_link_local())
            }
        },
    }
}

/// True for a URL that names a host that may be somebody's on the internet.
pub(crate) fn names_outside(url: &Url, made_up: bool) -> bool {
    match url.address() {
        Some(address) => !made_up && is_outside(address),
        None => is_domain(&url.host),
    }
}

/// The protocol's name in most formats.
pub(crate) const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
        Protocol::Unix => "unix",
        Protocol::Other => "ip",
    }
}

#[derive(Default)]
struct Gather {
    things: BTreeMap<Key, Thing>,
    /// The program that a process is running, by process, and by number for children.
    running: BTreeMap<ProcessKey, Key>,
    by_pid: BTreeMap<u32, Key>,
    made_up: BTreeSet<IpAddr>,
    task_path: Option<String>,
    bytes: usize,
    left_out: u64,
}

impl Gather {
    fn event(&mut self, seen: &Seen<'_>) {
        match &seen.event.kind {
            Kind::VmTask { path, .. } => self.task_path = Some(text::plain(path)),
            Kind::NetDns { question, addresses, .. } => {
                if self.made_up.len() < THINGS {
                    // In egress mode they are real.
                    self.made_up.extend(addresses.iter().filter(|address| is_made_up(**address)));
                }
                self.name(seen, question, addresses);
            }
            Kind::DiskWrite { disk, region, before, after, .. }
                if !matches!(region, DiskRegion::Data) && (seen.tainted || !seen.findings.is_empty()) =>
            {
                let about = About::Area { before: *before, after: *after };
                if let Some(Thing { about: About::Area { after: latest, .. }, .. }) =
                    self.thing(seen, Key::Area(text::plain(disk), *region), about)
                {
                    *latest = *after;
                }
            }
            _ if seen.tainted => self.by_task(seen),
            _ => {}
        }
    }

    fn by_task(&mut self, seen: &Seen<'_>) {
        match &seen.event.kind {
            Kind::ProcessExec { path, argv, cwd, .. } => self.exec(seen, path, argv, cwd),
            Kind::FileCreate { path, file, what, .. } => {
                let kind = file.as_ref().map_or(*what, FileId::file_type);
                let is_new = !self.things.contains_key(&Key::File(text::name(path)));
                if let Some(About::File { created, .. }) = self.file(seen, path, kind) {
                    *created |= is_new;
                }
            }
            Kind::FileWrite { path, file, .. }
            | Kind::FileMapWrite { path, file, .. }
            | Kind::FileTruncate { path, file, .. }
            | Kind::FileXattr { path, file, .. }
            | Kind::FileAttributes { path, file, .. } => {
                self.file(seen, path, file.file_type());
            }
            Kind::FileRename { from, to, file } => {
                let known = self.things.get(&Key::File(text::name(from))).map(|thing| thing.about.clone());
                // What was under the new name before is gone.
                if let (Some(now), Some(known)) = (self.file(seen, to, file.file_type()), known) {
                    *now = known;
                }
                if let Some(About::File { deleted, .. }) = self.file(seen, from, file.file_type()) {
                    *deleted = true;
                }
            }
            Kind::FileUnlink { path, file } => {
                if let Some(About::File { deleted, .. }) = self.file(seen, path, file.file_type()) {
                    *deleted = true;
                }
            }
            Kind::FileContent { path, file, sha256, kept, complete } => {
                let content = Content { sha256: *sha256, size: *kept };
                if let Some(About::File { contents, .. }) = self.file(seen, path, file.file_type())
                    && *complete
                    && *kept > 0
                    && contents.len() < CONTENTS
                    && !contents.contains(&content)
                {
                    contents.push(content);
                }
            }
            Kind::NetConnect { protocol, destination: Some(end), .. } => self.reach(seen, *protocol, end, None, (0, 0)),
            Kind::NetFlowOwner { protocol, origin, destination } => {
                self.reach(seen, *protocol, destination, Some(*origin), (0, 0));
            }
            Kind::NetTransfer { protocol, local, remote: Some(end), sent, received, .. } => {
                self.reach(seen, *protocol, end, *local, (*sent, *received));
            }
            Kind::NetTls { server_name: Some(name), .. } => self.name(seen, name, &[]),
            Kind::NetHttp { origin, destination, host, method, user_agent, .. } => {
                if let Some(url) = Url::of(&seen.event.kind) {
                    if url.address().is_none() {
                        self.name(seen, host, &[]);
                    }
                    let about = About::Url {
                        made_up: false,
                        method: text::name(method),
                        user_agent: user_agent.as_ref().map(text::name),
                        source: *origin,
                        destination: *destination,
                        url: url.clone(),
                    };
                    self.thing(seen, Key::Url(url.full), about);
                }
            }
            Kind::KernelModuleLoad { name, .. } => {
                self.thing(seen, Key::Module(text::name(name)), About::Module);
            }
            _ => {
                self.program(seen);
            }
        }
    }

    fn exec(&mut self, seen: &Seen<'_>, path: &GuestText, argv: &[GuestText], cwd: &GuestText) {
        let Some((process, actor)) = seen.event.process.as_ref().zip(seen.actor) else { return };
        let image = if process.exe.is_empty() { path } else { &process.exe };
        let about = About::Program {
            path: text::name(image),
            command: text::command(argv),
            cwd: text::name(cwd),
            uid: process.uid,
            parent: self.by_pid.get(&process.ppid).cloned().map(Box::new),
        };
        let key = Key::Program(actor, seen.event.seq);
        if self.add(seen, key.clone(), about).is_none() {
            return;
        }
        self.by_pid.insert(process.pid, key.clone());
        self.running.insert(actor, key);
        for path in [path, image] {
            if let Some(Thing { about: About::File { executed, .. }, .. }) =
                self.things.get_mut(&Key::File(text::name(path)))
            {
                *executed = true;
            }
            self.mention(seen, &Key::File(text::name(path)));
        }
    }

    /// The program that the acting process is running.
    fn program(&mut self, seen: &Seen<'_>) -> Option<Key> {
        let actor = seen.actor?;
        let key = match self.running.get(&actor) {
            Some(key) => key.clone(),
            None => {
                let process = seen.event.process.as_ref()?;
                let about = About::Program {
                    path: text::name(&process.exe),
                    command: String::new(),
                    cwd: String::new(),
                    uid: process.uid,
                    parent: self.by_pid.get(&process.ppid).cloned().map(Box::new),
                };
                let key = Key::Program(actor, seen.event.seq);
                self.add(seen, key.clone(), about)?;
                self.by_pid.insert(process.pid, key.clone());
                self.running.insert(actor, key.clone());
                key
            }
        };
        self.mention(seen, &key);
        Some(key)
    }

    fn file(&mut self, seen: &Seen<'_>, path: &GuestText, kind: FileType) -> Option<&mut About> {
        let kept = matches!(kind, FileType::Regular | FileType::Symlink | FileType::Directory);
        let live = [&b"/proc/"[..], b"/sys/", b"pipe:", b"socket:"].iter().any(|at| path.bytes().starts_with(at));
        if !kept || live {
            self.program(seen);
            return None;
        }
        let about = About::File { contents: Vec::new(), created: false, executed: false, deleted: false };
        self.thing(seen, Key::File(text::name(path)), about).map(|thing| &mut thing.about)
    }

    fn reach(
        &mut self,
        seen: &Seen<'_>,
        transport: Protocol,
        end: &NetEndpoint,
        from: Option<NetEndpoint>,
        bytes: (u64, u64),
    ) {
        let key = Key::Address(end.address, end.port, protocol(transport));
        let about = About::Address { made_up: false, source: None, sent: 0, received: 0 };
        if let Some(Thing { about: About::Address { source, sent, received, .. }, .. }) = self.thing(seen, key, about) {
            *source = source.or(from);
            *sent = sent.saturating_add(bytes.0);
            *received = received.saturating_add(bytes.1);
        }
    }

    fn name(&mut self, seen: &Seen<'_>, question: &GuestText, addresses: &[IpAddr]) {
        // Before the task there is nobody's question but the guest's own.
        if self.task_path.is_none() || question.is_empty() {
            return;
        }
        let about = About::Name { answers: Vec::new(), by_task: false };
        if let Some(Thing { about: About::Name { answers, by_task }, .. }) =
            self.thing(seen, Key::Name(text::name(question)), about)
        {
            *by_task |= seen.tainted;
            answers.extend(addresses.iter().filter(|_| answers.len() < CONTENTS).copied().collect::<Vec<_>>());
            answers.sort_unstable();
            answers.dedup();
        }
    }

    /// The thing, made if need be, with this event counted; `None` if there is no room.
    fn thing(&mut self, seen: &Seen<'_>, key: Key, about: About) -> Option<&mut Thing> {
        let by = self.program(seen);
        if self.things.contains_key(&key) {
            self.mention(seen, &key);
        } else {
            self.add(seen, key.clone(), about)?.by = by;
        }
        self.things.get_mut(&key)
    }

    fn add(&mut self, seen: &Seen<'_>, key: Key, about: About) -> Option<&mut Thing> {
        let size = key_size(&key) + about_size(&about);
        if self.things.len() >= THINGS || self.bytes + size > BYTES {
            self.left_out += 1;
            return None;
        }
        self.bytes += size;
        let thing = Thing {
            about,
            first_ns: seen.event.time_ns,
            last_ns: seen.event.time_ns,
            count: 1,
            findings: seen.findings.iter().copied().collect(),
            by: None,
        };
        Some(self.things.entry(key).or_insert(thing))
    }

    fn mention(&mut self, seen: &Seen<'_>, key: &Key) {
        if let Some(thing) = self.things.get_mut(key) {
            thing.last_ns = thing.last_ns.max(seen.event.time_ns);
            thing.count += 1;
            thing.findings.extend(seen.findings);
        }
    }

    fn mark_made_up(&mut self) {
        for (key, thing) in &mut self.things {
            match (key, &mut thing.about) {
                (Key::Address(address, ..), About::Address { made_up, .. }) => {
                    *made_up = self.made_up.contains(address);
                }
                (_, About::Url { made_up, url, .. }) => {
                    *made_up = url.address().is_some_and(|address| self.made_up.contains(&address));
                }
                _ => {}
            }
        }
    }
}

fn key_size(key: &Key) -> usize {
    match key {
        Key::File(text) | Key::Name(text) | Key::Url(text) | Key::Module(text) | Key::Area(text, _) => text.len(),
        Key::Program(..) | Key::Address(..) => 0,
    }
}

fn about_size(about: &About) -> usize {
    match about {
        About::Program { path, command, cwd, .. } => path.len() + command.len() + cwd.len(),
        About::Url { url, method, user_agent, .. } => {
            2 * url.full.len() + url.host.len() + method.len() + user_agent.as_ref().map_or(0, String::len)
        }
        _ => 0,
    }
}
