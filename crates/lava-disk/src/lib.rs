//! The only disk the guest has: an NBD server on a Unix socket.
//!
//! **What.** QEMU connects with `-blockdev driver=nbd,server.type=unix,server.path=S,export=`. Reads come from a raw base
//! image and an overlay, writes go to the overlay only. A write that would change what boots the machine (boot code,
//! partition tables, boot sectors, the gap behind the MBR: [`regions`]) waits for the policy; all other writes are summed
//! up and reported at most once a second.
//!
//! **Why.** A block device seen from outside cannot be lied to by a rootkit: whatever driver, `dd`, io_uring or
//! kernel thread wrote, it ends up as a request here.
//!
//! A request's way: `protocol` (bytes become a request) -> `connection` (one thread reads, answers what needs no
//! policy) -> `gate` (compares, asks, settles; its own thread, so that reads go on meanwhile) -> `storage`.
//!
//! # What the guest reads after an answer
//! * *allow*: the new bytes.
//! * *deny*: the old bytes; the write failed with an I/O error, and nothing of the request landed, other regions included.
//! * *remediate*: the **original** bytes, although the write was acknowledged. The rest of the request landed.
//!   Nothing of the new bytes ever reaches the overlay: "put back" and "kept" are the same here. (A buffered write stays in
//!   the guest's own page cache until it drops it; that is not the disk's to change.)
//!
//! # Limits
//! * Regions are those of the *original* base. A guest that repartitions its disk is asked about (the table is watched),
//!   but the boot sectors of its new partitions are data.
//! * Flush does not sync the overlay: it lives as long as the session, and dies with the host.
//! * The overlay is for one run: it cannot be opened again, its bitmap is in memory. What is to be read later is kept as differences (`kept`).
//! * If a connection breaks between the answer and the reply, QEMU sends the request again after it has reconnected: a
//!   write that landed changes nothing any more and is not asked twice; a refused one is.
//! * Sectors of 512 bytes. No structured replies, no block status, no TLS.
//!
//! *Invariants:* the base is opened read-only. What a client sends allocates at most three requests of 32 MiB each per
//! connection, and at most eight connections are served.
#![forbid(unsafe_code)]

mod base;
mod connection;
mod gate;
mod handshake;
mod kept;
mod protocol;
mod ranges;
pub mod regions;
mod server;
mod storage;
mod stuck;
mod summary;
mod view;

pub use kept::KeptDisk;
pub use protocol::WireError;
pub use server::{DiskConfig, DiskError, DiskServer};
pub use view::{BaseView, DiskView};

/// Locks; a thread that died while it held the lock left nothing half-done that matters here.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
