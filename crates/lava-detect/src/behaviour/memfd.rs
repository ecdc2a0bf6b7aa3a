//! Execute: a program that is in no directory.
//!
//! A tainted process runs a file that lives in memory only (memfd_create): nothing of it is on the disk for a scanner to
//! find. The file is known by the kernel's own name for it, whatever name it was run by.

use lava_event::{Kind, Severity, Stage};

use super::{Behaviour, Context, Hit};
use crate::{About, path};

static ABOUT: About = About {
    id: "execute.fileless",
    technique: "T1620",
    stage: Stage::Execute,
    severity: Severity::High,
    why: "The task ran a program out of memory: it was never a file that a scanner could look at.",
    false_positives: "Container runtimes that protect their own program so (runc).",
};

pub(super) struct Memfd;

impl Behaviour for Memfd {
    fn about(&self) -> Vec<&'static About> {
        vec![&ABOUT]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        let (Kind::ProcessExec { argv, .. }, Some(process)) = (&context.event.kind, &context.event.process) else {
            return;
        };
        if context.tainted_actor().is_none() || !process.exe.bytes().starts_with(b"/memfd:") {
            return;
        }
        let called =
            argv.first().map_or_else(String::new, |name| format!(", which calls itself {}", path::shown(name.bytes())));
        let title = format!("{} was run: a program in memory only{called}", path::shown(process.exe.bytes()));
        hits.push(Hit::new(&ABOUT, context, title, process.exe.bytes().to_vec()));
    }
}
