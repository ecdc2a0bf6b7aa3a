//! The scenario's deliberate weakness: installed setuid root, it runs whatever it is told to, as root.
//!
//! `weak-helper PROGRAM [ARGUMENT...]`. It exists in the scenario's disk only, and refuses to act anywhere else.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    if !drive_by::allowed() {
        return ExitCode::from(drive_by::REFUSED);
    }
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("usage: weak-helper PROGRAM [ARGUMENT...]");
        return ExitCode::from(2);
    };
    // `exec` comes back only with an error.
    let error = Command::new(&program).args(words).uid(0).gid(0).exec();
    eprintln!("weak-helper: {}: {error}", program.display());
    ExitCode::from(127)
}
