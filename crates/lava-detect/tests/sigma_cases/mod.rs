//! The rules in `sigma/`, and the made-up events that their comments speak of.

use std::path::{Path, PathBuf};

use lava_event::{
    Access, ApiArgument, Event, FileId, FileType, Kind, NetEndpoint, Process, ProcessKey, ProcessRef, Protocol, Source,
};

use crate::common::Fake;

const PARENT: ProcessKey = ProcessKey { pid: 10, start_ns: 10 };
pub const CHILD: ProcessKey = ProcessKey { pid: 11, start_ns: 11 };

/// All processes descend from the task, or none; one of two is the other's child.
pub fn all(tainted: bool) -> Fake {
    let parent = |process| (process == CHILD).then_some(PARENT);
    if tainted { Fake { parent, ..Fake::default() } } else { Fake { parent, tainted: |_| false } }
}

fn event(seq: u64, who: ProcessKey, exe: &str, kind: Kind) -> Event {
    let mut event = Event::new(seq * 1000, Source::Tap, kind);
    event.seq = seq;
    event.process = Some(Process {
        pid: who.pid,
        tid: who.pid,
        start_ns: who.start_ns,
        ppid: if who == CHILD { PARENT.pid } else { 1 },
        uid: 1000,
        comm: "x".into(),
        exe: exe.into(),
    });
    event
}

fn file() -> FileId {
    FileId { device: (254, 1), inode: 9, mode: 0o100_644, uid: 0, gid: 0, size: 1, node: None }
}

fn exec(seq: u64, who: ProcessKey, exe: &str, argv: &[&str]) -> Event {
    let argv = argv.iter().map(|&text| text.into()).collect();
    let (path, cwd) = (exe.into(), "/home/user".into());
    let kind = Kind::ProcessExec { path, argv, envp: vec![], truncated: false, cwd, file: file(), interpreter: None };
    event(seq, who, exe, kind)
}

fn end(text: &str) -> NetEndpoint {
    let at: std::net::SocketAddr = text.parse().unwrap();
    NetEndpoint { address: at.ip(), port: at.port() }
}

fn dns(qtype: u16, question: &str) -> Kind {
    let addresses = vec!["10.66.0.1".parse().unwrap()];
    let origin = end("10.77.0.15:4000");
    Kind::NetDns { protocol: Protocol::Udp, origin, question: question.into(), qtype, addresses, frame: 1 }
}

fn http(parts: &[&str]) -> Kind {
    Kind::NetHttp {
        origin: end("10.77.0.15:4000"),
        destination: end("10.66.0.1:80"),
        tls: false,
        method: parts[0].into(),
        host: parts[1].into(),
        path: parts[2].into(),
        user_agent: (!parts[3].is_empty()).then(|| parts[3].into()),
        content_type: None,
        status: 200,
        answer: "default".to_owned(),
        response_type: "text/plain".to_owned(),
        request_bytes: 0,
        request_sha256: None,
        request_complete: true,
        response_bytes: 0,
        response_sha256: None,
        frame: 1,
    }
}

/// The events that a line of a rule's comments stands for.
pub fn events(text: &str) -> Vec<Event> {
    let (what, rest) = text.split_once(' ').unwrap();
    let parts: Vec<&str> = rest.split('|').collect();
    let child = ProcessRef { pid: CHILD.pid, tid: CHILD.pid, start_ns: CHILD.start_ns, comm: "x".into() };
    let act = |kind| vec![event(1, CHILD, parts[0], kind)];
    match what {
        "exec" => vec![
            exec(1, PARENT, parts[0], &[parts[0]]),
            event(2, PARENT, parts[0], Kind::ProcessFork { child, thread: false, flags: 0 }),
            exec(3, CHILD, parts[1], &parts[2..]),
        ],
        "write" => act(Kind::FileWrite { path: parts[1].into(), file: file(), ranges: vec![], bytes: 1, count: 1 }),
        "rename" => act(Kind::FileRename { from: "/tmp/x".into(), to: parts[1].into(), file: file() }),
        "delete" => act(Kind::FileUnlink { path: parts[1].into(), file: file() }),
        "connect" => act(Kind::NetConnect { protocol: Protocol::Tcp, destination: Some(end(parts[1])), path: None }),
        "create" => {
            let kind = Kind::FileCreate { path: parts[1].into(), file: None, what: FileType::Regular, target: None };
            act(kind)
        }
        "open" => act(Kind::FileOpen { path: parts[1].into(), file: file(), access: Access::Write }),
        "read" => act(Kind::FileOpen { path: parts[1].into(), file: file(), access: Access::Read }),
        "socket" => {
            let family = parts[1].to_owned();
            act(Kind::NetSocket { family, way: "raw".to_owned(), protocol: Protocol::Other })
        }
        "api" => {
            let value = u64::from_str_radix(parts[3], 16).unwrap();
            let arguments = vec![ApiArgument { name: "first".into(), value, text: None }];
            let (number, name, abi) = (parts[1].parse().unwrap(), parts[2].to_owned().into(), "x64".into());
            act(Kind::ApiCall { number, name, abi, arguments, result: 0 })
        }
        "dns" => act(dns(parts[1].parse().unwrap(), parts[2])),
        "http" => act(http(&parts[1..])),
        other => panic!("{other}"),
    }
}

pub fn files(dir: &str) -> Vec<(PathBuf, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sigma").join(dir);
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect();
    files.sort();
    files
}

pub fn comments<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix("# ")?.strip_prefix(name)).map(str::trim).collect()
}
