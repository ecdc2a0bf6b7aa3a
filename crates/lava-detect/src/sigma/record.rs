//! An event as Sigma's taxonomy names its parts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lava_event::{Event, FileType, GuestText, Kind, NetEndpoint, Process, ProcessKey, Protocol};

use super::auditd;
use super::source::Source;
use crate::Taint;

/// Longest text of a field, bytes: what stands behind it is not looked at.
const MAX_TEXT: usize = 64 << 10;
/// Processes whose command lines are remembered.
const MAX_PROCESSES: usize = 1 << 16;
/// Addresses whose names are remembered.
const MAX_NAMES: usize = 1 << 13;

/// The parts of one event. A part that is not known is not there; one can be there twice, with two values.
#[derive(Debug)]
pub struct Record {
    pub(super) source: Source,
    fields: Vec<(Cow<'static, str>, String)>,
    /// Keywords look at this many of the fields; at all if there are fewer.
    own: usize,
    /// What it is about, for titles.
    pub(super) subject: String,
    /// Something was only read: see the note on auditd in [`super::log_sources`].
    pub(super) read: bool,
}

impl Record {
    pub(super) fn new(source: Source, subject: &[u8]) -> Self {
        let subject = crate::path::shown(subject);
        Self { source, fields: Vec::with_capacity(8), own: usize::MAX, subject, read: false }
    }

    pub(super) fn put(&mut self, name: impl Into<Cow<'static, str>>, text: impl Into<String>) {
        self.fields.push((name.into(), text.into()));
    }

    /// Ends the fields that keywords look at.
    pub(super) fn end_own(&mut self) {
        self.own = self.fields.len();
    }

    /// The field's values.
    pub(super) fn get<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(known, _)| known == name).map(|(_, text)| text.as_str())
    }

    /// What keywords look at.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().take(self.own).map(|(_, text)| text.as_str())
    }

    /// The log source, as a rule names it.
    #[must_use]
    pub fn log_source(&self) -> &'static str {
        super::log_sources().iter().find(|known| known.source == self.source).map_or("", |known| known.name)
    }

    /// What it is about, as a finding's title says it.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Names and values, in no order that means anything.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, text)| (name.as_ref(), text.as_str()))
    }

    /// True if only rules of the tactics discovery, collection and reconnaissance look at it.
    #[must_use]
    pub const fn is_read(&self) -> bool {
        self.read
    }

    /// The text that keywords are looked for in, a line for each field.
    #[must_use]
    pub fn full_text(&self) -> String {
        self.texts().collect::<Vec<_>>().join("\n")
    }
}

/// What a process runs.
#[derive(Clone, Debug)]
struct Running {
    image: String,
    /// Not known for a process that was there before watching began.
    command_line: Option<String>,
}

/// Programs and command lines of the session's processes, and the names of addresses.
#[derive(Debug, Default)]
pub(super) struct Processes {
    running: BTreeMap<ProcessKey, Arc<Running>>,
    names: BTreeMap<IpAddr, String>,
}

pub(super) fn text(text: &GuestText) -> String {
    let bytes = text.bytes();
    match bytes.get(..MAX_TEXT) {
        Some(cut) => GuestText::from(cut.to_vec()).matchable(),
        None => text.matchable(),
    }
}

/// Arguments with a space between them, as Sysmon for Linux writes them.
pub(super) fn command_line(argv: &[GuestText]) -> String {
    let mut out = String::new();
    for (i, argument) in argv.iter().enumerate() {
        if i > 0 {
            out.push(' ');
        }
        out.push_str(&text(argument));
        if out.len() > MAX_TEXT {
            break;
        }
    }
    out
}

/// The user's name. Others than these stand in the guest's files, which are not asked: their number.
fn user(uid: u32) -> Cow<'static, str> {
    // The same in every Debian: base-passwd 3.6, passwd.master.
    Cow::Borrowed(match uid {
        0 => "root",
        1 => "daemon",
        2 => "bin",
        3 => "sys",
        4 => "sync",
        5 => "games",
        6 => "man",
        7 => "lp",
        8 => "mail",
        9 => "news",
        10 => "uucp",
        13 => "proxy",
        33 => "www-data",
        34 => "backup",
        38 => "list",
        39 => "irc",
        65534 => "nobody",
        other => return Cow::Owned(other.to_string()),
    })
}

impl Processes {
    /// Takes an event in. Called before [`Processes::records`].
    pub(super) fn remember(&mut self, event: &Event) {
        if let Kind::NetDns { question, addresses, .. } = &event.kind {
            for address in addresses {
                if self.names.len() < MAX_NAMES || self.names.contains_key(address) {
                    self.names.insert(*address, text(question));
                }
            }
        }
        let Some(process) = &event.process else { return };
        match &event.kind {
            Kind::ProcessExec { argv, .. } => {
                let running = Running { image: text(&process.exe), command_line: Some(command_line(argv)) };
                self.insert(process.key(), Arc::new(running));
            }
            Kind::ProcessFork { child, thread: false, .. } => {
                let known = self.running.get(&process.key()).cloned();
                let running =
                    known.unwrap_or_else(|| Arc::new(Running { image: text(&process.exe), command_line: None }));
                self.insert(process.key(), Arc::clone(&running));
                self.insert(ProcessKey { pid: child.pid, start_ns: child.start_ns }, running);
            }
            _ => {}
        }
    }

    fn insert(&mut self, key: ProcessKey, running: Arc<Running>) {
        if self.running.len() < MAX_PROCESSES || self.running.contains_key(&key) {
            self.running.insert(key, running);
        }
    }

    /// True if there were more processes than are remembered.
    pub(super) fn is_full(&self) -> bool {
        self.running.len() >= MAX_PROCESSES
    }

    /// The event as records, of the sources that are wanted.
    pub(super) fn records(&self, event: &Event, taint: &dyn Taint, wanted: &dyn Fn(Source) -> bool) -> Vec<Record> {
        let Some(process) = event.process.as_ref() else { return Vec::new() };
        let mut out = Vec::new();
        if let Some(mut record) = self.record(event, process, taint, wanted) {
            self.put_actor(&mut record, process);
            out.push(record);
        }
        if let Kind::FileRename { from, to, .. } = &event.kind
            && wanted(Source::FileRename)
        {
            let mut record = Record::new(Source::FileRename, to.bytes());
            record.put("SourceFilename", text(from));
            record.put("TargetFilename", text(to));
            self.put_actor(&mut record, process);
            out.push(record);
        }
        if wanted(Source::Auditd) {
            auditd::records(event, process, &mut out);
        }
        out
    }

    fn put_actor(&self, record: &mut Record, process: &Process) {
        record.put("Image", text(&process.exe));
        record.put("User", user(process.uid));
        record.put("ProcessId", process.pid.to_string());
        if let Some(line) = self.running.get(&process.key()).and_then(|running| running.command_line.clone()) {
            record.put("CommandLine", line);
        }
    }

    /// The event in Sysmon's words, or a proxy's or a name server's; who acted is not in it yet.
    fn record(
        &self,
        event: &Event,
        process: &Process,
        taint: &dyn Taint,
        wanted: &dyn Fn(Source) -> bool,
    ) -> Option<Record> {
        // Most events are none of these: they cost no more than this look.
        let source = match &event.kind {
            Kind::ProcessExec { .. } => Source::ProcessCreation,
            Kind::FileCreate { what: FileType::Regular | FileType::Symlink, .. } | Kind::FileRename { .. } => {
                Source::FileEvent
            }
            Kind::FileWrite { file, .. } if file.file_type() == FileType::Regular => Source::FileEvent,
            Kind::FileUnlink { .. } => Source::FileDelete,
            Kind::NetConnect { destination: Some(_), .. }
            | Kind::NetAccept { remote: Some(_), .. }
            | Kind::NetFlowOwner { protocol: Protocol::Udp, .. } => Source::NetworkConnection,
            Kind::NetDns { .. } => Source::Dns,
            Kind::NetHttp { .. } => Source::Proxy,
            _ => return None,
        };
        if !wanted(source) {
            return None;
        }
        Some(match &event.kind {
            Kind::ProcessExec { argv, cwd, .. } => self.process_creation(process, argv, cwd, taint),
            Kind::FileCreate { path, .. }
            | Kind::FileRename { to: path, .. }
            | Kind::FileWrite { path, .. }
            | Kind::FileUnlink { path, .. } => {
                let mut record = Record::new(source, path.bytes());
                record.put("TargetFilename", text(path));
                record
            }
            Kind::NetConnect { protocol, destination: Some(to), .. } => {
                self.connection(*protocol, None, Some(to), true)
            }
            Kind::NetFlowOwner { protocol, origin, destination } => {
                self.connection(*protocol, Some(origin), Some(destination), true)
            }
            Kind::NetAccept { protocol, local, remote, .. } => {
                self.connection(*protocol, remote.as_ref(), local.as_ref(), false)
            }
            Kind::NetDns { origin, question, qtype, addresses, .. } => dns(origin, question, *qtype, addresses),
            Kind::NetHttp { .. } => proxy(&event.kind)?,
            _ => return None,
        })
    }

    fn process_creation(&self, process: &Process, argv: &[GuestText], cwd: &GuestText, taint: &dyn Taint) -> Record {
        let mut record = Record::new(Source::ProcessCreation, command_line(argv).as_bytes());
        record.put("CurrentDirectory", text(cwd));
        record.put("ParentProcessId", process.ppid.to_string());
        if let Some(parent) = taint.parent(process.key()).and_then(|parent| self.running.get(&parent)) {
            record.put("ParentImage", parent.image.clone());
            if let Some(line) = &parent.command_line {
                record.put("ParentCommandLine", line.clone());
            }
        }
        record
    }

    fn connection(
        &self,
        protocol: Protocol,
        from: Option<&NetEndpoint>,
        to: Option<&NetEndpoint>,
        initiated: bool,
    ) -> Record {
        let subject = to.or(from).map(ToString::to_string).unwrap_or_default();
        let mut record = Record::new(Source::NetworkConnection, subject.as_bytes());
        record.put("Initiated", initiated.to_string());
        record.put("Protocol", format!("{protocol:?}").to_lowercase());
        if let Some(from) = from {
            record.put("SourceIp", from.address.to_string());
            record.put("SourcePort", from.port.to_string());
        }
        if let Some(to) = to {
            record.put("DestinationIp", to.address.to_string());
            record.put("DestinationPort", to.port.to_string());
            if let Some(name) = self.names.get(&to.address).filter(|_| initiated) {
                record.put("DestinationHostname", name.clone());
            }
        }
        record
    }
}

fn dns(origin: &NetEndpoint, question: &GuestText, qtype: u16, addresses: &[IpAddr]) -> Record {
    let mut record = Record::new(Source::Dns, question.bytes());
    let name = text(question);
    // Names of types: IANA, DNS parameters, resource record types.
    let kind = match qtype {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        10 => "NULL",
        12 => "PTR",
        13 => "HINFO",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        64 => "SVCB",
        65 => "HTTPS",
        252 => "AXFR",
        255 => "ANY",
        257 => "CAA",
        _ => "",
    };
    let kind = if kind.is_empty() { qtype.to_string() } else { kind.to_owned() };
    record.put("QueryName", name.clone());
    record.put("query", name);
    record.put("record_type", kind.clone());
    record.put("qtype_name", kind);
    record.put("qtype", qtype.to_string());
    record.put("src_ip", origin.address.to_string());
    if !addresses.is_empty() {
        // As Sysmon writes them.
        record.put("QueryResults", addresses.iter().map(|address| format!("{address};")).collect::<String>());
    }
    for address in addresses {
        record.put("answer", address.to_string());
    }
    record
}

fn proxy(kind: &Kind) -> Option<Record> {
    let Kind::NetHttp { origin, destination, tls, method, host, path, user_agent, status, .. } = kind else {
        return None;
    };
    let (host, path) = (text(host), text(path));
    let uri = format!("{}://{host}{path}", if *tls { "https" } else { "http" });
    let mut record = Record::new(Source::Proxy, uri.as_bytes());
    record.put("c-uri", uri);
    let (stem, query) = path.split_once('?').unwrap_or((path.as_str(), ""));
    record.put("c-uri-stem", stem);
    record.put("c-uri-query", query);
    let file = stem.rsplit('/').next().unwrap_or_default();
    record.put("c-uri-extension", file.rsplit_once('.').map_or("", |(_, extension)| extension));
    record.put("c-useragent", user_agent.as_ref().map(text).unwrap_or_default());
    record.put("cs-host", host);
    record.put("cs-method", text(method));
    record.put("sc-status", status.to_string());
    record.put("dst_ip", destination.address.to_string());
    record.put("dst_port", destination.port.to_string());
    record.put("src_ip", origin.address.to_string());
    Some(record)
}
