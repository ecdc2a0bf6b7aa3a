//! What the analyst asks of a running machine, done and recorded.

use std::os::fd::OwnedFd;

use crossbeam_channel::Sender;
use lava_control::{Answer, Command};
use lava_event::Kind;

use super::{DISCARDED, End, Life};
use crate::qmp::QmpError;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// It can't be, as things are.
    #[error("{0}")]
    No(String),
}

/// Whether QEMU can't be relied on any more.
pub(super) fn is_broken<T>(done: &Result<T, Failed>) -> bool {
    matches!(done, Err(Failed::Qmp(error)) if !matches!(error, QmpError::Refused { .. }))
}

/// A command as it is recorded.
fn told(command: &Command) -> String {
    match command {
        Command::Kill { pid } => format!("{} {pid}", command.name()),
        Command::Type { text } => format!("{} {text:?}", command.name()),
        Command::Key { keys } => format!("{} {}", command.name(), keys.escape_debug()),
        Command::Click { x, y, button } => format!("{} {x} {y} {}", command.name(), button.name()),
        Command::Control { taken: true } => format!("{} taken", command.name()),
        Command::Control { taken: false } => format!("{} given back", command.name()),
        _ => command.name().to_owned(),
    }
}

impl Life {
    /// Does what the analyst asks, records it, and says what came of it.
    pub(super) fn respond(&mut self, command: &Command, by: String, reply: &Sender<Answer>) -> Result<(), End> {
        if *command == Command::Snapshot {
            return self.respond_snapshot(by, reply);
        }
        let done = self.carry_out(command);
        if *command != Command::Status {
            let outcome = match &done {
                Ok(_) => "done".to_owned(),
                Err(error) => format!("failed: {error}"),
            };
            self.machine.feeder.tell(Kind::VmResponse { command: told(command), outcome, by });
        }
        let broken = is_broken(&done);
        let answer = done.map_err(|error| error.to_string());
        let why = answer.as_ref().err().cloned().unwrap_or_default();
        // Whoever asked may have hung up.
        let _ = reply.try_send(answer);
        match command {
            _ if broken => Err(self.crashed(&why)),
            Command::Stop => Err(End::new("stopped", None, true)),
            Command::Discard => Err(End::new(DISCARDED, None, true)),
            _ => Ok(()),
        }
    }

    /// Gives QEMU its end of a live view of the screen. It is not told in the log: it changes nothing in the guest.
    pub(super) fn show(&mut self, end: &OwnedFd, reply: &Sender<Answer>) -> Result<(), End> {
        let done = self.watch(end);
        let broken = is_broken(&done);
        let answer = done.map_err(|error| error.to_string());
        let why = answer.as_ref().err().cloned().unwrap_or_default();
        // Whoever asked may have hung up.
        let _ = reply.try_send(answer);
        if broken { Err(self.crashed(&why)) } else { Ok(()) }
    }

    fn carry_out(&mut self, command: &Command) -> Result<String, Failed> {
        let Some(qmp) = &mut self.qmp else { return Ok("the micro-VM is ending".to_owned()) };
        match command {
            Command::Status => Ok(if self.paused.is_some() { "paused" } else { "running" }.to_owned()),
            Command::Pause => {
                self.freeze()?;
                self.paused = self.paused.or(self.frozen.take());
                Ok("paused".to_owned())
            }
            Command::Resume => {
                self.resume()?;
                Ok("running".to_owned())
            }
            Command::Stop => Ok("the session is being ended".to_owned()),
            Command::Discard => Ok("the micro-VM is being discarded".to_owned()),
            Command::Registers => Ok(qmp.registers()?),
            Command::Dump => self.dump(),
            Command::Screen => Ok(self.picture()?.to_string()),
            Command::Kill { pid } => self.kill(*pid).map_err(Failed::No),
            Command::Type { text } => self.type_text(text),
            Command::Key { keys } => self.press_keys(keys),
            Command::Click { x, y, button } => self.click(*x, *y, *button),
            // Whoever shows the view sees to it.
            Command::Control { .. } => Ok(String::new()),
            // These do not come here: the control socket answers them, or [`Life::respond`] itself.
            Command::Snapshot | Command::Questions | Command::Decide { .. } | Command::Watch => Ok(String::new()),
        }
    }

    pub(super) fn resume(&mut self) -> Result<(), QmpError> {
        if let (Some(since), Some(qmp)) = (self.paused, &mut self.qmp) {
            qmp.cont()?;
            self.questions.release();
            self.held += since.elapsed();
            self.paused = None;
        }
        Ok(())
    }
}
