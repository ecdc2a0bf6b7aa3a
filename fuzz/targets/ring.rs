//! A ring file whose indices and frames are the producer's whim: the consumer says corrupt, or hands out frames that fit.
#![no_main]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use lava_ring::Ring;
use libfuzzer_sys::fuzz_target;

const CAPACITY: usize = 4096;
/// Where ring 0's head and data lie (lava-ring, ring.rs).
const HEAD: u64 = 64;
const DATA: u64 = 4096;

fuzz_target!(|data: &[u8]| {
    let Some((head, content)) = data.split_first_chunk::<8>() else { return };
    let path = PathBuf::from(format!("/dev/shm/lava-fuzz-ring-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut consumer = Ring::create(&path, 1, CAPACITY).expect("a ring");
    let file = OpenOptions::new().write(true).open(&path).expect("the ring's file");
    let mut head = u64::from_le_bytes(*head);
    if content.first().is_some_and(|byte| byte & 1 == 0) {
        head %= CAPACITY as u64 + 2;
    }
    file.write_all_at(&head.to_le_bytes(), HEAD).expect("head");
    file.write_all_at(&content[..content.len().min(CAPACITY)], DATA).expect("data");
    let mut bytes = 0;
    let drained = consumer.drain(&mut |ring, frame| {
        assert_eq!(ring, 0);
        bytes += frame.len() + 4;
    });
    assert!(bytes <= CAPACITY);
    if drained.is_ok() {
        assert_eq!(bytes as u64, head);
    }
    let _ = std::fs::remove_file(&path);
});
