//! An event as an act: who does what kind of thing to what, in general terms.

use lava_event::{Event, GuestText, Kind, NetEndpoint, Protocol};
use serde::{Deserialize, Serialize};

use crate::Names;
use crate::general::without_numbers;

macro_rules! acts {
    ($($(#[$doc:meta])+ $Variant:ident = $name:literal,)*) => {
        /// What is done. The names are those of baseline files; they are coarser than the events'.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum Act {
            $($(#[$doc])+ #[serde(rename = $name)] $Variant,)*
        }

        impl Act {
            /// Its name in files.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$Variant => $name,)*
                }
            }
        }
    };
}

acts! {
    /// A program is started; the object is its command line.
    Exec = "process.exec",
    /// A signal is sent: its number, and to whom.
    Signal = "process.signal",
    /// A thread takes another name.
    Name = "process.name",
    /// Other namespaces are entered.
    Namespaces = "process.namespaces",
    /// A file in memory is made.
    MemoryFile = "process.memfd",
    /// A file is opened for reading, or read.
    Read = "file.read",
    /// A file is opened for writing, written, cut or mapped to be written.
    Write = "file.write",
    /// A name comes to be.
    Create = "file.create",
    /// A file gets another name.
    Rename = "file.rename",
    /// A name is removed.
    Unlink = "file.unlink",
    /// Mode or owner is set.
    Attributes = "file.attributes",
    /// A file is mapped to be executed: a library.
    Library = "memory.library",
    /// A file is mapped to be shared with other processes.
    Map = "memory.map",
    /// A socket is made.
    Socket = "net.socket",
    /// A connection is made. Addresses are general: a simulated Internet gives them out anew each time.
    Connect = "net.connect",
    /// A port or name is taken, or listened at.
    Bind = "net.bind",
}

/// Who did what to what, in general terms. Text is escaped, fit for display.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Done {
    /// The program.
    pub program: String,
    /// What it did.
    pub act: Act,
    /// To what.
    pub object: String,
}

/// Arguments of a command line that are looked at.
const MAX_ARGUMENTS: usize = 40;
/// What comes with the system and is read all the time. Which file in a folder below says nothing of the task.
const SYSTEM: [&str; 7] =
    ["/usr/lib/", "/lib/", "/lib64/", "/usr/share/", "/usr/local/lib/", "/etc/fonts/", "/sys/devices/pci0000:00/"];

impl Done {
    /// The act of an event's process. `None`: the event is no act that a baseline could hold; it is never in one. So is all that is about
    /// the kernel's own memory, rights, the disk below the files, other processes' memory, and code that no file backs: that is never usual.
    #[must_use]
    pub fn of(event: &Event, names: &Names) -> Option<Self> {
        let process = event.process.as_ref().filter(|process| !process.exe.is_empty())?;
        let (act, mut object) = object(&event.kind, names)?;
        if matches!(act, Act::Exec | Act::Create) {
            object = without_pids(&object, [process.pid, process.ppid]);
        }
        Some(Self { program: names.generalise(&process.exe), act, object })
    }
}

fn object(kind: &Kind, names: &Names) -> Option<(Act, String)> {
    let general = |text: &GuestText| names.generalise(text);
    Some(match kind {
        Kind::ProcessExec { argv, truncated: false, .. } if argv.len() <= MAX_ARGUMENTS => {
            let line: Vec<String> = argv.iter().map(ToString::to_string).collect();
            (Act::Exec, names.generalise_text(&line.join(" ")))
        }
        Kind::ProcessSignal { target, signal } => (Act::Signal, format!("{signal} {}", general(&target.comm))),
        Kind::ProcessName { new, .. } => {
            let mut name = String::new();
            without_numbers(&general(new), 1, &mut name); // Which thread it is.
            (Act::Name, name)
        }
        Kind::ProcessNamespaces { changed } => (Act::Namespaces, changed.join(" ")),
        Kind::ProcessMemfd { name, .. } => (Act::MemoryFile, general(name)),
        Kind::FileOpen { path, access, .. } if access.writes() => (Act::Write, general(path)),
        Kind::FileOpen { path, .. } | Kind::FileRead { path, .. } => (Act::Read, of_system(general(path))),
        Kind::FileWrite { path, .. } | Kind::FileMapWrite { path, .. } | Kind::FileTruncate { path, .. } => {
            (Act::Write, general(path))
        }
        Kind::FileCreate { path, target, .. } => {
            (Act::Create, target.as_ref().map_or_else(|| general(path), |to| pair(general(path), &general(to))))
        }
        Kind::FileRename { from, to, .. } => (Act::Rename, pair(general(from), &general(to))),
        Kind::FileUnlink { path, .. } => (Act::Unlink, general(path)),
        Kind::FileAttributes { path, mode, uid, gid, .. } => {
            let mode = mode.map(|mode| format!(" mode {:o}", mode & 0o7777));
            let owner = |what: &str, id: &Option<u32>| id.map(|id| format!(" {what} {id}"));
            let set = [mode, owner("uid", uid), owner("gid", gid)].into_iter().flatten().collect::<String>();
            (Act::Attributes, general(path) + &set)
        }
        Kind::MemoryMap { protection, path: Some(path), .. } if protection.executes() && !protection.writes() => {
            (Act::Library, of_system(general(path)))
        }
        Kind::MemoryMap { protection, path: Some(path), shared: true, .. }
            if !protection.executes() && !protection.writes() =>
        {
            (Act::Read, of_system(general(path)))
        }
        Kind::MemoryMap { protection, path: Some(path), shared: true, .. } if !protection.executes() => {
            (Act::Map, format!("{} {protection}", general(path)))
        }
        Kind::NetSocket { family, way, protocol } => (Act::Socket, format!("{family} {way} {}", word(*protocol))),
        Kind::NetConnect { protocol, destination, path } => {
            (Act::Connect, end(*protocol, destination.as_ref(), path.as_ref(), names))
        }
        Kind::NetBind { protocol, address, path } => {
            (Act::Bind, end(*protocol, address.as_ref(), path.as_ref(), names))
        }
        Kind::NetListen { protocol, address, path } => {
            (Act::Bind, end(*protocol, address.as_ref(), path.as_ref(), names))
        }
        _ => return None,
    })
}

fn pair(from: String, to: &str) -> String {
    from + " → " + to
}

/// What lies in a folder of the system's is told by the part of the system it is in; `/usr/lib/os-release`, in none, by itself.
fn of_system(path: String) -> String {
    let deep = |folder: &&&str| path.strip_prefix(**folder).is_some_and(|below| below.contains('/'));
    SYSTEM.iter().find(deep).map_or_else(|| path.clone(), |folder| format!("{folder}*"))
}

/// Programs are told, and put into locks, whose child they are.
fn without_pids(text: &str, pids: [u32; 2]) -> String {
    let is_pid = |number: &str| number.len() > 2 && number.parse().is_ok_and(|number: u32| pids.contains(&number));
    let mut out = String::with_capacity(text.len());
    for part in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let number = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        out.push_str(if is_pid(number) { "*" } else { number });
        out.push_str(&part[number.len()..]);
    }
    out
}

const fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
        Protocol::Unix => "unix",
        Protocol::Other => "other",
    }
}

/// An end of a connection. Of addresses stays whether they are the guest's own; of ports those below 1024.
fn end(protocol: Protocol, at: Option<&NetEndpoint>, path: Option<&GuestText>, names: &Names) -> String {
    let place = match (at, path) {
        (Some(at), _) => {
            let own = if at.address.is_loopback() || at.address.is_unspecified() { "own" } else { "*" };
            let port = if at.port < 1024 { at.port.to_string() } else { "high".to_owned() };
            format!("{own} {port}")
        }
        (None, path) => path.map(|path| names.generalise(path)).unwrap_or_default(),
    };
    format!("{} {place}", word(protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_and_its_parents_number_are_told_from_others() {
        for (text, expect) in [
            ("helper 480 9 /tmp/ -parentPid 480", "helper * 9 /tmp/ -parentPid *"),
            ("lock → 198.18.0.1:+481", "lock → 198.18.0.1:+*"),
            ("chmod 4755 a480", "chmod 4755 a480"),
            ("", ""),
        ] {
            assert_eq!(without_pids(text, [480, 481]), expect);
        }
        assert_eq!(without_pids("kill 1 99", [1, 99]), "kill 1 99");
    }

    #[test]
    fn parts_of_the_system_are_told_by_their_folder() {
        for (path, expect) in [
            ("/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/*"),
            ("/usr/lib/os-release", "/usr/lib/os-release"),
            ("/etc/fonts/conf.d/a", "/etc/fonts/*"),
            ("/etc/shadow", "/etc/shadow"),
            ("/sys/devices/virtual/dmi/id/product_name", "/sys/devices/virtual/dmi/id/product_name"),
        ] {
            assert_eq!(of_system(path.to_owned()), expect);
        }
    }
}
