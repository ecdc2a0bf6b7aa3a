//! Numbering events and pushing them into the rings.
//!
//! A frame is the event's number in its ring (u64, little-endian, from 1), then the event in lava-event's binary form. A
//! frame that could not be pushed has had its number: the supervisor sees the gap.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use lava_event::{Event, Kind, Process, Source, codec};
use lava_ring::Producer;

/// The way out.
pub struct Emitter {
    producer: Producer,
    origin_ns: u64,
    numbers: Vec<Mutex<u64>>,
    lost: AtomicU64,
}

impl Emitter {
    pub fn new(producer: Producer, origin_ns: u64) -> Self {
        let numbers = (0..producer.rings()).map(|_| Mutex::new(0)).collect();
        Self { producer, origin_ns, numbers, lost: AtomicU64::new(0) }
    }

    /// Session time, ns.
    pub fn now_ns(&self) -> u64 {
        lava_ring::monotonic_ns().saturating_sub(self.origin_ns)
    }

    /// Emits an event that happens now.
    pub fn emit(&self, vcpu: u32, process: Option<Process>, kind: Kind) {
        // Under the lock, so that numbers and times rise together also when the process ends while a vCPU runs.
        let slot = vcpu.min(self.producer.rings().saturating_sub(1));
        let Ok(mut number) = self.numbers[slot as usize].lock() else { return };
        *number += 1;
        let mut frame = number.to_le_bytes().to_vec();
        let time_ns = self.now_ns();
        codec::encode(
            &Event { seq: 0, time_ns, source: Source::Tap, vcpu: Some(vcpu), process, registers: None, kind },
            &mut frame,
        );
        if !self.producer.push(slot, &frame) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Nothing will follow.
    pub fn close(&self) {
        self.producer.close();
    }
}
