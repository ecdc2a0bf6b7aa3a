//! What an event says, in the parts that event formats have in common.

use lava_event::{FileId, GuestText, Kind, NetEndpoint, ProcessRef, Protocol, Sha256};

use crate::web::Url;

/// An event's parts; each is there where the kind has it.
#[derive(Default)]
pub(crate) struct Facts<'a> {
    /// The file it is about.
    pub(crate) path: Option<&'a GuestText>,
    /// Its inode.
    pub(crate) file: Option<&'a FileId>,
    /// Its content.
    pub(crate) sha256: Option<Sha256>,
    /// For links and renames: the other name.
    pub(crate) target: Option<&'a GuestText>,
    /// Another process that it is done to, or that came to be.
    pub(crate) other: Option<&'a ProcessRef>,
    /// Transport protocol.
    pub(crate) protocol: Option<Protocol>,
    /// Our end.
    pub(crate) local: Option<&'a NetEndpoint>,
    /// The other end.
    pub(crate) remote: Option<&'a NetEndpoint>,
    /// Name of a Unix socket.
    pub(crate) socket: Option<&'a GuestText>,
    /// Bytes sent and received.
    pub(crate) traffic: Option<(u64, u64)>,
    /// Name asked for: of the resolver, by HTTP or in TLS.
    pub(crate) question: Option<&'a GuestText>,
    /// What was asked for by HTTP.
    pub(crate) url: Option<Url>,
    /// What was spoken, where it is known.
    pub(crate) application: Option<&'a str>,
    /// Contents that went over the network: artifacts.
    pub(crate) carried: Vec<Sha256>,
    /// Kernel module.
    pub(crate) module: Option<&'a GuestText>,
    /// Arguments and working directory of a program that begins.
    pub(crate) exec: Option<(&'a [GuestText], &'a GuestText)>,
}

/// The parts of a kind.
pub(crate) fn of(kind: &Kind) -> Facts<'_> {
    let none = Facts::default();
    match kind {
        Kind::ProcessFork { child, .. } => Facts { other: Some(child), ..none },
        Kind::ProcessPtrace { target, .. }
        | Kind::ProcessSignal { target, .. }
        | Kind::MemoryRemoteWrite { target, .. }
        | Kind::KernelHiddenTask { task: target, .. } => Facts { other: Some(target), ..none },
        Kind::ProcessExec { path, file, argv, cwd, .. } => {
            Facts { path: Some(path), file: Some(file), exec: Some((argv, cwd)), ..none }
        }
        Kind::ProcessMemfd { name, file } => Facts { path: Some(name), file: Some(file), ..none },
        Kind::FileCreate { path, file, target, .. } => {
            Facts { path: Some(path), file: file.as_ref(), target: target.as_ref(), ..none }
        }
        Kind::FileContent { path, file, sha256, .. } => {
            Facts { path: Some(path), file: Some(file), sha256: Some(*sha256), ..none }
        }
        Kind::FileOpen { path, file, .. }
        | Kind::FileWrite { path, file, .. }
        | Kind::FileRead { path, file, .. }
        | Kind::FileMapWrite { path, file, .. }
        | Kind::FileTruncate { path, file, .. }
        | Kind::FileXattr { path, file, .. }
        | Kind::FileAttributes { path, file, .. }
        | Kind::FileUnlink { path, file } => Facts { path: Some(path), file: Some(file), ..none },
        Kind::FileRename { from, to, file } => Facts { path: Some(from), file: Some(file), target: Some(to), ..none },
        Kind::FileMount { device, path, .. } => Facts { path: Some(path), target: Some(device), ..none },
        Kind::FileUnmount { path } | Kind::ProcessChroot { path } => Facts { path: Some(path), ..none },
        Kind::MemoryMap { path, file, .. } => Facts { path: path.as_ref(), file: file.as_ref(), ..none },
        Kind::MemoryProtect { path, .. } => Facts { path: path.as_ref(), ..none },
        Kind::KernelModuleLoad { name, path, .. } => Facts { module: Some(name), path: path.as_ref(), ..none },
        Kind::KernelModuleUnload { name } | Kind::KernelHiddenModule { name, .. } => {
            Facts { module: Some(name), ..none }
        }
        _ => network(kind),
    }
}

fn network(kind: &Kind) -> Facts<'_> {
    let of = |protocol: &Protocol| Facts { protocol: Some(*protocol), ..Facts::default() };
    match kind {
        Kind::NetSocket { protocol, .. } => of(protocol),
        Kind::NetBind { protocol, address, path } | Kind::NetListen { protocol, address, path } => {
            Facts { local: address.as_ref(), socket: path.as_ref(), ..of(protocol) }
        }
        Kind::NetAccept { protocol, local, remote, path } => {
            Facts { local: local.as_ref(), remote: remote.as_ref(), socket: path.as_ref(), ..of(protocol) }
        }
        Kind::NetConnect { protocol, destination, path } => {
            Facts { remote: destination.as_ref(), socket: path.as_ref(), ..of(protocol) }
        }
        Kind::NetTransfer { protocol, local, remote, path, sent, received, .. } => Facts {
            local: local.as_ref(),
            remote: remote.as_ref(),
            socket: path.as_ref(),
            traffic: Some((*sent, *received)),
            ..of(protocol)
        },
        Kind::NetFlowOwner { protocol, origin, destination } | Kind::NetFlow { protocol, origin, destination, .. } => {
            Facts { local: Some(origin), remote: Some(destination), ..of(protocol) }
        }
        Kind::NetDns { protocol, origin, question, .. } => {
            Facts { local: Some(origin), question: Some(question), application: Some("dns"), ..of(protocol) }
        }
        Kind::NetStream {
            protocol,
            origin,
            destination,
            application,
            sent,
            received,
            sent_sha256,
            received_sha256,
            ..
        } => Facts {
            local: Some(origin),
            remote: Some(destination),
            traffic: Some((*sent, *received)),
            application: Some(application.as_str()).filter(|known| *known != "unknown"),
            carried: [*sent_sha256, *received_sha256].into_iter().flatten().collect(),
            ..of(protocol)
        },
        _ => spoken(kind),
    }
}

/// What was said over TCP in protocols that LAVA understands.
fn spoken(kind: &Kind) -> Facts<'_> {
    let of = |origin, destination, application| Facts {
        protocol: Some(Protocol::Tcp),
        local: Some(origin),
        remote: Some(destination),
        application: Some(application),
        ..Facts::default()
    };
    match kind {
        Kind::NetHttp { origin, destination, host, request_sha256, response_sha256, .. } => Facts {
            question: Some(host),
            url: Url::of(kind),
            carried: [*request_sha256, *response_sha256].into_iter().flatten().collect(),
            ..of(origin, destination, "http")
        },
        Kind::NetTls { origin, destination, server_name, .. } => {
            Facts { question: server_name.as_ref(), ..of(origin, destination, "tls") }
        }
        Kind::NetMail { origin, destination, sha256, .. } => {
            Facts { carried: sha256.iter().copied().collect(), ..of(origin, destination, "smtp") }
        }
        _ => Facts::default(),
    }
}
