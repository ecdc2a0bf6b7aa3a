//! Killing one process of the guest: the tap does it, at the guest's next task switch (`lava-tap/src/kill.rs`).

use std::time::Duration;

use lava_event::kill::{NO_PROCESS, SPARED};

use super::Life;

/// For the guest to switch tasks: one that idles does so every second or two.
const PATIENCE: Duration = Duration::from_secs(8);

impl Life {
    /// Has it killed; says what that means, or why it can't be.
    pub(super) fn kill(&mut self, pid: u32) -> Result<String, String> {
        match (&mut self.machine.requests, self.paused) {
            (None, _) => Err("this session has no tap".to_owned()),
            (_, Some(_)) => {
                Err("the guest is paused, and its kernel is where this is done: resume it first".to_owned())
            }
            (Some(requests), None) => said(pid, requests.ask(pid, PATIENCE)),
        }
    }
}

fn said(pid: u32, outcome: Option<u32>) -> Result<String, String> {
    match outcome {
        None => Err(format!("the guest's kernel switched no task within {} s", PATIENCE.as_secs())),
        Some(NO_PROCESS) => Err("the guest has no such process, or it is ending already".to_owned()),
        Some(SPARED) => Err("it is the guest's first process or its kernel's own".to_owned()),
        Some(threads @ 1..NO_PROCESS) => Ok(format!(
            "process {pid} is killed: SIGKILL is pending in its {threads} thread{}; what sleeps of it dies when it is woken, and runs nothing of its own before",
            if threads == 1 { "" } else { "s" }
        )),
        Some(_) => Err("what the guest's kernel keeps of it could not be read".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_in_words() {
        assert!(said(7, Some(1)).is_ok_and(|text| text.contains("process 7") && text.contains("1 thread;")));
        assert!(said(7, Some(12)).is_ok_and(|text| text.contains("12 threads;")));
        for (outcome, why) in
            [(None, "within 8 s"), (Some(NO_PROCESS), "no such"), (Some(SPARED), "first"), (Some(0), "read")]
        {
            assert!(said(7, outcome).is_err_and(|text| text.contains(why)), "{outcome:?}");
        }
        assert!(said(7, Some(u32::MAX)).is_err());
    }
}
