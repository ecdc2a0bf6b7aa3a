//! Clients that do not keep to the rules, and hosts that fail.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use common::{DISC, Fake, READ, SIZE, Setup, TRIM, WRITE, WRITE_ZEROES, config, request, setup};
use lava_disk::{DiskError, DiskServer};
use lava_event::Kind;
use proptest::prelude::*;

const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

/// Sends `bytes`, hangs up, and gives what came back. It ends: the server closes.
fn send(setup: &Setup, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(setup.folder.path().join("socket")).unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut back = Vec::new();
    let _ = stream.read_to_end(&mut back);
    back
}

fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    [&b"IHAVEOPT"[..], &kind.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

/// Flags and EXPORT_NAME.
fn hello() -> Vec<u8> {
    [&3u32.to_be_bytes()[..], &option(1, &[])].concat()
}

#[test]
fn offsets_outside_the_disk() {
    let setup = setup(&[]);
    let mut client = setup.client();
    assert_eq!(client.command(READ, SIZE, 512), Err(EINVAL));
    assert_eq!(client.command(READ, u64::MAX, u32::MAX), Err(EINVAL));
    assert_eq!(client.command(READ, 0, (32 << 20) + 1), Err(EINVAL));
    assert_eq!(client.write(SIZE - 256, &[0; 512]), Err(ENOSPC));
    assert_eq!(client.write(u64::MAX - 100, &[0; 512]), Err(ENOSPC));
    assert_eq!(client.command(WRITE_ZEROES, 0, u32::MAX), Err(ENOSPC));
    assert_eq!(client.command(TRIM, SIZE - 512, 1024), Err(EINVAL));
    assert_eq!(client.command(99, 0, 0), Err(EINVAL));
    // Nothing at all, and the odd byte.
    client.write(SIZE, &[]).unwrap();
    client.write(SIZE - 1, &[9]).unwrap();
    assert_eq!(client.read(SIZE - 1, 1), Ok(vec![9]));
}

#[test]
fn every_breach_closes_the_connection_and_is_named() {
    let cases: [(Vec<u8>, &str); 7] = [
        (0xffff_ffff_u32.to_be_bytes().to_vec(), "flags"),
        ([&3u32.to_be_bytes()[..], &[7; 16]].concat(), "an option began with"),
        ([&3u32.to_be_bytes()[..], b"IHAVEOPT", &7u32.to_be_bytes(), &u32::MAX.to_be_bytes()].concat(), "4294967295"),
        ([&3u32.to_be_bytes()[..], &option(1, b"other")].concat(), "does not exist"),
        ([&3u32.to_be_bytes()[..], &option(3, &[]).repeat(70)].concat(), "too many options"),
        ([hello(), vec![1; 28]].concat(), "a request began with"),
        ([hello(), request(WRITE, 1, 0, u32::MAX)].concat(), "a write of 4294967295"),
    ];
    for (bytes, expect) in cases {
        let setup = setup(&[]);
        send(&setup, &bytes);
        let complaints = setup.server.complaints();
        assert!(complaints.len() == 1 && complaints[0].contains(expect), "{expect}: {complaints:?}");
        // The next client is served.
        assert!(setup.client().read(0, 512).unwrap() == setup.base[..512]);
    }
}

#[test]
fn options_we_do_not_have_are_declined() {
    let setup = setup(&[]);
    // STRUCTURED_REPLY, STARTTLS, a GO without data, a GO for another name, ABORT.
    let go = [&5u32.to_be_bytes()[..], b"other", &[0, 0]].concat();
    let options = [option(8, &[]), option(5, &[]), option(7, &[]), option(7, &go), option(2, &[])].concat();
    let back = send(&setup, &[&3u32.to_be_bytes()[..], &options].concat());
    let replies: Vec<u32> =
        back[18..].chunks_exact(20).map(|reply| u32::from_be_bytes(reply[12..16].try_into().unwrap())).collect();
    assert_eq!(replies, [1 << 31 | 1, 1 << 31 | 1, 1 << 31 | 3, 1 << 31 | 6, 1]);
    assert!(setup.server.complaints().is_empty());
}

#[test]
fn old_clients_get_their_zeroes() {
    let setup = setup(&[]);
    let back = send(&setup, &[&0u32.to_be_bytes()[..], &option(1, &[]), &request(DISC, 1, 0, 0)].concat());
    assert_eq!(back.len(), 18 + 134);
    assert_eq!(back[18..26], SIZE.to_be_bytes());
}

#[test]
fn a_client_that_vanishes_may_come_back() {
    let setup = setup(&[]);
    for round in 1..20u8 {
        let mut client = setup.client();
        client.write(4 << 20, &[round; 4096]).unwrap();
        client.send(WRITE, 5 << 20, 4096, &[round; 100]); // Hangs up in the middle.
    }
    assert_eq!(setup.client().read(4 << 20, 4096).unwrap(), [19; 4096]);
    assert!(setup.read(5 << 20, 4096) == setup.base[5 << 20..][..4096], "half a write does not land");
}

#[test]
fn stopping_hangs_up_and_clears_the_socket() {
    let setup = setup(&[]);
    let mut idle = setup.client();
    let silent = UnixStream::connect(setup.folder.path().join("socket")).unwrap();
    let view = setup.server.view();
    setup.server.stop();
    assert_eq!(idle.0.read(&mut [0]).unwrap(), 0);
    assert!(!setup.folder.path().join("socket").exists());
    assert!(view.read_at(0, 512).unwrap() == setup.base[..512]);
    drop(silent);
}

#[test]
fn a_socket_of_yesterday_is_replaced_but_no_file() {
    let setup = setup(&[]);
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.base = setup.folder.path().join("base");
    drop(std::os::unix::net::UnixListener::bind(&config.socket).unwrap());
    DiskServer::start(config.clone(), Arc::new(Fake::default())).unwrap().stop();
    std::fs::remove_file(&config.overlay).unwrap();
    std::fs::write(&config.socket, "precious").unwrap();
    let error = DiskServer::start(config.clone(), Arc::new(Fake::default())).unwrap_err();
    assert!(matches!(error, DiskError::Socket { .. }), "{error}");
    assert_eq!(std::fs::read(&config.socket).unwrap(), b"precious");
}

#[test]
fn a_host_that_fails_is_an_error_for_the_guest_and_for_us() {
    let setup = setup(&[]);
    let mut client = setup.client();
    assert_eq!(setup.server.fault(), None);
    // The base shrinks under us: reads of the part that is gone fail.
    let base = std::fs::File::options().write(true).open(setup.folder.path().join("base")).unwrap();
    base.set_len(SIZE / 2).unwrap();
    assert_eq!(client.read(SIZE - 4096, 4096), Err(5));
    // Half a cluster cannot be written either: the other half is missing. A whole one can.
    assert_eq!(client.write(SIZE - 4096, &[1; 512]), Err(5));
    client.write(SIZE - 4096, &[1; 4096]).unwrap();
    let fault = setup.server.fault().unwrap();
    assert!(fault.starts_with(&format!("reading at byte {} of the disk failed", SIZE - 4096)), "{fault}");
}

/// Bytes that are nearly a conversation.
fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let options = (0u32..12, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(kind, data)| option(kind, &data));
    let requests = (0u16..9, any::<u64>(), any::<bool>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..600))
        .prop_map(|(kind, offset, inside, len, tail)| {
            let (offset, len) = if inside { (offset % SIZE, len % 5000) } else { (offset, len) };
            [request(kind, 3, offset, len), tail].concat()
        });
    let noise = prop::collection::vec(any::<u8>(), 0..64);
    let parts = prop::collection::vec(prop_oneof![1 => noise, 4 => requests], 0..12);
    (any::<bool>(), prop::collection::vec(options, 0..4), parts).prop_map(|(right, options, parts)| {
        let flags = if right { 3u32 } else { 0x0102_0304 };
        [flags.to_be_bytes().to_vec(), options.concat(), option(1, &[]), parts.concat()].concat()
    })
}

#[test]
fn nonsense_never_stops_the_server() {
    let setup = setup(&[]);
    let nonsense = prop_oneof![conversation(), prop::collection::vec(any::<u8>(), 0..200)];
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&nonsense, |bytes| {
            send(&setup, &bytes);
            let mut client = setup.client();
            client.write(6 << 20, &bytes[..bytes.len().min(512)]).unwrap();
            prop_assert_eq!(client.read(0, 512).unwrap().len(), 512);
            Ok(())
        })
        .unwrap();
    setup.assert_base_untouched();
    assert!(setup.server.complaints().len() <= 16);
}

/// Reads `wanted` as QEMU does that may not put it into the guest's memory: takes the reply's head, hangs up, and asks again. Beside it
/// is always another read, before or after.
fn read_as_if_into_watched_memory(setup: &Setup, wanted: (u64, u32)) -> usize {
    for attempt in 1..20 {
        let mut stream = setup.client().0;
        let (other, wrong) = (request(READ, 7, 4096, 512), request(READ, 8, wanted.0, wanted.1));
        let both = if attempt % 2 == 0 { [wrong, other] } else { [other, wrong] };
        stream.write_all(&both.concat()).unwrap();
        let mut refused = false;
        for _ in 0..2 {
            let mut head = [0; 16];
            stream.read_exact(&mut head).unwrap();
            let (error, cookie) = (u32::from_be_bytes(*head[4..].first_chunk().unwrap()), head[15]);
            match (error, cookie) {
                (0, 7) => {
                    let mut data = [0; 512];
                    stream.read_exact(&mut data).unwrap();
                    assert!(data[..] == setup.base[4096..4608]);
                }
                (0, 8) => break,
                (5, 8) => refused = true,
                _ => panic!("{head:?}"),
            }
        }
        if refused {
            return attempt;
        }
    }
    panic!("it goes on for ever");
}

#[test]
fn a_read_that_cannot_be_taken_is_refused_and_told() {
    let setup = setup(&[]);
    for wanted in [(8192, 512u32), (1 << 20, 1 << 20)] {
        let attempts = read_as_if_into_watched_memory(&setup, wanted);
        assert!(attempts < 10, "{attempts}");
        let told: Vec<Kind> = setup.outlet.emitted.lock().unwrap().drain(..).map(|told| told.event.kind).collect();
        let expected = Kind::KernelDmaRefused { disk: "vda".into(), offset: wanted.0, bytes: wanted.1.into() };
        assert_eq!(told, [expected], "once");
        // The same read for a place that can be written is nobody's business.
        let mut client = setup.client();
        let (start, length) = (wanted.0 as usize, wanted.1 as usize);
        assert!(client.read(wanted.0, length).unwrap() == setup.base[start..start + length]);
        // And more of them than go out one by one.
        for at in 0..600 {
            assert!(client.read(at * 512, 512).unwrap() == setup.base[at as usize * 512..][..512]);
        }
        client.send(DISC, 0, 0, &[]);
    }
    // At the first break nothing is known yet.
    assert!(setup.server.complaints().iter().all(|complaint| complaint.starts_with("the connection broke")));
}
