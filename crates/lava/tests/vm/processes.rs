//! Processes and sockets: a program that does each thing a known number of times, by every road, on both kernels.

use std::collections::BTreeMap;
use std::path::Path;

use lava_event::{Event, Kind, NetEndpoint, ProcessKey, ProcessRef, Protocol};
use lava_graph::Graph;

use crate::common::{Ran, run};

/// What the task printed: `fact NAME VALUE`.
fn facts(console: &str) -> BTreeMap<String, String> {
    let fact = |line: &str| {
        let (name, value) = line.split_once("fact ")?.1.split_once(' ')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    console.lines().filter_map(fact).collect()
}

/// The session, and what its task told.
struct Seen {
    ran: Ran,
    facts: BTreeMap<String, String>,
    /// Processes of the task.
    ours: Vec<ProcessKey>,
}

impl Seen {
    fn fact(&self, name: &str) -> u32 {
        self.facts.get(name).unwrap_or_else(|| panic!("no {name}: {}", self.ran.console)).parse().unwrap()
    }

    fn events(&self) -> impl Iterator<Item = &Event> {
        self.ran.events.iter().filter(|event| event.actor().is_some_and(|actor| self.ours.contains(&actor)))
    }

    /// What `pick` makes of the task's events, in their order.
    fn all<T>(&self, pick: impl Fn(&Event) -> Option<T>) -> Vec<T> {
        self.events().filter_map(pick).collect()
    }

    /// Sums of what `pid` (all of them for `None`) transferred: sent, received, sends, receives.
    fn transferred(&self, pid: Option<u32>, which: impl Fn(&Kind) -> bool) -> (u64, u64, u64, u64) {
        let mut sum = (0, 0, 0, 0);
        for event in self.events().filter(|event| which(&event.kind)) {
            if let Kind::NetTransfer { sent, received, sends, receives, .. } = &event.kind
                && pid.is_none_or(|pid| event.process.as_ref().is_some_and(|process| process.pid == pid))
            {
                sum = (sum.0 + sent, sum.1 + received, sum.2 + sends, sum.3 + receives);
            }
        }
        sum
    }
}

fn play(kernel: &str) -> Seen {
    let task = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/tasks/processes.py"));
    let ran = run(&[task.to_str().unwrap(), "--kernel", kernel, "--console"]);
    let facts = facts(&ran.console);
    assert_eq!(facts.get("done").map(String::as_str), Some("1"), "the task ran to its end\n{}", ran.console);
    let root: u32 = facts["self"].parse().unwrap();
    let mut ours: Vec<ProcessKey> = Vec::new();
    for event in &ran.events {
        let Some(actor) = event.actor() else { continue };
        if actor.pid == root && ours.is_empty() {
            ours.push(actor);
        }
        if let Kind::ProcessFork { child: ProcessRef { pid, start_ns, .. }, thread: false, .. } = &event.kind
            && ours.contains(&actor)
        {
            ours.push(ProcessKey { pid: *pid, start_ns: *start_ns });
        }
    }
    assert!(!ran.events.iter().any(|event| matches!(event.kind, Kind::VmGap { .. })), "nothing is missing");
    Seen { ran, facts, ours }
}

fn check(kernel: &str) {
    let seen = play(kernel);
    processes(&seen);
    tracing_and_names(&seen);
    namespaces(&seen);
    bytes(&seen);
    wire(&seen);
}

fn processes(seen: &Seen) {
    let exits = seen.all(|event| match event.kind {
        Kind::ProcessExit { code, signal } => Some((event.actor()?.pid, code, signal)),
        _ => None,
    });
    for code in [10, 11, 12] {
        assert_eq!(exits.iter().filter(|exit| exit.1 == Some(code)).count(), 1, "{exits:?}");
    }
    assert!(exits.contains(&(seen.fact("killed"), None, Some(15))));
    assert!(exits.contains(&(seen.fact("two_codes"), Some(22), None)));
    let flags = |wanted: u64, of_threads: bool| {
        seen.all(|event| match event.kind {
            Kind::ProcessFork { thread, flags, .. } if thread == of_threads && flags & wanted == wanted => Some(()),
            _ => None,
        })
        .len()
    };
    // CLONE_THREAD; CLONE_VFORK | CLONE_VM; CLONE_NEWUSER | CLONE_NEWPID.
    assert_eq!(flags(0x1_0000, true), 3, "two threads, and one more in the process with two codes");
    assert_eq!(flags(0x4100, false), 1 + 1, "true and the nested script");
    assert_eq!(flags(0x3000_0000, false), usize::from(seen.facts["cloned"] == "True"));

    let execs = seen.all(|event| match &event.kind {
        Kind::ProcessExec { path, argv, interpreter, envp, .. } => {
            let last = argv.last().map(ToString::to_string).unwrap_or_default();
            let exe = event.process.as_ref()?.exe.to_string();
            Some((path.to_string(), last, exe, interpreter.as_ref().map(ToString::to_string), envp.len()))
        }
        _ => None,
    });
    let by_argument = |argument: &str| execs.iter().filter(|exec| exec.1 == argument).collect::<Vec<_>>();
    let true_exe = by_argument("vforked")[0].2.clone();
    assert_eq!(by_argument("execveat"), [&("/bin/true".into(), "execveat".into(), true_exe, None, 0)]);
    let memory = by_argument("memfd");
    assert_eq!((memory.len(), memory[0].2.as_str(), memory[0].4), (1, "/memfd:stealth", 1), "{memory:?}");
    assert!(memory[0].0.starts_with("/dev/fd/"), "{memory:?}");
    let nested = by_argument("nested");
    assert_eq!(nested[0].0, "./outer");
    assert_eq!(nested[0].3.as_deref(), Some("/bin/sh"), "the interpreter of the interpreter");
    let memfds = seen.all(|event| match &event.kind {
        Kind::ProcessMemfd { name, .. } => Some(name.to_string()),
        _ => None,
    });
    assert_eq!(memfds, ["stealth"]);
    let fileless = seen.ran.findings.iter().filter(|finding| finding.detector == "execute.fileless").count();
    assert_eq!(fileless, 1);
}

fn tracing_and_names(seen: &Seen) {
    let traced = seen.all(|event| match &event.kind {
        Kind::ProcessPtrace { request, .. } => Some((request.clone(), event.registers.is_some())),
        _ => None,
    });
    assert_eq!(traced, [("attach".into(), true), ("seize".into(), true), ("traceme".into(), true)]);
    let signals = seen.all(|event| match &event.kind {
        Kind::ProcessSignal { target, signal } => Some((target.pid, *signal)),
        _ => None,
    });
    let to_killed = (seen.fact("killed"), 15);
    assert_eq!(signals.iter().filter(|signal| **signal == to_killed).count(), 1, "{signals:?}");
    assert_eq!(signals.iter().filter(|(_, signal)| *signal == 9).count(), 2, "{signals:?}");
    assert!(signals.iter().all(|(_, signal)| *signal != 0));
    let names = seen.all(|event| match &event.kind {
        Kind::ProcessName { old, new } => Some((old.to_string(), new.to_string())),
        _ => None,
    });
    let renamed = |old: &str, new: &str| names.contains(&(old.to_owned(), new.to_owned()));
    assert!(renamed("python3", "first-name") && renamed("first-name", "second-name"), "{names:?}");
    assert!(!seen.ran.findings.iter().any(|finding| finding.detector == "escalate.ptrace"), "its own children");
}

fn namespaces(seen: &Seen) {
    let changed = seen.all(|event| match &event.kind {
        Kind::ProcessNamespaces { changed } => Some(changed.join(",")),
        _ => None,
    });
    let roots = seen.all(|event| match &event.kind {
        Kind::ProcessChroot { path } => Some(path.to_string()),
        _ => None,
    });
    let mut expected = Vec::new();
    if seen.facts["namespaces"] == "True" {
        expected.extend(["user", "uts,net"]);
        assert_eq!(roots, ["/home/user/jail"]);
    } else {
        assert!(roots.is_empty(), "{roots:?}");
    }
    if seen.facts["cloned"] == "True" {
        expected.push("pid,user");
    }
    // Who is entered makes a user namespace of its own and one of names in it; who enters goes into both.
    assert!(seen.fact("entered") != 0 && seen.fact("attached") != 0, "the guest's kernel lets users have namespaces");
    expected.extend(["user", "uts", "user", "uts", "mnt", "user"]);
    assert_eq!(changed, expected);
    let mounts = seen.all(|event| match &event.kind {
        Kind::FileMount { path, fs_type, .. } => Some((event.actor()?.pid, path.to_string(), fs_type.to_string())),
        _ => None,
    });
    assert_eq!(mounts, [(seen.fact("attached"), "/home/user/attached".into(), "tmpfs".into())]);
}

fn port(end: &Option<NetEndpoint>) -> u16 {
    end.map_or(0, |end| end.port)
}

fn bytes(seen: &Seen) {
    let tcp_port = u16::try_from(seen.fact("tcp_port")).unwrap();
    let udp_port = u16::try_from(seen.fact("udp_port")).unwrap();
    let of = |wanted: Protocol, at: u16| {
        move |kind: &Kind| match kind {
            Kind::NetTransfer { protocol, local, remote, .. } => {
                *protocol == wanted && (port(local) == at || port(remote) == at)
            }
            _ => false,
        }
    };
    let server = seen.fact("self");
    let (sent, received, ..) = seen.transferred(Some(seen.fact("tcp_client")), of(Protocol::Tcp, tcp_port));
    assert_eq!((sent, received), (3000, 1500), "the client's");
    let (sent, received, sends, _) = seen.transferred(Some(server), of(Protocol::Tcp, tcp_port));
    assert_eq!((sent, received, sends), (1500, 3000, 3), "the server's");
    let sender = seen.transferred(Some(seen.fact("udp_sender")), of(Protocol::Udp, udp_port));
    assert_eq!(sender, (100, 0, 5, 0));
    assert_eq!(seen.transferred(Some(server), of(Protocol::Udp, udp_port)), (0, 100, 0, 5));

    let [tcp6_port, udp6_port, many_port] =
        ["tcp6_port", "udp6_port", "many_port"].map(|name| u16::try_from(seen.fact(name)).unwrap());
    let (sent, received, ..) = seen.transferred(Some(seen.fact("tcp6_client")), of(Protocol::Tcp, tcp6_port));
    assert_eq!((sent, received), (200, 300), "IPv6");
    assert_eq!(seen.transferred(Some(seen.fact("udp6_sender")), of(Protocol::Udp, udp6_port)), (66, 0, 3, 0));
    assert_eq!(seen.transferred(Some(server), of(Protocol::Udp, udp6_port)), (0, 66, 0, 3));
    assert_eq!(
        seen.transferred(Some(seen.fact("many_sender")), of(Protocol::Udp, many_port)),
        (28, 0, 4, 0),
        "sendmmsg"
    );
    assert_eq!(seen.transferred(Some(server), of(Protocol::Udp, many_port)), (0, 28, 0, 4), "recvmmsg");
    let six = seen.all(|event| match &event.kind {
        Kind::NetConnect { destination: Some(end), .. } if end.port == tcp6_port => Some(end.address.to_string()),
        _ => None,
    });
    assert_eq!(six, ["::1"]);

    let accepts = seen.all(|event| match &event.kind {
        Kind::NetAccept { protocol: Protocol::Tcp, local, remote, .. } => Some((port(local), port(remote) != 0)),
        _ => None,
    });
    assert_eq!(accepts, [(tcp_port, true), (tcp_port, true), (tcp_port, true), (tcp6_port, true)]);
    let places = seen.all(|event| match &event.kind {
        Kind::NetBind { address: Some(end), .. } => Some(("bind", end.port)),
        Kind::NetListen { address: Some(end), .. } => Some(("listen", end.port)),
        _ => None,
    });
    let tcp = |port| [("bind", port), ("listen", port)];
    let udp = |port| [("bind", port)];
    let expected = [&tcp(tcp_port)[..], &udp(udp_port), &tcp(tcp6_port), &udp(udp6_port), &udp(many_port)].concat();
    assert_eq!(places, expected);
    let netlink = seen.all(|event| match &event.kind {
        Kind::NetSocket { family, way, .. } if family == "netlink" => Some(way.clone()),
        _ => None,
    });
    assert_eq!(netlink, ["route"]);

    // The pair: each end knows the other's number.
    let ends = |pid: u32, sends: bool| {
        seen.all(|event| match &event.kind {
            Kind::NetTransfer { protocol: Protocol::Unix, path: None, socket, peer, sent, received, .. }
                if event.actor().is_some_and(|actor| actor.pid == pid) && (*sent > 0) == sends =>
            {
                Some((*socket, *peer, sent + received))
            }
            _ => None,
        })
    };
    let (there, here) = (ends(seen.fact("pair_sender"), true), ends(server, false));
    assert_eq!(there.iter().map(|end| end.2).sum::<u64>(), 700);
    assert_eq!(here.iter().map(|end| end.2).sum::<u64>(), 700);
    assert_eq!(there[0].1, Some(here[0].0));
    let named = |kind: &Kind| match kind {
        Kind::NetTransfer { path: Some(path), .. } => path.to_string().ends_with("named.sock"),
        _ => false,
    };
    let (sent, received, ..) = seen.transferred(Some(seen.fact("unix_client")), named);
    assert_eq!((sent, received), (50, 60));
    let (sent, received, ..) = seen.transferred(Some(server), named);
    assert_eq!((sent, received), (60, 50));
}

/// What left the machine: each flow of the wire is joined to the process that made it.
fn wire(seen: &Seen) {
    let mut graph = Graph::new();
    seen.ran.events.iter().for_each(|event| graph.apply(event));
    for (protocol, to, pid) in
        [(Protocol::Tcp, "10.77.0.3:22", seen.fact("flow")), (Protocol::Udp, "10.77.0.4:9999", seen.fact("self"))]
    {
        let flow = seen.ran.events.iter().find(|event| match &event.kind {
            Kind::NetFlow { protocol: of, destination, .. } => *of == protocol && destination.to_string() == to,
            _ => false,
        });
        let flow = flow.unwrap_or_else(|| panic!("no flow to {to}")).seq;
        let (owner, grade) = graph.flow_owner(flow).expect("an owner");
        assert_eq!((owner.pid, grade), (pid, lava_event::Grade::Observed), "{to}");
    }
}

#[test]
fn everything_is_counted() {
    check("6.1");
}

#[test]
fn everything_is_counted_on_the_other_kernel() {
    check("6.12");
}
