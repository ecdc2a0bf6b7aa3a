//! A machine's life: boot, task, linger, restart, end.
//!
//! Whatever happens comes through one queue: words of the launcher, QEMU's events, the caller's wish to stop, trouble of
//! the merger. Every wait has an end.

mod dump;
mod input;
mod kill;
mod members;
mod respond;
mod screen;
mod snapshot;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{RecvTimeoutError, Sender};
use lava_control::{Answer, Command};
use lava_event::{Artifact, Event, GuestText, Kind, Outlet, Produced, Source};
use lava_net::NetServer;
use serde_json::{Value, json};

use super::control::Control;
use super::port::{self, Said};
use super::questions::Questions;
use super::setup::{Machine, mbr, random};
use super::{MachineReport, MachineSpec, Options, Task};
use crate::passt::Passt;
use crate::profile::Profile;
use crate::qemu::process::how;
use crate::qmp::{Qmp, QmpError, QmpEvent, dial};
use crate::stream::{Ending, Trouble};
use crate::template::copy_sparse;
use screen::Screen;

/// For QEMU to open its sockets, and to answer.
const QEMU: Duration = Duration::from_secs(20);
/// For the guest to take the next bytes of its task.
const TAKE: Duration = Duration::from_secs(60);
/// SeaBIOS, finding itself after a reset, resets once more (0.13 s later when tried); that is no second restart.
const FIRMWARE: Duration = Duration::from_secs(2);
/// For the guest to write everything to its disk and go down.
const DOWN: Duration = Duration::from_secs(20);

/// For the guest to come to rest before it is saved.
const SETTLE: Duration = Duration::from_secs(90);

/// The reason of a session that the analyst discarded.
const DISCARDED: &str = "discarded";

/// What can happen to a machine.
#[derive(Debug)]
pub(super) enum Happening {
    Said(Said),
    Qmp(QmpEvent),
    Trouble(Trouble),
    Stop(String),
    /// What is asked, by whom, and where the answer goes.
    Command(Command, String, Sender<Answer>),
    /// QEMU's end of a live view of the screen, and where the answer goes.
    Watch(OwnedFd, Sender<Answer>),
}

/// What the machine's thread waits for.
#[derive(PartialEq, Eq, Debug)]
enum Next {
    Said(Said),
    Reset,
    TimeIsUp,
}

/// Why a life ends before its time. `asked`: the machine can still be asked to go.
#[derive(Debug)]
struct End {
    reason: String,
    detail: Option<String>,
    asked: bool,
}

impl End {
    fn new(reason: &str, detail: Option<String>, asked: bool) -> Self {
        Self { reason: reason.to_owned(), detail, asked }
    }
}

/// Code, signal or error of the task.
type Outcome = (Option<i64>, Option<i64>, Option<GuestText>);

struct Life {
    machine: Machine,
    qmp: Option<Qmp>,
    port: Option<UnixStream>,
    reset_by_us: bool,
    last_reset: Option<Instant>,
    guest_went: bool,
    task_runs: bool,
    /// The machine was stopped and saved: it cannot be asked to go.
    saved: bool,
    /// Since when the analyst holds the guest.
    paused: Option<Instant>,
    /// For how long it was held before.
    held: Duration,
    /// The guest has a screen, a keyboard and a pointer.
    has_screen: bool,
    /// None: it is not looked at (any more).
    screen: Option<Screen>,
    /// Memory dumps that were kept.
    dumps: usize,
    /// Since when the guest stands still for a moment, for a dump or a snapshot.
    frozen: Option<Instant>,
    /// A snapshot was taken since the guest was last stopped.
    taken_since_pause: bool,
    /// The task is an archive.
    unpacks: bool,
    questions: Arc<Questions>,
    _control: Option<Control>,
}

pub(super) fn live(
    machine: Machine,
    spec: &MachineSpec,
    task: Option<&Task>,
    options: &Options,
    questions: &Arc<Questions>,
) -> MachineReport {
    let mut life = Life {
        machine,
        qmp: None,
        port: None,
        reset_by_us: false,
        last_reset: None,
        guest_went: false,
        task_runs: false,
        saved: false,
        paused: None,
        held: Duration::ZERO,
        has_screen: spec.display,
        screen: spec.display.then(Screen::default),
        dumps: 0,
        frozen: None,
        taken_since_pause: false,
        unpacks: false,
        questions: Arc::clone(questions),
        _control: None,
    };
    // Without it the session runs as well; it only cannot be asked anything.
    match Control::start(&spec.runtime_dir, life.machine.happenings.clone(), questions) {
        Ok(control) => life._control = Some(control),
        Err(error) => life.fault(format!("no control socket, `lava ctl` does not reach this session: {error}")),
    }
    if let Err(error) = questions.watch() {
        // Without it their time would not run out.
        questions.close();
        life.fault(format!("nobody can be asked in this session: {error}"));
    }
    life.machine.save_to = options.save_to.as_ref().map(|_| life.machine.qmp.with_file_name("state"));
    let end = match life.play(spec, task, options) {
        Ok(()) => End::new("finished", None, true),
        Err(end) => end,
    };
    life.finish(end, options)
}

impl Life {
    fn play(&mut self, spec: &MachineSpec, task: Option<&Task>, options: &Options) -> Result<(), End> {
        self.connect()?;
        if let Some(from) = self.machine.from.take() {
            self.go_on(&from, spec)?;
        } else {
            self.begin(spec, task, options)?;
        }
        self.linger(options.linger)?;
        if options.save_to.is_some() {
            return self.save();
        }
        if options.reboot {
            self.reboot(spec.boot_timeout)?;
            self.linger(options.linger)?;
        }
        Ok(())
    }

    /// From the guest's start, or its template, to the task's end.
    fn begin(&mut self, spec: &MachineSpec, task: Option<&Task>, options: &Options) -> Result<(), End> {
        if let Some(state) = self.machine.state.take() {
            self.restore(&state, spec)?;
        }
        self.machine.report.ready_ns = Some(self.ready(spec.boot_timeout)?);
        self.trust()?;
        task.map_or(Ok(()), |task| self.run_task(spec, task, options))
    }

    fn connect(&mut self) -> Result<(), End> {
        let machine = &mut self.machine;
        let mut gone = || machine.process.status().is_some();
        let port = dial(&machine.port, QEMU, &mut gone);
        let tell = machine.happenings.clone();
        let qmp = Qmp::connect(&machine.qmp, QEMU, &mut gone, move |event| {
            // Fails when the session is over.
            let _ = tell.send(Happening::Qmp(event));
        });
        let (port, qmp) = match (port, qmp) {
            (Ok(port), Ok(qmp)) => (port, qmp),
            (Err(error), _) => return Err(self.crashed(&format!("QEMU opened no task port: {error}"))),
            (_, Err(error)) => return Err(self.crashed(&error.to_string())),
        };
        self.qmp = Some(qmp);
        let reader = port.try_clone().and_then(|from| {
            port.set_write_timeout(Some(TAKE))?;
            listen(from, self.machine.happenings.clone())
        });
        self.port = Some(port);
        reader.map_err(|error| End::new("crashed", Some(format!("the task port: {error}")), true))
    }

    /// Brings a clone to where its template was saved, makes it one of its own, and lets it go on.
    fn restore(&mut self, state: &Path, spec: &MachineSpec) -> Result<(), End> {
        let begun = self.machine.feeder.now_ns();
        self.with_qmp("restore the template", |qmp| qmp.restore(state))?;
        let name = spec.template.as_ref().map(|template| template.parts.name()).unwrap_or_default();
        let restored_ns = self.machine.feeder.now_ns().saturating_sub(begun);
        self.machine.feeder.tell(Kind::VmCloned { template: name, restored_ns });
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let serial = hex(&random::<3>());
        let identity = json!({ "identity": {
            "seed": hex(&random::<64>()), "machine_id": hex(&random::<16>()), "host_name": format!("workstation-{serial}"),
            "mac": self.machine.mac.map(|mac| hex(&mac)), "now_ns": u64::try_from(now.as_nanos()).unwrap_or(0),
        } });
        self.say(&identity, &[])
    }

    /// Makes the guest's programs trust who ends their TLS. If they don't, TLS is refused by them, which is told of each.
    fn trust(&mut self) -> Result<(), End> {
        let Some(certificate) = self.machine.net.as_ref().and_then(NetServer::certificate) else { return Ok(()) };
        let header = json!({ "trust": certificate });
        self.say(&header, &[])?;
        let deadline = self.now() + TAKE;
        loop {
            match self.next(deadline)? {
                Next::Said(Said::Ready) => return Ok(()),
                Next::Said(Said::Error(why)) => {
                    self.fault(format!("the guest does not trust the simulated network's certificates: {why}"));
                    return Ok(());
                }
                Next::TimeIsUp => {
                    let why = format!("the guest's launcher took no certificate within {TAKE:?}: see console.log");
                    return Err(End::new("boot_timeout", Some(why), true));
                }
                Next::Said(_) | Next::Reset => {}
            }
        }
    }

    /// Stops the machine and has QEMU write its devices' state. The memory lies in a file already.
    fn save(&mut self) -> Result<(), End> {
        self.settle()?;
        let state = self.machine.save_to.clone().unwrap_or_default();
        self.with_qmp("save the template", |qmp| qmp.save(&state))?;
        self.saved = true;
        Ok(())
    }

    /// Waits until the guest has hardly anything to do any more: its services go on starting after its launcher is ready. And for so long
    /// that what they changed is on the disk (ext4 commits every 5 s): else every clone would write it, and it would be told as the task's.
    fn settle(&mut self) -> Result<(), End> {
        /// Of one processor's time.
        const QUIET: f64 = 0.15;
        const STEP: Duration = Duration::from_secs(1);
        const STEPS: u32 = 7;
        let (mut quiet, deadline) = (0, Instant::now() + SETTLE);
        while quiet < STEPS && Instant::now() < deadline {
            let before = self.machine.process.cpu_time();
            self.linger(STEP)?;
            let used = self.machine.process.cpu_time().zip(before).map(|(after, before)| after.saturating_sub(before));
            quiet =
                if used.is_some_and(|used| used.as_secs_f64() < QUIET * STEP.as_secs_f64()) { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    fn with_qmp(&mut self, what: &str, act: impl FnOnce(&mut Qmp) -> Result<(), QmpError>) -> Result<(), End> {
        let done = self.qmp.as_mut().map_or(Ok(()), act);
        done.map_err(|error| self.crashed(&format!("cannot {what}: {error}")))
    }

    /// QEMU is gone or does not answer.
    fn crashed(&mut self, what: &str) -> End {
        let status = self.machine.process.wait(Duration::from_secs(5));
        let status = status.map_or("it hangs".to_owned(), how);
        let complaint = self.machine.process.complaint();
        let complaint = if complaint.is_empty() { String::new() } else { format!("; QEMU says: {complaint}") };
        End::new("crashed", Some(format!("{what} ({status}){complaint}")), false)
    }

    fn next(&mut self, deadline: Instant) -> Result<Next, End> {
        loop {
            let happened = match self.paused {
                Some(_) => self.machine.happened.recv().map_err(|_| RecvTimeoutError::Disconnected),
                None => self.machine.happened.recv_deadline(self.look_at(deadline + self.held)),
            };
            let happening = match happened {
                Ok(happening) => happening,
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline + self.held => {
                    self.look()?;
                    continue;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(Next::TimeIsUp),
            };
            match happening {
                Happening::Said(said) => return Ok(Next::Said(said)),
                Happening::Stop(reason) => return Err(End::new(&reason, None, true)),
                Happening::Command(command, by, reply) => self.respond(&command, by, &reply)?,
                Happening::Watch(end, reply) => self.show(&end, &reply)?,
                Happening::Trouble(Trouble::Abandoned) => return Err(End::new("abandoned", None, false)),
                Happening::Trouble(Trouble::Corrupt(detail)) => {
                    let detail = format!("the tap's ring is damaged, the machine was stopped: {detail}");
                    return Err(End::new("killed", Some(detail), false));
                }
                Happening::Qmp(QmpEvent::Reset { guest, reason }) => {
                    if self.last_reset.replace(Instant::now()).is_some_and(|last| last.elapsed() < FIRMWARE) {
                        continue;
                    }
                    let by = if std::mem::take(&mut self.reset_by_us) || !guest { "lava" } else { "guest" };
                    if reason != "snapshot-load" {
                        self.machine.feeder.tell(Kind::VmReset { by: by.to_owned() });
                        return Ok(Next::Reset);
                    }
                }
                Happening::Qmp(QmpEvent::Shutdown { guest }) => self.guest_went |= guest,
                Happening::Qmp(QmpEvent::BlockIoError) => self.machine.report.block_io_errors += 1,
                Happening::Qmp(QmpEvent::GuestPanicked) => self.fault("the guest's kernel panicked".to_owned()),
                Happening::Qmp(QmpEvent::Other(_)) => {}
                Happening::Qmp(QmpEvent::Closed) if self.guest_went => {
                    let why = "the guest switched itself off".to_owned();
                    return Err(End::new("guest_shutdown", Some(why), false));
                }
                Happening::Qmp(QmpEvent::Closed) => return Err(self.crashed("QEMU ended")),
            }
        }
    }

    /// The task's time: it stands still while the guest is held.
    fn now(&self) -> Instant {
        let now = self.paused.unwrap_or_else(Instant::now);
        now.checked_sub(self.held).unwrap_or(now)
    }

    fn fault(&mut self, what: String) {
        if self.machine.report.faults.len() < 64 {
            self.machine.report.faults.push(what);
        }
    }

    /// Waits for the launcher; says when it was ready.
    fn ready(&mut self, limit: Duration) -> Result<u64, End> {
        let deadline = self.now() + limit;
        loop {
            match self.next(deadline)? {
                Next::Said(Said::Ready) => return Ok(self.machine.feeder.now_ns()),
                Next::TimeIsUp => {
                    let why = format!("the guest's launcher was not ready within {limit:?}: see console.log");
                    return Err(End::new("boot_timeout", Some(why), true));
                }
                Next::Said(_) | Next::Reset => {}
            }
        }
    }

    fn run_task(&mut self, spec: &MachineSpec, task: &Task, options: &Options) -> Result<(), End> {
        let path = task.profile.guest_path(&task.name);
        let content = Artifact::new(&task.content);
        let unpacks = task.profile.unpacked(&path);
        self.unpacks = unpacks.is_some();
        let kind = Kind::VmTask {
            name: task.name.clone(),
            path: path.clone(),
            sha256: content.sha256,
            profile: task.profile.name.clone(),
            command: task.profile.command_for(&path, &task.name),
            launcher: spec.launcher.clone(),
            hosts: task.profile.hosts.clone(),
            jit: task.profile.jit.clone(),
            unpacks: unpacks.clone(),
        };
        let mut header = header(&task.name, &path, &task.profile, options);
        header["size"] = task.content.len().into();
        header["scenario_disk"] = spec.scenario_disk.is_some().into();
        let sent_ns = self.machine.feeder.now_ns();
        let event = Event::new(sent_ns, Source::Microvisor, kind);
        self.machine.feeder.emit(Produced { event, artifacts: vec![content] });
        self.machine.report.task_sent_ns = Some(sent_ns);
        let deadline = self.now() + spec.timeout;
        let code = self.open(&header, &task.content, spec.timeout, deadline)?;
        if let Some(directory) = unpacks {
            self.open_members(task, options, directory, code, (spec.timeout, deadline))?;
        }
        self.machine.report.task_ended_ns = Some(self.machine.feeder.now_ns());
        Ok(())
    }

    /// Has the launcher open something and waits for its end; its exit code, if it had one.
    fn open(&mut self, header: &Value, content: &[u8], limit: Duration, deadline: Instant) -> Result<Option<i64>, End> {
        self.task_runs = true;
        self.say(header, content)?;
        self.watch_task(limit, deadline)
    }

    /// Waits for the end of what the launcher has opened; its exit code, if it had one.
    fn watch_task(&mut self, limit: Duration, deadline: Instant) -> Result<Option<i64>, End> {
        let outcome = self.outcome(limit, deadline);
        // How the screen looks at the end, be it that the time is up.
        match &outcome {
            Ok(_) => self.look()?,
            Err(end) if end.asked => drop(self.look()),
            Err(_) => {}
        }
        let (code, signal, error) = outcome?;
        self.task_runs = false;
        self.machine.feeder.tell(Kind::VmTaskExit { code, signal, error });
        Ok(code)
    }

    fn outcome(&mut self, limit: Duration, deadline: Instant) -> Result<Outcome, End> {
        let restarted = || Some(GuestText::from("the guest was restarted while the task ran"));
        loop {
            match self.next(deadline)? {
                Next::Said(Said::Exit(code)) => return Ok((Some(code), None, None)),
                Next::Said(Said::Signal(number)) => return Ok((None, Some(number), None)),
                Next::Said(Said::Error(why)) => return Ok((None, None, Some(why))),
                Next::Said(Said::Ready) => return Ok((None, None, restarted())),
                // The launcher will say that it is ready anew. Nobody asked for files.
                Next::Reset | Next::Said(Said::Member(_) | Said::Members(_)) => {}
                Next::TimeIsUp => return Err(timeout(limit)),
            }
        }
    }

    fn say(&mut self, header: &Value, content: &[u8]) -> Result<(), End> {
        let Some(port) = &mut self.port else { return Ok(()) };
        let line = format!("{header}\n");
        let said = port.write_all(line.as_bytes()).and_then(|()| port.write_all(content));
        said.map_err(|error| {
            // If QEMU is gone, its hanging up is in the queue and tells more.
            let early = self.next(self.now() + Duration::from_millis(500)).err();
            early.unwrap_or_else(|| {
                End::new("killed", Some(format!("the guest does not take what it is sent: {error}")), true)
            })
        })
    }

    fn linger(&mut self, time: Duration) -> Result<(), End> {
        let deadline = self.now() + time;
        while self.next(deadline)? != Next::TimeIsUp {}
        Ok(())
    }

    /// Restarts the guest. One that does not come up again is no error: the task may have broken it.
    fn reboot(&mut self, limit: Duration) -> Result<(), End> {
        self.reset_by_us = true;
        self.say(&json!({ "reboot": true }), &[])?;
        let deadline = self.now() + DOWN;
        let mut pressed = false;
        loop {
            match self.next(if pressed { deadline + DOWN } else { deadline })? {
                Next::Reset => break,
                Next::Said(_) => {}
                Next::TimeIsUp if pressed => return Err(End::new("killed", Some("QEMU does not reset".into()), true)),
                Next::TimeIsUp => {
                    pressed = true;
                    let reset = self.qmp.as_mut().map_or(Ok(()), Qmp::system_reset);
                    reset.map_err(|error| self.crashed(&error.to_string()))?;
                }
            }
        }
        match self.ready(limit) {
            Ok(at) => self.machine.report.ready_again_ns = Some(at),
            Err(end) if end.reason == "boot_timeout" => {
                self.fault(format!("after the restart the guest's launcher was not ready within {limit:?}"));
            }
            Err(end) => return Err(end),
        }
        Ok(())
    }

    /// Asks the guest to write everything to its disk and go, then QEMU; true if QEMU went by itself.
    fn ask_to_go(&mut self) -> bool {
        if self.task_runs || self.machine.report.ready_ns.is_none() {
            // The launcher serves one thing at a time; the guest's own shutdown writes what is delayed too.
            let _ = self.qmp.as_mut().map(Qmp::system_powerdown);
        } else {
            // What fails here is made up for by `quit`.
            let _ = self.say(&json!({ "poweroff": true }), &[]);
        }
        let up = self.machine.report.ready_ns.is_some();
        let deadline = self.now() + if up { DOWN } else { Duration::from_secs(2) };
        while matches!(self.next(deadline), Ok(Next::Said(_) | Next::Reset)) {}
        if self.machine.process.status().is_none() && !self.guest_went {
            return self.quit();
        }
        self.machine.process.wait(QEMU).is_some_and(|status| status.success())
    }

    fn quit(&mut self) -> bool {
        let _ = self.qmp.as_mut().map(Qmp::quit);
        self.machine.process.wait(QEMU).is_some_and(|status| status.success())
    }

    fn finish(mut self, end: End, options: &Options) -> MachineReport {
        let mut end = end;
        // How the guest goes down is no picture of the task's.
        self.screen = None;
        // A vCPU that waits for an answer could not go.
        self.questions.close();
        if end.asked && end.reason != DISCARDED && self.resume().is_err() {
            self.fault("the held guest could not be let go on".to_owned());
        }
        let mut orderly =
            end.asked && if self.saved || end.reason == DISCARDED { self.quit() } else { self.ask_to_go() };
        if end.asked && !orderly {
            self.fault("QEMU did not end when asked to, or not well".to_owned());
        }
        let went = end.reason == "guest_shutdown" && self.machine.process.wait(QEMU).is_some_and(|s| s.success());
        if self.machine.process.status().is_none() {
            self.machine.process.kill();
            orderly = false;
        }
        let crashed = end.reason == "crashed" || (end.asked && !orderly) || (end.reason == "guest_shutdown" && !went);
        self.port = None;
        self.qmp = None;
        self._control = None;
        let Machine {
            process,
            disks,
            net,
            passt,
            feeder,
            merger,
            happened,
            happenings,
            mut report,
            ram,
            save_to,
            _runtime: runtime,
            ..
        } = self.machine;
        // Threads that still have something to tell find nobody, and end.
        drop((process, happened, happenings));
        report.ended_ns = feeder.now_ns();
        for (disk, name) in disks.into_iter().zip(["vda", "vdb"]) {
            let problems = disk.fault().into_iter().chain(disk.complaints());
            report.faults.extend(problems.map(|problem| format!("{name}: {problem}")));
            disk.stop();
        }
        report.net = net.map(NetServer::stop).unwrap_or_default();
        let net = [&report.net.fault, &report.net.outage].into_iter().flatten();
        report.faults.extend(net.map(|fault| format!("network: {fault}")).collect::<Vec<_>>());
        report.faults.extend(passt.and_then(Passt::stop));
        report.mbr_sha256_after = mbr(&report.disks);
        if let (true, Some(folder)) = (self.saved && orderly, options.save_to.as_deref())
            && let Err(error) = keep(folder, &ram, save_to.as_deref(), &report)
        {
            report.faults.push(format!("the template could not be kept in {}: {error}", folder.display()));
        }
        drop(runtime);
        let (reason, detail) = (end.reason, end.detail.take());
        feeder.end(Ending {
            time_ns: report.ended_ns,
            reason: reason.clone(),
            orderly,
            detail: detail.clone(),
            crashed,
        });
        drop(feeder);
        match merger.join() {
            Ok(summary) => {
                (report.events, report.gaps, report.orderly) = (summary.events, summary.gaps, summary.orderly);
            }
            Err(_) => report.faults.push("the merger's thread panicked: please report it".to_owned()),
        }
        (report.reason, report.detail) = (reason, detail);
        report
    }
}

/// What the launcher is told to open.
fn header(name: &str, path: &str, profile: &Profile, options: &Options) -> Value {
    json!({
        "name": name, "path": path, "size": 0, "command": profile.command, "mode": profile.mode,
        "env": profile.environment,
        "console": options.console, "root": options.root,
    })
}

fn timeout(limit: Duration) -> End {
    End::new("timeout", Some(format!("the task had not ended after {limit:?}")), true)
}

/// Puts what a template is made of into its folder.
fn keep(folder: &Path, ram: &Path, state: Option<&Path>, report: &MachineReport) -> std::io::Result<()> {
    for disk in &report.disks {
        disk.seal()?;
    }
    copy_sparse(ram, &folder.join("ram"))?;
    if let Some(state) = state {
        let kept = folder.join("state");
        std::fs::copy(state, &kept)?;
        // QEMU made it for its user alone; that of a clone is another.
        std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn listen(from: UnixStream, tell: Sender<Happening>) -> std::io::Result<()> {
    let take = move |said| tell.send(Happening::Said(said)).is_ok();
    std::thread::Builder::new().name("task-port".into()).spawn(move || port::read(from, &take)).map(drop)
}
