//! Events that nobody recorded, as builds make them: for benchmarks.

use lava_event::*;

const LAUNCHER: ProcessKey = ProcessKey { pid: 100, start_ns: 100 };
const ROOT: ProcessKey = ProcessKey { pid: 200, start_ns: 200 };

/// The event with the next number, and a time that fits.
pub fn numbered(mut event: Event, seq: &mut u64) -> Event {
    *seq += 1;
    event.seq = *seq;
    event.time_ns = *seq * 1000;
    event
}

fn by(key: ProcessKey, exe: &str, kind: Kind) -> Event {
    let comm = exe.rsplit('/').next().unwrap_or(exe);
    let process = Process {
        pid: key.pid,
        tid: key.pid,
        start_ns: key.start_ns,
        ppid: 1,
        uid: 1000,
        comm: comm.into(),
        exe: exe.into(),
    };
    Event { process: Some(process), ..Event::new(0, Source::Tap, kind) }
}

fn file(inode: u64, mode: u32) -> FileId {
    FileId { device: (254, 1), inode, mode, uid: 1000, gid: 1000, size: 4096, node: None }
}

fn fork(parent: ProcessKey, exe: &str, child: ProcessKey) -> Event {
    let child = ProcessRef { pid: child.pid, tid: child.pid, start_ns: child.start_ns, comm: "x".into() };
    by(parent, exe, Kind::ProcessFork { child, thread: false, flags: 0 })
}

fn exec(key: ProcessKey, exe: &str, argv: &[&str]) -> Event {
    let argv = argv.iter().map(|&word| word.into()).collect();
    let envp = vec!["PATH=/usr/bin:/bin".into(), "HOME=/home/user".into(), "LANG=C.UTF-8".into()];
    let file = file(inode_of(exe), 0o100_755);
    let (path, cwd) = (exe.into(), "/home/user/build".into());
    by(key, exe, Kind::ProcessExec { path, argv, envp, truncated: false, cwd, file, interpreter: None })
}

fn inode_of(path: &str) -> u64 {
    path.bytes().fold(1469, |hash: u64, b| (hash ^ u64::from(b)).wrapping_mul(1_099_511_628_211)) >> 40
}

fn open(key: ProcessKey, exe: &str, path: &str, access: Access) -> Event {
    by(key, exe, Kind::FileOpen { path: path.into(), file: file(inode_of(path), 0o100_644), access })
}

/// A build without end: for each source a compiler is forked, reads headers, writes an object, speaks through a pipe and a socket,
/// and ends; every fourth process is a clean one that does the same beside it.
pub fn synthetic() -> impl Iterator<Item = Event> {
    let sh = "/usr/bin/dash";
    let task = Kind::VmTask {
        name: "build.sh".into(),
        path: "/home/user/build.sh".into(),
        sha256: Sha256::default(),
        profile: "script".into(),
        command: vec![sh.into(), "/home/user/build.sh".into()],
        launcher: "/usr/lib/lava-launcher".into(),
        jit: vec![],
        hosts: vec![],
        unpacks: None,
    };
    let start = [
        Event::new(0, Source::Microvisor, task),
        fork(LAUNCHER, "/usr/lib/lava-launcher", ROOT),
        exec(ROOT, sh, &["sh", "/home/user/build.sh"]),
        open(ROOT, sh, "/home/user/build.sh", Access::Read),
    ];
    start.into_iter().chain((0u64..).flat_map(one_compiler))
}

fn one_compiler(n: u64) -> Vec<Event> {
    let tools =
        ["/usr/bin/gcc-12", "/usr/lib/gcc/x86_64-linux-gnu/12/cc1", "/usr/bin/x86_64-linux-gnu-as", "/usr/bin/ld"];
    let exe = tools[(n % 4) as usize];
    let key = ProcessKey { pid: 1000 + (n % 30_000) as u32, start_ns: 1_000_000 + n };
    let parent = if n % 4 == 3 { ProcessKey { pid: 1, start_ns: 1 } } else { ROOT };
    let mut events = vec![fork(parent, "/usr/bin/dash", key), exec(key, exe, &[exe, "-O2", "-c", &format!("{n}.c")])];
    for header in 0..14 {
        let path = format!("/usr/include/x86_64-linux-gnu/sys/{}.h", (n * 7 + header * 13) % 400);
        events.push(open(key, exe, &path, Access::Read));
    }
    let (path, inode) = (format!("/home/user/build/{n}.o"), 1 << 32 | n);
    let made = file(inode, 0o100_644);
    let pipe = file(1 << 33 | n, 0o010_600);
    let write = |path: &str, file: FileId| Kind::FileWrite {
        path: path.into(),
        file,
        ranges: vec![Range { start: 0, end: 4096 }],
        bytes: 4096,
        count: 4,
    };
    let temporary = format!("{path}.tmp");
    for kind in [
        Kind::FileCreate { path: (&*temporary).into(), file: Some(made), what: FileType::Regular, target: None },
        write(&temporary, made),
        Kind::FileRead { path: "pipe:[1]".into(), file: pipe, ranges: vec![], bytes: 512, count: 1 },
        write("pipe:[1]", pipe),
        Kind::FileAttributes { path: (&*temporary).into(), file: made, mode: Some(0o100_664), uid: None, gid: None },
        Kind::FileRename { from: (&*temporary).into(), to: (&*path).into(), file: made },
        Kind::NetConnect {
            protocol: Protocol::Tcp,
            destination: Some(NetEndpoint { address: [10, 0, 2, (n % 3) as u8].into(), port: 3632 }),
            path: None,
        },
        Kind::NetTransfer {
            protocol: Protocol::Unix,
            local: None,
            remote: None,
            path: None,
            socket: 2 * n,
            peer: Some(2 * n + 1),
            sent: 100,
            received: 100,
            sends: 1,
            receives: 1,
        },
        Kind::ProcessExit { code: Some(0), signal: None },
    ] {
        events.push(by(key, exe, kind));
    }
    // What was made is read by the next tool, and goes away.
    if n > 8 {
        let old = format!("/home/user/build/{}.o", n - 8);
        let file = file(1 << 32 | (n - 8), 0o100_664);
        events.insert(4, by(key, exe, Kind::FileOpen { path: (&*old).into(), file, access: Access::Read }));
        events.insert(5, by(key, exe, Kind::FileUnlink { path: (&*old).into(), file }));
    }
    events
}
