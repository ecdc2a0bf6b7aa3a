//! Numbering events and pushing them into the rings.
//!
//! What the tap says goes in frames: the frame's number in its ring (u64, little-endian, from 1), then a [`Frame`] in
//! lava-event's binary form. A frame that could not be pushed has had its number: the supervisor sees the gap.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use lava_event::codec::{self, Frame};
use lava_event::{Action, Event, Kind, Process, Source};
use lava_ring::Producer;

/// Bytes of content in one frame.
const PIECE: usize = 128 * 1024;
/// Room that is kept for the next frame, bytes: for nearly every event.
const ROOM: usize = 16 * 1024;

/// Of each ring.
#[derive(Default)]
struct Slot {
    /// Of the last frame.
    number: u64,
    /// The frame as bytes, kept for its room.
    bytes: Vec<u8>,
}

/// The way out.
pub struct Emitter {
    producer: Producer,
    origin_ns: u64,
    slots: Vec<Mutex<Slot>>,
    lost: AtomicU64,
}

impl Emitter {
    pub fn new(producer: Producer, origin_ns: u64) -> Self {
        let slots = (0..producer.rings()).map(|_| Mutex::default()).collect();
        Self { producer, origin_ns, slots, lost: AtomicU64::new(0) }
    }

    /// Session time, ns.
    pub fn now_ns(&self) -> u64 {
        lava_ring::monotonic_ns().wrapping_sub(self.origin_ns)
    }

    /// An event that happens now. The time is set when it is sent.
    pub fn event(&self, vcpu: u32, process: Option<Process>, kind: Kind) -> Event {
        Event { vcpu: Some(vcpu), process, ..Event::new(0, Source::Tap, kind) }
    }

    /// Emits an event that happens now.
    pub fn emit(&self, vcpu: u32, process: Option<Process>, kind: Kind) {
        self.send(vcpu, Frame::Event(self.event(vcpu, process, kind)));
    }

    /// Emits an event.
    pub fn emit_event(&self, vcpu: u32, event: Event) {
        self.send(vcpu, Frame::Event(event));
    }

    /// Emits an event and waits for what the policy says. Denied if nobody is left to answer.
    pub fn ask(&self, vcpu: u32, event: Event) -> Action {
        let (ring, number) = self.send(vcpu, Frame::Ask(event));
        self.producer.answer(ring, number).map_or(Action::Deny, Action::from_code)
    }

    /// Says what became of the last answer on this vCPU.
    pub fn settle(&self, vcpu: u32, outcome: &str) {
        self.send(vcpu, Frame::Settled(outcome.to_owned()));
    }

    /// Emits a `file.content` event and the content before it, in pieces.
    pub fn emit_content(&self, vcpu: u32, event: Event, content: &[u8]) {
        // One lock for all: nothing of the same ring comes between.
        let Some((ring, mut slot)) = self.slot(vcpu) else { return };
        for piece in content.chunks(PIECE) {
            self.push(ring, &mut slot, Frame::Content(piece.to_vec()));
        }
        self.push(ring, &mut slot, Frame::Event(event));
    }

    fn slot(&self, vcpu: u32) -> Option<(u32, std::sync::MutexGuard<'_, Slot>)> {
        let ring = vcpu.min(self.producer.rings().saturating_sub(1));
        Some((ring, self.slots.get(ring as usize)?.lock().ok()?))
    }

    fn send(&self, vcpu: u32, frame: Frame) -> (u32, u64) {
        // Under the lock, so that numbers and times rise together also when the process ends while a vCPU runs.
        let Some((ring, mut slot)) = self.slot(vcpu) else { return (u32::MAX, 0) };
        self.push(ring, &mut slot, frame);
        (ring, slot.number)
    }

    fn push(&self, ring: u32, slot: &mut Slot, mut frame: Frame) {
        slot.number += 1;
        if let Frame::Event(event) | Frame::Ask(event) = &mut frame {
            event.time_ns = self.now_ns();
        }
        slot.bytes.clear();
        slot.bytes.shrink_to(ROOM);
        slot.bytes.extend_from_slice(&slot.number.to_le_bytes());
        codec::encode(&frame, &mut slot.bytes);
        if !self.producer.push(ring, &slot.bytes) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the supervisor asks for, if nobody has taken it: its number, and what it is about.
    pub fn request(&self) -> Option<(u32, u32)> {
        self.producer.request()
    }

    /// Whether the supervisor wants to be told what was only added up so far.
    pub fn sums_are_wanted(&self) -> bool {
        self.producer.sums_are_wanted()
    }

    /// Says what came of it.
    pub fn done(&self, request: u32, outcome: u32) {
        self.producer.done(request, outcome);
    }

    /// Nothing will follow.
    pub fn close(&self) {
        self.producer.close();
    }
}
