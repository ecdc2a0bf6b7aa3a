//! Events per second through graph, detectors and policy on one core, and the memory they take, as a session grows.
//!
//! `cargo bench -p lava-analysis --bench scale -- [MILLIONS] [SESSION]`: synthetic events that nobody recorded, but as builds make them,
//! then (with SESSION, a session's folder) the recorded ones over and over, each time with other processes, files and times.
//! Each line is one million further events of one session. Only [`Analysis::observe`] and [`Policy::decide`] are timed: events are made
//! before that, in batches; the time is the thread's own on a processor. Memory is the whole process's (`VmRSS`), at most one batch of events among it.
//!
//! Limit: needs Linux's /proc.

use std::time::Duration;

use lava_analysis::Analysis;
use lava_event::*;
use lava_policy::{Policy, builtin};

const BATCH: usize = 50_000;
const LAUNCHER: ProcessKey = ProcessKey { pid: 100, start_ns: 100 };
const ROOT: ProcessKey = ProcessKey { pid: 200, start_ns: 200 };

fn main() {
    // cargo hands `--bench` over too.
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let millions = words.next().and_then(|word| word.parse().ok()).unwrap_or(10);
    measure("synthetic", millions, synthetic());
    if let Some(session) = words.next() {
        let path = std::path::Path::new(&session).join("events.jsonl");
        let text = std::fs::read_to_string(&path).expect("the session's events.jsonl can be read");
        let events: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
        measure("recorded", millions, recorded(events));
    }
}

fn measure(name: &str, millions: usize, mut events: impl Iterator<Item = Event>) {
    let policy = builtin("contain").and_then(|text| Policy::compile("contain", text).ok()).expect("a shipped policy");
    let waits: Vec<&str> = policy.waits_for().collect();
    let (mut analysis, mut seq, mut all) = (Analysis::new(), 0, Duration::ZERO);
    let (mut findings, mut asked) = (0, 0);
    println!("{name}: events per second, then memory");
    for million in 1..=millions {
        let mut spent = Duration::ZERO;
        for _ in 0..1_000_000 / BATCH {
            let batch: Vec<Event> = events.by_ref().take(BATCH).map(|event| numbered(event, &mut seq)).collect();
            let begin = cpu_time();
            for event in &batch {
                findings += analysis.observe(event).findings.len();
                if event.kind.can_wait() && waits.contains(&event.kind.name()) {
                    asked += 1;
                    std::hint::black_box(policy.decide(event, &analysis.view(event)));
                }
            }
            spent += cpu_time() - begin;
        }
        all += spent;
        println!("  {million:>3} M  {:>9.0}/s  {:>6} MiB", 1e6 / spent.as_secs_f64(), resident_mib());
    }
    let begin = cpu_time();
    let trace = analysis.graph().trace();
    println!(
        "  all   {:>9.0}/s; {findings} findings, {asked} asked; {} nodes, {} edges; trace in {} ms, {}",
        millions as f64 * 1e6 / all.as_secs_f64(),
        trace.graph_nodes,
        trace.graph_edges,
        (cpu_time() - begin).as_millis(),
        trace.verdict
    );
}

fn numbered(mut event: Event, seq: &mut u64) -> Event {
    *seq += 1;
    event.seq = *seq;
    event.time_ns = *seq * 1000;
    event
}

/// What this thread has computed so far: on a shared machine that is not the time that went by.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells a thread's time");
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds"))
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
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
fn synthetic() -> impl Iterator<Item = Event> {
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

/// The recorded session again and again. What follows the first time is done by other processes, forked by the task's root as the
/// launcher had forked this, and to other files where the task had made them.
fn recorded(events: Vec<Event>) -> impl Iterator<Item = Event> {
    let launcher = events.iter().find_map(|event| match &event.kind {
        Kind::VmTask { launcher, .. } => Some(launcher.clone()),
        _ => None,
    });
    let root = events.iter().find_map(|event| match (&event.kind, &event.process) {
        (Kind::ProcessFork { child, thread: false, .. }, Some(process))
            if launcher.as_ref().is_some_and(|launcher| process.exe.bytes() == launcher.as_bytes()) =>
        {
            Some((process.key(), ProcessKey { pid: child.pid, start_ns: child.start_ns }))
        }
        _ => None,
    });
    let (launcher, root) = root.expect("the launcher forked the task");
    (0u64..).flat_map(move |round| {
        let change = move |mut event: Event| {
            if round == 0 {
                return Some(event);
            }
            if event.kind.name().starts_with("vm.") {
                return None;
            }
            let other = |pid: &mut u32, start_ns: &mut u64| {
                let known = ProcessKey { pid: *pid, start_ns: *start_ns };
                (*pid, *start_ns) = match known == launcher {
                    true => (root.pid, root.start_ns),
                    false => ((*pid + round as u32 * 4099) % 4_194_304, *start_ns + (round << 40)),
                };
            };
            if let Some(process) = &mut event.process {
                other(&mut process.pid, &mut process.start_ns);
            }
            match &mut event.kind {
                Kind::ProcessFork { child, .. } => other(&mut child.pid, &mut child.start_ns),
                Kind::FileCreate { path, file: Some(file), .. }
                | Kind::FileWrite { path, file, .. }
                | Kind::FileUnlink { path, file }
                    if path.bytes().starts_with(b"/tmp/") =>
                {
                    file.inode += round << 32;
                    *path = GuestText::from([path.bytes(), format!(".{round}").as_bytes()].concat());
                }
                _ => {}
            }
            Some(event)
        };
        events.clone().into_iter().filter_map(change)
    })
}
