//! Elastic Common Schema: one JSON object a line, for Elastic and what reads its names.
//!
//! Names and values are those of [`VERSION`]. What ECS has no field for stands in `labels.lava_*` and in `message`.

use lava_event::{FileId, FileType, Finding, Kind, NetEndpoint, Process, dns_type};
use serde_json::{Map, Value, json};

use crate::clock::micros;
use crate::facts::{self, Facts};
use crate::lines::{Context, Lines, base, folder, level, program};
use crate::summary::protocol;
use crate::walk::Seen;
use crate::web::Url;
use crate::{attack, text};

/// The version of ECS.
pub(crate) const VERSION: &str = "9.4.0";

/// The format.
pub(crate) struct Ecs;

impl Lines for Ecs {
    fn event(&self, context: &Context, seen: &Seen<'_>) -> String {
        let event = seen.event;
        let (category, kinds) = category(&event.kind);
        let mut line = common(context, event.time_ns);
        line["message"] = text::plain(&event.kind.sentence()).into();
        line["event"] = json!({
            "id": context.event(event).to_string(), "kind": "event", "category": [category], "type": kinds,
            "action": event.kind.name(), "sequence": event.seq, "module": "lava", "dataset": "lava.event", "provider": event.source,
        });
        line["labels"]["lava_tainted"] = seen.tainted.to_string().into();
        let facts = facts::of(&event.kind);
        if let Some(process) = &event.process {
            line["process"] = acting(context, process, &facts);
            line["user"] = json!({"id": process.uid.to_string()});
        } else if let Some(actor) = seen.actor {
            line["process"] = json!({"pid": actor.pid, "entity_id": context.process(actor).to_string()});
        }
        if let Some(path) = facts.path {
            line["file"] = file(&text::name(path), &facts);
        }
        network(&mut line, &event.kind, &facts);
        let mut related = Map::new();
        let ips: Vec<String> =
            [facts.local, facts.remote].into_iter().flatten().map(|end| end.address.to_string()).collect();
        if !ips.is_empty() {
            related.insert("ip".into(), ips.into());
        }
        let hashes: Vec<_> = facts.sha256.iter().chain(&facts.carried).collect();
        if !hashes.is_empty() {
            related.insert("hash".into(), json!(hashes));
        }
        if let Some(name) = facts.question.filter(|name| !name.is_empty()) {
            related.insert("hosts".into(), json!([text::name(name)]));
        }
        if !related.is_empty() {
            line["related"] = related.into();
        }
        if let Some(other) = facts.other {
            line["labels"]["lava_other_process"] = text::plain(&other.to_string()).into();
        }
        line.to_string()
    }

    fn finding(&self, context: &Context, n: usize, finding: &Finding) -> String {
        let mut line = common(context, finding.time_ns);
        line["message"] = finding.title.as_str().into();
        line["event"] = json!({
            "id": context.finding(n).to_string(), "kind": "alert", "category": ["intrusion_detection"], "type": ["info"],
            "action": "lava.finding", "module": "lava", "dataset": "lava.finding", "severity": u64::from(level(finding.severity)) * 20 - 1,
            "reason": finding.why,
        });
        line["rule"] = json!({
            "name": finding.detector, "category": finding.stage.name(), "description": finding.why,
        });
        line["labels"]["lava_grade"] = finding.grade.to_string().into();
        line["labels"]["lava_severity"] = json!(finding.severity);
        let seqs: Vec<String> = finding.events.iter().take(100).map(ToString::to_string).collect();
        line["labels"]["lava_events"] = seqs.join(" ").into();
        if let Some(process) = finding.process {
            line["process"] = json!({"pid": process.pid, "entity_id": context.process(process).to_string()});
        }
        if attack::is_technique(&finding.technique.id) {
            line["threat"] = threat(&finding.technique.id, &finding.technique.name);
        }
        line.to_string()
    }
}

fn common(context: &Context, time_ns: u64) -> Value {
    let manifest = &context.manifest;
    json!({
        "@timestamp": micros(context.clock.at(time_ns)),
        "ecs": {"version": VERSION},
        "observer": {
            "vendor": "LAVA", "product": "LAVA", "type": "sandbox",
            "version": manifest.lava, "hostname": manifest.host,
        },
        "host": {"id": manifest.session, "os": {"type": "linux", "kernel": manifest.image.kernel}},
        "labels": {"lava_session": manifest.session, "lava_task_sha256": manifest.task.sha256, "lava_task": manifest.task.name},
    })
}

fn threat(id: &str, name: &str) -> Value {
    let technique = match id.split_once('.') {
        None => json!({"id": [id], "name": [name], "reference": [attack::url(id)]}),
        Some((whole, _)) => json!({
            "id": [whole], "reference": [attack::url(whole)],
            "subtechnique": {"id": [id], "name": [name], "reference": [attack::url(id)]},
        }),
    };
    json!({"framework": "MITRE ATT&CK", "technique": technique})
}

fn acting(context: &Context, process: &Process, facts: &Facts<'_>) -> Value {
    let mut out = json!({
        "pid": process.pid, "entity_id": context.process(process.key()).to_string(), "name": program(process),
        "thread": {"id": process.tid, "name": text::name(&process.comm)}, "parent": {"pid": process.ppid},
    });
    if !process.exe.is_empty() {
        out["executable"] = text::name(&process.exe).into();
    }
    if let Some((argv, cwd)) = facts.exec {
        out["args"] = argv.iter().take(100).map(text::name).collect::<Vec<_>>().into();
        out["args_count"] = argv.len().into();
        out["command_line"] = text::command(argv).into();
        out["working_directory"] = text::name(cwd).into();
    }
    out
}

fn file(path: &str, facts: &Facts<'_>) -> Value {
    let mut out = json!({"path": path, "name": base(path)});
    if let Some(folder) = folder(path) {
        out["directory"] = folder.into();
    }
    if let Some(id) = facts.file {
        inode(&mut out, id);
    }
    if let Some(target) = facts.target {
        out["target_path"] = text::name(target).into();
    }
    if let Some(sha256) = facts.sha256 {
        out["hash"] = json!({"sha256": sha256});
    }
    out
}

fn inode(out: &mut Value, id: &FileId) {
    out["inode"] = id.inode.to_string().into();
    out["mode"] = format!("{:04o}", id.mode & 0o7777).into();
    out["uid"] = id.uid.to_string().into();
    out["gid"] = id.gid.to_string().into();
    out["size"] = i64::try_from(id.size).unwrap_or(i64::MAX).into();
    let kind = match id.file_type() {
        FileType::Regular => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        _ => return,
    };
    out["type"] = kind.into();
}

fn network(line: &mut Value, kind: &Kind, facts: &Facts<'_>) {
    let Some(transport) = facts.protocol else { return };
    let mut network = json!({"transport": protocol(transport)});
    if let Some(end) = facts.remote.or(facts.local) {
        network["type"] = if end.address.is_ipv4() { "ipv4" } else { "ipv6" }.into();
    }
    let end = |end: &NetEndpoint| json!({"ip": end.address, "port": end.port, "address": end.address});
    if let Some(local) = facts.local {
        line["source"] = end(local);
    }
    if let Some(remote) = facts.remote {
        line["destination"] = end(remote);
    }
    if let Some(name) = facts.socket.filter(|name| !name.is_empty()) {
        line["destination"] = json!({"address": text::name(name)});
    }
    if let Some((sent, received)) = facts.traffic {
        let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        network["bytes"] = bytes(sent.saturating_add(received)).into();
        for (name, count) in [("source", sent), ("destination", received)] {
            line[name]["bytes"] = bytes(count).into();
        }
    }
    if let Some(application) = facts.application {
        network["protocol"] = application.into();
    }
    if let Some(Url { scheme, host, port, path, query, full }) = &facts.url {
        line["url"] = json!({"full": full, "scheme": scheme, "domain": host, "port": port, "path": path});
        if let Some(query) = query {
            line["url"]["query"] = query.as_str().into();
        }
    }
    spoken(line, kind);
    line["network"] = network;
}

/// What the protocols have fields of their own for.
fn spoken(line: &mut Value, kind: &Kind) {
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    match kind {
        Kind::NetDns { question, addresses, qtype, .. } => {
            line["dns"] = json!({
                "question": {"name": text::name(question), "type": dns_type(*qtype)}, "type": "answer", "resolved_ip": addresses,
            });
        }
        Kind::NetHttp {
            method,
            user_agent,
            content_type,
            status,
            response_type,
            request_bytes,
            response_bytes,
            ..
        } => {
            line["http"] = json!({"request": {"method": text::name(method), "body": {"bytes": bytes(*request_bytes)}}});
            if let Some(content_type) = content_type {
                line["http"]["request"]["mime_type"] = text::name(content_type).into();
            }
            if *status != 0 {
                line["http"]["response"] = json!({
                    "status_code": status, "mime_type": text::plain(response_type), "body": {"bytes": bytes(*response_bytes)},
                });
            }
            if let Some(user_agent) = user_agent {
                line["user_agent"] = json!({"original": text::name(user_agent)});
            }
        }
        Kind::NetTls { server_name, alpn, version, ja3, ja4, outcome, .. } => {
            line["tls"] = json!({"established": outcome == "established", "client": {"ja3": ja3}});
            line["labels"]["lava_ja4"] = ja4.as_str().into();
            if let Some((protocol, number)) = version.split_once('v') {
                line["tls"]["version_protocol"] = protocol.to_lowercase().into();
                line["tls"]["version"] = number.into();
            }
            if let Some(name) = server_name {
                line["tls"]["client"]["server_name"] = text::name(name).into();
            }
            if !alpn.is_empty() {
                let offered: Vec<String> = alpn.iter().map(text::name).collect();
                line["labels"]["lava_alpn"] = offered.join(" ").into();
            }
        }
        Kind::NetMail { from, to, subject, .. } => {
            let to: Vec<String> = to.iter().map(text::name).collect();
            line["email"] =
                json!({"direction": "outbound", "from": {"address": [text::name(from)]}, "to": {"address": to}});
            if let Some(subject) = subject {
                line["email"]["subject"] = text::name(subject).into();
            }
        }
        _ => {}
    }
}

/// `event.category` and `event.type`.
fn category(kind: &Kind) -> (&'static str, &'static [&'static str]) {
    match kind {
        Kind::ProcessFork { .. } | Kind::ProcessExec { .. } => ("process", &["start"]),
        Kind::ProcessExit { .. } => ("process", &["end"]),
        Kind::ProcessPtrace { .. } => ("process", &["access"]),
        Kind::ProcessCredentials { .. }
        | Kind::ProcessNamespaces { .. }
        | Kind::ProcessChroot { .. }
        | Kind::ProcessName { .. }
        | Kind::MemoryRemoteWrite { .. } => ("process", &["change"]),
        Kind::ProcessMemfd { .. } | Kind::FileCreate { .. } => ("file", &["creation"]),
        Kind::FileOpen { .. } | Kind::FileRead { .. } => ("file", &["access"]),
        Kind::FileUnlink { .. } => ("file", &["deletion"]),
        Kind::FileContent { .. } => ("file", &["info"]),
        Kind::FileWrite { .. }
        | Kind::FileMapWrite { .. }
        | Kind::FileTruncate { .. }
        | Kind::FileXattr { .. }
        | Kind::FileAttributes { .. }
        | Kind::FileRename { .. } => ("file", &["change"]),
        Kind::NetConnect { .. } | Kind::NetAccept { .. } => ("network", &["connection", "start"]),
        Kind::NetTransfer { .. } | Kind::NetFlow { .. } | Kind::NetStream { .. } => {
            ("network", &["connection", "info"])
        }
        Kind::NetDns { .. } | Kind::NetHttp { .. } | Kind::NetTls { .. } | Kind::NetMail { .. } => {
            ("network", &["protocol", "info"])
        }
        Kind::NetSocket { .. }
        | Kind::NetBind { .. }
        | Kind::NetListen { .. }
        | Kind::NetFlowOwner { .. }
        | Kind::NetLease { .. } => ("network", &["info"]),
        Kind::KernelModuleLoad { .. } | Kind::KernelBpfLoad { .. } => ("driver", &["start"]),
        Kind::KernelModuleUnload { .. } => ("driver", &["end"]),
        Kind::FileMount { .. }
        | Kind::FileUnmount { .. }
        | Kind::KernelKexec { .. }
        | Kind::KernelImmutableWrite { .. }
        | Kind::KernelRegister { .. }
        | Kind::KernelFunctionHooked { .. }
        | Kind::DiskWrite { .. } => ("host", &["change"]),
        Kind::KernelHiddenTask { .. } | Kind::KernelHiddenModule { .. } | Kind::KernelDmaRefused { .. } => {
            ("host", &["info"])
        }
        Kind::ProcessExisting { .. }
        | Kind::ProcessSignal { .. }
        | Kind::MemoryMap { .. }
        | Kind::MemoryProtect { .. }
        | Kind::MemoryUnbackedExecution { .. }
        | Kind::MemoryStackPivot { .. }
        | Kind::MemoryReturnToData { .. }
        | Kind::ApiCall { .. } => ("process", &["info"]),
        Kind::VmStarted { .. }
        | Kind::VmIntrospection { .. }
        | Kind::VmCloned { .. }
        | Kind::VmContinued { .. }
        | Kind::VmTask { .. }
        | Kind::VmMember { .. }
        | Kind::VmScreen { .. }
        | Kind::VmTaskExit { .. }
        | Kind::VmReset { .. }
        | Kind::VmDecision { .. }
        | Kind::VmGap { .. }
        | Kind::VmEnded { .. }
        | Kind::VmResponse { .. } => ("host", &["info"]),
    }
}
