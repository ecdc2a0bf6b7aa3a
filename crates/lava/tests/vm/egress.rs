//! The real network, which two network namespaces play here: the host that `lava` runs on, and all else.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lava_event::{Action, Kind, Sha256};
use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::common::{decisions, lava, run_by};
use crate::network::{decided, flow_to, tshark};

const PAGE: &str = "hello from the real network\n";

/// The two namespaces; they go when this goes.
struct World {
    host: String,
    outside: String,
    folder: tempfile::TempDir,
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap_or_else(|error| panic!("ip: {error}: run `cargo xtask setup`"));
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl World {
    /// The host has 192.0.2.2, its resolver is 9.9.9.9. Outside there are 93.184.216.34 and .35, and 10.9.9.9 in a private network.
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "network namespaces are made as root");
        let name = |what: &str| format!("lava-{what}-{}", std::process::id());
        let world = Self { host: name("host"), outside: name("out"), folder: tempfile::tempdir().unwrap() };
        let (host, outside) = (&world.host, &world.outside);
        ip(&format!("netns add {host}"));
        ip(&format!("netns add {outside}"));
        ip(&format!("link add up0 netns {host} type veth peer name out0 netns {outside}"));
        for (name, address, device) in [
            (host, "192.0.2.2/24", "up0"),
            (outside, "192.0.2.1/24", "out0"),
            (outside, "93.184.216.34/32", "lo"),
            (outside, "93.184.216.35/32", "lo"),
            (outside, "10.9.9.9/32", "lo"),
            (outside, "9.9.9.9/32", "lo"),
        ] {
            ip(&format!("-n {name} address add {address} dev {device}"));
        }
        for (name, device) in [(host, "lo"), (host, "up0"), (outside, "lo"), (outside, "out0")] {
            ip(&format!("-n {name} link set {device} up"));
        }
        ip(&format!("-n {host} route add default via 192.0.2.1"));
        std::fs::write(world.folder.path().join("resolv.conf"), "nameserver 9.9.9.9\n").unwrap();
        world
    }

    /// `lava` on that host.
    fn lava(&self) -> Command {
        let inner = lava();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.host)).args(["unshare", "--mount", "sh", "-c"]);
        command.arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"").arg(self.folder.path().join("resolv.conf"));
        command.arg(inner.get_program());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Does something in a namespace, in a thread of its own.
    fn within<T: Send>(name: &str, act: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            let there = File::open(format!("/run/netns/{name}")).unwrap();
            move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    /// Ends the way to the real network: its process is the one of that host.
    fn kill_passt(&self) {
        let net = |path: &Path| std::fs::metadata(path).map(|facts| std::os::unix::fs::MetadataExt::ino(&facts)).ok();
        let ours = net(Path::new(&format!("/run/netns/{}", self.host)));
        let passt = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            (name.starts_with("passt") && net(&entry.path().join("ns/net")) == ours).then_some(pid)
        });
        let passt = passt.and_then(Pid::from_raw).expect("passt runs");
        rustix::process::kill_process(passt, Signal::KILL).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in [&self.host, &self.outside] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// A server that counts who comes; `answer` gets the request.
fn serve(name: &str, address: &str, answer: impl Fn(&str, TcpStream) + Send + 'static) -> Arc<AtomicUsize> {
    let listener = World::within(name, || TcpListener::bind(address).unwrap());
    let came = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&came);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap_or(0);
            answer(&String::from_utf8_lossy(&request[..length]), stream);
        }
    });
    came
}

fn page(_: &str, mut stream: TcpStream) {
    let _ = write!(stream, "HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n{PAGE}", PAGE.len());
}

fn big() -> Vec<u8> {
    (0..300_000u32).map(|number| (number % 251) as u8).collect()
}

/// A resolver that knows one name, and the names it was asked for.
fn resolve(name: &str) -> Arc<Mutex<BTreeSet<String>>> {
    let socket = World::within(name, || UdpSocket::bind("9.9.9.9:53").unwrap());
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let names = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            // Header, then the name: labels with their length in front.
            let end = 12 + query[12..length].iter().position(|byte| *byte == 0).unwrap() + 5;
            let text: String =
                query[13..end - 5].iter().map(|&byte| if byte < 32 { '.' } else { char::from(byte) }).collect();
            names.lock().unwrap().insert(text.clone());
            let found = text == "good.example" && query[end - 4..end - 2] == [0, 1];
            let mut answer =
                [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(found), 0, 0, 0, 0], &query[12..end]].concat();
            if found {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 93, 184, 216, 34]);
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
    asked
}

const POLICY: &str = r#"policy: outside
extends: observe
default: allow
rules:
  - name: name
    when: trace.tainted && event.kind == "net.dns" && event.question == "good.example"
    action: allow
  - name: by-name
    when: trace.tainted && event.kind == "net.flow" && "good.example" in trace.names && event.destination.port == 80
    action: allow
  - name: by-port
    when: trace.tainted && event.kind == "net.flow" && event.destination.port == 8081
    action: allow
"#;

const SCRIPT: &str = r#"#!/bin/sh
get() { curl -s --max-time 100 "$@" || echo "no ($?)"; }
echo "NET early $(get http://93.184.216.34/)"
echo "NET name $(get http://good.example/)"
echo "NET late $(get http://93.184.216.34/)"
echo "NET big $(get http://good.example/big | sha256sum)"
echo "NET other $(get http://93.184.216.35/)"
echo "NET port $(get http://93.184.216.35:8081/)"
echo "NET private $(get http://10.9.9.9:8081/)"
echo "NET host $(get http://192.0.2.2:8081/)"
echo "NET gateway $(get http://10.77.0.1:8081/)"
echo "NET metadata $(curl -s --max-time 3 http://169.254.169.254:8082/ || echo no)"
echo "NET nx $(dig +time=60 +tries=1 evil.example | grep -o NXDOMAIN)"
echo "NET hold $(get http://93.184.216.35:8081/hold)"
echo "NET gone $(get http://93.184.216.35:8081/)"
echo NET end
"#;

/// What curl says of who refuses it, and of who ends it: curl(1), 7 and 56.
const REFUSED: &str = "no (7)";
const CUT: &str = "no (56)";

#[test]
fn the_real_network_is_reached_where_a_rule_allows_it_and_nowhere_else() {
    let world = Arc::new(World::new());
    let held = Arc::downgrade(&world);
    let (host, outside) = (world.host.clone(), world.outside.clone());
    let site = serve(&outside, "93.184.216.34:80", |request, mut stream| {
        if !request.starts_with("GET /big ") {
            return page(request, stream);
        }
        let _ = write!(stream, "HTTP/1.0 200 OK\r\ncontent-length: 300000\r\n\r\n");
        let _ = stream.write_all(&big());
    });
    let other = serve(&outside, "93.184.216.35:80", page);
    let port = serve(&outside, "93.184.216.35:8081", move |request, stream| {
        if request.starts_with("GET /hold ") {
            // In the middle of a connection.
            held.upgrade().expect("the world").kill_passt();
        }
        page(request, stream);
    });
    let private = serve(&outside, "10.9.9.9:8081", page);
    let own = serve(&host, "0.0.0.0:8081", page);
    let asked = resolve(&outside);

    let (task, policy) = (world.folder.path().join("task.sh"), world.folder.path().join("policy.yaml"));
    std::fs::write(&task, SCRIPT).unwrap();
    std::fs::write(&policy, POLICY).unwrap();
    let (task, policy) = (task.to_str().unwrap(), policy.to_str().unwrap());
    let ran = run_by(world.lava(), &[task, "--policy", policy, "--net", "egress", "--console", "--timeout", "900"]);
    let big_hash = Sha256::of(&big());
    for line in [
        format!("early {REFUSED}"),
        format!("name {}", PAGE.trim()),
        format!("late {}", PAGE.trim()),
        format!("big {big_hash}"),
        format!("other {REFUSED}"),
        format!("port {}", PAGE.trim()),
        format!("private {REFUSED}"),
        format!("host {REFUSED}"),
        format!("gateway {REFUSED}"),
        "metadata no".to_owned(),
        "nx NXDOMAIN".to_owned(),
        format!("hold {CUT}"),
        format!("gone {REFUSED}"),
        "end".to_owned(),
    ] {
        assert!(ran.console.contains(&format!("NET {line}")), "{line}\nin\n{}\n{}", ran.console, ran.stderr);
    }
    let counts = [&site, &other, &port, &private, &own].map(|came| came.load(Ordering::SeqCst));
    assert_eq!(counts, [3, 0, 2, 0, 0], "who was reached");
    assert_eq!(*asked.lock().unwrap(), BTreeSet::from(["good.example".to_owned()]), "whose names left");

    // What was decided, and by whom it was asked for.
    let let_through = "let through to the real network";
    let reset = "refused: the guest got a reset";
    let row = |action, rule: &str, outcome: &str| ("curl".to_owned(), action, rule.to_owned(), outcome.to_owned());
    assert_eq!(
        decided(&ran, flow_to(80)),
        [row(Action::Allow, "by-name", let_through), row(Action::Deny, "", reset)].into()
    );
    let gone = "refused: the way to the real network is gone";
    assert_eq!(
        decided(&ran, flow_to(8081)),
        [row(Action::Allow, "by-port", let_through), row(Action::Allow, "by-port", gone), row(Action::Deny, "", reset)]
            .into()
    );
    let reason = ran.events.iter().find_map(|event| match &event.kind {
        Kind::VmDecision { rule: None, reason: Some(reason), .. } if reason.contains("10.9.9.9") => {
            Some(reason.clone())
        }
        _ => None,
    });
    let reason = reason.expect("it says what to do");
    assert!(reason.contains("in a private network") && reason.contains("event.destination.port == 8081"), "{reason}");
    assert!(!decisions(&ran, |event| matches!(event.kind, Kind::NetDns { .. })).is_empty());

    // What was said is kept, and Wireshark reads the same.
    let address = |kind: &Kind| matches!(kind, Kind::NetDns { addresses, .. } if addresses[..] == [IpAddr::from([93, 184, 216, 34])]);
    assert!(ran.events.iter().any(|event| address(&event.kind)), "the answer is told");
    let received: Vec<(u64, Sha256)> = ran
        .events
        .iter()
        .filter_map(|event| match &event.kind {
            Kind::NetStream { received, received_sha256: Some(sha256), complete: true, .. } => {
                Some((*received, *sha256))
            }
            _ => None,
        })
        .collect();
    let response = [b"HTTP/1.0 200 OK\r\ncontent-length: 300000\r\n\r\n".to_vec(), big()].concat();
    assert!(received.contains(&(response.len() as u64, Sha256::of(&response))), "{received:?}");
    let bad = "_ws.malformed || _ws.expert.severity == error || ip.checksum.status == 0 || tcp.checksum.status == 0";
    let checks = ["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-Y", bad];
    assert_eq!(tshark(&ran, &checks), "");
    let hosts = tshark(&ran, &["-Y", "http.response", "-T", "fields", "-e", "ip.src", "-e", "http.content_length"]);
    let hosts: BTreeSet<&str> = hosts.lines().collect();
    let length = PAGE.len();
    let expected =
        ["93.184.216.34\t300000".to_owned(), format!("93.184.216.34\t{length}"), format!("93.184.216.35\t{length}")];
    assert_eq!(hosts, expected.iter().map(String::as_str).collect());

    // That the way was gone is told, and the session is whole.
    let manifest = ran.session.manifest();
    assert_eq!(manifest.options.get("net").map(String::as_str), Some("egress"));
    let detail = manifest.detail.clone().unwrap_or_default();
    assert!(detail.contains("the way to the real network was gone") && detail.contains("passt"), "{detail}");
    assert_eq!(manifest.state, lava_evidence::State::Closed, "{detail}");
    assert!(ran.stdout.contains("the real network is refused unless a rule allows it"), "{}", ran.stdout);
}

#[test]
fn what_could_reach_nothing_does_not_start() {
    let out = tempfile::tempdir().unwrap();
    let task = out.path().join("task.sh");
    std::fs::write(&task, "#!/bin/sh\n").unwrap();
    let output = lava().args(["run", "--net", "egress", "--out"]).arg(out.path()).arg(&task).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("no rule that allows a connection"), "{said}");
}
