//! Execute: a file that the task made or changed is run.
//!
//! Seen as the program itself (by its inode, so other names and deleted files count), as a script with its interpreter
//! line, or as the script that an interpreter is given on its command line. The last is *inferred*: the argument only
//! says what the interpreter is asked to do.
//!
//! How grave it is depends on the file: honest builds and installers make programs and scripts too, but compile them with the system's
//! own compiler, install them as a package, or put them openly into a directory of their own. Openly run, a program is of medium severity
//! and a script of low; what the system's compiler made or its package manager unpacked is of low severity wherever it lies.
//!
//! The task's own file is not written by the task, so running or opening it is no finding.

use lava_event::{Grade, GuestText, Kind, Severity, Stage};

use super::{Behaviour, Context, Hit};
use crate::memory::{Dropped, Origin};
use crate::{About, path};

static FILE: About = About {
    id: "execute.dropped_file",
    technique: "T1106",
    stage: Stage::Execute,
    severity: Severity::High,
    why: "The task wrote a program and ran it: code that was not there before, and that nobody has looked at.",
    false_positives: "Compilers, build tools, installers and self-unpacking programs.",
};

static COMPILED: About = About {
    id: "execute.compiled_file",
    technique: "T1027.004",
    stage: Stage::Execute,
    severity: Severity::Low,
    why: "The task compiled a program and ran it: source text passes where programs are looked at.",
    false_positives: "Whoever builds software.",
};

static INSTALLED: About = About {
    id: "execute.installed_file",
    technique: "T1546.016",
    stage: Stage::Execute,
    severity: Severity::Low,
    why: "The task had a package installed, and what is in it runs: with root's rights, if it is a maintainer's script.",
    false_positives: "Package installations.",
};

static SCRIPT: About = About {
    id: "execute.dropped_script",
    technique: "T1059",
    stage: Stage::Execute,
    severity: Severity::High,
    why: "The task wrote a script and had it interpreted: code that was not there before.",
    false_positives: "Build tools and installers that generate scripts.",
};

/// How the dropped file is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Program,
    Script,
    Argument,
}

pub(super) struct Run<'a> {
    pub(super) dropped: &'a Dropped,
    pub(super) how: How,
}

pub(super) struct Execute;

impl Behaviour for Execute {
    fn about(&self) -> Vec<&'static About> {
        vec![&FILE, &COMPILED, &INSTALLED, &SCRIPT]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        if context.tainted_actor().is_none() {
            return;
        }
        let Some(run) = dropped(context) else { return };
        let (about, verb, openly) = match (run.dropped.origin, run.how) {
            (Origin::Packaged, _) => (&INSTALLED, "was run: a file of a package the task had installed", Severity::Low),
            (Origin::Compiled, How::Program) => (&COMPILED, "was run: a program the task had compiled", Severity::Low),
            (_, How::Program) => (&FILE, "was run: a file the task had written", Severity::Medium),
            (_, How::Script | How::Argument) => {
                (&SCRIPT, "was run as a script: a file the task had written", Severity::Low)
            }
        };
        let title = format!("{} {verb}", path::shown(&run.dropped.path));
        let mut hit = Hit::new(about, context, title, run.dropped.path.clone());
        if !path::is_covert(&run.dropped.path) {
            hit.severity = openly;
        }
        if run.how != How::Program && run.dropped.origin != Origin::Packaged {
            hit.technique = script_technique(context);
        }
        if run.how == How::Argument {
            hit.grade = Grade::Inferred;
        }
        hit.events.extend(&run.dropped.events);
        hits.push(hit);
    }
}

/// The dropped file that an exec runs, if it does.
pub(super) fn dropped<'a>(context: &Context<'a>) -> Option<Run<'a>> {
    let Kind::ProcessExec { path, argv, cwd, file, interpreter, .. } = &context.event.kind else { return None };
    if let Some(dropped) = context.memory.by_inode(file) {
        return Some(Run { dropped, how: How::Program });
    }
    let script = path::resolve(cwd, path);
    if let Some(dropped) = context.memory.by_path(&script) {
        let how = if interpreter.is_some() { How::Script } else { How::Program };
        return Some(Run { dropped, how });
    }
    let exe = context.event.process.as_ref().map_or(path, |process| &process.exe);
    interpreter_technique(exe)?;
    let argument = argv.iter().skip(1).find(|argument| !argument.bytes().starts_with(b"-"))?;
    let dropped = context.memory.by_path(&path::resolve(cwd, argument))?;
    Some(Run { dropped, how: How::Argument })
}

fn script_technique(context: &Context<'_>) -> &'static str {
    let exe = context.event.process.as_ref().map(|process| &process.exe);
    exe.and_then(interpreter_technique).unwrap_or(SCRIPT.technique)
}

/// The technique that stands for an interpreter, by its base name; `None` if it is none.
fn interpreter_technique(exe: &GuestText) -> Option<&'static str> {
    let name = path::base_name(exe.bytes());
    match name {
        b"sh" | b"dash" | b"bash" | b"zsh" | b"ksh" | b"ash" | b"busybox" => Some("T1059.004"),
        b"perl" | b"ruby" | b"node" | b"php" | b"lua" | b"awk" | b"gawk" | b"mawk" => Some("T1059"),
        _ if name.starts_with(b"python") => Some("T1059.006"),
        _ => None,
    }
}
