//! Escalate: a tainted process that was not root gets root's rights, or capabilities.
//!
//! Through the exec of a setuid file only the effective and saved ids change, and the exec event follows in the same
//! thread: so a change that leaves the real id alone is held until that thread's next event (or the process's or the
//! session's end). A change of the real id can come from no setuid exec: it is said at once.
//!
//! * setuid exec: T1548.001, high; medium for the system's own tools (sudo, su, passwd...), which ask before they serve;
//! * anything else to uid 0: T1068, critical: no system call gives that to a process without rights;
//! * capabilities without uid 0 and without an exec: medium; low if it is the full set, which is what a new user
//!   namespace gives. Capabilities from a file with an exec (ping) are not reported.

use std::collections::BTreeMap;

use lava_event::{Credentials, Event, EventSeq, FileId, Grade, Kind, ProcessKey, Severity, Stage};

use super::{Behaviour, Context, Hit};
use crate::{About, path};

/// Changes that wait for their thread's next event.
const MAX_PENDING: usize = 4096;
/// A set with at least so many capabilities is taken for the full one (there are 41 in Linux 6.1).
const FULL_SET: u32 = 36;

static SETUID: About = About {
    id: "escalate.setuid",
    technique: "T1548.001",
    stage: Stage::Escalate,
    severity: Severity::High,
    why: "A process of the task got root's rights through a setuid program: what that program can be made to do is done as root.",
    false_positives: "Scripts that use a setuid tool honestly.",
};
static KERNEL: About = About {
    id: "escalate.root",
    technique: "T1068",
    stage: Stage::Escalate,
    severity: Severity::Critical,
    why: "A process without rights became root with no setuid program in between: a weakness of the kernel or of a service was used.",
    false_positives: "None known; a missed exec event (see vm.gap) could look like it.",
};
static CAPABILITIES: About = About {
    id: "escalate.capabilities",
    technique: "T1068",
    stage: Stage::Escalate,
    severity: Severity::Medium,
    why: "A process without rights got capabilities without running another program.",
    false_positives: "User namespaces (browsers' sandboxes, containers); they give the full set, reported as low.",
};

/// Setuid programs that check who asks before they serve.
const GUARDED: [&[u8]; 13] = [
    b"sudo",
    b"su",
    b"passwd",
    b"chsh",
    b"chfn",
    b"newgrp",
    b"gpasswd",
    b"mount",
    b"umount",
    b"pkexec",
    b"fusermount",
    b"fusermount3",
    b"ping",
];

struct Pending {
    seq: EventSeq,
    time_ns: u64,
    old: Credentials,
    new: Credentials,
    program: String,
}

#[derive(Default)]
pub(super) struct Escalate {
    pending: BTreeMap<(ProcessKey, u32), Pending>,
}

impl Behaviour for Escalate {
    fn about(&self) -> Vec<&'static About> {
        vec![&SETUID, &KERNEL, &CAPABILITIES]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        let event = context.event;
        self.settle(context, hits);
        let Kind::ProcessCredentials { old, new } = &event.kind else { return };
        let (Some(actor), Some(process)) = (context.tainted_actor(), &event.process) else { return };
        let gained = new.effective & !old.effective != 0;
        if old.euid == 0 || old.uid == 0 || (new.euid != 0 && new.uid != 0 && !gained) {
            return;
        }
        let pending =
            Pending { seq: event.seq, time_ns: event.time_ns, old: *old, new: *new, program: context.program() };
        let at_once = old.uid != new.uid || self.pending.len() >= MAX_PENDING;
        if at_once {
            hits.extend(judge(context, actor, &pending, None));
        } else {
            self.pending.insert((actor, process.tid), pending);
        }
    }
}

impl Escalate {
    /// Says what waited, if this event tells how it came about.
    fn settle(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        let event = context.event;
        if let Kind::VmEnded { .. } | Kind::VmReset { .. } = event.kind {
            for ((actor, _), pending) in std::mem::take(&mut self.pending) {
                hits.extend(judge(context, actor, &pending, None));
            }
        }
        let Some(process) = &event.process else { return };
        let key = process.key();
        match &event.kind {
            // An exec by a thread gives it the leader's id, an exit ends all threads: the whole process is meant.
            Kind::ProcessExec { file, path, .. } => {
                for pending in self.take(key, None) {
                    hits.extend(judge(context, key, &pending, Some((event, file, path.bytes()))));
                }
            }
            Kind::ProcessExit { .. } => {
                for pending in self.take(key, None) {
                    hits.extend(judge(context, key, &pending, None));
                }
            }
            _ => {
                for pending in self.take(key, Some(process.tid)) {
                    hits.extend(judge(context, key, &pending, None));
                }
            }
        }
    }

    fn take(&mut self, process: ProcessKey, thread: Option<u32>) -> Vec<Pending> {
        let (first, last) = thread.map_or((0, u32::MAX), |tid| (tid, tid));
        let keys: Vec<_> = self.pending.range((process, first)..=(process, last)).map(|(key, _)| *key).collect();
        keys.iter().filter_map(|key| self.pending.remove(key)).collect()
    }
}

type Exec<'a> = (&'a Event, &'a FileId, &'a [u8]);

fn judge(context: &Context<'_>, actor: ProcessKey, change: &Pending, exec: Option<Exec<'_>>) -> Option<Hit> {
    let once = format!("{}.{}", actor.pid, actor.start_ns).into_bytes();
    let root = change.new.euid == 0 || change.new.uid == 0;
    let from = change.old.euid;
    let program = &change.program;
    let mut hit = match exec {
        Some((_, file, path)) if root && file.is_setuid() => {
            let title = format!("{} ran as root (was uid {from}) by its setuid bit", path::shown(path));
            let mut hit = Hit::new(&SETUID, context, title, once);
            // A tool that the task has changed guards nothing any more.
            let guarded = GUARDED.contains(&path::base_name(path)) && context.memory.by_inode(file).is_none();
            if guarded {
                hit.severity = Severity::Medium;
            }
            hit
        }
        Some(_) if !root => return None,
        _ if root => {
            let title = format!("{program} became root (was uid {from}) without a setuid program");
            Hit::new(&KERNEL, context, title, once)
        }
        _ => {
            let title = format!("{program} got capabilities {:#x} as uid {from}", change.new.effective);
            let mut hit = Hit::new(&CAPABILITIES, context, title, once);
            if change.new.effective.count_ones() >= FULL_SET {
                hit.severity = Severity::Low;
            }
            hit
        }
    };
    // The event at hand may only be the one that ended the waiting.
    hit.events = vec![change.seq];
    hit.time_ns = change.time_ns;
    if let Some((event, _, _)) = exec {
        hit.events.push(event.seq);
        hit.time_ns = event.time_ns;
    }
    hit.grade = Grade::Observed;
    hit.process = Some(actor);
    Some(hit)
}
