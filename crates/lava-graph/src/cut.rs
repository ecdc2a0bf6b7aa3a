//! Where taint ends on purpose, so that one log line does not taint the whole guest.
//!
//! A process that opens a tainted file for reading, or reads from a file or pipe that is tainted, becomes tainted, but not:
//! 1. through anything but a regular file or a pipe: terminals, `/dev/null`, block devices and sockets carry nothing;
//! 2. through `/proc`, `/sys` and `/dev` (except `/dev/shm`);
//! 3. through what everybody writes and reads: logs, `utmp`/`wtmp`, the account tables, the linker's cache. That these were
//!    changed is for the detectors to say;
//! 4. if it is a system daemon, by the path of its program, or a kernel thread. If such a daemon *executes* a tainted file,
//!    the process that does is tainted all the same;
//! 5. if it is the launcher that hands the task in.
//!
//! Who receives over a socket what a tainted process sent becomes tainted, but not:
//! 6. over a socket that everybody speaks to: those of systemd, D-Bus, the journal, syslog, udev and name services, by the name
//!    of the socket ([`is_shared_socket`]); what such a daemon then does for the task is seen as what it does;
//! 7. if it is one of 4 or 5.
//!
//! A job daemon (cron, at) that has read a tainted file stays clean, but what it forks from then on is tainted, *inferred*:
//! which of its tables a job came from is not seen, so its other jobs are tainted too.

/// Programs that read everybody's files as their duty.
const DAEMONS: [&[u8]; 25] = [
    b"cron",
    b"crond",
    b"atd",
    b"anacron",
    b"systemd",
    b"init",
    b"systemd-journald",
    b"systemd-logind",
    b"systemd-udevd",
    b"systemd-networkd",
    b"systemd-resolved",
    b"systemd-timesyncd",
    b"systemd-executor",
    b"systemd-tmpfiles",
    b"udevd",
    b"dbus-daemon",
    b"dbus-broker",
    b"rsyslogd",
    b"syslogd",
    b"sshd",
    b"agetty",
    b"polkitd",
    b"dhclient",
    b"busybox",
    b"Xorg", // shares memory with whoever draws
];

const SYSTEM_PLACES: [&[u8]; 8] =
    [b"/usr/sbin/", b"/usr/bin/", b"/sbin/", b"/bin/", b"/usr/lib/", b"/lib/", b"/usr/libexec/", b"/usr/local/sbin/"];

const SHARED: [&[u8]; 6] = [b"/var/log/", b"/run/utmp", b"/var/run/utmp", b"/run/log/", b"/proc/", b"/sys/"];

const SHARED_FILES: [&[u8]; 6] =
    [b"/etc/passwd", b"/etc/group", b"/etc/shadow", b"/etc/gshadow", b"/etc/ld.so.cache", b"/etc/mtab"];

const SHARED_SOCKETS: [&[u8]; 9] = [
    b"/run/systemd/",
    b"/run/dbus/",
    b"/run/udev/",
    b"/run/nscd/",
    b"/run/initctl",
    b"/run/syslog",
    b"/dev/log",
    b"/org/freedesktop/",
    b"/tmp/.X11-unix/", // every window's; that a program looks into another's is not seen here
];

/// True if everybody speaks to the Unix socket of that name: its receiver says nothing of who sent. `/run/user/UID` counts for
/// its bus and systemd's sockets only.
#[must_use]
pub fn is_shared_socket(name: &[u8]) -> bool {
    let name = name.strip_prefix(b"@").unwrap_or(name);
    let plain = name.strip_prefix(b"/var/run/").map(|rest| [b"/run/", rest].concat());
    let name = plain.as_deref().unwrap_or(name);
    if let Some(rest) = name.strip_prefix(b"/run/user/") {
        let below = rest.splitn(2, |&b| b == b'/').nth(1).unwrap_or_default();
        return below == b"bus" || below.starts_with(b"systemd/");
    }
    SHARED_SOCKETS.iter().any(|place| name.starts_with(place))
}

/// What stands behind the last slash.
pub(crate) fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

/// True if reading from that path says nothing of who wrote to it.
#[must_use]
pub fn is_shared(path: &[u8]) -> bool {
    SHARED.iter().any(|place| path.starts_with(place))
        || SHARED_FILES.contains(&path)
        || (path.starts_with(b"/dev/") && !path.starts_with(b"/dev/shm/"))
}

/// True if the program is a system daemon that reads everybody's files. An empty path is a kernel thread.
#[must_use]
pub fn is_daemon(exe: &[u8]) -> bool {
    exe.is_empty() || (DAEMONS.contains(&base_name(exe)) && SYSTEM_PLACES.iter().any(|place| exe.starts_with(place)))
}

/// True if the program is a daemon that starts jobs out of files.
#[must_use]
pub fn is_job_daemon(exe: &[u8]) -> bool {
    is_daemon(exe) && [&b"cron"[..], b"crond", b"atd", b"anacron"].contains(&base_name(exe))
}

/// True if the two paths are the same, `/bin`, `/sbin` and `/lib` standing for `/usr/bin`...
#[must_use]
pub fn same_program(a: &[u8], b: &[u8]) -> bool {
    let plain = |path: &[u8]| path.strip_prefix(b"/usr").unwrap_or(path).to_vec();
    plain(a) == plain(b)
}
