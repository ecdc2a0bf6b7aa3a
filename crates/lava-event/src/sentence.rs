//! What an event says, in a line for people. Everything from the guest is escaped by its type; lengths are not bounded:
//! whoever shows a line cuts it.

use std::fmt::{Display, Formatter, Result};

use crate::{GuestText, Kind, NetEndpoint, ProcessRef, Range};

impl Display for NetEndpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        std::net::SocketAddr::new(self.address, self.port).fmt(f)
    }
}

impl Display for ProcessRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}[{}]", self.comm, self.pid)
    }
}

/// A length in the unit that suits it.
struct Size(u64);

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        let mut value = self.0 as f64;
        let mut unit = "bytes";
        for next in UNITS {
            if value < 1024.0 {
                break;
            }
            (value, unit) = (value / 1024.0, next);
        }
        if unit == "bytes" { write!(f, "{} bytes", self.0) } else { write!(f, "{value:.1} {unit}") }
    }
}

fn times(count: u64) -> String {
    if count == 1 { String::new() } else { format!(" ({count}×)") }
}

/// An end of a connection: address, else name, else nothing known.
fn end(address: Option<&NetEndpoint>, path: Option<&GuestText>) -> String {
    match (address, path) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) if !path.is_empty() => path.to_string(),
        _ => "(unnamed)".to_owned(),
    }
}

fn region(region: &Range) -> String {
    format!("{:#x}-{:#x}", region.start, region.end)
}

impl Kind {
    /// What was seen, in a line.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::ProcessFork { child, thread, .. } => {
                format!("{} {child}", if *thread { "new thread" } else { "forks" })
            }
            Self::ProcessExisting {} => "is there already".to_owned(),
            Self::ProcessExec { path, argv, .. } => {
                format!("runs {path}: {}", argv.iter().take(40).map(ToString::to_string).collect::<Vec<_>>().join(" "))
            }
            Self::ProcessExit { signal: Some(signal), .. } => format!("ended by signal {signal}"),
            Self::ProcessExit { code, .. } => format!("exits with {}", code.unwrap_or_default()),
            Self::ProcessCredentials { old, new } => {
                format!("uid {} → {}, effective {} → {}", old.uid, new.uid, old.euid, new.euid)
            }
            Self::ProcessPtrace { target, request } => format!("traces {target} ({request})"),
            Self::ProcessSignal { target, signal } => format!("sends signal {signal} to {target}"),
            Self::ProcessNamespaces { changed } => format!("enters other namespaces: {}", changed.join(", ")),
            Self::ProcessChroot { path } => format!("changes its root to {path}"),
            Self::ProcessName { old, new } => format!("renames itself from {old} to {new}"),
            Self::ProcessMemfd { name, .. } => format!("makes the memory file {name}"),
            Self::FileOpen { path, access, .. } => format!("opens {path} ({access:?})"),
            Self::FileCreate { path, target, .. } => {
                format!("creates {path}{}", target.as_ref().map_or(String::new(), |to| format!(" → {to}")))
            }
            Self::FileWrite { path, bytes, count, .. } => format!("writes {} to {path}{}", Size(*bytes), times(*count)),
            Self::FileRead { path, bytes, count, .. } => format!("reads {} of {path}{}", Size(*bytes), times(*count)),
            Self::FileMapWrite { path, ranges, .. } => {
                format!("writes {} of {path} through memory", Size(ranges.iter().map(Range::len).sum()))
            }
            Self::FileContent { path, sha256, kept, complete, .. } => {
                format!(
                    "content of {path}: {}{}, sha256 {sha256}",
                    Size(*kept),
                    if *complete { "" } else { " (in part)" }
                )
            }
            Self::FileTruncate { path, file, size } => {
                format!("cuts {path} from {} to {}", Size(file.size), Size(*size))
            }
            Self::FileXattr { path, name, removed, .. } => {
                format!("{} attribute {name} of {path}", if *removed { "removes" } else { "sets" })
            }
            Self::FileMount { device, path, fs_type, .. } => format!("mounts {device} on {path} ({fs_type})"),
            Self::FileUnmount { path } => format!("unmounts {path}"),
            Self::FileAttributes { path, file, mode, uid, gid } => {
                let mut out = format!("attributes of {path}:");
                if let Some(mode) = mode {
                    out += &format!(" mode {:o} → {:o}", file.mode & 0o7777, mode & 0o7777);
                }
                if let Some(uid) = uid {
                    out += &format!(" owner {} → {uid}", file.uid);
                }
                if let Some(gid) = gid {
                    out += &format!(" group {} → {gid}", file.gid);
                }
                out
            }
            Self::FileRename { from, to, .. } => format!("renames {from} to {to}"),
            Self::FileUnlink { path, .. } => format!("deletes {path}"),
            Self::MemoryMap { address, length, protection, shared, path, .. } => format!(
                "maps {} {protection}{} at {address:#x}: {}",
                Size(*length),
                if *shared { " shared" } else { "" },
                path.as_ref().map_or("anonymous memory".to_owned(), ToString::to_string),
            ),
            Self::MemoryProtect { address, length, old, new, path } => format!(
                "makes {} at {address:#x} {old} → {new}: {}",
                Size(*length),
                path.as_ref().map_or("anonymous memory".to_owned(), ToString::to_string),
            ),
            Self::MemoryUnbackedExecution { address, region: within, protection, backing, .. } => format!(
                "executes {address:#x} in {} {protection}, {}",
                region(within),
                backing.as_ref().map_or("which no file backs".to_owned(), |file| format!("backed by {file}")),
            ),
            Self::MemoryRemoteWrite { target, address, bytes, way } => {
                format!("writes {} into {target} at {address:#x} ({way})", Size(*bytes))
            }
            Self::MemoryStackPivot { rsp, region, call, .. } => {
                format!("calls {call} with its stack pointer {rsp:#x} in {region}")
            }
            Self::MemoryReturnToData { address, region, call } => {
                format!("calls {call} and returns to {address:#x} in {region}")
            }
            Self::NetSocket { family, way, protocol } => format!("makes a socket: {family} {way} ({protocol:?})"),
            Self::NetBind { protocol, address, path } => {
                format!("binds to {} ({protocol:?})", end(address.as_ref(), path.as_ref()))
            }
            Self::NetListen { protocol, address, path } => {
                format!("listens on {} ({protocol:?})", end(address.as_ref(), path.as_ref()))
            }
            Self::NetAccept { protocol, local, remote, path } => format!(
                "accepts {} on {} ({protocol:?})",
                end(remote.as_ref(), None),
                end(local.as_ref(), path.as_ref())
            ),
            Self::NetConnect { protocol, destination, path } => {
                format!("connects to {} ({protocol:?})", end(destination.as_ref(), path.as_ref()))
            }
            Self::NetTransfer { protocol, remote, path, sent, received, .. } => format!(
                "sends {} and receives {}, {} ({protocol:?})",
                Size(*sent),
                Size(*received),
                end(remote.as_ref(), path.as_ref())
            ),
            Self::NetFlowOwner { protocol, origin, destination } => {
                format!("sends from {origin} to {destination} ({protocol:?})")
            }
            Self::NetFlow { destination, answer, frame, .. } => {
                format!("flow to {destination} {answer}, frame {frame}")
            }
            Self::NetDns { question, qtype, addresses, .. } => match addresses.first() {
                Some(address) => format!("asks for {question}: {address}"),
                None => format!("asks for {question} (record type {qtype}): no address"),
            },
            Self::NetStream { protocol, destination, application, sent, received, ended, .. } => format!(
                "{application} with {destination} ({protocol:?}): sent {}, received {}, ended by {ended}",
                Size(*sent),
                Size(*received)
            ),
            Self::NetHttp { tls, method, host, path, status, request_bytes, response_bytes, .. } => format!(
                "{method} http{}://{host}{path}: status {status}, sent {}, received {}",
                if *tls { "s" } else { "" },
                Size(*request_bytes),
                Size(*response_bytes)
            ),
            Self::NetTls { destination, server_name, version, outcome, .. } => format!(
                "TLS with {} ({destination}): {outcome} {version}",
                server_name.as_ref().map_or("a host without name".to_owned(), ToString::to_string)
            ),
            Self::NetMail { from, to, receivers, bytes, .. } => format!(
                "mails {} from {from} to {}{}",
                Size(*bytes),
                to.first().map_or("nobody".to_owned(), ToString::to_string),
                if *receivers > 1 { format!(" and {} more", receivers - 1) } else { String::new() }
            ),
            Self::NetLease { address, .. } => format!("got address {address}"),
            Self::KernelModuleLoad { name, path, .. } => {
                format!(
                    "loads kernel module {name}{}",
                    path.as_ref().map_or(String::new(), |path| format!(" from {path}"))
                )
            }
            Self::KernelModuleUnload { name } => format!("unloads kernel module {name}"),
            Self::KernelBpfLoad { name, program, instructions } => {
                format!("loads BPF program {name} ({program}, {instructions} instructions)")
            }
            Self::KernelKexec { way } => format!("loads another kernel ({way})"),
            Self::KernelImmutableWrite { address, symbol, area, before, after, by, .. } => {
                format!("{by:?} writes immutable memory ({area:?}) at {address:#x} {symbol}: {before} → {after}")
            }
            Self::KernelRegister { register, old, new, meaning } => {
                format!("changes {register} from {old:#x} to {new:#x}: {meaning}")
            }
            Self::KernelHiddenTask { task, missing } => format!("{task} runs, but is missing in the {missing}"),
            Self::KernelHiddenModule { name, address, size } => {
                format!("module {name} at {address:#x} ({}) is in no list", Size(*size))
            }
            Self::KernelDmaRefused { disk, offset, bytes } => {
                format!("{disk} was to write {} from {offset:#x} into memory that never changes: refused", Size(*bytes))
            }
            Self::KernelFunctionHooked { function, target, target_symbol, .. } => {
                format!("{function} is redirected to {target:#x} {target_symbol}")
            }
            Self::ApiCall { name, arguments, result, .. } => {
                let arguments: Vec<String> = arguments
                    .iter()
                    .map(|argument| match &argument.text {
                        Some(text) => format!("{}={text}", argument.name),
                        None => format!("{}={:#x}", argument.name, argument.value),
                    })
                    .collect();
                format!("{name}({}) = {result}", arguments.join(", "))
            }
            Self::DiskWrite { disk, region, bytes, .. } => format!("{} into {region:?} of {disk}", Size(*bytes)),
            Self::VmStarted { qemu, kernel } => format!("micro-VM runs: QEMU {qemu}, kernel {kernel}"),
            Self::VmIntrospection { hooks, missing, .. } => {
                format!("watching from outside: {} hooks, {} missing", hooks.len(), missing.len())
            }
            Self::VmCloned { template, restored_ns } => {
                format!("micro-VM cloned from {template} in {} ms", restored_ns / 1_000_000)
            }
            Self::VmContinued { session, snapshot, restored_ns } => {
                let restored_ms = restored_ns / 1_000_000;
                format!("micro-VM goes on from snapshot {snapshot} of session {session}, restored in {restored_ms} ms")
            }
            Self::VmTask { command, .. } => format!("task handed over: {}", command.join(" ")),
            Self::VmMember { path, skipped: Some(why), .. } => format!("{path} was in the archive, not opened: {why}"),
            Self::VmMember { path, profile, .. } => {
                format!("{path} was in the archive, opened as {}", profile.as_deref().unwrap_or_default())
            }
            Self::VmTaskExit { error: Some(error), .. } => format!("task could not be started: {error}"),
            Self::VmTaskExit { signal: Some(signal), .. } => format!("task ended by signal {signal}"),
            Self::VmTaskExit { code, .. } => format!("task ended with {}", code.unwrap_or_default()),
            Self::VmScreen { picture } => format!("the screen shows artifact {picture}"),
            Self::VmReset { by } => format!("guest restarted by {by}"),
            Self::VmDecision { subject, action, rule, outcome, .. } => {
                format!("#{subject}: {action} ({}): {outcome}", rule.as_deref().unwrap_or("default"))
            }
            Self::VmResponse { command, outcome, by } => format!("{command} by {by}: {outcome}"),
            Self::VmGap { detail, .. } => format!("events missing: {detail}"),
            Self::VmEnded { reason, detail, .. } => {
                format!("micro-VM ended: {reason}. {}", detail.as_deref().unwrap_or_default())
            }
        }
    }
}
