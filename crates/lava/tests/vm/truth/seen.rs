//! What LAVA's events say, in the words both sides are compared in.

use std::collections::{BTreeMap, HashMap};

use lava_event::{Event, FileType, GuestText, Kind, NetEndpoint, ProcessKey};

use super::{Operations, bind_end, tell};

/// Whose a process is.
#[derive(Clone)]
enum Role {
    /// strace itself, of this workload.
    Tracer(String),
    /// A child of strace that has not executed the workload yet: strace's own code runs in it.
    Before(String),
    /// The workload.
    Traced(String),
}

/// What each workload did. The tracer's own events are left out by its process.
pub fn operations(events: &[Event]) -> BTreeMap<String, Operations> {
    let mut roles = HashMap::<ProcessKey, Role>::new();
    let mut all = BTreeMap::<String, Operations>::new();
    for event in events {
        let Some(actor) = event.actor() else { continue };
        match (&event.kind, roles.get(&actor).cloned()) {
            (Kind::ProcessExec { path, argv, .. }, None) if path.to_string().ends_with("/strace") => {
                if let Some(name) = argv.iter().find_map(workload) {
                    roles.insert(actor, Role::Tracer(name));
                }
            }
            (Kind::ProcessFork { child, thread: false, .. }, Some(role)) => {
                let child = ProcessKey { pid: child.pid, start_ns: child.start_ns };
                roles.insert(child, if let Role::Tracer(name) = role { Role::Before(name) } else { role });
            }
            (Kind::ProcessExec { .. }, Some(Role::Before(name))) => {
                add(all.entry(name.clone()).or_default(), &event.kind);
                roles.insert(actor, Role::Traced(name));
            }
            (kind, Some(Role::Traced(name))) => add(all.entry(name).or_default(), kind),
            _ => {}
        }
    }
    all
}

fn workload(argument: &GuestText) -> Option<String> {
    Some(text(argument).strip_prefix("/tmp/truth/")?.strip_suffix(".log")?.to_owned())
}

fn text(text: &GuestText) -> String {
    String::from_utf8_lossy(text.bytes()).into_owned()
}

fn end(address: Option<&NetEndpoint>, path: Option<&GuestText>) -> Option<String> {
    let address = address.map(|end| std::net::SocketAddr::new(end.address, end.port).to_string());
    address.or_else(|| path.map(|path| format!("unix {}", text(path))))
}

fn add(told: &mut Operations, kind: &Kind) {
    let operation = match kind {
        Kind::ProcessExec { path, .. } => format!("exec {}", text(path)),
        Kind::FileOpen { path, access, .. } if access.writes() => format!("write {}", text(path)),
        // A file without a name (O_TMPFILE): no name came to be.
        Kind::FileCreate { path, what: FileType::Regular, .. } if is_unnamed(&text(path)) => return,
        Kind::FileCreate { path, .. } => format!("create {}", text(path)),
        Kind::FileRename { from, to, .. } => format!("rename {} -> {}", text(from), text(to)),
        Kind::FileUnlink { path, .. } => format!("unlink {}", text(path)),
        Kind::NetConnect { destination, path, .. } => match end(destination.as_ref(), path.as_ref()) {
            Some(end) => format!("connect {end}"),
            None => return,
        },
        Kind::NetBind { address, path, .. } => match end(address.as_ref(), path.as_ref()) {
            Some(end) => format!("bind {}", bind_end(&end)),
            None => return,
        },
        // chown may take the setuid bit away: then owner and mode change at once, and nobody called chmod.
        Kind::FileAttributes { path, mode: Some(mode), uid: None, gid: None, .. } => {
            format!("chmod {:04o} {}", mode & 0o7777, text(path))
        }
        Kind::ProcessCredentials { old, new } => {
            let ids = |c: &lava_event::Credentials| [[c.uid, c.euid, c.suid], [c.gid, c.egid, c.sgid]];
            let (old, new) = (ids(old), ids(new));
            // Capabilities alone are not the setuid family's.
            if old == new {
                return;
            }
            format!("ids {old:?} -> {new:?}")
        }
        _ => return,
    };
    tell(told, operation);
}

fn is_unnamed(path: &str) -> bool {
    let digits = path.rsplit('/').next().and_then(|name| name.strip_prefix('#'));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}
