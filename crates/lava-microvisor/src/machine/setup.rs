//! Everything that must be there before the guest's first instruction.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use lava_disk::{DiskConfig, DiskServer, DiskView};
use lava_event::{Event, Kind, Outlet, Sha256, Source};
use lava_net::{Mode, NetConfig, NetServer};
use lava_ring::{Requester, Ring};

use super::life::Happening;
use super::owner::Owner;
use super::{MachineError, MachineReport, MachineSpec};
use crate::passt::Passt;
use crate::qemu;
use crate::qemu::cage::Cage;
use crate::qemu::command::{Layout, Tap};
use crate::qemu::limits::Limits;
use crate::qemu::process::{Process, Start};
use crate::qemu::users::{User, choose_user};
use crate::snapshot::{Continuation, Shape};
use crate::stream::{Feeder, Item, Merger, QUEUE, Summary, Trouble};

/// Room of one vCPU's ring, bytes: some ten thousand events.
const RING: usize = 4 << 20;
/// Locally administered, QEMU's prefix: what the card is made with. A clone's guest takes another of its own.
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x77, 0x00, 0x02];
/// Left over on the tmpfs for rings and sockets, MiB.
const SPARE_MIB: u64 = 64;

/// The runtime folder; it goes when this goes.
pub(super) struct Runtime {
    path: PathBuf,
    user: Option<u32>,
    /// Given back when QEMU and the folder are gone.
    _lock: Option<User>,
}

impl Runtime {
    fn create(path: &Path, lock: Option<User>) -> Result<Self, MachineError> {
        fs::DirBuilder::new().mode(0o700).create(path).map_err(|source| no_folder(path, source))?;
        let runtime = Self { path: path.to_owned(), user: lock.as_ref().map(|user| user.id), _lock: lock };
        runtime.give(path)?;
        Ok(runtime)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes it QEMU's.
    fn give(&self, path: &Path) -> Result<(), MachineError> {
        let given = self.user.map_or(Ok(()), |user| chown(path, Some(user), Some(user)));
        given.map_err(|source| MachineError::Io { what: "cannot give QEMU's user", path: path.into(), source })
    }
}

fn no_folder(path: &Path, source: io::Error) -> MachineError {
    MachineError::Io { what: "cannot create the runtime folder", path: path.into(), source }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // It may be gone; nothing of it is needed any more.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A machine that has begun to run. Fields are dropped in this order: QEMU first.
pub(super) struct Machine {
    pub process: Process,
    pub disks: Vec<DiskServer>,
    pub net: Option<NetServer>,
    /// The way to the real network; it ends once the network's server does.
    pub passt: Option<Passt>,
    pub feeder: Arc<Feeder>,
    pub merger: JoinHandle<Summary>,
    pub happenings: Sender<Happening>,
    pub happened: Receiver<Happening>,
    pub qmp: PathBuf,
    pub port: PathBuf,
    /// The way to ask the tap for something.
    pub requests: Option<Requester>,
    pub ram: PathBuf,
    pub session_dir: PathBuf,
    /// Clone: where QEMU finds the devices' state.
    pub state: Option<PathBuf>,
    /// What it goes on from.
    pub from: Option<Continuation>,
    /// What it is made of, for a snapshot.
    pub shape: Shape,
    /// Where QEMU may write what is to be saved.
    pub save_to: Option<PathBuf>,
    /// The address of the guest's network card, if it has one.
    pub mac: Option<[u8; 6]>,
    pub report: MachineReport,
    pub _runtime: Runtime,
}

pub(super) fn set_up(
    spec: &MachineSpec,
    out: Sender<Item>,
    happenings: &Sender<Happening>,
    happened: Receiver<Happening>,
) -> Result<Machine, MachineError> {
    let (vcpus, memory_mib) = (spec.vcpus, spec.memory_mib);
    if !(1..=16).contains(&vcpus) || !(128..=65536).contains(&memory_mib) {
        return Err(MachineError::Shape { vcpus, memory_mib });
    }
    let qemu = qemu::find()?;
    let mut owner = Owner::new(&spec.runtime_dir, &spec.scratch).map_err(|e| no_folder(&spec.runtime_dir, e))?;
    let runtime = Runtime::create(&spec.runtime_dir, choose_user()?)?;
    let user = runtime.user;
    let mut cage = Cage::new(user);
    cage.give(&runtime.path);
    let (tap, rings) = prepare_tap(spec, &runtime, &mut cage)?;
    let requests = rings.as_ref().map(lava_ring::Consumer::requester);
    let clone = match &spec.template {
        Some(template) => Some((cage.show(&template.ram(), "ram")?, cage.show(&template.state(), "state")?)),
        None => None,
    };
    // A clone's memory is private to QEMU and takes what the guest writes.
    let from = spec.from.as_ref();
    check_room(&runtime.path, SPARE_MIB + if clone.is_some() { 0 } else { u64::from(memory_mib) })?;
    let (inbox, messages) = bounded(QUEUE);
    let origin_ns = spec.origin.monotonic_ns;
    let feeder = Arc::new(Feeder::new(inbox, origin_ns));
    let outlet: Arc<dyn Outlet> = feeder.clone();

    let mut disks = Vec::new();
    for (name, base) in [("vda", Some(&spec.image)), ("vdb", spec.scenario_disk.as_ref())] {
        let Some(base) = base else { continue };
        let (overlay, socket) = (spec.session_dir.join(format!("{name}.overlay")), runtime.at(name));
        let config = DiskConfig {
            name: name.to_owned(),
            base: base.clone(),
            layer: spec.template.as_ref().map(|template| template.layer(name)),
            kept: from.map(|from| from.snapshot.disk(name)),
            overlay,
            socket: socket.clone(),
        };
        disks.push(DiskServer::start(config, Arc::clone(&outlet))?);
        runtime.give(&socket)?;
    }
    let capture = spec.session_dir.join("traffic.pcapng");
    let mac = match from {
        Some(from) => from.snapshot.shape.mac.unwrap_or(MAC),
        None if clone.is_some() => fresh_mac(),
        None => MAC,
    };
    let (passt, uplink) = match spec.net {
        Some(Mode::Egress) => {
            let (passt, uplink) = Passt::start(user, mac)?;
            owner.note_passt(passt.id()).map_err(|e| no_folder(&spec.runtime_dir, e))?;
            (Some(passt), Some(uplink))
        }
        _ => (None, None),
    };
    let net = match spec.net {
        Some(mode) => {
            let (socket, content) = (runtime.at("net"), spec.net_content.clone());
            let waits = lava_net::Waits::of(&spec.asks);
            let mac_of_guest = Some(mac);
            let authority = from.and_then(|from| from.snapshot.shape.authority.clone());
            let net =
                NetConfig { socket: socket.clone(), capture, mac_of_guest, mode, content, waits, authority, uplink };
            let net = NetServer::start(net, outlet)?;
            runtime.give(&socket)?;
            Some(net)
        }
        None => None,
    };

    let layout = Layout {
        memory_mib,
        vcpus,
        display: spec.display,
        ram: clone.as_ref().map_or_else(|| runtime.at("ram"), |(ram, _)| ram.clone()),
        clone: clone.is_some(),
        restored: clone.is_some() || from.is_some(),
        disks: ["vda", "vdb"][..disks.len()].iter().map(|name| runtime.at(name)).collect(),
        net: net.is_some().then(|| (runtime.at("net"), MAC)),
        qmp: runtime.at("qmp"),
        port: runtime.at("task"),
        tap: tap.map(|tap| Tap { origin_ns, ..tap }),
    };
    let (console, log) = (spec.session_dir.join("console.log"), spec.session_dir.join("qemu.log"));
    let views: Vec<DiskView> = disks.iter().map(DiskServer::view).collect();
    let mut report = MachineReport {
        qemu: qemu.version.to_string(),
        user,
        mbr_sha256_before: mbr_before(&views),
        disks: views,
        ..MachineReport::default()
    };
    let begun = feeder.now_ns();
    let start = Start {
        qemu: &qemu,
        arguments: &layout.arguments()?,
        cage: &cage,
        limits: Limits { memory_mib, vcpus },
        name: &runtime.path.file_name().unwrap_or_default().to_string_lossy(),
        console: &console,
        log: &log,
    };
    let process = Process::spawn(&start, |pid, group| owner.note(pid, group))?;
    report.unbounded = process.unbounded().map(str::to_owned);
    report.owner = Some(owner);
    if from.is_none() {
        let kind = Kind::VmStarted { qemu: report.qemu.clone(), kernel: spec.kernel.clone() };
        feeder.emit(Event::new(begun, Source::Microvisor, kind).into());
    }

    let shape = Shape {
        qemu: report.qemu.clone(),
        memory_mib,
        vcpus,
        display: spec.display,
        mac: spec.net.map(|_| mac),
        disks: disks.len(),
        authority: net.as_ref().and_then(NetServer::authority).map(str::to_owned),
    };
    let seq = from.map_or(0, |from| from.seq);
    let (alarm, clock) = (happenings.clone(), Arc::clone(&feeder));
    let merger = std::thread::Builder::new().name("merger".into()).spawn(move || {
        // Not blocking: the machine's thread, which empties that queue, may itself wait for the merger.
        let trouble = |trouble: Trouble| drop(alarm.try_send(Happening::Trouble(trouble)));
        let rings = rings.map(|rings| Box::new(rings) as Box<_>);
        Merger::new(rings, out, &trouble, seq).run(&messages, &|| clock.now_ns())
    });
    let merger = merger.map_err(|source| MachineError::Io { what: "no thread for", path: "merger".into(), source })?;
    Ok(Machine {
        process,
        disks,
        net,
        passt,
        feeder,
        merger,
        happenings: happenings.clone(),
        happened,
        qmp: layout.qmp,
        port: layout.port,
        session_dir: spec.session_dir.clone(),
        requests,
        ram: layout.ram,
        state: clone.map(|(_, state)| state),
        from: spec.from.clone(),
        shape,
        save_to: None,
        mac: spec.net.map(|_| mac),
        report,
        _runtime: runtime,
    })
}

type Prepared = (Option<Tap>, Option<lava_ring::Consumer>);

fn prepare_tap(spec: &MachineSpec, runtime: &Runtime, cage: &mut Cage) -> Result<Prepared, MachineError> {
    let Some(plugin) = &spec.tap else { return Ok((None, None)) };
    let ring = runtime.at("ring");
    let rings = Ring::create(&ring, spec.vcpus, RING)?;
    runtime.give(&ring)?;
    let task = match &spec.from {
        Some(from) => Some(write_processes(from, runtime)?),
        None => None,
    };
    let place = spec.template.as_ref().map(|template| template.place).or(spec.from.as_ref().map(|from| from.place));
    let tap = Tap {
        plugin: cage.show(plugin, "tap.so")?,
        ring,
        kernel: cage.show(&spec.kernel_file, "kernel")?,
        origin_ns: 0,
        launcher: spec.launcher.clone(),
        task,
        api: spec.api_trace,
        asks: spec.asks.clone(),
        place,
    };
    Ok((Some(tap), Some(rings)))
}

/// Writes down which of the guest's processes are the task's: the tap has not seen them being forked.
fn write_processes(from: &Continuation, runtime: &Runtime) -> Result<PathBuf, MachineError> {
    let path = runtime.at("processes");
    let lines: String = from.processes.iter().map(|key| format!("{} {}\n", key.pid, key.start_ns)).collect();
    let written = fs::write(&path, lines);
    written.map_err(|source| MachineError::Io { what: "cannot write", path: path.clone(), source })?;
    runtime.give(&path)?;
    Ok(path)
}

/// An address that no other clone has: locally administered, random.
fn fresh_mac() -> [u8; 6] {
    let mut mac = MAC;
    mac[3..].copy_from_slice(&random::<3>());
    mac
}

/// Bytes from the host's random generator.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut done = 0;
    while done < N {
        // It waits only at the host's own boot, and is cut short only by a signal.
        done += rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes
}

fn check_room(path: &Path, needed_mib: u64) -> Result<(), MachineError> {
    let failed = |error: rustix::io::Errno| MachineError::Io {
        what: "cannot look at",
        path: path.to_owned(),
        source: io::Error::from(error),
    };
    let room = rustix::fs::statvfs(path).map_err(failed)?;
    let free_mib = room.f_bavail.saturating_mul(room.f_frsize) >> 20;
    if free_mib < needed_mib {
        return Err(MachineError::Memory { path: path.to_owned(), free_mib, needed_mib });
    }
    Ok(())
}

/// Hash of the master boot record that the session found.
fn mbr_before(disks: &[DiskView]) -> Option<Sha256> {
    let mut bytes = [0; 512];
    disks.first()?.base().read_into(0, &mut bytes).ok().map(|()| Sha256::of(&bytes))
}

/// Hash of the master boot record.
pub(super) fn mbr(disks: &[DiskView]) -> Option<Sha256> {
    disks.first()?.read_at(0, 512).ok().map(|bytes| Sha256::of(&bytes))
}
