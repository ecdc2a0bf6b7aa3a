//! The micro-VM kept as it is at one moment, and a life that begins there.
//!
//! The cut is exact: the guest is stopped, what was only added up (in the tap, at the disks) is told, and so is the snapshot, before the guest
//! goes on. So every event up to the `vm.response` that tells of it is of the time before, and every one behind it of the time after; but for
//! the network's own, which is no part of the machine: a conversation that was open is reset in a session that goes on, and what had been said over
//! it is told in the first session only, when it ends.
//!
//! *Limits:* only while the task runs, and not of an archive's, whose files are opened one after the other by us. While a question waits for an
//! answer the vCPU that asks cannot be stopped. The launcher is in the middle of its task, so it can change nothing in the guest: sessions that go on
//! from one snapshot share the guest's randomness, and its clock goes on from the snapshot's moment.

use std::os::fd::AsFd;
use std::time::Instant;

use crossbeam_channel::Sender;
use lava_control::Answer;
use lava_disk::DiskServer;
use lava_event::{Kind, Outlet, Sha256, snapshots};

use super::respond::{Failed, is_broken};
use super::{End, Life};
use crate::machine::MachineSpec;
use crate::qmp::{Qmp, QmpError};
use crate::snapshot::{Continuation, Draft, SnapshotError};

impl From<SnapshotError> for Failed {
    fn from(error: SnapshotError) -> Self {
        Self::No(error.to_string())
    }
}

/// A snapshot that was taken.
struct Taken {
    number: u32,
    bytes: u64,
    manifest: Sha256,
}

impl Life {
    /// Takes a snapshot, tells it, and lets the guest go on.
    pub(super) fn respond_snapshot(&mut self, by: String, reply: &Sender<Answer>) -> Result<(), End> {
        let done = self.snapshot();
        let (command, outcome) = match &done {
            Ok(taken) => (snapshots::command(taken.number), snapshots::done(taken.number, taken.bytes, taken.manifest)),
            Err(error) => ("snapshot".to_owned(), format!("failed: {error}")),
        };
        self.machine.feeder.tell(Kind::VmResponse { command, outcome, by });
        let broken = is_broken(&done);
        let went_on = if broken { Ok(()) } else { self.thaw() };
        let folder = |taken: Taken| format!("{}: {} MiB", snapshots::folder(taken.number), taken.bytes >> 20);
        let answer = done.map(folder).map_err(|error| error.to_string());
        let why = answer.as_ref().err().cloned();
        // Whoever asked may have hung up.
        let _ = reply.try_send(answer);
        match (broken, went_on) {
            (true, _) => Err(self.crashed(&why.unwrap_or_default())),
            (false, went_on) => went_on.map_err(|error| self.crashed(&error.to_string())),
        }
    }

    fn snapshot(&mut self) -> Result<Taken, Failed> {
        let no = |why: &str| Failed::No(why.to_owned());
        if self.unpacks {
            return Err(no(
                "an archive's files are opened one after the other, and that order is not in the micro-VM: no snapshot is taken",
            ));
        }
        if !self.task_runs {
            return Err(no("a snapshot is taken while the task runs"));
        }
        if self.paused.is_some() && self.taken_since_pause {
            return Err(no("the guest has not run since the last snapshot, which is still how it is"));
        }
        let (folder, shape) = (self.machine.session_dir.clone(), self.machine.shape.clone());
        let draft = Draft::new(&folder, shape.memory_mib, &self.machine.report.disks)?;
        self.freeze()?;
        self.machine.disks.iter().for_each(DiskServer::tell_sums);
        let Some(qmp) = &mut self.qmp else { return Err(no("the micro-VM is ending")) };
        qmp.save_whole(draft.state()?.as_fd())?;
        for (disk, name) in self.machine.report.disks.iter().zip(["vda", "vdb"]) {
            draft.keep(name, disk)?;
        }
        let number = draft.number;
        let (bytes, manifest) = draft.finish(shape)?;
        self.taken_since_pause = true;
        Ok(Taken { number, bytes, manifest })
    }

    /// Stops the guest for a while, unless the analyst holds it already; what was only added up so far is told. [`Life::thaw`] lets it go on.
    pub(super) fn freeze(&mut self) -> Result<(), Failed> {
        if self.paused.is_some() {
            return Ok(());
        }
        if !self.questions.hold() {
            return Err(Failed::No("a question waits for an answer: answer it first".to_owned()));
        }
        let sums = |wanted| {
            if let Some(requests) = &self.machine.requests {
                requests.want_sums(wanted);
            }
        };
        sums(true);
        let stopped = self.qmp.as_mut().map_or(Ok(()), Qmp::stop);
        sums(false);
        stopped.inspect_err(|_| self.questions.release())?;
        self.frozen = Some(Instant::now());
        self.taken_since_pause = false;
        Ok(())
    }

    /// Ends what [`Life::freeze`] began; the task's time stood still meanwhile.
    pub(super) fn thaw(&mut self) -> Result<(), QmpError> {
        let Some(since) = self.frozen.take() else { return Ok(()) };
        self.qmp.as_mut().map_or(Ok(()), Qmp::cont)?;
        self.questions.release();
        self.held += since.elapsed();
        Ok(())
    }

    /// Brings the machine to where the snapshot was taken, lets it go on, and waits for the end of the task that runs in it.
    pub(super) fn go_on(&mut self, from: &Continuation, spec: &MachineSpec) -> Result<(), End> {
        let begun = self.machine.feeder.now_ns();
        let state = from.snapshot.state();
        let state = state.map_err(|error| self.crashed(&format!("cannot open the snapshot: {error}")))?;
        self.with_qmp("restore the snapshot", |qmp| qmp.restore_whole(state.as_fd()))?;
        let now = self.machine.feeder.now_ns();
        let (session, snapshot) = (from.session.clone(), from.number);
        self.machine.feeder.tell(Kind::VmContinued { session, snapshot, restored_ns: now.saturating_sub(begun) });
        self.machine.report.ready_ns = Some(now);
        self.task_runs = true;
        self.with_qmp("let the guest go on", Qmp::cont)?;
        self.watch_task(spec.timeout, self.now() + spec.timeout)?;
        self.machine.report.task_ended_ns = Some(self.machine.feeder.now_ns());
        Ok(())
    }
}
