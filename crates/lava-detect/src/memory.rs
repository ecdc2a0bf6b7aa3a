//! What the detector remembers of the session: the files that the task's processes made or changed.
//!
//! A file is known by device and inode, and by its path where a script's path is all there is. Bounded: past
//! [`MAX_FILES`] files no new ones are taken in, and the detector says so.

use std::collections::{BTreeMap, BTreeSet};

use lava_event::{Access, Event, EventSeq, FileId, FileType, GuestText, Kind, ProcessKey};

use crate::{Taint, path};

/// Files remembered.
const MAX_FILES: usize = 1 << 18;
/// Events remembered of each.
const EVENTS: usize = 8;

/// A file that a tainted process made or changed.
#[derive(Clone, Debug)]
pub(crate) struct Dropped {
    /// Its latest path.
    pub(crate) path: Vec<u8>,
    /// Its create, write and attribute events, ascending.
    pub(crate) events: Vec<EventSeq>,
    /// Whose work it is.
    pub(crate) origin: Origin,
}

/// Who wrote a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Anybody.
    Any,
    /// Nobody but compilers and linkers of the system's, and what copies their work.
    Compiled,
    /// Nobody but the package manager.
    Packaged,
}

/// What makes programs out of their source, by name.
const COMPILERS: &[&[u8]] = &[
    b"as",
    b"cc1",
    b"cc1plus",
    b"clang",
    b"collect2",
    b"fpc",
    b"g++",
    b"gcc",
    b"ghc",
    b"go",
    b"gold",
    b"javac",
    b"ld",
    b"ld.bfd",
    b"ld.gold",
    b"ld.lld",
    b"link",
    b"lld",
    b"lto1",
    b"mold",
    b"ocamlopt",
    b"rustc",
    b"strip",
    b"tcc",
    b"zig",
];

/// What copies and trims programs when they are installed, by path.
const COPIERS: &[&[u8]] = &[b"/usr/bin/install", b"/usr/bin/cp", b"/usr/bin/objcopy"];
/// Package managers of the distribution, by path.
const PACKAGERS: &[&[u8]] = &[b"/usr/bin/dpkg", b"/usr/bin/rpm", b"/usr/bin/pacman", b"/sbin/apk", b"/usr/sbin/apk"];

/// Where dpkg has its helpers (dpkg-deb, tar) unpack a package's scripts, which it moves to its database then (lib/dpkg/path.h: CONTROLDIRTMP).
const CONTROL: &[u8] = b"/var/lib/dpkg/tmp.ci/";

/// True for a compiler that came with the system: of the task's own nobody knows what it does.
fn is_compiler(exe: &[u8]) -> bool {
    // A cross compiler's name begins with its target, `x86_64-linux-gnu-gcc-12`'s ends with its version.
    let name = path::base_name(exe);
    let end = name.iter().rposition(|b| !b.is_ascii_digit() && *b != b'.' && *b != b'-').map_or(0, |last| last + 1);
    let names = [name, name.get(..end).unwrap_or(name)];
    let known = |compiler: &&[u8]| {
        let target = names.iter().find_map(|name| name.strip_suffix(*compiler));
        target.is_some_and(|target| target.is_empty() || target.ends_with(b"-"))
    };
    exe.starts_with(b"/usr/") && !exe.starts_with(b"/usr/local/") && COMPILERS.iter().any(known)
}

/// The files, by identity and by path.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// By a number that is given once, so that an old name of a forgotten file leads nowhere.
    files: BTreeMap<u64, Dropped>,
    next: u64,
    by_inode: BTreeMap<((u32, u32), u64), u64>,
    by_path: BTreeMap<Vec<u8>, u64>,
    /// When each tainted process opened the task's content first, and running which program.
    opened: BTreeMap<ProcessKey, (EventSeq, Vec<u8>)>,
    /// The package manager's processes, and what they run.
    packaging: BTreeSet<ProcessKey>,
    /// Processes that opened compiled files to copy them, and no other dropped ones.
    copying: BTreeMap<ProcessKey, bool>,
    /// Where an archive is being unpacked to.
    unpacking: Option<Vec<u8>>,
    saturated: bool,
}

fn inode(file: &FileId) -> ((u32, u32), u64) {
    (file.device, file.inode)
}

impl Memory {
    pub(crate) const fn is_saturated(&self) -> bool {
        self.saturated
    }

    /// The dropped file of that identity.
    pub(crate) fn by_inode(&self, file: &FileId) -> Option<&Dropped> {
        self.by_inode.get(&inode(file)).and_then(|id| self.files.get(id))
    }

    /// The dropped file of that resolved path.
    pub(crate) fn by_path(&self, path: &[u8]) -> Option<&Dropped> {
        self.by_path.get(path).and_then(|id| self.files.get(id))
    }

    /// The event with which a process opened the task's content, and the program it was running.
    pub(crate) fn opened_content(&self, process: ProcessKey) -> Option<&(EventSeq, Vec<u8>)> {
        self.opened.get(&process)
    }

    /// True for the distribution's package manager, as it was before the task, and what it runs.
    pub(crate) fn is_packaging(&self, process: ProcessKey) -> bool {
        self.packaging.contains(&process)
    }

    /// Follows who installs packages and who copies compiled files.
    fn follow(&mut self, event: &Event) {
        let (Some(actor), Some(process)) = (event.actor(), &event.process) else { return };
        let full = self.packaging.len().max(self.copying.len()) >= MAX_FILES;
        match &event.kind {
            Kind::ProcessExec { file, .. } if !full => {
                self.copying.remove(&actor);
                if PACKAGERS.contains(&process.exe.bytes()) && self.by_inode(file).is_none() {
                    self.packaging.insert(actor);
                }
            }
            Kind::ProcessFork { child, .. } if !full && self.packaging.contains(&actor) => {
                self.packaging.insert(ProcessKey { pid: child.pid, start_ns: child.start_ns });
            }
            Kind::FileOpen { path, file, access: Access::Read, .. }
                if !full && COPIERS.contains(&process.exe.bytes()) =>
            {
                let Some(origin) = self.by_inode(file).or_else(|| self.by_path(path.bytes())).map(|d| d.origin) else {
                    return;
                };
                *self.copying.entry(actor).or_insert(true) &= origin == Origin::Compiled;
            }
            Kind::ProcessExit { .. } => {
                self.packaging.remove(&actor);
                self.copying.remove(&actor);
            }
            _ => {}
        }
    }

    /// Whose work a write is.
    fn origin(&self, event: &Event, path: &GuestText) -> Origin {
        let (Some(actor), Some(process)) = (event.actor(), &event.process) else { return Origin::Any };
        let packager = || PACKAGERS.contains(&process.exe.bytes()) || path.bytes().starts_with(CONTROL);
        if self.packaging.contains(&actor) && packager() {
            Origin::Packaged
        } else if is_compiler(process.exe.bytes()) || self.copying.get(&actor) == Some(&true) {
            Origin::Compiled
        } else {
            Origin::Any
        }
    }

    /// Takes an event in; `actor` is who did it, if tainted. Called after the behaviours have seen it.
    pub(crate) fn remember(&mut self, event: &Event, actor: Option<ProcessKey>, taint: &dyn Taint) {
        self.follow(event);
        match (&event.kind, actor) {
            (Kind::FileOpen { path, .. }, Some(actor)) if taint.is_task_file(path) && self.opened.len() < MAX_FILES => {
                let exe = event.process.as_ref().map(|process| process.exe.bytes().to_vec()).unwrap_or_default();
                self.opened.entry(actor).or_insert((event.seq, exe));
            }
            (Kind::FileCreate { path, file, what: FileType::Regular, target }, Some(_)) => {
                let other_name = target.as_ref().and_then(|t| self.by_path.get(t.bytes()).copied());
                match (other_name, file) {
                    (Some(known), _) => {
                        self.by_path.insert(path.bytes().to_vec(), known);
                    }
                    (None, file) => {
                        self.forget(path, file.as_ref());
                        self.touch(event, path, file.as_ref());
                    }
                }
            }
            // A clean process made a file: if its inode was that of a dropped one, that one is gone.
            (Kind::FileCreate { path, file, target: None, .. }, None) => self.forget(path, file.as_ref()),
            (Kind::FileWrite { path, file, .. }, Some(_)) if file.file_type() == FileType::Regular => {
                self.touch(event, path, Some(file));
            }
            (Kind::FileAttributes { path, file, .. }, Some(_)) => {
                let known = self.find(path, Some(file));
                if let Some(dropped) = known.and_then(|id| self.files.get_mut(&id)) {
                    note(&mut dropped.events, event.seq);
                }
            }
            (Kind::FileRename { from, to, file }, _) => {
                if let Some(known) = self.find(from, Some(file)) {
                    self.by_path.remove(from.bytes());
                    self.by_path.insert(to.bytes().to_vec(), known);
                    if let Some(dropped) = self.files.get_mut(&known) {
                        dropped.path = to.bytes().to_vec();
                        if actor.is_some() {
                            note(&mut dropped.events, event.seq);
                        }
                    }
                } else {
                    self.by_path.remove(to.bytes());
                }
            }
            // The inode stays: what is running, open or linked can still be executed.
            (Kind::FileUnlink { path, .. }, _) => {
                self.by_path.remove(path.bytes());
            }
            (Kind::VmTask { unpacks, .. } | Kind::VmMember { unpacks, .. }, _) => {
                self.unpacking = unpacks.as_ref().map(|directory| format!("{directory}/").into_bytes());
            }
            (Kind::VmTaskExit { .. }, _) => self.unpacked(),
            // Anonymous devices (tmpfs) are empty after a restart, and their inode numbers begin anew.
            (Kind::VmReset { .. }, _) => self.by_inode.retain(|(device, _), _| device.0 != 0),
            _ => {}
        }
    }

    /// What came out of the archive is the task's own content: nobody dropped it.
    fn unpacked(&mut self) {
        let Some(directory) = self.unpacking.take() else { return };
        self.files.retain(|_, file| !file.path.starts_with(&directory));
    }

    fn find(&self, path: &GuestText, file: Option<&FileId>) -> Option<u64> {
        let by_inode = file.and_then(|file| self.by_inode.get(&inode(file)));
        by_inode.or_else(|| self.by_path.get(path.bytes())).copied()
    }

    fn forget(&mut self, path: &GuestText, file: Option<&FileId>) {
        let by_inode = file.and_then(|file| self.by_inode.remove(&inode(file)));
        self.by_path.remove(path.bytes());
        if let Some(id) = by_inode {
            self.files.remove(&id);
        }
    }

    fn touch(&mut self, event: &Event, path: &GuestText, file: Option<&FileId>) {
        let origin = self.origin(event, path);
        let id = match self.find(path, file).filter(|id| self.files.contains_key(id)) {
            Some(id) => id,
            None if self.files.len() >= MAX_FILES => {
                self.saturated = true;
                return;
            }
            None => {
                self.next += 1;
                self.files.insert(self.next, Dropped { path: path.bytes().to_vec(), events: Vec::new(), origin });
                self.next
            }
        };
        if let Some(file) = file {
            self.by_inode.insert(inode(file), id);
        }
        if self.by_path.len() < 2 * MAX_FILES {
            self.by_path.insert(path.bytes().to_vec(), id);
        }
        if let Some(dropped) = self.files.get_mut(&id) {
            note(&mut dropped.events, event.seq);
            if dropped.origin != origin {
                dropped.origin = Origin::Any;
            }
        }
    }
}

/// Keeps the first events and the latest.
fn note(events: &mut Vec<EventSeq>, seq: EventSeq) {
    if events.len() >= EVENTS {
        events.pop();
    }
    if let Err(at) = events.binary_search(&seq) {
        events.insert(at, seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_of_the_system() {
        for exe in [
            "/usr/bin/tcc",
            "/usr/bin/x86_64-linux-gnu-gcc-12",
            "/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
            "/usr/bin/ld.bfd",
        ] {
            assert!(is_compiler(exe.as_bytes()), "{exe}");
        }
        for exe in ["/tmp/gcc", "/usr/bin/cp", "/usr/local/bin/ld", "/usr/bin/evil-as-a", "/home/user/as", ""] {
            assert!(!is_compiler(exe.as_bytes()), "{exe}");
        }
    }
}
