//! What passes between the QEMU process and the supervisor: byte frames through shared memory, and one clock.
//!
//! One file on tmpfs holds one single-producer single-consumer ring per vCPU. A producer that finds its ring full waits:
//! the vCPU is held back, nothing is dropped. The consumer treats what stands in the memory as hostile: the other side
//! may have been taken over by the guest, so every index and length is checked and a frame is copied out before anybody
//! looks at it.
//!
//! *Limits:* frames up to a quarter of the ring; one consumer.
//!
//! This crate and the tap are the only ones with `unsafe` code.

mod map;
mod ring;

pub use ring::{Answerer, Consumer, MAX_RINGS, Producer, Requester, Ring, RingError};

/// The host's monotonic clock, ns: the same in every process of this host.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}
