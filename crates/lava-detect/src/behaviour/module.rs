//! Persist: a tainted process loads a kernel module.

use lava_event::{Kind, Severity, Stage};

use super::{Behaviour, Context, Hit};
use crate::{About, path};

static ABOUT: About = About {
    id: "persist.kernel_module",
    technique: "T1547.006",
    stage: Stage::Persist,
    severity: Severity::High,
    why: "A kernel module runs with all rights, and can hide whoever loaded it.",
    false_positives: "Programs that cause a module to be loaded on demand (a file system, a protocol) as root.",
};

pub(super) struct Module;

impl Behaviour for Module {
    fn about(&self) -> Vec<&'static About> {
        vec![&ABOUT]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        let Kind::KernelModuleLoad { name, .. } = &context.event.kind else { return };
        if context.tainted_actor().is_some() {
            let title = format!("{} loaded the kernel module {}", context.program(), path::shown(name.bytes()));
            hits.push(Hit::new(&ABOUT, context, title, name.bytes().to_vec()));
        }
    }
}
