//! Execute: a process calls itself something else than it is.
//!
//! Tools that list processes show the name that a thread gave itself (`prctl(PR_SET_NAME)`), not the program behind it. A task's process
//! that takes the name of a kernel thread or of a daemon hides among them.
//!
//! *Limits:* a program that was started under a false name from the beginning (`argv[0]`, a copy under another file name) is judged by its
//! path (`stealth.name_system` in `data/acts.toml`). Other names are not told: threads get names all the time.

use lava_event::{Kind, Severity, Stage};

use super::{Behaviour, Context, Hit};
use crate::{About, path};

static ABOUT: About = About {
    id: "stealth.process_name",
    technique: "T1036.004",
    stage: Stage::Execute,
    severity: Severity::Medium,
    why: "The process shows itself under the name of a kernel thread or a daemon, which it is not: so it is overlooked.",
    false_positives: "Wrappers that start the daemon whose name they take.",
};

/// The kernel keeps so many bytes of a name (`TASK_COMM_LEN` less its end, include/linux/sched.h).
const NAME: usize = 15;

/// How names of kernel threads begin (Documentation/admin-guide/kernel-per-CPU-kthreads.rst, and ps on a running 6.1), and names of daemons.
const KERNEL: [&[u8]; 11] = [
    b"kworker",
    b"ksoftirqd",
    b"kthreadd",
    b"migration/",
    b"rcu_",
    b"kswapd",
    b"kcompactd",
    b"khugepaged",
    b"kdevtmpfs",
    b"jbd2/",
    b"cpuhp/",
];
const DAEMONS: [&[u8]; 16] = [
    b"systemd",
    b"init",
    b"sshd",
    b"cron",
    b"crond",
    b"dbus-daemon",
    b"rsyslogd",
    b"agetty",
    b"udevd",
    b"systemd-udevd",
    b"systemd-journal",
    b"systemd-logind",
    b"systemd-resolve",
    b"polkitd",
    b"irqbalance",
    b"auditd",
];

pub(super) struct Masquerade;

impl Behaviour for Masquerade {
    fn about(&self) -> Vec<&'static About> {
        vec![&ABOUT]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        let (Kind::ProcessName { new, .. }, Some(process)) = (&context.event.kind, &context.event.process) else {
            return;
        };
        let name = new.bytes();
        let false_name =
            bracketed(name) || KERNEL.iter().any(|begin| name.starts_with(begin)) || DAEMONS.contains(&name);
        let own = path::base_name(process.exe.bytes());
        if context.tainted_actor().is_none() || !false_name || own.starts_with(name) {
            return;
        }
        let title = format!("{} calls itself {}", context.program(), path::shown(name));
        hits.push(Hit::new(&ABOUT, context, title, name.to_vec()));
    }
}

/// `[kworker/0:1]`, as ps shows a kernel thread, be its end cut off; not a library's thread that begins with its name, `[pango] FcInit`.
fn bracketed(name: &[u8]) -> bool {
    let Some(inner) = name.strip_prefix(b"[") else { return false };
    inner.ends_with(b"]") || (name.len() >= NAME && !inner.contains(&b']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_brackets() {
        for name in ["[kworker/0:1]", "[kworker/u8:0-e"] {
            assert!(bracketed(name.as_bytes()), "{name}");
        }
        for name in ["[pango] FcInit", "[x", "kworker]", "[short] by name", ""] {
            assert!(!bracketed(name.as_bytes()), "{name}");
        }
    }
}
