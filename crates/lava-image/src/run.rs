//! Running the build's tools: output to a log, progress meanwhile, a readable error.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::progress::Progress;

const POLL: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_secs(2);
/// How much of the log's end an error shows, in lines.
const SHOWN: usize = 15;

/// A tool could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It isn't there.
    #[error("{program} could not be started: {source}; install the Debian package {package}")]
    Missing {
        /// The program.
        program: String,
        /// The package that has it.
        package: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// It ended badly.
    #[error("{stage}: {program} failed ({status}); the end of its output:\n{output}")]
    Failed {
        /// The stage of the build.
        stage: String,
        /// The program.
        program: String,
        /// Exit status, or that it took too long.
        status: String,
        /// The last lines it wrote.
        output: String,
    },
    /// Its log could not be written or read.
    #[error("the build log {path}: {source}; is there room on the disk?")]
    Log {
        /// The log.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Runs `command` as `stage` and returns what it wrote. The log is rewritten by each command.
pub fn run(
    stage: &str,
    command: &mut Command,
    log: &Path,
    limit: Duration,
    progress: &mut dyn Progress,
) -> Result<String, RunError> {
    let log_error = |source| RunError::Log { path: log.to_owned(), source };
    let output = File::create(log).map_err(log_error)?;
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(std::process::Stdio::null()).stdout(output.try_clone().map_err(log_error)?).stderr(output);
    let begin = Instant::now();
    progress.begin(stage);
    let mut child = command.spawn().map_err(|source| {
        let package = package(&program);
        RunError::Missing { program: program.clone(), package, source }
    })?;
    let mut told = begin;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(log_error)? {
            break if status.success() { None } else { Some(status.to_string()) };
        }
        if begin.elapsed() > limit {
            // Killing fails only when it has just ended by itself.
            let _gone = child.kill();
            child.wait().map_err(log_error)?;
            break Some(format!("stopped after {} s", limit.as_secs()));
        }
        if told.elapsed() >= TICK {
            told = Instant::now();
            progress.tick(stage, begin.elapsed());
        }
        std::thread::sleep(POLL);
    };
    let text = String::from_utf8_lossy(&fs::read(log).map_err(log_error)?).into_owned();
    let Some(status) = status else {
        progress.end(stage, begin.elapsed());
        return Ok(text);
    };
    let lines: Vec<&str> = text.lines().collect();
    let output = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
    Err(RunError::Failed { stage: stage.to_owned(), program, status, output })
}

fn package(program: &str) -> &'static str {
    match program {
        "mmdebstrap" | "sh" => "mmdebstrap",
        "sfdisk" => "fdisk",
        "qemu-system-x86_64" => "qemu-system-x86 (bookworm-backports)",
        "cargo" => "cargo, or rustup's toolchain",
        "tar" => "tar",
        "cp" => "coreutils",
        _ => "e2fsprogs",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn check(script: &str, limit: Duration) -> Result<String, RunError> {
        let place = tempfile::tempdir().expect("temporary directory");
        run("trial", Command::new("sh").args(["-c", script]), &place.path().join("log"), limit, &mut Silent)
    }

    #[test]
    fn output_is_returned_and_failure_shows_it() {
        assert_eq!(check("echo one; echo two >&2", TICK).expect("run"), "one\ntwo\n");
        let error = check("echo why; exit 3", TICK).expect_err("failure").to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("why"), "{error}");
    }

    #[test]
    fn what_takes_too_long_is_stopped() {
        let error = check("exec sleep 1000", Duration::ZERO).expect_err("failure").to_string();
        assert!(error.contains("stopped after"), "{error}");
    }
}
