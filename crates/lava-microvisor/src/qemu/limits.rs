//! What one QEMU may use of the host, whatever becomes of it.
//!
//! A control group (version 2) of its own bounds memory, tasks and processor, where the host lets LAVA make one: as root, or in what
//! systemd has delegated (`systemd-run --user --scope lava ...`, a service with `Delegate=yes` and `DelegateSubgroup=`). Everywhere the
//! kernel's limits per process (getrlimit(2)) bound file size, tasks, open files and core dumps; without a control group the address
//! space too.
//!
//! Limits: without a control group nothing bounds processor time; pages of a `/dev/shm` file are bounded by its size only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit};

use super::QemuError;

/// QEMU beside the guest's memory: translated code takes up to 1 GiB (tcg/region.c, `DEFAULT_CODE_GEN_BUFFER_SIZE`), the rest some 200 MiB.
const OVERHEAD_MIB: u64 = 1536;
/// Address space beside the guest's memory: translated code, an arena of 64 MiB and a stack of 8 MiB per thread.
const SPACE_MIB: u64 = 16 << 10;
/// Files beside the guest's memory: the devices' state.
const FILES_MIB: u64 = 64;
/// Threads beside the vCPUs': QEMU's pool has up to 64 (util/thread-pool.c).
const TASKS: u64 = 128;
/// QEMU itself opens some thirty.
const OPEN_FILES: u64 = 1024;
/// cpu.max, microseconds.
const PERIOD: u64 = 100_000;
/// What a control group must bound; `cpu` is taken where it is to be had.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// For the kernel to let go of a group whose processes are gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much a QEMU may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub memory_mib: u32,
    pub vcpus: u32,
}

/// A control group, removed when this is dropped; it must be empty then.
#[derive(Debug)]
pub(crate) struct Group {
    pub path: PathBuf,
}

impl Limits {
    /// Bounds a process that has not begun. Returns its control group, if there is one, or why there is none.
    pub fn apply(&self, pid: Pid, name: &str) -> Result<Result<Group, String>, QemuError> {
        let group = own_place().and_then(|place| Group::create(&place, name, self));
        let group = group.and_then(|group| match fs::write(group.path.join("cgroup.procs"), pid.to_string()) {
            Ok(()) => Ok(group),
            Err(error) => Err(format!("{}: {error}", group.path.display())),
        });
        let mut limits = vec![
            (Resource::Core, 0),
            (Resource::Fsize, (u64::from(self.memory_mib) + FILES_MIB) << 20),
            (Resource::Nproc, TASKS + u64::from(self.vcpus)),
            (Resource::Nofile, OPEN_FILES),
        ];
        if group.is_err() {
            limits.push((Resource::As, (u64::from(self.memory_mib) + SPACE_MIB) << 20));
        }
        for (resource, most) in limits {
            let limit = Rlimit { current: Some(most), maximum: Some(most) };
            rustix::process::prlimit(Some(pid), resource, limit).map_err(|error| QemuError::Io {
                what: "cannot limit process",
                path: pid.to_string().into(),
                source: error.into(),
            })?;
        }
        Ok(group)
    }
}

/// Where a session's control group would go, and what it would bound.
pub fn check_limits() -> String {
    let limits = Limits { memory_mib: 128, vcpus: 1 };
    let made =
        own_place().and_then(|place| Group::create(&place, &format!("lava-doctor-{}", std::process::id()), &limits));
    match made {
        Ok(group) => {
            let cpu = if group.path.join("cpu.max").exists() { "memory, tasks, processor" } else { "memory, tasks" };
            let place = group.path.parent().unwrap_or(&group.path).display();
            format!("a control group below {place} bounds {cpu}; file size, open files per process")
        }
        Err(why) => format!(
            "per process only (address space, tasks, file size), nothing bounds processor time, because there is no control group: {why}"
        ),
    }
}

/// The folder in which groups may be made: the nearest one above ours.
fn own_place() -> Result<PathBuf, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let root = hierarchy(&read("/proc/self/mountinfo")?).ok_or("no cgroup2 file system is mounted")?;
    let own = read("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("we are in no group of version 2")?;
    place(&root, &root.join(own))
}

/// Where control groups of version 2 are mounted.
fn hierarchy(mountinfo: &str) -> Option<PathBuf> {
    // proc_pid_mountinfo(5): the file system's type follows the single dash, the mount point is the fifth field.
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The nearest group above `own` whose children can be bounded. (Our own has processes: its children can't, unless it is the root.)
fn place(root: &Path, own: &Path) -> Result<PathBuf, String> {
    let above = own.ancestors().skip(usize::from(own != root)).take_while(|folder| folder.starts_with(root));
    let mut why = String::new();
    for folder in above {
        match enable(folder) {
            Ok(()) => return Ok(folder.to_owned()),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// Has the children of `folder` bounded, if they are not yet.
fn enable(folder: &Path) -> Result<(), String> {
    let file = folder.join("cgroup.subtree_control");
    let has = |name: &str| fs::read_to_string(&file).is_ok_and(|on| on.split_whitespace().any(|on| on == name));
    for name in CONTROLLERS.into_iter().filter(|name| !has(name)) {
        let written = fs::write(&file, format!("+{name}")).map_err(|error| error.to_string());
        written.map_err(|error| format!("{} does not bound {name}: {error}", folder.display()))?;
    }
    if !has("cpu") {
        // A group without it still bounds the rest.
        let _ = fs::write(&file, "+cpu");
    }
    Ok(())
}

impl Group {
    fn create(place: &Path, name: &str, limits: &Limits) -> Result<Self, String> {
        let path = place.join(name);
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let group = Self { path };
        let set = |file: &str, value: String| {
            let path = group.path.join(file);
            fs::write(&path, value).map_err(|error| format!("{}: {error}", path.display()))
        };
        set("memory.max", ((u64::from(limits.memory_mib) + OVERHEAD_MIB) << 20).to_string())?;
        set("pids.max", (TASKS + u64::from(limits.vcpus)).to_string())?;
        if group.path.join("cpu.max").exists() {
            // One more than the guest's: QEMU's other threads serve its devices.
            set("cpu.max", format!("{} {PERIOD}", PERIOD * (u64::from(limits.vcpus) + 1)))?;
        }
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // If it can't be removed, the next start of `lava` tries again.
        let _ = remove_group(&self.path);
    }
}

/// Removes an empty control group, whose last process the kernel may still be clearing away.
pub(crate) fn remove_group(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_beside_the_old_one() {
        let hybrid = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(hierarchy(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(hierarchy("22 27 0:21 / /proc rw - proc proc rw\n"), None);
    }

    /// A folder that looks like `/` > `slice` > `scope`; only `slice` bounds its children.
    #[test]
    fn the_nearest_group_above_that_bounds_is_taken() {
        let root = tempfile::tempdir().expect("folder");
        let (slice, scope) = (root.path().join("slice"), root.path().join("slice/scope"));
        fs::create_dir_all(&scope).expect("groups");
        fs::write(slice.join("cgroup.subtree_control"), "memory pids\n").expect("control");
        assert_eq!(place(root.path(), &scope), Ok(slice.clone()));
        // Above `slice` nothing can be had: where the kernel has no such file, writing fails.
        fs::create_dir(root.path().join("cgroup.subtree_control")).expect("no file");
        let why = place(root.path(), &slice).expect_err("no place");
        assert!(why.contains("does not bound memory"), "{why}");
        assert!(place(root.path(), root.path()).is_err());
    }
}
