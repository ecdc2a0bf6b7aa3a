//! Who owns what a session makes on the host, and what becomes of it when the owner is killed.
//!
//! Beside each runtime folder (`/dev/shm/lava-ID`, QEMU's) lies a folder of the supervisor's, of mode 0700: `lava-ID-control`. The
//! supervisor holds its lock (flock(2)), which goes when the supervisor goes, however that came about. In it a record tells what else
//! there is: the process, the control group, files that are of no use without the session. [`sweep`] removes what nobody holds.
//!
//! *Invariants:* the folder is made first and removed last; the record names QEMU before it has begun. passt, which ends by itself, is
//! named once it is up.
//!
//! *Boundary:* everybody may make folders in `/dev/shm`: only those of our own user are believed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lava_control::{SUFFIX, folder};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::qemu::limits::remove_group;
use crate::qemu::process::{pidfd_gone, start_time};

const RECORD: &str = "record.json";
/// Longest record that is read, bytes.
const RECORD_LIMIT: u64 = 64 << 10;
/// For a killed QEMU to be gone: its memory has to be given back.
const DYING: Duration = Duration::from_secs(30);

/// What there is of a session beside its two folders.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Record {
    /// QEMU's process and when it was started, in the kernel's ticks: the number alone may be another's by now.
    qemu: Option<(i32, u64)>,
    /// passt's, likewise.
    #[serde(default)]
    passt: Option<(i32, u64)>,
    /// QEMU's control group.
    group: Option<PathBuf>,
    /// Files and folders that are of no use without the session.
    scratch: Vec<PathBuf>,
}

/// The hold on a session's things: as long as it lives, [`sweep`] leaves them alone.
#[derive(Debug)]
pub struct Owner {
    folder: PathBuf,
    record: Record,
    _lock: File,
}

/// Whether a session with this runtime folder is running, after a [`sweep`].
#[must_use]
pub fn is_running(runtime_dir: &Path) -> bool {
    folder(runtime_dir).exists()
}

impl Owner {
    /// Makes the folder and takes its lock.
    pub(super) fn new(runtime_dir: &Path, scratch: &[PathBuf]) -> io::Result<Self> {
        let folder = folder(runtime_dir);
        loop {
            fs::DirBuilder::new().mode(0o700).create(&folder)?;
            // Somebody who sweeps may take it for left behind as long as we do not hold it.
            match open(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lock => {
                    let lock = lock?;
                    flock(&lock, FlockOperation::LockExclusive)?;
                    if is_at(&lock, &folder) {
                        let record = Record { scratch: scratch.to_vec(), ..Record::default() };
                        let owner = Self { folder, record, _lock: lock };
                        owner.write()?;
                        return Ok(owner);
                    }
                }
            }
        }
    }

    /// Writes down passt's process.
    pub(super) fn note_passt(&mut self, pid: u32) -> io::Result<()> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        self.record.passt = pid.and_then(|pid| Some((pid.as_raw_nonzero().get(), start_time(pid)?)));
        self.write()
    }

    /// Writes down the process that is about to begin.
    pub(super) fn note(&mut self, pid: Pid, group: Option<&Path>) -> io::Result<()> {
        self.record.qemu = start_time(pid).map(|start| (pid.as_raw_nonzero().get(), start));
        self.record.group = group.map(Path::to_owned);
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let next = self.folder.join("record.new");
        File::create(&next)?.write_all(&serde_json::to_vec(&self.record)?)?;
        fs::rename(next, self.folder.join(RECORD))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // What can't be removed now is swept later.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn open(folder: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    File::options().read(true).custom_flags(flags.bits() as i32).open(folder)
}

/// Whether the open folder is still the one of that name.
fn is_at(open: &File, folder: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (open.metadata(), fs::symlink_metadata(folder)) else { return false };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

/// What a sweep did about one session.
#[derive(Debug)]
pub struct Swept {
    /// The session's runtime folder, which is gone now.
    pub runtime_dir: PathBuf,
    /// What could not be removed, and why.
    pub problem: Option<String>,
}

/// Removes what sessions of this user left behind whose supervisor is gone: runtime folders in `place` and what belongs to them.
#[must_use]
pub fn sweep(place: &Path) -> Vec<Swept> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries.filter_map(|entry| sweep_one(&entry.path())).collect()
}

fn sweep_one(folder: &Path) -> Option<Swept> {
    let name = folder.file_name()?.to_str()?;
    let runtime_dir = folder.with_file_name(name.strip_suffix(SUFFIX).filter(|name| name.starts_with("lava-"))?);
    let lock = open(folder).ok()?;
    if lock.metadata().ok()?.uid() != rustix::process::geteuid().as_raw() {
        return None;
    }
    // Held: it runs.
    flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
    if !is_at(&lock, folder) {
        return None;
    }
    let record = match read(&folder.join(RECORD)) {
        Ok(record) => record,
        // Killed before it had made anything else. One that is not empty is another version's, which holds no lock.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let _ = fs::remove_dir(folder);
            return None;
        }
        Err(error) => return Some(Swept { runtime_dir, problem: Some(format!("{}: {error}", folder.display())) }),
    };
    let problem = clear(&record, &runtime_dir).and_then(|()| remove(folder)).err();
    Some(Swept { runtime_dir, problem })
}

fn read(path: &Path) -> io::Result<Record> {
    let mut text = Vec::new();
    File::open(path)?.take(RECORD_LIMIT).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// The process first: what it holds open would not be given back, and it could make more.
fn clear(record: &Record, runtime_dir: &Path) -> Result<(), String> {
    for (name, process) in [("QEMU", record.qemu), ("passt", record.passt)] {
        if let Some((pid, start)) = process {
            end(name, pid, start)?;
        }
    }
    if let Some(group) = &record.group {
        remove_group(group).map_err(|error| format!("{}: {error}", group.display()))?;
    }
    record.scratch.iter().map(PathBuf::as_path).chain([runtime_dir]).try_for_each(remove)
}

/// Kills a process if it is still the one that was started then, and waits until it is gone.
fn end(name: &str, pid: i32, start: u64) -> Result<(), String> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(()) };
    let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    if start_time(pid) != Some(start) {
        return Ok(());
    }
    // It fails if it is gone already: the kernel kills QEMU with its supervisor, and passt ends by itself.
    let _ = rustix::process::pidfd_send_signal(&fd, Signal::KILL);
    if pidfd_gone(&fd, Some(DYING)) {
        Ok(())
    } else {
        Err(format!("{name}, process {pid}, was killed and does not go"))
    }
}

fn remove(path: &Path) -> Result<(), String> {
    let removed = match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", path.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_stays_and_what_nobody_holds_is_swept() {
        let place = tempfile::tempdir().expect("folder");
        let runtime = place.path().join("lava-1");
        let (overlay, draft) = (place.path().join("vda.overlay"), place.path().join("draft"));
        fs::create_dir(&draft).expect("draft");
        for file in [&overlay, &draft.join("ram")] {
            fs::write(file, "x").expect("file");
        }
        let mut owner = Owner::new(&runtime, &[overlay.clone(), draft.clone()]).expect("owner");
        fs::create_dir(&runtime).expect("runtime");
        let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        owner.note(Pid::from_child(&sleeper), None).expect("note");
        assert!(sweep(place.path()).is_empty(), "it is held");
        assert!(is_running(&runtime) && overlay.exists());

        // Killed: the kernel gives the lock back, and nothing else is done.
        let Owner { folder, _lock: lock, .. } = &owner;
        assert!(folder.is_dir());
        flock(lock, FlockOperation::Unlock).expect("unlock");
        let swept = sweep(place.path());
        assert_eq!(swept.len(), 1);
        assert_eq!((&swept[0].runtime_dir, &swept[0].problem), (&runtime, &None));
        assert!(sleeper.try_wait().expect("wait").is_some(), "its process is gone");
        assert_eq!(fs::read_dir(place.path()).expect("place").count(), 0);
        assert!(sweep(place.path()).is_empty() && !is_running(&runtime));
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let place = tempfile::tempdir().expect("folder");
        let kept = place.path().join("kept");
        fs::write(&kept, "x").expect("kept");
        let other = place.path().join("lava-2-control");
        fs::create_dir(&other).expect("another version's");
        fs::write(other.join("socket"), "").expect("socket");
        std::os::unix::fs::symlink(&kept, place.path().join("lava-3-control")).expect("link");
        fs::create_dir(place.path().join("other-control")).expect("folder");
        assert!(sweep(place.path()).is_empty());
        assert_eq!(fs::read_dir(place.path()).expect("place").count(), 4);
        // A record that makes no sense is told, and nothing is removed.
        fs::write(other.join(RECORD), "{").expect("record");
        let swept = sweep(place.path());
        assert!(swept[0].problem.is_some() && other.exists());
        // A process that has the number by now is not the one that was started then.
        assert_eq!(end("QEMU", std::process::id() as i32, 1), Ok(()));
    }
}
