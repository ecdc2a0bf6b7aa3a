//! Frames a second through the rings: two producers, as two vCPUs are, and one consumer that only takes them.
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lava_ring::Ring;

/// Frames per measured turn and ring.
const FRAMES: u64 = 100_000;
/// As lava-microvisor makes them.
const CAPACITY: usize = 4 << 20;

fn throughput(c: &mut Criterion) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder on tmpfs");
    let mut group = c.benchmark_group("ring");
    group.sample_size(10).throughput(Throughput::Elements(2 * FRAMES));
    // An event takes 150 to 400 bytes.
    for size in [200usize, 4000] {
        let path = folder.path().join(size.to_string());
        let mut consumer = Ring::create(&path, 2, CAPACITY).expect("rings");
        let producer = Ring::attach(&path).expect("producer");
        let (go, done) = ([(); 2].map(|()| AtomicBool::new(false)), AtomicBool::new(false));
        let frame = vec![7u8; size];
        std::thread::scope(|scope| {
            for (ring, go) in (0u32..).zip(&go) {
                let (producer, frame, done) = (producer.clone(), &frame, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::Acquire) {
                        if go.swap(false, Ordering::AcqRel) {
                            (0..FRAMES).for_each(|_| assert!(producer.push(ring, frame)));
                        } else {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            group.bench_function(format!("2 producers, {size} bytes"), |b| {
                b.iter(|| {
                    go.iter().for_each(|go| go.store(true, Ordering::Release));
                    let mut taken = 0;
                    while taken < 2 * FRAMES {
                        taken += consumer.drain(&mut |_, _| {}).expect("whole frames") as u64;
                    }
                });
            });
            done.store(true, Ordering::Release);
        });
    }
    group.finish();
}

criterion_group!(benches, throughput);
criterion_main!(benches);
