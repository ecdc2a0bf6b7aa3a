//! Escalate: the task reaches into a process that is not its own.
//!
//! * tracing (attach or seize) of a process that does not descend from the task;
//! * a signal that ends or stops a program which guards or records: by its name, so another program of that name counts too.
//!
//! Tracing own children is what debuggers do, and is not reported.

use lava_event::{Kind, ProcessKey, ProcessRef, Severity, Stage};

use super::{Behaviour, Context, Hit};
use crate::{About, path};

static TRACE: About = About {
    id: "escalate.ptrace",
    technique: "T1055.008",
    stage: Stage::Escalate,
    severity: Severity::High,
    why: "Who traces a process can read its secrets and make it do anything in its name.",
    false_positives: "Debuggers that are attached to a running program on purpose.",
};
static IMPAIR: About = About {
    id: "escalate.guard_killed",
    technique: "T1685",
    stage: Stage::Escalate,
    severity: Severity::High,
    why: "The task ended or stopped a program that records or guards: what follows is meant to go unseen.",
    false_positives: "Administration scripts that restart services by signal.",
};

/// SIGKILL, SIGTERM, SIGSTOP, SIGINT, SIGQUIT, SIGABRT (asm-generic/signal.h).
const ENDING: [u32; 6] = [9, 15, 19, 2, 3, 6];

/// Names as the kernel keeps them, 15 bytes at most.
const GUARDS: [&[u8]; 16] = [
    b"auditd",
    b"systemd-journal",
    b"rsyslogd",
    b"syslogd",
    b"syslog-ng",
    b"clamd",
    b"freshclam",
    b"fail2ban-server",
    b"falco",
    b"osqueryd",
    b"ossec-syscheckd",
    b"wazuh-agentd",
    b"snort",
    b"suricata",
    b"sysmon",
    b"aide",
];

pub(super) struct Ptrace;

impl Behaviour for Ptrace {
    fn about(&self) -> Vec<&'static About> {
        vec![&TRACE, &IMPAIR]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        if context.tainted_actor().is_none() {
            return;
        }
        let others =
            |target: &ProcessRef| !context.taint.is_tainted(ProcessKey { pid: target.pid, start_ns: target.start_ns });
        let once = |target: &ProcessRef| format!("{}.{}", target.pid, target.start_ns).into_bytes();
        let shown = |target: &ProcessRef| format!("{} (pid {})", path::shown(target.comm.bytes()), target.pid);
        match &context.event.kind {
            Kind::ProcessPtrace { target, request } if request != "traceme" && others(target) => {
                let title = format!("{} traces {}, which is not of the task", context.program(), shown(target));
                hits.push(Hit::new(&TRACE, context, title, once(target)));
            }
            Kind::ProcessSignal { target, signal }
                if ENDING.contains(signal) && GUARDS.contains(&target.comm.bytes()) && others(target) =>
            {
                let title = format!("{} sent signal {signal} to {}", context.program(), shown(target));
                hits.push(Hit::new(&IMPAIR, context, title, once(target)));
            }
            _ => {}
        }
    }
}
