//! Open Cybersecurity Schema Framework: one JSON object a line.
//!
//! Classes and attributes are those of [`VERSION`], with the profile `host`: Process, File System, Kernel Extension, Kernel and Memory Activity, Network,
//! HTTP, DNS and Email Activity, Detection Finding. What none of them fits is a Base Event with its `message`.

use lava_event::{Access, Event, FileType, Finding, GuestText, Kind, NetEndpoint, Process, ProcessRef};
use serde_json::{Value, json};

use crate::facts::{self, Facts};
use crate::lines::{Context, Lines, base, folder, level, program};
use crate::stix::objects::is_domain;
use crate::summary::protocol;
use crate::walk::Seen;
use crate::{attack, text};

/// The version of the schema.
pub(crate) const VERSION: &str = "1.5.0";

const BASE: (u32, u32) = (0, 99);
const FILE: u32 = 1001;
const EXTENSION: u32 = 1002;
const KERNEL: u32 = 1003;
const MEMORY: u32 = 1004;
const PROCESS: u32 = 1007;
const FINDING: u32 = 2004;
const NETWORK: u32 = 4001;
const HTTP: u32 = 4002;
const DNS: u32 = 4003;
const EMAIL: u32 = 4009;

/// The format.
pub(crate) struct Ocsf;

impl Lines for Ocsf {
    fn event(&self, context: &Context, seen: &Seen<'_>) -> String {
        let event = seen.event;
        let facts = facts::of(&event.kind);
        let (class, activity) = class(&event.kind, &facts);
        let mut line = common(context, class, activity, event.time_ns);
        line["severity_id"] = 1.into();
        line["message"] = text::plain(&event.kind.sentence()).into();
        line["metadata"]["uid"] = context.event(event).to_string().into();
        line["metadata"]["sequence"] = event.seq.into();
        line["metadata"]["event_code"] = event.kind.name().into();
        if activity == 99 {
            line["activity_name"] = event.kind.name().into();
        }
        line["unmapped"] = json!({"lava": {"tainted": seen.tainted, "source": event.source}});
        line["actor"] = actor(context, seen);
        parts(&mut line, context, class, event, &facts);
        line.to_string()
    }

    fn finding(&self, context: &Context, n: usize, finding: &Finding) -> String {
        let mut line = common(context, FINDING, 1, finding.time_ns);
        line["severity_id"] = level(finding.severity).into();
        line["message"] = finding.title.as_str().into();
        line["metadata"]["uid"] = context.finding(n).to_string().into();
        line["is_alert"] = finding.severity.counts().into();
        let related: Vec<Value> = finding
            .events
            .iter()
            .take(100)
            .map(|seq| json!({"uid": crate::ids::within(&context.manifest.session, "event", &seq.to_string()).to_string()}))
            .collect();
        line["finding_info"] = json!({
            "uid": context.finding(n).to_string(), "title": finding.title, "desc": finding.why,
            "analytic": {"type_id": 1, "type": "Rule", "uid": finding.detector, "name": finding.detector},
            "related_events": related,
        });
        if attack::is_technique(&finding.technique.id) {
            line["finding_info"]["attacks"] = json!([technique(&finding.technique.id, &finding.technique.name)]);
        }
        if let Some(process) = finding.process {
            line["evidences"] = json!([{"process": {"pid": process.pid, "uid": context.process(process).to_string()}}]);
        }
        line["unmapped"] = json!({"lava": {"grade": finding.grade, "stage": finding.stage}});
        line.to_string()
    }
}

fn technique(id: &str, name: &str) -> Value {
    match id.split_once('.') {
        None => json!({"technique": {"uid": id, "name": name, "src_url": attack::url(id)}}),
        Some((whole, _)) => json!({
            "technique": {"uid": whole, "src_url": attack::url(whole)},
            "sub_technique": {"uid": id, "name": name, "src_url": attack::url(id)},
        }),
    }
}

fn common(context: &Context, class: u32, activity: u32, time_ns: u64) -> Value {
    let manifest = &context.manifest;
    json!({
        "class_uid": class, "category_uid": class / 1000, "activity_id": activity, "type_uid": class * 100 + activity,
        "time": context.clock.at(time_ns).as_millisecond(),
        "metadata": {
            "version": VERSION, "profiles": ["host"], "correlation_uid": manifest.session,
            "product": {"name": "LAVA", "vendor_name": "LAVA", "version": manifest.lava},
        },
        "device": {
            "type_id": 6, "type": "Virtual", "uid": manifest.session, "name": "LAVA micro-VM",
            "os": {"name": "Linux", "type_id": 200, "type": "Linux", "kernel_release": manifest.image.kernel},
        },
    })
}

/// The activity of a method.
fn http_activity(method: &GuestText) -> u32 {
    let known: [&[u8]; 8] = [b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"POST", b"PUT", b"TRACE"];
    known.iter().zip(1..).find(|(name, _)| **name == method.bytes()).map_or(99, |(_, activity)| activity)
}

/// Class and activity.
fn class(kind: &Kind, facts: &Facts<'_>) -> (u32, u32) {
    match kind {
        Kind::ProcessFork { .. } | Kind::ProcessExec { .. } => (PROCESS, 1),
        Kind::ProcessExit { .. } => (PROCESS, 2),
        Kind::ProcessPtrace { .. } => (PROCESS, 3),
        Kind::MemoryRemoteWrite { .. } => (PROCESS, 4),
        Kind::ProcessCredentials { .. } => (PROCESS, 5),
        Kind::ProcessExisting {}
        | Kind::ProcessSignal { .. }
        | Kind::ProcessNamespaces { .. }
        | Kind::ProcessChroot { .. }
        | Kind::ProcessName { .. }
        | Kind::ApiCall { .. } => (PROCESS, 99),
        Kind::ProcessMemfd { .. } | Kind::FileCreate { .. } => (FILE, 1),
        Kind::FileRead { .. } => (FILE, 2),
        Kind::FileWrite { .. } | Kind::FileMapWrite { .. } | Kind::FileTruncate { .. } => (FILE, 3),
        Kind::FileUnlink { .. } => (FILE, 4),
        Kind::FileRename { .. } => (FILE, 5),
        Kind::FileAttributes { .. } | Kind::FileXattr { .. } => (FILE, 6),
        Kind::FileMount { .. } => (FILE, 12),
        Kind::FileUnmount { .. } => (FILE, 13),
        Kind::FileOpen { access: Access::Read | Access::Write | Access::ReadWrite, .. } => (FILE, 14),
        Kind::FileContent { .. } => (FILE, 99),
        Kind::KernelModuleLoad { .. } => (EXTENSION, 1),
        Kind::KernelModuleUnload { .. } => (EXTENSION, 2),
        Kind::KernelHiddenModule { .. } => (EXTENSION, 99),
        Kind::KernelBpfLoad { .. } | Kind::KernelKexec { .. } => (KERNEL, 1),
        Kind::KernelImmutableWrite { .. }
        | Kind::KernelRegister { .. }
        | Kind::KernelHiddenTask { .. }
        | Kind::KernelDmaRefused { .. }
        | Kind::KernelFunctionHooked { .. } => (KERNEL, 99),
        Kind::MemoryMap { .. } => (MEMORY, 9),
        Kind::MemoryProtect { .. } => (MEMORY, 2),
        Kind::MemoryUnbackedExecution { .. } | Kind::MemoryStackPivot { .. } | Kind::MemoryReturnToData { .. } => {
            (MEMORY, 99)
        }
        Kind::NetDns { .. } => (DNS, 6),
        Kind::NetHttp { method, .. } => (HTTP, http_activity(method)),
        // An email without an address is none to the schema.
        Kind::NetMail { from, to, .. } if to.iter().chain([from]).any(|end| is_mailbox(&text::name(end))) => (EMAIL, 1),
        _ if facts.local.is_none() && facts.remote.is_none() && facts.socket.is_none() => BASE,
        Kind::NetConnect { .. } | Kind::NetAccept { .. } => (NETWORK, 1),
        Kind::NetTransfer { .. }
        | Kind::NetFlow { .. }
        | Kind::NetFlowOwner { .. }
        | Kind::NetTls { .. }
        | Kind::NetMail { .. } => (NETWORK, 6),
        Kind::NetStream { ended, .. } => (NETWORK, if ended == "reset" { 3 } else { 2 }),
        Kind::NetListen { .. } => (NETWORK, 7),
        Kind::NetBind { .. } => (NETWORK, 99),
        _ => BASE,
    }
}

/// What the class is about.
fn parts(line: &mut Value, context: &Context, class: u32, event: &Event, facts: &Facts<'_>) {
    match class {
        PROCESS | MEMORY => {
            line["process"] = match (facts.other, &event.process) {
                (Some(other), _) => reference(context, other),
                (None, Some(process)) => acting(context, process, facts),
                (None, None) => json!({"pid": 0}),
            };
        }
        FILE => {
            line["file"] = file(facts.path, facts);
            if let (Kind::FileRename { .. }, Some(to)) = (&event.kind, facts.target) {
                line["file_result"] = file(Some(to), facts);
            }
        }
        EXTENSION => {
            let name = facts.module.map(text::name).unwrap_or_default();
            let mut driver = json!({"file": file(facts.path.or(facts.module), facts)});
            driver["file"]["desc"] = format!("kernel module {name}").into();
            line["driver"] = driver;
        }
        KERNEL => {
            line["kernel"] =
                json!({"name": text::plain(&event.kind.sentence()), "type_id": 99, "type": event.kind.name()});
        }
        NETWORK | DNS | HTTP => network(line, event, facts),
        EMAIL => {
            ends(line, facts);
            mail(line, &event.kind);
        }
        _ => {}
    }
}

fn actor(context: &Context, seen: &Seen<'_>) -> Value {
    match (&seen.event.process, seen.actor) {
        (Some(process), _) => json!({"process": acting(context, process, &Facts::default())}),
        (None, Some(actor)) => json!({"process": {"pid": actor.pid, "uid": context.process(actor).to_string()}}),
        (None, None) => json!({"app_name": "the guest: who is not known"}),
    }
}

fn reference(context: &Context, other: &ProcessRef) -> Value {
    let key = lava_event::ProcessKey { pid: other.pid, start_ns: other.start_ns };
    let mut out = json!({"pid": other.pid, "tid": other.tid, "uid": context.process(key).to_string()});
    if !other.comm.is_empty() {
        out["name"] = text::name(&other.comm).into();
    }
    out
}

fn acting(context: &Context, process: &Process, facts: &Facts<'_>) -> Value {
    let mut out = json!({
        "pid": process.pid, "tid": process.tid, "uid": context.process(process.key()).to_string(),
        "user": {"uid": process.uid.to_string()},
        "parent_process": {"pid": process.ppid},
    });
    let name = program(process);
    if !name.is_empty() {
        out["name"] = name.into();
    }
    if !process.exe.is_empty() {
        out["file"] = file(Some(&process.exe), &Facts { file: facts.exec.and(facts.file), ..Facts::default() });
    }
    if let Some((argv, cwd)) = facts.exec {
        out["cmd_line"] = text::command(argv).into();
        out["working_directory"] = text::name(cwd).into();
    }
    out
}

fn file(path: Option<&GuestText>, facts: &Facts<'_>) -> Value {
    let path = path.map(text::name).filter(|path| !path.is_empty()).unwrap_or_else(|| "(unnamed)".to_owned());
    let kind = facts.file.map_or(0, |id| match id.file_type() {
        FileType::Regular => 1,
        FileType::Directory => 2,
        FileType::CharacterDevice => 3,
        FileType::BlockDevice => 4,
        FileType::Socket => 5,
        FileType::Fifo => 6,
        FileType::Symlink => 7,
        FileType::Other => 0,
    });
    let mut out = json!({"name": base(&path), "path": path, "type_id": kind});
    if let Some(folder) = folder(&path) {
        out["parent_folder"] = folder.into();
    }
    if let Some(id) = facts.file {
        out["size"] = i64::try_from(id.size).unwrap_or(i64::MAX).into();
        out["owner"] = json!({"uid": id.uid.to_string()});
    }
    if let Some(sha256) = facts.sha256 {
        out["hashes"] = json!([{"algorithm_id": 3, "algorithm": "SHA-256", "value": sha256}]);
    }
    out
}

fn ends(line: &mut Value, facts: &Facts<'_>) {
    let end = |end: &NetEndpoint| json!({"ip": end.address, "port": end.port});
    if let Some(local) = facts.local {
        line["src_endpoint"] = end(local);
    }
    if let Some(remote) = facts.remote {
        line["dst_endpoint"] = end(remote);
    }
}

fn network(line: &mut Value, event: &Event, facts: &Facts<'_>) {
    ends(line, facts);
    if let (None, None, Some(name)) = (facts.local, facts.remote, facts.socket) {
        let name = if name.is_empty() { "(unnamed)".to_owned() } else { text::name(name) };
        line["dst_endpoint"] = json!({"name": name});
    }
    let direction = match event.kind {
        Kind::NetAccept { .. } => 1,
        Kind::NetConnect { .. } | Kind::NetHttp { .. } | Kind::NetTls { .. } => 2,
        _ => 0,
    };
    line["connection_info"] = json!({"direction_id": direction});
    if let Some(transport) = facts.protocol {
        line["connection_info"]["protocol_name"] = protocol(transport).into();
    }
    if let Some((sent, received)) = facts.traffic {
        line["traffic"] = json!({"bytes_out": sent, "bytes_in": received});
    }
    if let Some(application) = facts.application {
        line["app_name"] = application.into();
    }
    http(line, &event.kind, facts);
    tls(line, &event.kind);
    if let Kind::NetDns { question, qtype, addresses, .. } = &event.kind {
        let name = text::name(question);
        // A question that is no host name stands in the message alone.
        if is_domain(&name) {
            line["query"] = json!({"hostname": name, "type": lava_event::dns_type(*qtype)});
        }
        line["answers"] = addresses.iter().map(|address| json!({"rdata": address})).collect::<Vec<_>>().into();
    }
}

/// The parts of HTTP Activity.
fn http(line: &mut Value, kind: &Kind, facts: &Facts<'_>) {
    let (Some(url), Kind::NetHttp { method, user_agent, status, response_type, request_bytes, response_bytes, .. }) =
        (&facts.url, kind)
    else {
        return;
    };
    let length = |bytes: u64| i32::try_from(bytes).unwrap_or(i32::MAX);
    line["http_request"] = json!({
        "body_length": length(*request_bytes),
        "url": {"url_string": url.full, "scheme": url.scheme, "port": url.port, "path": url.path},
        "http_headers": [{"name": "Host", "value": url.host}],
    });
    // The schema knows these methods and no others.
    if http_activity(method) != 99 {
        line["http_request"]["http_method"] = text::name(method).into();
    }
    if is_domain(&url.host) {
        line["http_request"]["url"]["hostname"] = url.host.as_str().into();
    }
    if let Some(query) = &url.query {
        line["http_request"]["url"]["query_string"] = query.as_str().into();
    }
    if let Some(user_agent) = user_agent {
        line["http_request"]["user_agent"] = text::name(user_agent).into();
    }
    if *status != 0 {
        let body = length(*response_bytes);
        line["http_response"] =
            json!({"code": status, "content_type": text::plain(response_type), "body_length": body});
    }
}

/// What is known of TLS.
fn tls(line: &mut Value, kind: &Kind) {
    let Kind::NetTls { server_name, version, ja3, ja4, outcome, .. } = kind else { return };
    line["tls"] = json!({"version": if version.is_empty() { "unknown" } else { version }});
    if let Some(name) = server_name {
        line["tls"]["sni"] = text::name(name).into();
    }
    if !ja3.is_empty() {
        line["tls"]["ja3_hash"] = json!({"algorithm_id": 1, "algorithm": "MD5", "value": ja3});
    }
    if !ja4.is_empty() {
        line["ja4_fingerprint_list"] = json!([{"type_id": 1, "type": "JA4", "value": ja4}]);
    }
    line["status_detail"] = text::plain(outcome).into();
}

/// The parts of Email Activity.
fn mail(line: &mut Value, kind: &Kind) {
    let Kind::NetMail { from, to, subject, bytes, sha256, .. } = kind else { return };
    line["direction_id"] = 2.into();
    line["protocol_name"] = "smtp".into();
    let to: Vec<String> = to.iter().map(text::name).collect();
    let from = text::name(from);
    let size = i64::try_from(*bytes).unwrap_or(i64::MAX);
    line["email"] = json!({"size": size, "from_mailbox": from, "to_mailboxes": to});
    // What is no address stands in the mailboxes alone.
    if is_mailbox(&from) {
        line["email"]["from"] = from.into();
    }
    let to: Vec<String> = to.into_iter().filter(|to| is_mailbox(to)).collect();
    if !to.is_empty() {
        line["email"]["to"] = to.into();
    }
    if let Some(subject) = subject {
        line["email"]["subject"] = text::name(subject).into();
    }
    if let Some(sha256) = sha256 {
        let hash = json!({"algorithm_id": 3, "algorithm": "SHA-256", "value": sha256});
        line["email"]["files"] = json!([{"name": "mail", "type_id": 1, "hashes": [hash]}]);
    }
}

/// True for a mail address of the plain kind.
fn is_mailbox(text: &str) -> bool {
    let local = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b))
    };
    text.split_once('@').is_some_and(|(name, host)| local(name) && is_domain(host))
}
