//! A guest to measure in: the image's disk under plain QEMU, with or without the tap.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lava_image::Image;

use crate::shell;

const BOOT: Duration = Duration::from_secs(240);
const MEMORY_MIB: u64 = 1024;
/// As lava-microvisor's.
const RING: usize = 4 << 20;
/// As lava-microvisor's.
const TICK: Duration = Duration::from_millis(2);
const VCPUS: u32 = 2;
/// Let what starts late in the boot come to rest.
const REST: Duration = Duration::from_secs(5);

/// What watches a guest from outside.
#[derive(Clone, Copy, Debug)]
pub enum Watcher {
    Nobody,
    /// A plugin that does nothing.
    Empty,
    /// The tap, with these further arguments.
    Tap(&'static str),
}

/// Files that every guest needs.
pub struct Places {
    plugin: PathBuf,
    empty: PathBuf,
    disk: PathBuf,
    scenario: PathBuf,
    kernel: PathBuf,
}

impl Places {
    pub fn new(programs: &Path, image: &Image, scenarios: &Path) -> Result<Self> {
        let boot_file = std::fs::read(image.vmlinuz("6.1").context("vmlinuz")?)?;
        let kernel = shell::target().join("bench-kernel");
        std::fs::write(&kernel, lava_vmlinuz::kernel_elf(&boot_file)?)?;
        let empty = shell::target().join("libempty_plugin.so");
        let source = shell::root().join("xtask/src/bench/empty_plugin.rs");
        let options = ["--edition=2024", "-O", "--crate-type=cdylib", "-o"];
        let mut rustc = shell::command("rustc", options);
        rustc.arg(&empty).arg(&source);
        shell::run("build the plugin that does nothing", rustc)?;
        Ok(Self {
            plugin: programs.join("liblava_tap.so"),
            empty,
            disk: image.disk("6.1").context("disk")?,
            scenario: scenarios.join("proof.img"),
            kernel,
        })
    }
}

/// What one task cost.
pub struct Done {
    /// CPU seconds of the QEMU process.
    pub cpu: f64,
    /// Seconds.
    pub wall: f64,
    pub events: u64,
}

/// A guest that ends with its owner.
pub struct Guest {
    qemu: Child,
    port: BufReader<UnixStream>,
    folder: PathBuf,
    events: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    draining: Option<JoinHandle<()>>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        self.done.store(true, Ordering::Relaxed);
        let _ = self.draining.take().map(JoinHandle::join);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Guest {
    /// Boots. Several may live at a time.
    pub fn boot(places: &Places, watcher: Watcher) -> Result<Self> {
        static BOOTED: AtomicU64 = AtomicU64::new(0);
        let number = BOOTED.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(format!("/dev/shm/lava-bench-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let mut consumer = lava_ring::Ring::create(&folder.join("ring"), VCPUS, RING)?;
        let (events, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop) = (events.clone(), done.clone());
        let draining = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                let _ = consumer.drain(&mut |_, _| _ = count.fetch_add(1, Ordering::Relaxed));
            }
        });
        let socket = folder.join("port");
        let qemu = command(places, &folder, watcher)?.spawn().context("qemu-system-x86_64")?;
        let begin = Instant::now();
        // The guest has an owner from here on: whatever fails ends it.
        let (mine, _other) = UnixStream::pair()?;
        let mut guest = Self { qemu, port: BufReader::new(mine), folder, events, done, draining: Some(draining) };
        guest.port = loop {
            match UnixStream::connect(&socket) {
                Ok(port) => break BufReader::new(port),
                Err(error) if begin.elapsed() > Duration::from_secs(60) => bail!("QEMU opens no task port: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        guest.port.get_ref().set_read_timeout(Some(BOOT))?;
        let mut ready = String::new();
        guest.port.by_ref().take(4096).read_line(&mut ready)?;
        if !ready.contains("ready") {
            bail!("the launcher said {ready:?}");
        }
        std::thread::sleep(REST);
        Ok(guest)
    }

    /// Runs a script to its end, as the guest's user.
    pub fn cpu_of(&mut self, script: &str) -> Result<Done> {
        let task = format!("#!/bin/sh\n{script}\n");
        let header = serde_json::json!({"name": "w.sh", "path": "/home/user/w.sh", "size": task.len(), "command": ["/bin/sh", "{task}"], "env": {}, "scenario_disk": true, "mode": 0o755});
        let (cpu, seen, begin) = (cpu_time(self.qemu.id())?, self.events.load(Ordering::Relaxed), Instant::now());
        write!(self.port.get_mut(), "{header}\n{task}")?;
        let mut answer = String::new();
        self.port.by_ref().take(4096).read_line(&mut answer)?;
        if !answer.contains("\"exit\":0") {
            bail!("the workload failed: {answer}: {script}");
        }
        Ok(Done {
            cpu: cpu_time(self.qemu.id())?.saturating_sub(cpu).as_secs_f64(),
            wall: begin.elapsed().as_secs_f64(),
            events: self.events.load(Ordering::Relaxed) - seen,
        })
    }

    /// Switches the guest off; what QEMU and the tap said meanwhile.
    pub fn power_off(mut self) -> Result<String> {
        self.port.get_mut().write_all(b"{\"poweroff\":true}\n")?;
        let begin = Instant::now();
        while self.qemu.try_wait()?.is_none() {
            if begin.elapsed() > BOOT {
                bail!("the guest does not switch itself off");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(String::from_utf8_lossy(&std::fs::read(self.folder.join("log"))?).into_owned())
    }
}

fn command(places: &Places, folder: &Path, watcher: Watcher) -> Result<Command> {
    let mut qemu = Command::new("qemu-system-x86_64");
    let ram = folder.join("ram");
    let (ram, ring, port) = (ram.display(), folder.join("ring"), folder.join("port"));
    let (cpus, memory) = (VCPUS.to_string(), MEMORY_MIB.to_string());
    qemu.args(["-M", "q35,memory-backend=m0", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]);
    qemu.args(["-smp", &cpus, "-m", &memory, "-nodefaults", "-display", "none", "-no-reboot"]);
    qemu.args(["-object", &format!("memory-backend-file,id=m0,size={MEMORY_MIB}M,mem-path={ram},share=on")]);
    qemu.args(["-device", "virtio-serial-pci"]);
    qemu.args(["-drive", &format!("if=none,id=d,file={},format=raw,snapshot=on", places.disk.display())]);
    qemu.args(["-device", "virtio-blk-pci,drive=d,bootindex=1"]);
    qemu.args(["-drive", &format!("if=none,id=s,file={},format=raw,snapshot=on", places.scenario.display())]);
    qemu.args(["-device", "virtio-blk-pci,drive=s,bootindex=2"]);
    qemu.args(["-chardev", &format!("socket,id=t,path={},server=on,wait=off", port.display())]);
    qemu.args(["-device", "virtserialport,chardev=t,name=lava.task"]);
    match watcher {
        Watcher::Nobody => {}
        Watcher::Empty => _ = qemu.args(["-plugin", &places.empty.display().to_string()]),
        Watcher::Tap(further) => {
            let (plugin, ring, kernel) = (places.plugin.display(), ring.display(), places.kernel.display());
            let more = "launcher=/usr/lib/lava/launcher";
            qemu.args(["-plugin", &format!("{plugin},ring={ring},kernel={kernel},origin=0,ram={ram},{more}{further}")]);
        }
    }
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(folder.join("log"))?);
    Ok(qemu)
}

/// CPU time of a process, all its threads (proc(5), /proc/pid/task/tid/schedstat, ns). Threads that ended do not count: those of a
/// guest at work are the vCPUs' and QEMU's main one, which stay.
fn cpu_time(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        sum += text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum))
}
