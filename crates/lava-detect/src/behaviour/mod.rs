//! The behaviours.
//!
//! One file each. A behaviour sees every event after the task began, keeps what it must remember, and hands over hits;
//! what it has said of the same thing before (`Hit::once`) is left out by the detector.

mod acts;
mod asep;
mod disk;
mod escalate;
mod execute;
mod exploit;
mod inject;
mod kernel;
mod library;
mod masquerade;
mod memfd;
mod module;
mod propagate;
mod ptrace;
mod sockets;
mod traffic;

use lava_event::{Event, EventSeq, Grade, ProcessKey, Severity};

use crate::memory::Memory;
use crate::{About, Taint, path};

/// What a behaviour is shown.
pub(crate) struct Context<'a> {
    pub(crate) event: &'a Event,
    pub(crate) taint: &'a dyn Taint,
    pub(crate) memory: &'a Memory,
    /// Asked once: every behaviour wants to know.
    tainted: Option<ProcessKey>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(event: &'a Event, taint: &'a dyn Taint, memory: &'a Memory) -> Self {
        let tainted = event.actor().filter(|&actor| taint.is_tainted(actor));
        Self { event, taint, memory, tainted }
    }

    /// The acting process, if it descends from the task.
    pub(crate) const fn tainted_actor(&self) -> Option<ProcessKey> {
        self.tainted
    }

    /// The acting program's path, for titles.
    pub(crate) fn program(&self) -> String {
        self.event.process.as_ref().map_or_else(
            || "nobody known".to_owned(),
            |process| path::shown(if process.exe.is_empty() { process.comm.bytes() } else { process.exe.bytes() }),
        )
    }
}

/// What a behaviour found.
pub(crate) struct Hit {
    pub(crate) about: &'static About,
    pub(crate) title: String,
    /// Instead of the behaviour's own reason.
    pub(crate) why: Option<String>,
    pub(crate) technique: &'static str,
    pub(crate) severity: Severity,
    pub(crate) grade: Grade,
    pub(crate) time_ns: u64,
    pub(crate) process: Option<ProcessKey>,
    pub(crate) events: Vec<EventSeq>,
    /// What it speaks of: the same thing is said once.
    pub(crate) once: Vec<u8>,
}

impl Hit {
    /// A hit on the event at hand, as its behaviour describes it.
    pub(crate) fn new(about: &'static About, context: &Context<'_>, title: String, once: Vec<u8>) -> Self {
        Self {
            about,
            title,
            why: None,
            technique: about.technique,
            severity: about.severity,
            grade: Grade::Observed,
            time_ns: context.event.time_ns,
            process: context.event.actor(),
            events: vec![context.event.seq],
            once,
        }
    }

    /// What a package brings by right is no threat by itself: the package manager knows of it, and removes it again. True if this is one;
    /// it is told apart from the same thing done by hand, which is not hidden by it.
    pub(crate) fn lower_if_packaged(&mut self, context: &Context<'_>) -> bool {
        let packaged = context.event.actor().is_some_and(|actor| context.memory.is_packaging(actor));
        if packaged {
            self.severity = self.severity.min(Severity::Low);
            self.title.push_str(", as part of a package");
            self.once.extend(b"\0package");
        }
        packaged
    }
}

/// Looks for one kind of behaviour.
pub(crate) trait Behaviour {
    /// What it can find.
    fn about(&self) -> Vec<&'static About>;
    /// Looks at an event.
    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>);
}

/// One of each, in the order of the kill chain.
pub(crate) fn all() -> Vec<Box<dyn Behaviour + Send>> {
    vec![
        Box::new(exploit::Exploit),
        Box::new(execute::Execute),
        Box::new(library::Library),
        Box::new(memfd::Memfd),
        Box::new(inject::Inject::default()),
        Box::new(escalate::Escalate::default()),
        Box::new(ptrace::Ptrace),
        Box::new(disk::Disk::default()),
        Box::new(asep::Asep),
        Box::new(masquerade::Masquerade),
        Box::new(module::Module),
        Box::new(sockets::Sockets),
        Box::new(kernel::Kernel),
        Box::new(acts::Acts::default()),
        Box::new(propagate::Propagate::default()),
        Box::new(traffic::Traffic::default()),
    ]
}

/// Everything the detector can find, in the order of the kill chain.
#[must_use]
pub fn behaviours() -> Vec<&'static About> {
    all().iter().flat_map(|behaviour| behaviour.about()).collect()
}

pub use asep::autostart;
#[cfg(test)]
pub(crate) use asep::techniques as asep_techniques;
#[cfg(test)]
pub(crate) use propagate::techniques as port_techniques;
