//! Execute: a file that the task made or changed is loaded as a library.
//!
//! Seen when the file is mapped to be executed, by its inode, whoever does it: the linker, `dlopen`, a plug-in's host. How grave it is
//! depends on the file, as for programs (`execute.rs`), but honest programs unpack libraries to load them more often than programs to run.
//!
//! *Limits:* code that is read into memory instead of mapped is `execute.unbacked_memory`'s; a script's module is no library.

use lava_event::{Kind, Severity, Stage};

use super::{Behaviour, Context, Hit};
use crate::memory::Origin;
use crate::{About, path};

static ABOUT: About = About {
    id: "execute.dropped_library",
    technique: "T1129",
    stage: Stage::Execute,
    severity: Severity::Medium,
    why: "The task wrote a library and a program loaded it: code that was not there before, under another program's name.",
    false_positives: "Programs that bring native libraries along and unpack them to load them (Java, Python), builds.",
};

pub(super) struct Library;

impl Behaviour for Library {
    fn about(&self) -> Vec<&'static About> {
        vec![&ABOUT]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        let Kind::MemoryMap { protection, file: Some(file), .. } = &context.event.kind else { return };
        let (Some(process), true) = (&context.event.process, protection.executes()) else { return };
        let Some(dropped) = context.memory.by_inode(file) else { return };
        // A program is mapped too when it is run, and that was told.
        if dropped.path == process.exe.bytes() {
            return;
        }
        let made = match dropped.origin {
            Origin::Packaged => "a file of a package the task had installed",
            Origin::Compiled => "which the task had compiled",
            Origin::Any => "a file the task had written",
        };
        let title = format!("{} loaded {}, {made}", context.program(), path::shown(&dropped.path));
        let mut hit = Hit::new(&ABOUT, context, title, dropped.path.clone());
        if dropped.origin != Origin::Any || !path::is_covert(&dropped.path) {
            hit.severity = Severity::Low;
        }
        hit.events.extend(&dropped.events);
        hits.push(hit);
    }
}
