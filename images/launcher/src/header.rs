//! What the host asks for: one JSON object on one line.
//!
//! The name and the path are data: no shell ever sees them. Limits: a header line is at most [`MAX_LINE`] bytes, so that
//! a host that sends no newline can't fill the guest's memory.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::path::PathBuf;

use serde::Deserialize;

use crate::identity::Identity;

/// The longest header line read, in bytes. Command and environment fit many times over.
pub const MAX_LINE: u64 = 1 << 20;

/// One request of the host.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Header {
    /// Write the bytes that follow, then run the command.
    Task(Task),
    /// Become a machine of your own, then say `ready`.
    Identity {
        /// Who.
        identity: Identity,
    },
    /// Trust this authority of the network, then say `ready`.
    Trust {
        /// Its certificate, PEM.
        trust: String,
    },
    /// Tell every file below a directory, with its bytes.
    Members {
        /// The directory.
        members: PathBuf,
    },
    /// Write everything to the disk and restart the machine.
    Reboot {
        /// Must be true.
        reboot: bool,
    },
    /// Write everything to the disk and switch the machine off.
    Poweroff {
        /// Must be true.
        poweroff: bool,
    },
}

/// A task: a file, and the command that opens it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The name the file came with; kept for the command's `{name}`.
    pub name: String,
    /// Where the file is written; the directory must exist.
    pub path: PathBuf,
    /// How many raw bytes follow the header line.
    pub size: u64,
    /// The file is there already (an archive held it): no bytes follow, and it only gets its mode.
    #[serde(default)]
    pub existing: bool,
    /// Program and arguments; `{task}` stands for the path, `{name}` for the name, each within one argument.
    pub command: Vec<String>,
    /// Added to the user's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Wait until the scenario disk is mounted on `/opt/scenario`.
    #[serde(default)]
    pub scenario_disk: bool,
    /// Permission bits of the file, as a number (493 is 0o755).
    #[serde(default = "default_mode")]
    pub mode: u32,
    /// Send the task's output to the serial console instead of discarding it.
    #[serde(default)]
    pub console: bool,
    /// Run it as root instead of the ordinary user.
    #[serde(default)]
    pub root: bool,
}

fn default_mode() -> u32 {
    0o644
}

impl Task {
    /// The command with its placeholders filled in.
    pub fn arguments(&self) -> Vec<String> {
        let path = self.path.to_string_lossy();
        self.command
            .iter()
            .map(|word| match word.as_str() {
                "{task}" => path.clone().into_owned(),
                "{name}" => self.name.clone(),
                _ => word.replace("{task}", &path),
            })
            .collect()
    }
}

/// Why no header could be read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The port failed or was closed in the middle of a line.
    #[error("the task port: {0}")]
    Port(#[from] io::Error),
    /// A whole line that is not a request we know.
    #[error("not a task header: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Reads the next header; `None` when the host closed the port between two of them. Empty lines are passed over.
pub fn read(port: &mut impl BufRead) -> Result<Option<Header>, HeaderError> {
    loop {
        let mut line = Vec::new();
        let count = port.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        return Ok(Some(serde_json::from_slice(&line)?));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str) -> Option<Header> {
        read(&mut input.as_bytes()).unwrap_or(None)
    }

    #[test]
    fn a_task_is_read_with_defaults() {
        let line =
            r#"{"name":"a b.sh","path":"/home/user/a b.sh","size":3,"command":["sh","{task}","x={task}","{name}"]}"#;
        let Some(Header::Task(task)) = check(&format!("\n{line}\nabc")) else { panic!("no task") };
        assert_eq!(
            (task.size, task.mode, task.scenario_disk, task.console, task.root, task.existing),
            (3, 0o644, false, false, false, false)
        );
        assert_eq!(task.arguments(), ["sh", "/home/user/a b.sh", "x=/home/user/a b.sh", "a b.sh"]);
    }

    #[test]
    fn the_machine_is_restarted_or_switched_off() {
        assert_eq!(check("{\"reboot\":true}\n"), Some(Header::Reboot { reboot: true }));
        assert_eq!(check("{\"poweroff\":true}\n"), Some(Header::Poweroff { poweroff: true }));
        assert_eq!(check("{\"members\":\"/x.d\"}\n"), Some(Header::Members { members: "/x.d".into() }));
    }

    #[test]
    fn an_identity_is_read() {
        let line = r#"{"identity":{"seed":"00","now_ns":5,"machine_id":"ab","host_name":"h","mac":"52"}}"#;
        let Some(Header::Identity { identity }) = check(&format!("{line}\n")) else { panic!("no identity") };
        assert_eq!((identity.now_ns, identity.host_name.as_str()), (5, "h"));
    }

    #[test]
    fn an_authority_is_read() {
        let read = check("{\"trust\":\"-----BEGIN\\n\"}\n");
        assert_eq!(read, Some(Header::Trust { trust: "-----BEGIN\n".into() }));
    }

    #[test]
    fn what_is_no_header_is_an_error_and_the_end_is_none() {
        assert!(matches!(read(&mut "hello\n".as_bytes()), Err(HeaderError::Malformed(_))));
        assert!(matches!(read(&mut "{\"reb".as_bytes()), Err(HeaderError::Port(_))));
        assert!(matches!(read(&mut "".as_bytes()), Ok(None)));
        let endless = vec![b'x'; MAX_LINE as usize + 1];
        assert!(matches!(read(&mut endless.as_slice()), Err(HeaderError::Port(_))));
    }
}
