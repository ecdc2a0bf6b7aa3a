//! One micro-VM's life: from the opened thing to the last event.
//!
//! * [`Profiles`]: what kind of task a file is, and how such a task is opened in the guest.
//! * [`qemu`]: finding QEMU, its command line, its process, which never outlives the supervisor.
//! * [`passt`]: the way to the real network, where a session has one.
//! * [`qmp`]: speaking with it.
//! * [`stream`]: the tap's rings, the disk, the network and the microvisor itself merged into ONE ordered stream.
//! * [`template`]: guests that have booted, saved, and cloned in a blink.
//! * [`snapshot`]: a running one as it was at one moment, for others to go on from.
//! * [`Session`]: one run of one task, start to end.
//!
//! *Boundary:* everything that comes from QEMU's process or from the guest is hostile: lengths are bounded, and what
//! makes no sense is an event (`vm.gap`) or is ignored, never a panic.
//!
//! Limits: TCG only; one task per micro-VM.
#![forbid(unsafe_code)]

pub mod machine;
pub mod passt;
pub mod profile;
pub mod qemu;
pub mod qmp;
pub mod snapshot;
pub mod stream;
pub mod template;

pub use lava_net::{Content as NetContent, ContentError as NetContentError, Mode as NetMode};
pub use machine::{Handle, MachineError, MachineReport, MachineSpec, Options, Origin, Questions, Session, Task};
pub use profile::{Network, Profile, ProfileError, Profiles};
pub use qemu::{Qemu, QemuError, Version};
pub use snapshot::{Continuation, Snapshot, SnapshotError};
pub use stream::{Item, Items, Reply};
pub use template::{KernelPlace, Template, TemplateError, TemplateParts, TemplateStore};

/// Locks; a thread that died while it held the lock left nothing half-done that matters here.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
