//! The server over its Unix socket, as QEMU uses it; the capture as Wireshark reads it.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use lava_event::{Action, Event, Kind, Outlet, Produced, Source};
use smoltcp::wire::DhcpMessageType;

use super::{GATEWAY, GUEST, WORLD, arp, dhcp, emit, query, route, syn};
use crate::{Content, Mode, NetConfig, NetServer, Waits};

#[derive(Default)]
struct Log(Mutex<Vec<Event>>);

impl Outlet for Log {
    fn now_ns(&self) -> u64 {
        1_000
    }
    fn emit(&self, produced: Produced) {
        self.0.lock().unwrap().push(produced.event);
    }
    fn ask(&self, _: Produced) -> Action {
        Action::Deny
    }
    fn settle(&self, _: &Event, _: Action, _: &str) {}
}

pub fn send(stream: &mut UnixStream, frame: &[u8]) {
    stream.write_all(&u32::try_from(frame.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(frame).unwrap();
}

pub fn receive(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut frame).unwrap();
    frame
}

pub fn ping(to: Ipv4Addr) -> Vec<u8> {
    let mut frame = emit::echo_reply(route(to), [0, 1, 0, 1], b"ping");
    frame[34] = 8; // Type: echo request. The checksum falls by as much as the type's byte rises.
    let sum = u16::from_be_bytes([frame[36], frame[37]]) - 0x0800;
    frame[36..38].copy_from_slice(&sum.to_be_bytes());
    frame
}

pub fn judge(tool: &str, arguments: &[&str], capture: &Path) -> String {
    let output = Command::new(tool).args(arguments).arg(capture).output();
    let output = output.unwrap_or_else(|error| panic!("{tool} cannot be run ({error}): run `cargo xtask setup`"));
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn wireshark_agrees() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, capture) = (directory.path().join("net.sock"), directory.path().join("traffic.pcapng"));
    let log = Arc::new(Log::default());
    let config = NetConfig {
        socket: socket.clone(),
        capture: capture.clone(),
        mac_of_guest: None,
        mode: Mode::Simulated,
        content: Content::default(),
        waits: Waits::default(),
        authority: None,
        uplink: None,
    };
    let server = NetServer::start(config, log.clone()).unwrap();

    // A stream that is not QEMU's is closed; the next one is served.
    let mut broken = UnixStream::connect(&socket).unwrap();
    broken.write_all(&[0xff; 4]).unwrap();
    assert_eq!(broken.read(&mut [0; 1]).unwrap(), 0);

    let mut stream = UnixStream::connect(&socket).unwrap();
    let beacon = emit::udp(route(WORLD), 40_000, 4444, b"beacon");
    let is_beacon = |frame: &[u8]| frame == beacon;
    let frames = [
        dhcp(DhcpMessageType::Discover, None),
        dhcp(DhcpMessageType::Request, Some(GUEST)),
        arp(GATEWAY),
        query(),
        syn(WORLD, 443, 1),
        beacon.clone(),
        ping(GATEWAY),
    ];
    for frame in &frames {
        send(&mut stream, frame);
        if !is_beacon(frame) {
            receive(&mut stream);
        }
    }
    let summary = server.stop();
    assert_eq!((summary.frames, summary.fault), (14, None));
    assert!(!socket.exists());

    let events = log.0.lock().unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|event| match &event.kind {
            Kind::NetFlow { answer, frame, .. } => (answer.as_str(), *frame),
            Kind::NetLease { frame, .. } => ("lease", *frame),
            Kind::NetDns { frame, .. } => ("dns", *frame),
            Kind::NetStream { frame, sent: 6, .. } => ("stream", *frame),
            _ => panic!("{event:?}"),
        })
        .collect();
    let expected = [
        ("answered", 2),
        ("lease", 4),
        ("answered", 8),
        ("dns", 8),
        ("accepted", 10),
        ("accepted", 12),
        ("answered", 13),
        ("stream", 12),
    ];
    assert_eq!(told, expected);
    assert!(events.iter().all(|event| event.source == Source::Net));

    let protocols =
        judge("tshark", &["-T", "fields", "-e", "_ws.col.Protocol", "-Y", "frame.number > 1", "-r"], &capture);
    let expected = "DHCP DHCP DHCP DHCP ARP ARP DNS DNS TCP TCP UDP ICMP ICMP";
    assert_eq!(protocols.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    // The first frame is the broken one: nothing of it came.
    let bad = "(_ws.malformed || _ws.expert.severity == error || ip.checksum.status == 0 || tcp.checksum.status == 0 \
               || udp.checksum.status == 0 || icmp.checksum.status == 0) && frame.number > 1";
    let checks = ["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"];
    assert_eq!(judge("tshark", &[&checks[..], &["-Y", bad, "-r"]].concat(), &capture), "");
    let ways = judge("tshark", &["-T", "fields", "-e", "frame.packet_flags_direction", "-r"], &capture);
    assert_eq!(ways.lines().filter(|way| way.ends_with('1')).count(), 8, "{ways}");

    let names = judge("tshark", &["-T", "fields", "-e", "dns.resp.name", "-e", "dns.a", "-Y", "dns.a", "-r"], &capture);
    assert_eq!(names.trim(), "evil.example\t198.18.0.1");

    let told = judge("capinfos", &["-M"], &capture);
    for needle in ["lava0", "nanoseconds", concat!("LAVA ", env!("CARGO_PKG_VERSION"))] {
        assert!(told.contains(needle), "{needle}: {told}");
    }
    let count = told.lines().find(|line| line.starts_with("Number of packets:")).unwrap();
    assert!(count.ends_with(" 14"), "{count}");
}
