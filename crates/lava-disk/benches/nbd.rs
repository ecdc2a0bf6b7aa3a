//! Requests per second of this server and of qemu-nbd, with the same client, on the same bytes.
//!
//! `cargo bench -p lava-disk --bench nbd`. qemu-nbd serves a qcow2 overlay over the same raw base (what one would use
//! instead of us) and a plain raw file. One connection, `depth` requests in flight, random 4 KiB or 1 MiB, page cache warm.

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Client, Fake, READ, WRITE, config, image, request, tool_ok};
use lava_disk::DiskServer;

const SIZE: u64 = 512 << 20;
const PERIOD: Duration = Duration::from_millis(1500);

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut base = image();
    base.extend((base.len() as u64..SIZE).map(|at| (at % 253) as u8));
    std::fs::write(path("base"), &base).unwrap();
    std::fs::write(path("raw"), &base).unwrap();
    drop(base);
    tool_ok("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &path("base"), "-F", "raw", &path("qcow2")]);

    let server = DiskServer::start(config(folder.path()), Arc::new(Fake::default())).unwrap();
    let qcow2 = QemuNbd::start(&path("qcow2"), "qcow2", &folder.path().join("qcow2.socket"));
    let raw = QemuNbd::start(&path("raw"), "raw", &folder.path().join("raw.socket"));

    println!("{:34} {:>12} {:>16} {:>14}", "requests per second", "lava-disk", "qemu-nbd qcow2", "qemu-nbd raw");
    for (what, command, len, depth) in [
        ("4 KiB read, 1 in flight", READ, 4096, 1),
        ("4 KiB read, 16 in flight", READ, 4096, 16),
        ("4 KiB write, new, 1 in flight", WRITE, 4096, 1),
        ("4 KiB write, 1 in flight", WRITE, 4096, 1),
        ("4 KiB write, 16 in flight", WRITE, 4096, 16),
        ("4 KiB read mixed, 16 in flight", READ, 4096, 16),
        ("1 MiB read, 2 in flight", READ, 1 << 20, 2),
        ("1 MiB write, 2 in flight", WRITE, 1 << 20, 2),
    ] {
        let sockets = ["socket", "qcow2.socket", "raw.socket"].map(|name| folder.path().join(name));
        let [ours, qcow2, raw] = sockets.map(|socket| measure(&socket, command, len, depth));
        println!("{what:34} {ours:12.0} {qcow2:16.0} {raw:14.0}");
    }
    drop((server, qcow2, raw));
}

fn measure(socket: &Path, command: u16, len: u32, depth: usize) -> f64 {
    let Client(mut stream) = Client::connect(socket);
    let payload = vec![0x5a; if command == WRITE { len as usize } else { 0 }];
    let mut reply = vec![0; 16 + if command == READ { len as usize } else { 0 }];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut message = Vec::new();
    let (mut count, start) = (0u32, Instant::now());
    send(&mut stream, &mut message, &mut random, command, len, &payload, depth);
    while start.elapsed() < PERIOD {
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[4..8], [0; 4]);
        count += 1;
        send(&mut stream, &mut message, &mut random, command, len, &payload, 1);
    }
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    for _ in 0..depth {
        stream.read_exact(&mut reply).unwrap();
    }
    rate
}

fn send(
    to: &mut UnixStream,
    message: &mut Vec<u8>,
    random: &mut u64,
    command: u16,
    len: u32,
    payload: &[u8],
    count: usize,
) {
    message.clear();
    for _ in 0..count {
        // xorshift64; the first 2 MiB hold what is watched.
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let offset = (2 << 20) + *random % (SIZE - (4 << 20)) / 4096 * 4096;
        message.extend(request(command, 1, offset, len));
        message.extend(payload);
    }
    to.write_all(message).unwrap();
}

struct QemuNbd(Child);

impl QemuNbd {
    fn start(image: &str, format: &str, socket: &Path) -> Self {
        let child = Command::new("qemu-nbd")
            .args(["--persistent", "--shared=4", "--cache=writeback", "--discard=unmap", "-f", format, "-k"])
            .arg(socket)
            .arg(image)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("qemu-nbd cannot be run: run `cargo xtask setup`");
        while UnixStream::connect(socket).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Self(child)
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
