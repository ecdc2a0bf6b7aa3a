//! One run of one task, start to end.
//!
//! [`Session::run`] prepares everything, starts QEMU, and returns. From then on the machine's life goes on in a thread of
//! its own, because a question of the disk waits for the consumer: the caller's thread iterates over the items, answers
//! what is asked, and takes the report when the iteration has ended.
//!
//! ```text
//! let (items, handle) = Session::run(spec, Some(task), Options::default())?;
//! for item in &items { ... Item::Ask(_, reply) => reply.answer(...) ... }
//! let report = handle.wait();
//! ```
//!
//! If the supervisor is killed, the kernel kills QEMU; what else stays behind, [`sweep`] removes.

mod control;
mod life;
mod owner;
mod port;
mod questions;
mod setup;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Sender, bounded};
use lava_disk::{DiskError, DiskView};
use lava_event::Sha256;
use lava_net::{NetError, NetSummary};
use lava_ring::RingError;

use crate::passt::PasstError;
use crate::profile::{Profile, Profiles};
use crate::qemu::QemuError;
use crate::snapshot::Continuation;
use crate::stream::{Items, QUEUE};
use crate::template::Template;
use life::Happening;
pub use owner::{Owner, Swept, is_running, sweep};

pub use questions::Questions;

/// Where the image has its launcher (`lava-image` puts it there).
pub const LAUNCHER: &str = "/usr/lib/lava/launcher";

/// The machine to make.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// The disk image, raw: vda. It is not changed.
    pub image: PathBuf,
    /// The ELF file of the guest's kernel: the tap reads it.
    pub kernel_file: PathBuf,
    /// Release of that kernel.
    pub kernel: String,
    /// A second disk, raw: vdb, mounted by the guest on `/opt/scenario`.
    pub scenario_disk: Option<PathBuf>,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// It has a VGA; its picture is kept when it changes, while the task runs.
    pub display: bool,
    /// The tap's shared library; without it nothing inside the guest is seen.
    pub tap: Option<PathBuf>,
    /// Path of the launcher in the guest: [`LAUNCHER`].
    pub launcher: String,
    /// What the guest is answered on its network; none: it has no network card.
    pub net: Option<lava_net::Mode>,
    /// What a simulated network's web has.
    pub net_content: lava_net::Content,
    /// Whether every system call is told.
    pub api_trace: bool,
    /// Kinds of events that the tap and the network hold until [`super::Item::Ask`] is answered; those of disk and kernel memory always are.
    pub asks: Vec<&'static str>,
    /// An existing folder for what is kept: `console.log`, `qemu.log`, `traffic.pcapng`, `vda.overlay`.
    pub session_dir: PathBuf,
    /// A folder to make, on tmpfs and with a short path (`/dev/shm/lava-...`), for memory and sockets. It is removed at
    /// the end. Its parents must be passable for everybody if LAVA runs as root.
    pub runtime_dir: PathBuf,
    /// Files and folders that are of no use without the session: removed by [`sweep`] if this process is killed, and only then.
    pub scratch: Vec<PathBuf>,
    /// Clone this template instead of booting. Image, disks, memory and vCPUs must be those it was made from.
    pub template: Option<Template>,
    /// Go on from a snapshot instead of booting: no task is sent, the one that runs in it is waited for. Image, disks, memory, vCPUs and
    /// network card must be those it was made with.
    pub from: Option<Continuation>,
    /// How long the guest may take until its launcher is ready.
    pub boot_timeout: Duration,
    /// How long the task may take.
    pub timeout: Duration,
    /// The stream's time 0.
    pub origin: Origin,
}

/// One moment on both of the host's clocks: what a session's times count from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// As people and other machines tell it.
    pub time: SystemTime,
    /// On the clock that events are stamped with (`CLOCK_MONOTONIC`), ns.
    pub monotonic_ns: u64,
}

impl Origin {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self { time: SystemTime::now(), monotonic_ns: lava_ring::monotonic_ns() }
    }

    /// So long ago. On the monotonic clock that may be before the host's boot, which wraps; so do the times that are counted from it.
    #[must_use]
    pub fn ago(ns: u64) -> Self {
        let Self { time, monotonic_ns } = Self::now();
        Self {
            time: time.checked_sub(Duration::from_nanos(ns)).unwrap_or(SystemTime::UNIX_EPOCH),
            monotonic_ns: monotonic_ns.wrapping_sub(ns),
        }
    }
}

/// What to open.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its file's name.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
    /// How it is opened.
    pub profile: Profile,
    /// What may open the files that it holds, if it is an archive.
    pub members: Profiles,
}

/// What else to do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Restart the guest once the task has ended, and wait until it is up again.
    pub reboot: bool,
    /// How long to watch on after the task's end: it may have left something running.
    pub linger: Duration,
    /// Send the task's output to the console.
    pub console: bool,
    /// Start the task as the guest's root, not as its ordinary user.
    pub root: bool,
    /// Make a template of the machine once the task has ended: its files go into this folder, which exists. The session ends then;
    /// disks are sealed by [`Handle::wait`]'s report, RAM and state lie in the folder.
    pub save_to: Option<PathBuf>,
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// QEMU.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The way to the real network.
    #[error(transparent)]
    Passt(#[from] PasstError),
    /// The tap's ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The file system or the kernel said no.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The machine's memory does not fit.
    #[error(
        "{} has {free_mib} MiB left, the micro-VM needs {needed_mib}: free memory, or use a profile with less memory_mib",
        path.display()
    )]
    Memory {
        /// The runtime folder.
        path: PathBuf,
        /// What is free.
        free_mib: u64,
        /// What is needed.
        needed_mib: u64,
    },
    /// A figure that cannot be meant.
    #[error("a micro-VM has 1 to 16 vCPUs and 128 to 65536 MiB, not {vcpus} and {memory_mib}")]
    Shape {
        /// vCPUs asked for.
        vcpus: u32,
        /// Memory asked for, MiB.
        memory_mib: u32,
    },
}

/// What is known of the machine beside its events.
#[derive(Debug, Default)]
pub struct MachineReport {
    /// `finished`, `timeout`, `boot_timeout`, `crashed`, `guest_shutdown`, `killed`, `abandoned`, or what
    /// [`Handle::stop`] was given. The same stands in `vm.ended`.
    pub reason: String,
    /// As in `vm.ended`.
    pub orderly: bool,
    /// More, in words.
    pub detail: Option<String>,
    /// Number of events, `vm.gap`s among them.
    pub events: u64,
    /// Number of `vm.gap`s that the merger reported.
    pub gaps: u64,
    /// QEMU's version.
    pub qemu: String,
    /// The user QEMU ran as, if it was demoted.
    pub user: Option<u32>,
    /// SHA-256 of vda's first 512 bytes before the start.
    pub mbr_sha256_before: Option<Sha256>,
    /// And after the end.
    pub mbr_sha256_after: Option<Sha256>,
    /// The disks as the guest left them: vda, vdb.
    pub disks: Vec<DiskView>,
    /// What the network saw.
    pub net: NetSummary,
    /// Disk requests QEMU reports as failed; each denied write is one.
    pub block_io_errors: u64,
    /// Why no control group bounds QEMU's memory and processor, if none does.
    pub unbounded: Option<String>,
    /// Until this is dropped the session counts as running, and nobody sweeps its scratch files.
    pub owner: Option<Owner>,
    /// Why nothing, or not all, of an archive's content was opened.
    pub unopened: Option<String>,
    /// What went wrong on the host's side, in sentences.
    pub faults: Vec<String>,
    /// When the launcher was ready, ns since the start.
    pub ready_ns: Option<u64>,
    /// When the task was sent, ns since the start.
    pub task_sent_ns: Option<u64>,
    /// When the task had ended, ns since the start.
    pub task_ended_ns: Option<u64>,
    /// When the launcher was ready again after a restart, ns since the start.
    pub ready_again_ns: Option<u64>,
    /// When QEMU was gone, ns since the start.
    pub ended_ns: u64,
}

/// A running session, seen from the consumer.
#[derive(Debug)]
pub struct Handle {
    happenings: Sender<Happening>,
    life: JoinHandle<MachineReport>,
    questions: Arc<Questions>,
}

impl Handle {
    /// Ends the session early, in order; `reason` is what `vm.ended` says. Returns at once: go on consuming.
    pub fn stop(&self, reason: &str) {
        // If it has ended already there is nothing to stop.
        let _ = self.happenings.try_send(Happening::Stop(reason.to_owned()));
    }

    /// A function that does what [`Handle::stop`] does, for a signal handler's thread.
    pub fn stopper(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let happenings = self.happenings.clone();
        move |reason| drop(happenings.try_send(Happening::Stop(reason.to_owned())))
    }

    /// Where questions wait for an analyst.
    #[must_use]
    pub fn questions(&self) -> &Questions {
        &self.questions
    }

    /// The report, once the items have ended. Consume (or drop) the items before.
    #[must_use]
    pub fn wait(self) -> MachineReport {
        self.life.join().unwrap_or_else(|_| MachineReport {
            reason: "crashed".into(),
            faults: vec!["the supervisor's thread panicked: please report it".into()],
            ..MachineReport::default()
        })
    }
}

/// One micro-VM, one task.
#[derive(Debug)]
pub struct Session;

impl Session {
    /// Starts the micro-VM and its life: boot, task, linger, restart if asked for, end. With [`MachineSpec::from`] it begins in the middle of the task.
    ///
    /// # Errors
    /// [`MachineError`], if QEMU, a file or a resource is missing. What happens later is told by events and the report.
    pub fn run(spec: MachineSpec, task: Option<Task>, options: Options) -> Result<(Items, Handle), MachineError> {
        let (out, items) = bounded(QUEUE);
        let (happenings, happened) = bounded(64);
        let (started, starting) = bounded(1);
        let sender = happenings.clone();
        let questions = Arc::new(Questions::default());
        let asked = Arc::clone(&questions);
        // QEMU dies with the thread that starts it, so that thread sets up and lives to the end.
        let life = std::thread::Builder::new()
            .name("microvisor".into())
            .spawn(move || match setup::set_up(&spec, out, &sender, happened) {
                Ok(machine) => {
                    // The caller waits for it.
                    let _ = started.send(Ok(()));
                    life::live(machine, &spec, task.as_ref(), &options, &asked)
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    MachineReport::default()
                }
            })
            .map_err(|source| MachineError::Io { what: "no thread for", path: "microvisor".into(), source })?;
        match starting.recv() {
            Ok(Err(error)) => Err(error),
            // If the thread panicked, `wait` says so.
            Ok(Ok(())) | Err(_) => Ok((items, Handle { happenings, life, questions })),
        }
    }
}
