//! `cargo xtask bench`: the figures of SPECIFICATION.md.
//!
//! * The tap's cost: CPU time of the QEMU process while one workload runs in the guest, with the tap over without it, the
//!   two interleaved, the median of the ratios. The guest boots once per measurement; only the workload counts.
//! * Events per second, of the same runs.
//! * Wall time from `lava run` to the task's first instruction.
//!
//! Limits: the guest of the first two uses QEMU's own disk and no network, so that nothing but the tap differs.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lava_image::Image;

use crate::{build, setup, shell};

/// (name, what runs in the guest)
const WORKLOADS: &[(&str, &str)] = &[
    ("exec-heavy: 400 times /bin/true", "i=0; while [ $i -lt 400 ]; do /bin/true; i=$((i+1)); done"),
    (
        "file-heavy: 300 files made, written, renamed, removed; dd bs=1",
        "cd /tmp; i=0; while [ $i -lt 300 ]; do echo x > f$i; mv f$i g$i; rm g$i; i=$((i+1)); done; dd if=/dev/zero of=/tmp/d bs=1 count=100000 2>/dev/null",
    ),
];
const BOOT: Duration = Duration::from_secs(240);

/// Measures everything and prints a Markdown table.
pub fn run(rounds: usize) -> Result<()> {
    setup::run()?;
    let programs = build::lava()?;
    let image = build::image()?;
    let mut rows = Vec::new();
    for (name, script) in WORKLOADS {
        let (mut ratios, mut rates) = (Vec::new(), Vec::new());
        for round in 0..rounds.max(1) {
            let with = measure(&programs, &image, script, true)?;
            let without = measure(&programs, &image, script, false)?;
            let ratio = with.cpu.as_secs_f64() / without.cpu.as_secs_f64().max(0.001);
            eprintln!(
                "xtask: {name}: round {}: {:.2} s / {:.2} s = {ratio:.2}",
                round + 1,
                with.cpu.as_secs_f64(),
                without.cpu.as_secs_f64()
            );
            ratios.push(ratio);
            rates.push(with.events as f64 / with.wall.as_secs_f64().max(0.001));
        }
        rows.push(format!("| CPU time with tap / without, {name} | {} |", spread(&mut ratios)));
        rows.push(format!("| events per second of guest time, {name} | {} |", spread(&mut rates)));
    }
    let mut starts = (0..rounds.max(1)).map(|_| first_instruction(&programs)).collect::<Result<Vec<_>>>()?;
    rows.push(format!("| `lava run` to the task's first instruction, s | {} |", spread(&mut starts)));
    println!("| figure | median (min to max) of {} rounds |\n|---|---|\n{}", rounds.max(1), rows.join("\n"));
    Ok(())
}

fn spread(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    format!("{:.2} ({:.2} to {:.2})", at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

struct Measured {
    cpu: Duration,
    wall: Duration,
    events: u64,
}

/// A guest that ends with its owner.
struct Guest {
    qemu: Child,
    port: BufReader<UnixStream>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Boots, runs `script`, and says what it cost.
fn measure(programs: &Path, image: &Image, script: &str, tap: bool) -> Result<Measured> {
    let folder = PathBuf::from(format!("/dev/shm/lava-bench-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
    let (ring, socket) = (folder.join("ring"), folder.join("port"));
    let (disk, vmlinuz) = (image.disk("6.1").context("disk")?, image.vmlinuz("6.1").context("vmlinuz")?);
    let mut consumer = lava_ring::Ring::create(&ring, 2, 4 << 20)?;
    let (events, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, stop) = (events.clone(), done.clone());
    let draining = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            consumer.wait(Duration::from_millis(50));
            let _ = consumer.drain(&mut |_, _| _ = count.fetch_add(1, Ordering::Relaxed));
        }
    });
    let result = (|| {
        let mut guest = boot(programs, &disk, &vmlinuz, &ring, &socket, tap)?;
        let task = format!("#!/bin/sh\n{script}\n");
        let header = serde_json::json!({"name": "w.sh", "path": "/home/user/w.sh", "size": task.len(), "command": ["/bin/sh", "{task}"], "env": {}, "scenario_disk": false, "mode": 0o755});
        // Let what starts late in the boot come to rest.
        std::thread::sleep(Duration::from_secs(5));
        let (cpu, seen, begin) = (cpu_time(guest.qemu.id())?, events.load(Ordering::Relaxed), Instant::now());
        write!(guest.port.get_mut(), "{header}\n{task}")?;
        let mut answer = String::new();
        guest.port.read_line(&mut answer)?;
        if !answer.contains("\"exit\":0") {
            bail!("the workload failed: {answer}");
        }
        let events = events.load(Ordering::Relaxed) - seen;
        Ok(Measured { cpu: cpu_time(guest.qemu.id())?.saturating_sub(cpu), wall: begin.elapsed(), events })
    })();
    done.store(true, Ordering::Relaxed);
    let _ = draining.join();
    let _ = std::fs::remove_dir_all(&folder);
    result
}

fn boot(programs: &Path, disk: &Path, vmlinuz: &Path, ring: &Path, socket: &Path, tap: bool) -> Result<Guest> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", "2", "-m", "1024"]);
    qemu.args(["-nodefaults", "-display", "none", "-device", "virtio-serial-pci"]);
    qemu.args(["-drive", &format!("if=none,id=d,file={},format=raw,snapshot=on", disk.display())]);
    qemu.args(["-device", "virtio-blk-pci,drive=d,bootindex=1"]);
    qemu.args(["-chardev", &format!("socket,id=t,path={},server=on,wait=off", socket.display())]);
    qemu.args(["-device", "virtserialport,chardev=t,name=lava.task"]);
    if tap {
        let plugin = programs.join("liblava_tap.so");
        let (plugin, ring, vmlinuz) = (plugin.display(), ring.display(), vmlinuz.display());
        qemu.args(["-plugin", &format!("{plugin},ring={ring},kernel={vmlinuz},origin=0")]);
    }
    let qemu = qemu.stdin(Stdio::null()).spawn().context("qemu-system-x86_64")?;
    let begin = Instant::now();
    let port = loop {
        match UnixStream::connect(socket) {
            Ok(port) => break port,
            Err(error) if begin.elapsed() > Duration::from_secs(20) => bail!("QEMU opens no task port: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    port.set_read_timeout(Some(BOOT))?;
    let mut guest = Guest { qemu, port: BufReader::new(port) };
    let mut ready = String::new();
    guest.port.by_ref().take(4096).read_line(&mut ready)?;
    if !ready.contains("ready") {
        bail!("the launcher said {ready:?}");
    }
    Ok(guest)
}

/// User and system time of a process (proc(5), fields 14 and 15, in ticks of 10 ms).
fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Ok(Duration::from_millis(10 * (ticks(11) + ticks(12))))
}

/// Seconds from the start of `lava run` to the exec of the task.
fn first_instruction(programs: &Path) -> Result<f64> {
    let folder = PathBuf::from(format!("/dev/shm/lava-bench-run-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let task = folder.join("first.sh");
    std::fs::write(&task, "#!/bin/sh\ntrue\n")?;
    let begin = Instant::now();
    let mut lava = shell::command(&programs.join("lava").to_string_lossy(), ["run", "--format", "jsonl"]);
    lava.arg(&task).arg("--out").arg(folder.join("sessions")).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = lava.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let found =
        lines.by_ref().map_while(Result::ok).find(|line| line.contains("process.exec") && line.contains("/first.sh"));
    let elapsed = begin.elapsed().as_secs_f64();
    lines.for_each(drop);
    child.wait()?;
    std::fs::remove_dir_all(&folder)?;
    found.map(|_| elapsed).context("the task was never executed")
}
