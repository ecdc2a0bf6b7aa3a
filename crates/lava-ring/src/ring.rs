//! The rings: layout, producer, consumer.
//!
//! ```text
//! 0     magic "LAVARNG2"      28  producer state 0/1/2       64 + 64*i  ring i: head (u64, producer), tail (u64, consumer),
//!                                                                      answer (u64, consumer)
//! 8     number of rings
//! 16    bytes per ring        32  consumer state 0/1         data of ring i: HEADER + i * bytes per ring
//!                             36  sums wanted 0/1 (u32, consumer)
//!                             40  request (u64, consumer)
//!                             48  outcome (u64, producer)
//! ```
//! A request is its number (from 1) in the upper 32 bits, what it is about in the lower; an outcome the request's number in the upper 32, what came of it in
//! the lower. One at a time. An answer is the number of the question, shifted left by 8, and a code that is not 0.
//!
//! Nobody is woken: a system call per frame would cost the vCPU's thread more than the frame. The consumer looks every few milliseconds; a producer
//! that finds its ring full, or waits for an answer, looks more often.
//!
//! Head and tail count bytes since the beginning and never wrap in practice; a frame is a `u32` length, then the bytes.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::map::SharedMap;

/// Most rings in one file.
pub const MAX_RINGS: u32 = 62;

const MAGIC: u64 = u64::from_le_bytes(*b"LAVARNG2");
const AT_COUNT: usize = 8;
const AT_CAPACITY: usize = 16;
const AT_PRODUCER: usize = 28;
const AT_CONSUMER: usize = 32;
const AT_SUMS: usize = 36;
const AT_REQUEST: usize = 40;
const AT_OUTCOME: usize = 48;
const HEADER: usize = 4096;

const PRODUCER_ATTACHED: u32 = 1;
const PRODUCER_GONE: u32 = 2;
const CONSUMER_GONE: u32 = 1;

/// What can go wrong with a ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The file could not be made or opened.
    #[error("ring file {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Sizes that no ring has.
    #[error(
        "a ring file has 1 to {MAX_RINGS} rings of 4 KiB to 1 GiB (a power of two), not {rings} of {capacity} bytes"
    )]
    Shape {
        /// Number asked for.
        rings: u32,
        /// Bytes each.
        capacity: usize,
    },
    /// Not made by [`Ring::create`] of this version.
    #[error("{0} is no ring file of this LAVA")]
    Foreign(PathBuf),
    /// Indices or lengths that the producer cannot have written.
    #[error("ring {ring} is corrupt ({detail}): QEMU or the tap is damaged or taken over")]
    Corrupt {
        /// Which ring.
        ring: u32,
        /// What is wrong.
        detail: String,
    },
}

/// A ring file.
pub struct Ring;

struct Shared {
    map: SharedMap,
    rings: u32,
    capacity: usize,
}

impl Shared {
    const fn at_head(ring: u32) -> usize {
        64 + 64 * ring as usize
    }

    const fn at_tail(ring: u32) -> usize {
        Self::at_head(ring) + 8
    }

    const fn at_answer(ring: u32) -> usize {
        Self::at_head(ring) + 16
    }

    /// Calls `copy(offset in the map, range of the buffer)` for the one or two pieces of `len` bytes from `position`.
    fn pieces(&self, ring: u32, position: u64, len: usize, mut copy: impl FnMut(usize, std::ops::Range<usize>)) {
        let data = HEADER + ring as usize * self.capacity;
        let from = (position % self.capacity as u64) as usize;
        let first = len.min(self.capacity - from);
        copy(data + from, 0..first);
        if first < len {
            copy(data, first..len);
        }
    }

    fn put(&self, ring: u32, position: u64, bytes: &[u8]) {
        self.pieces(ring, position, bytes.len(), |at, part| self.map.write(at, &bytes[part]));
    }

    fn get(&self, ring: u32, position: u64, into: &mut [u8]) {
        self.pieces(ring, position, into.len(), |at, part| self.map.read(at, &mut into[part]));
    }
}

impl Ring {
    /// Makes the file `path` (which must not exist) with `rings` rings of `capacity` bytes each, and is its consumer.
    ///
    /// # Errors
    /// If the shape is not possible or the file can't be made.
    pub fn create(path: &Path, rings: u32, capacity: usize) -> Result<Consumer, RingError> {
        let fits = (4096..=1 << 30).contains(&capacity) && capacity.is_power_of_two();
        if rings == 0 || rings > MAX_RINGS || !fits {
            return Err(RingError::Shape { rings, capacity });
        }
        let failed = |source| RingError::File { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(failed)?;
        let len = HEADER + rings as usize * capacity;
        file.set_len(len as u64).map_err(failed)?;
        let map = SharedMap::new(&file, len).map_err(failed)?;
        map.u64(AT_COUNT).store(u64::from(rings), Ordering::Relaxed);
        map.u64(AT_CAPACITY).store(capacity as u64, Ordering::Relaxed);
        map.u64(0).store(MAGIC, Ordering::Release);
        let shared = Arc::new(Shared { map, rings, capacity });
        Ok(Consumer { shared, tails: vec![0; rings as usize], frame: Vec::new() })
    }

    /// Opens the file as its producer: once, from the QEMU process.
    ///
    /// # Errors
    /// If the file can't be opened or is no ring file.
    pub fn attach(path: &Path) -> Result<Producer, RingError> {
        let failed = |source| RingError::File { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len() as usize;
        if len < HEADER {
            return Err(RingError::Foreign(path.to_owned()));
        }
        let map = SharedMap::new(&file, len).map_err(failed)?;
        let rings = map.u64(AT_COUNT).load(Ordering::Relaxed);
        let capacity = map.u64(AT_CAPACITY).load(Ordering::Relaxed);
        let expected = rings.checked_mul(capacity).and_then(|data| data.checked_add(HEADER as u64));
        if map.u64(0).load(Ordering::Acquire) != MAGIC || rings > u64::from(MAX_RINGS) || expected != Some(len as u64) {
            return Err(RingError::Foreign(path.to_owned()));
        }
        map.u32(AT_PRODUCER).store(PRODUCER_ATTACHED, Ordering::Release);
        let shared = Arc::new(Shared { map, rings: rings as u32, capacity: capacity as usize });
        Ok(Producer { shared, taken: Arc::default() })
    }
}

/// The writing side. One thread at a time per ring.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
    /// Number of the last request that was taken.
    taken: Arc<AtomicU32>,
}

impl Producer {
    /// Number of rings.
    #[must_use]
    pub fn rings(&self) -> u32 {
        self.shared.rings
    }

    /// Appends a frame to `ring`; while there is no room, waits. Returns false if the consumer is gone or the frame can
    /// never fit: then the frame is lost, and the caller counts it.
    #[must_use]
    pub fn push(&self, ring: u32, frame: &[u8]) -> bool {
        let shared = &*self.shared;
        let need = frame.len() + 4;
        if ring >= shared.rings || need > shared.capacity / 4 {
            return false;
        }
        let head = shared.map.u64(Shared::at_head(ring)).load(Ordering::Relaxed);
        loop {
            let tail = shared.map.u64(Shared::at_tail(ring)).load(Ordering::Acquire);
            if head.wrapping_sub(tail) as usize + need <= shared.capacity {
                break;
            }
            if shared.map.u32(AT_CONSUMER).load(Ordering::Acquire) == CONSUMER_GONE {
                return false;
            }
            // Full: this vCPU is held.
            std::thread::sleep(Duration::from_micros(100));
        }
        shared.put(ring, head, &(frame.len() as u32).to_le_bytes());
        shared.put(ring, head + 4, frame);
        shared.map.u64(Shared::at_head(ring)).store(head + need as u64, Ordering::Release);
        true
    }

    /// Waits for the consumer's answer to `question` (a number of the caller's, below 2^56), which was pushed to `ring`. None if
    /// the consumer is gone: nobody will answer.
    #[must_use]
    pub fn answer(&self, ring: u32, question: u64) -> Option<u8> {
        if ring >= self.shared.rings {
            return None;
        }
        loop {
            let word = self.shared.map.u64(Shared::at_answer(ring)).load(Ordering::Acquire);
            if word >> 8 == question && word & 0xff != 0 {
                return Some((word & 0xff) as u8);
            }
            if self.shared.map.u32(AT_CONSUMER).load(Ordering::Acquire) == CONSUMER_GONE {
                return None;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Takes the consumer's request, if there is one that nobody has taken: its number, and what it is about.
    #[must_use]
    pub fn request(&self) -> Option<(u32, u32)> {
        let word = self.shared.map.u64(AT_REQUEST).load(Ordering::Acquire);
        let (number, about) = halves(word);
        let last = self.taken.load(Ordering::Relaxed);
        let free = number != 0 && number != last;
        let mine = free && self.taken.compare_exchange(last, number, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        mine.then_some((number, about))
    }

    /// True while the consumer wants to be told what was only added up so far.
    #[must_use]
    pub fn sums_are_wanted(&self) -> bool {
        self.shared.map.u32(AT_SUMS).load(Ordering::Acquire) != 0
    }

    /// Says what came of a request.
    pub fn done(&self, number: u32, outcome: u32) {
        self.shared.map.u64(AT_OUTCOME).store(word(number, outcome), Ordering::Release);
    }

    /// Says that no frame will follow.
    pub fn close(&self) {
        self.shared.map.u32(AT_PRODUCER).store(PRODUCER_GONE, Ordering::Release);
    }
}

/// The reading side.
pub struct Consumer {
    shared: Arc<Shared>,
    // Our own copy: what stands in the shared memory could have been changed by the other side.
    tails: Vec<u64>,
    frame: Vec<u8>,
}

impl Consumer {
    /// Hands every frame that is there now to `take` (ring number, bytes), ring by ring, in order within a ring. Returns
    /// their number.
    ///
    /// # Errors
    /// [`RingError::Corrupt`]: nothing of that ring can be read from there on.
    pub fn drain(&mut self, take: &mut dyn FnMut(u32, &[u8])) -> Result<usize, RingError> {
        let mut frames = 0;
        for ring in 0..self.shared.rings {
            let head = self.shared.map.u64(Shared::at_head(ring)).load(Ordering::Acquire);
            let mut tail = self.tails[ring as usize];
            let waiting = head.wrapping_sub(tail);
            if waiting > self.shared.capacity as u64 {
                return Err(corrupt(ring, format!("head {head} is {waiting} bytes ahead of tail {tail}")));
            }
            while tail != head {
                let left = head - tail;
                let mut length = [0; 4];
                if left < 4 {
                    return Err(corrupt(ring, format!("{left} bytes at {tail} are too few for a frame")));
                }
                self.shared.get(ring, tail, &mut length);
                let len = u64::from(u32::from_le_bytes(length));
                if len + 4 > left {
                    return Err(corrupt(ring, format!("frame of {len} bytes at {tail}, but {left} are there")));
                }
                self.frame.resize(len as usize, 0);
                self.shared.get(ring, tail + 4, &mut self.frame);
                tail += 4 + len;
                // Freed frame by frame, so that a held vCPU goes on at once.
                self.tails[ring as usize] = tail;
                self.shared.map.u64(Shared::at_tail(ring)).store(tail, Ordering::Release);
                take(ring, &self.frame);
                frames += 1;
            }
        }
        Ok(frames)
    }

    /// A way to answer questions from another thread.
    #[must_use]
    pub fn answerer(&self) -> Answerer {
        Answerer { shared: Arc::clone(&self.shared) }
    }

    /// A way to ask the producer for something, from another thread. There is to be one.
    #[must_use]
    pub fn requester(&self) -> Requester {
        Requester { shared: Arc::clone(&self.shared), last: 0 }
    }

    /// True once a producer has attached.
    #[must_use]
    pub fn attached(&self) -> bool {
        self.shared.map.u32(AT_PRODUCER).load(Ordering::Acquire) != 0
    }

    /// True once the producer said that nothing will follow.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.shared.map.u32(AT_PRODUCER).load(Ordering::Acquire) == PRODUCER_GONE
    }
}

const fn word(upper: u32, lower: u32) -> u64 {
    (upper as u64) << 32 | lower as u64
}

const fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// Asks the producer for something, one request after the other.
pub struct Requester {
    shared: Arc<Shared>,
    last: u32,
}

impl Requester {
    /// Makes a request, and waits for what comes of it. `None`: the producer did not take it within `limit`, and will not.
    pub fn ask(&mut self, about: u32, limit: Duration) -> Option<u32> {
        self.last = self.last.wrapping_add(1).max(1);
        let (request, outcome) = (self.shared.map.u64(AT_REQUEST), self.shared.map.u64(AT_OUTCOME));
        request.store(word(self.last, about), Ordering::Release);
        let deadline = Instant::now() + limit;
        loop {
            match halves(outcome.load(Ordering::Acquire)) {
                (number, outcome) if number == self.last => return Some(outcome),
                _ if Instant::now() >= deadline => break,
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        request.store(0, Ordering::Release);
        None
    }

    /// Says whether the producer is to tell what it only added up so far, each time that it comes to rest.
    pub fn want_sums(&self, wanted: bool) {
        self.shared.map.u32(AT_SUMS).store(u32::from(wanted), Ordering::Release);
    }
}

/// Answers the producer's questions.
#[derive(Clone)]
pub struct Answerer {
    shared: Arc<Shared>,
}

impl Answerer {
    /// Answers `question` of `ring` with `code`, which is not 0.
    pub fn answer(&self, ring: u32, question: u64, code: u8) {
        if ring < self.shared.rings {
            let word = question << 8 | u64::from(code.max(1));
            self.shared.map.u64(Shared::at_answer(ring)).store(word, Ordering::Release);
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // A vCPU that is held must not be held for ever.
        self.shared.map.u32(AT_CONSUMER).store(CONSUMER_GONE, Ordering::Release);
    }
}

fn corrupt(ring: u32, detail: String) -> RingError {
    RingError::Corrupt { ring, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(rings: u32, capacity: usize) -> (tempfile::TempDir, Consumer, Producer) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let consumer = Ring::create(&path, rings, capacity).unwrap();
        let producer = Ring::attach(&path).unwrap();
        (dir, consumer, producer)
    }

    #[test]
    fn a_slow_consumer_holds_the_producer_and_loses_nothing() {
        let (_dir, mut consumer, producer) = pair(2, 4096);
        let pushing: Vec<_> = (0..2)
            .map(|ring| {
                let producer = producer.clone();
                std::thread::spawn(move || {
                    for number in 0u32..20_000 {
                        let mut frame = number.to_le_bytes().to_vec();
                        frame.resize(4 + number as usize % 300, 7);
                        assert!(producer.push(ring, &frame));
                    }
                })
            })
            .collect();
        let mut next = [0u32; 2];
        while next != [20_000; 2] {
            std::thread::yield_now();
            consumer
                .drain(&mut |ring, frame| {
                    let number = u32::from_le_bytes(frame[..4].try_into().unwrap());
                    assert_eq!(number, next[ring as usize]);
                    assert_eq!(frame.len(), 4 + number as usize % 300);
                    next[ring as usize] += 1;
                })
                .unwrap();
        }
        pushing.into_iter().for_each(|thread| thread.join().unwrap());
        producer.close();
        assert!(consumer.closed());
    }

    #[test]
    fn a_hostile_producer_is_an_error() {
        for (head, length) in [(1u64 << 40, 0u32), (2, 0), (8, 1000), (8, u32::MAX)] {
            let (_dir, mut consumer, producer) = pair(1, 4096);
            producer.shared.put(0, 0, &length.to_le_bytes());
            producer.shared.map.u64(Shared::at_head(0)).store(head, Ordering::Release);
            assert!(matches!(consumer.drain(&mut |_, _| {}), Err(RingError::Corrupt { .. })), "{head} {length}");
        }
    }

    #[test]
    fn a_producer_without_consumer_is_not_held() {
        let (_dir, consumer, producer) = pair(1, 4096);
        drop(consumer);
        let accepted = (0..100).take_while(|_| producer.push(0, &[0; 900])).count();
        assert_eq!(accepted, 4);
    }

    #[test]
    fn questions_are_answered_or_nobody_is_there() {
        let (_dir, consumer, producer) = pair(2, 4096);
        let answerer = consumer.answerer();
        let waiting = {
            let producer = producer.clone();
            std::thread::spawn(move || (producer.answer(1, 7), producer.answer(1, 8)))
        };
        answerer.answer(1, 6, 1);
        std::thread::sleep(Duration::from_millis(5));
        answerer.answer(1, 7, 3);
        std::thread::sleep(Duration::from_millis(5));
        drop(consumer);
        assert_eq!(waiting.join().unwrap(), (Some(3), None));
        assert_eq!(producer.answer(9, 1), None);
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other");
        std::fs::write(&path, vec![0; 8192]).unwrap();
        assert!(matches!(Ring::attach(&path), Err(RingError::Foreign(_))));
        assert!(matches!(Ring::create(&dir.path().join("odd"), 1, 5000), Err(RingError::Shape { .. })));
    }

    #[test]
    fn a_request_is_taken_once() {
        let (_dir, consumer, producer) = pair(2, 4096);
        let mut requester = consumer.requester();
        assert_eq!(producer.request(), None);
        for wanted in [false, true, false] {
            requester.want_sums(wanted);
            assert_eq!(producer.sums_are_wanted(), wanted);
        }
        assert_eq!(requester.ask(7, Duration::ZERO), None, "nobody is there");
        assert_eq!(producer.request(), None, "and nobody is to do it later");
        let taker = std::thread::spawn(move || {
            let other = producer.clone();
            loop {
                if let Some((number, about)) = producer.request() {
                    assert_eq!(other.request(), None, "two vCPUs");
                    producer.done(number, about + 1);
                    if about == 8 {
                        return;
                    }
                }
                std::thread::yield_now();
            }
        });
        let patient = Duration::from_secs(60);
        assert_eq!((requester.ask(u32::MAX - 1, patient), requester.ask(8, patient)), (Some(u32::MAX), Some(9)));
        taker.join().unwrap();
    }
}
