//! QEMU's own tools as clients.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use common::{PARTITION, SIZE, setup, tool, tool_ok};
use lava_event::{Action, DiskRegion};

#[test]
fn qemu_img_reads_all_of_it() {
    let setup = setup(&[]);
    let info = tool_ok("qemu-img", &["info", "--output=json", &setup.uri()]);
    assert!(info.contains(&format!("\"virtual-size\": {SIZE}")), "{info}");
    let base = setup.folder.path().join("base");
    tool_ok("qemu-img", &["compare", "-f", "raw", "-F", "raw", &setup.uri(), base.to_str().unwrap()]);
    let copy = setup.folder.path().join("copy");
    tool_ok("qemu-img", &["convert", "-f", "raw", "-O", "raw", &setup.uri(), copy.to_str().unwrap()]);
    assert!(std::fs::read(copy).unwrap() == setup.base);
    assert_eq!(setup.server.complaints(), [""; 0]);
}

#[test]
fn qemu_img_writes_all_of_it() {
    let setup = setup(&[]);
    let new = setup.folder.path().join("new");
    let content: Vec<u8> = (0..SIZE).map(|at| if at / 65536 % 3 == 0 { 0 } else { (at % 241) as u8 }).collect();
    std::fs::write(&new, &content).unwrap();
    tool_ok("qemu-img", &["convert", "-n", "-W", "-f", "raw", "-O", "raw", new.to_str().unwrap(), &setup.uri()]);
    assert!(setup.read(0, SIZE as usize) == content);
    setup.assert_base_untouched();
}

#[test]
fn qemu_io_patterns() {
    let setup = setup(&[]);
    let steps = [
        "write -P 0x11 2M 1M",
        "write -P 0x22 2100k 3k",
        "write -f -P 0x33 3145216 512",
        "write -z 2500k 300k",
        "write -z -u 2200k 64k",
        "discard 2300k 64k",
        "flush",
        "read -P 0x11 2M 52k",
        "read -P 0x22 2100k 3k",
        "read -P 0x33 3145216 512",
        "read -P 0 2500k 300k",
        "read -P 0 2200k 64k",
        "aio_write -P 0x44 4M 64k",
        "aio_write -P 0x55 5M 64k",
        "aio_flush",
        "read -P 0x44 4M 64k",
        "read -P 0x55 5M 64k",
    ];
    let uri = setup.uri();
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(steps.iter().flat_map(|step| ["-c", *step]));
    arguments.push(&uri);
    let output = tool_ok("qemu-io", &arguments);
    assert!(!output.contains("failed"), "{output}");
    // A second client sees the first one's bytes.
    let output = tool_ok("qemu-io", &["-f", "raw", "-c", "read -P 0x22 2100k 3k", &uri]);
    assert!(!output.contains("failed"), "{output}");
    setup.assert_base_untouched();
    assert_eq!(setup.server.complaints(), [""; 0]);
}

#[test]
fn a_denied_write_is_an_io_error() {
    let setup = setup(&[(DiskRegion::MbrBootCode, Action::Deny)]);
    let uri = setup.uri();
    let output = tool("qemu-io", &["-f", "raw", "-c", "write -P 0xcc 0 512", "-c", "write 4M 512", &uri]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("write failed: Input/output error"), "{text}");
    assert!(text.contains("wrote 512/512 bytes at offset 4194304"), "{text}");
    assert!(setup.read(0, 512) == setup.base[..512]);
}

#[test]
fn a_remediated_write_reads_back_as_it_was() {
    let setup = setup(&[(DiskRegion::BootSector, Action::Remediate)]);
    let write = format!("write -P 0xcc {PARTITION} 4096");
    let output = tool_ok("qemu-io", &["-f", "raw", "-c", &write, "-c", "read -P 0xcc 1049600 3072", &setup.uri()]);
    assert!(!output.contains("failed"), "{output}");
    assert!(setup.read(PARTITION, 1024) == setup.base[PARTITION as usize..][..1024]);
}

/// Copies until one end closes or, from the client, `limit` bytes have passed; then hangs up on both.
fn pipe(mut from: UnixStream, mut to: UnixStream, limit: u64) {
    let mut buffer = [0; 4096];
    let mut passed = 0;
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        passed += len as u64;
        if passed > limit || to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// A line to the server that breaks twice, in the middle of requests.
fn bad_line(socket: &Path, server: &Path) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    let server = server.to_owned();
    std::thread::spawn(move || {
        for limit in [100_000, 300_000, u64::MAX] {
            let (client, _) = listener.accept().unwrap();
            let server = UnixStream::connect(&server).unwrap();
            let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let back = std::thread::spawn(move || pipe(back.0, back.1, u64::MAX));
            pipe(client, server, limit);
            back.join().unwrap();
        }
    })
}

#[test]
fn qemu_reconnects_and_loses_nothing() {
    let setup = setup(&[]);
    let socket = setup.folder.path().join("line");
    let line = bad_line(&socket, &setup.folder.path().join("socket"));
    let image = format!("driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={}", socket.display());
    let image = image + ",file.reconnect-delay=20";
    let steps: Vec<String> = (1..10).map(|n| format!("write -P {n} {}k 64k", 2048 + n * 64)).collect();
    let mut arguments = vec!["--image-opts"];
    arguments.extend(steps.iter().flat_map(|step| ["-c", step]));
    arguments.push(&image);
    let output = tool_ok("qemu-io", &arguments);
    assert!(!output.contains("failed"), "{output}");
    line.join().unwrap();
    for n in 1..10u64 {
        assert!(setup.read((2048 + n * 64) << 10, 64 << 10) == [n as u8; 64 << 10], "write {n}");
    }
}
