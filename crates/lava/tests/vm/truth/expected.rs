//! What strace's calls did, in the words both sides are compared in.
//!
//! strace tells what was asked; three things have to be worked out: relative paths (from the working directory, which is
//! followed through chdir and fork), whether an open made its file (from the names that existed before, and what became of
//! them), and whether credentials changed (from those the workload began with).
//!
//! Limits: links in the middle of a path are not followed (but those in Debian's root are); threads that change their working directory or credentials on their own, and programs with the setuid bit, are not
//! followed; no workload has any.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::strace::{Call, descriptor, quoted};
use super::{Operations, bind_end, tell};

/// Real, effective and saved user ids; then group ids.
pub type Ids = [[u32; 3]; 2];

#[derive(Clone)]
struct State {
    cwd: String,
    ids: Ids,
}

struct Replay {
    states: HashMap<u32, State>,
    parents: HashMap<u32, u32>,
    first: State,
    names: HashSet<String>,
    told: Operations,
}

/// What the calls did, given the names that existed before, and the first process's working directory and credentials.
pub fn operations(calls: &[Call], before: &str, cwd: &str, ids: Ids) -> Operations {
    let fork = |call: &Call| matches!(call.name.as_str(), "fork" | "vfork" | "clone" | "clone3");
    let parents = calls.iter().filter(|call| fork(call) && call.succeeded());
    let parents = parents.map(|call| (call.result.parse().expect("a pid"), call.pid)).collect();
    let mut replay = Replay {
        states: HashMap::new(),
        parents,
        first: State { cwd: cwd.to_owned(), ids },
        names: before.lines().map(str::to_owned).collect(),
        told: BTreeMap::new(),
    };
    for call in calls {
        replay.apply(call);
        if fork(call) && call.succeeded() {
            // The child that has not been seen yet begins with what its parent has now.
            replay.state(call.result.parse().expect("a pid"));
        }
    }
    replay.told
}

impl Replay {
    /// A process that is seen first begins with its parent's state: the parent has not come back from its fork yet.
    fn state(&mut self, pid: u32) -> &mut State {
        if !self.states.contains_key(&pid) {
            let parent = self.parents.get(&pid).and_then(|parent| self.states.get(parent));
            let state = parent.unwrap_or(&self.first).clone();
            self.states.insert(pid, state);
        }
        self.states.get_mut(&pid).expect("just made")
    }

    /// The path in argument `path`, relative to the directory in argument `directory` or to the working directory.
    fn path(&mut self, call: &Call, directory: Option<usize>, path: usize) -> String {
        let base = directory.and_then(|index| descriptor(call.argument(index)));
        let base = base.unwrap_or_else(|| self.state(call.pid).cwd.clone());
        resolve(&base, &call.text(path))
    }

    fn made(&mut self, path: String) {
        tell(&mut self.told, format!("create {path}"));
        self.names.insert(path);
    }

    fn removed(&mut self, path: String) {
        self.names.remove(&path);
        tell(&mut self.told, format!("unlink {path}"));
    }

    fn apply(&mut self, call: &Call) {
        if call.name == "connect" {
            // A connection that fails was asked for all the same; these errors come before anybody is asked.
            if !matches!(call.error(), Some("EBADF" | "EFAULT" | "ENOTSOCK"))
                && let Some(end) = address(call.argument(1))
            {
                tell(&mut self.told, format!("connect {end}"));
            }
            return;
        }
        if !call.succeeded() {
            return;
        }
        match call.name.as_str() {
            "execve" => tell(&mut self.told, format!("exec {}", call.text(0))),
            "chdir" => {
                let path = self.path(call, None, 0);
                self.state(call.pid).cwd = path;
            }
            "fchdir" => self.state(call.pid).cwd = descriptor(call.argument(0)).expect("-y tells the directory"),
            "open" | "openat" | "openat2" | "creat" => self.open(call),
            "mkdir" => {
                let path = self.path(call, None, 0);
                self.made(path);
            }
            "mkdirat" => {
                let path = self.path(call, Some(0), 1);
                self.made(path);
            }
            "mknod" => {
                let path = self.path(call, None, 0);
                self.made(path);
            }
            "mknodat" => {
                let path = self.path(call, Some(0), 1);
                self.made(path);
            }
            "symlink" | "link" => {
                let path = self.path(call, None, 1);
                self.made(path);
            }
            "symlinkat" => {
                let path = self.path(call, Some(1), 2);
                self.made(path);
            }
            "linkat" => {
                let path = self.path(call, Some(2), 3);
                self.made(path);
            }
            "unlink" | "rmdir" => {
                let path = self.path(call, None, 0);
                self.removed(path);
            }
            "unlinkat" => {
                let path = self.path(call, Some(0), 1);
                self.removed(path);
            }
            "rename" => self.rename(call, [None, None], [0, 1]),
            "renameat" | "renameat2" => self.rename(call, [Some(0), Some(2)], [1, 3]),
            "chmod" => self.chmod(call, None, 0),
            "fchmodat" => self.chmod(call, Some(0), 1),
            "fchmod" => {
                let path = descriptor(call.argument(0)).expect("-y tells the file");
                tell(&mut self.told, format!("chmod {:04o} {path}", octal(call.argument(1))));
            }
            "bind" => {
                if let Some(end) = address(call.argument(1)) {
                    tell(&mut self.told, format!("bind {}", bind_end(&end)));
                    if let Some(path) = end.strip_prefix("unix ").filter(|path| !path.starts_with('@')) {
                        // A Unix socket's name is made like any other.
                        let path = resolve(&self.state(call.pid).cwd.clone(), path);
                        self.made(path);
                    }
                }
            }
            "clone" | "clone3" | "fork" | "vfork" => {}
            "chroot" => panic!("no workload changes its root: {call:?}"),
            name if name.starts_with("set") => self.set_ids(call),
            name => panic!("what does {name} do?"),
        }
    }

    fn open(&mut self, call: &Call) {
        let flags = match call.name.as_str() {
            "creat" => "O_WRONLY|O_CREAT|O_TRUNC",
            "open" => call.argument(1),
            _ => call.argument(2),
        };
        let has = |flag: &str| flags.split(['|', ',', '=', '{', '}', ' ']).any(|word| word == flag);
        let path = descriptor(&call.result).expect("-y tells the file");
        // A path without rights to read or write is no open file; a file without a name (O_TMPFILE) is open, but no name
        // came to be.
        if has("O_PATH") {
            return;
        }
        if has("O_CREAT") && !self.names.contains(&path) {
            self.made(path.clone());
        }
        if has("O_WRONLY") || has("O_RDWR") {
            tell(&mut self.told, format!("write {path}"));
        }
    }

    fn rename(&mut self, call: &Call, directories: [Option<usize>; 2], paths: [usize; 2]) {
        let from = self.path(call, directories[0], paths[0]);
        let to = self.path(call, directories[1], paths[1]);
        let below = format!("{from}/");
        let moved: Vec<_> =
            self.names.iter().filter(|name| **name == from || name.starts_with(&below)).cloned().collect();
        for name in moved {
            self.names.insert(format!("{to}{}", &name[from.len()..]));
            self.names.remove(&name);
        }
        self.names.insert(to.clone());
        tell(&mut self.told, format!("rename {from} -> {to}"));
    }

    fn chmod(&mut self, call: &Call, directory: Option<usize>, path: usize) {
        let name = self.path(call, directory, path);
        tell(&mut self.told, format!("chmod {:04o} {name}", octal(call.argument(path + 1))));
    }

    /// setuid(2), setreuid(2), setresuid(2), and the same for groups.
    fn set_ids(&mut self, call: &Call) {
        let wanted: Vec<Option<u32>> = call.arguments.iter().map(|word| word.parse().ok()).collect();
        let state = self.state(call.pid);
        let old = state.ids;
        let privileged = old[0][1] == 0;
        let ids = &mut state.ids[usize::from(call.name.ends_with("gid"))];
        let [real, effective, saved] = *ids;
        *ids = match (call.name.as_str(), wanted.as_slice()) {
            ("setuid" | "setgid", &[Some(id)]) if privileged => [id; 3],
            ("setuid" | "setgid", &[Some(id)]) => [real, id, saved],
            ("setreuid" | "setregid", &[r, e]) => {
                let new = e.unwrap_or(effective);
                let saves = r.is_some() || e.is_some_and(|e| e != real);
                [r.unwrap_or(real), new, if saves { new } else { saved }]
            }
            ("setresuid" | "setresgid", &[r, e, s]) => [r.unwrap_or(real), e.unwrap_or(effective), s.unwrap_or(saved)],
            _ => panic!("not understood: {call:?}"),
        };
        let new = state.ids;
        if new != old {
            tell(&mut self.told, format!("ids {old:?} -> {new:?}"));
        }
    }
}

fn octal(text: &str) -> u32 {
    let bits = |word: &str| match word {
        "S_ISUID" => 0o4000,
        "S_ISGID" => 0o2000,
        "S_ISVTX" => 0o1000,
        digits => u32::from_str_radix(digits, 8).unwrap_or_else(|_| panic!("no mode: {text}")),
    };
    text.split('|').map(bits).sum()
}

/// An absolute path without `.`, `..` and the links that every Debian has in its root.
fn resolve(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") };
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            name => parts.push(name),
        }
    }
    let path = format!("/{}", parts.join("/"));
    for (link, target) in
        [("/bin/", "/usr/bin/"), ("/sbin/", "/usr/sbin/"), ("/lib/", "/usr/lib/"), ("/var/run/", "/run/")]
    {
        if let Some(rest) = path.strip_prefix(link) {
            return format!("{target}{rest}");
        }
    }
    path
}

/// A socket address that the vocabulary has a form for: Internet and Unix.
fn address(text: &str) -> Option<String> {
    let number = |key: &str| text.split_once(key).and_then(|(_, rest)| rest.split(')').next()?.parse::<u16>().ok());
    let ip = || -> std::net::IpAddr {
        let (_, rest) = text.split_once("sin_addr=").or(text.split_once("inet_pton(AF_INET6, ")).expect("an address");
        let ip: std::net::IpAddr = quoted(rest).expect("an address").parse().expect("an address");
        // `::ffff:1.2.3.4` is how a program speaks IPv4 over an IPv6 socket (RFC 4291, 2.5.5.2): on the wire, where flows are joined to
        // processes, it is 1.2.3.4, and so it is in events.
        ip.to_canonical()
    };
    let end = |port| std::net::SocketAddr::new(ip(), port).to_string();
    if text.contains("AF_INET6") {
        return number("sin6_port=htons(").map(end);
    }
    if text.contains("AF_INET,") {
        return number("sin_port=htons(").map(end);
    }
    let (_, path) = text.split_once("sun_path=")?;
    let sign = if path.starts_with('@') { "@" } else { "" };
    Some(format!("unix {sign}{}", quoted(path)?))
}

#[cfg(test)]
mod tests {
    use super::super::strace::calls;
    use super::*;

    #[test]
    fn calls_become_operations() {
        let log = r#"1  execve("/bin/sh", ["sh"], 0x1 /* 1 var */) = 0
1  openat(AT_FDCWD</w>, "new", O_WRONLY|O_CREAT, 0666) = 3</w/new>
1  openat(AT_FDCWD</w>, "new", O_WRONLY|O_CREAT, 0666) = 3</w/new>
1  openat(AT_FDCWD</w>, "old", O_RDWR|O_CREAT, 0666) = 3</w/old>
1  chdir("../w/./") = 0
1  vfork( <unfinished ...>
2  rename("new", "d/../newer") = 0
2  setresuid(-1, 5, -1) = 0
1  <... vfork resumed>) = 2
1  unlink("newer") = 0
1  setreuid(7, -1) = 0
1  connect(3<socket:[1]>, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("1.2.3.4")}, 16) = -1 EINPROGRESS (x)
1  bind(3<socket:[1]>, {sa_family=AF_UNIX, sun_path="s"}, 3) = 0
1  openat(AT_FDCWD</w>, "/tmp", O_RDWR|O_TMPFILE, 0600) = 4</tmp/#1>(deleted)
1  fchmodat(AT_FDCWD</w>, "old", S_ISUID|0755) = 0
"#;
        let told = operations(&calls(log), "/w\n/w/old\n", "/w", [[0; 3]; 2]);
        let expected = [
            "exec /bin/sh",
            "create /w/new",
            "write /w/new",
            "write /w/new",
            "write /w/old",
            "rename /w/new -> /w/newer",
            "ids [[0, 0, 0], [0, 0, 0]] -> [[0, 5, 0], [0, 0, 0]]",
            "unlink /w/newer",
            "ids [[0, 0, 0], [0, 0, 0]] -> [[7, 0, 0], [0, 0, 0]]",
            "connect 1.2.3.4:80",
            "bind unix s",
            "create /w/s",
            "write /tmp/#1",
            "chmod 4755 /w/old",
        ];
        let mut counted = Operations::new();
        expected.iter().for_each(|operation| tell(&mut counted, (*operation).to_owned()));
        assert_eq!(told, counted);
    }
}
