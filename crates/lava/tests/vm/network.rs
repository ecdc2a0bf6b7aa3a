//! The simulated network, as ordinary programs in the guest find it; Wireshark decrypts what they said.

use std::collections::BTreeSet;
use std::process::Command;

use lava_event::{Event, Kind, Sha256};

use crate::common::{Ran, root, run};

/// Runs tshark over the session's capture.
fn tshark(ran: &Ran, arguments: &[&str]) -> String {
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
