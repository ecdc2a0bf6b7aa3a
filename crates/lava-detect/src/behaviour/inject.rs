//! Code in memory: execution of what no file backs, memory both writable and executable, writes into another process, and
//! a control flow that has left the program's own code and stack.
//!
//! Programs that make code as they run (`vm.task.jit`: a Java VM) are left out where that is their way of working: executing
//! memory without a file, and mapping it. A name is all that tells them; a program of the task that bears one is left out too.
//!
//! A program whose file was deleted while it runs is said with low severity: updates do that.

use lava_event::{Grade, GuestText, Kind, Severity, Stage};

use super::{Behaviour, Context, Hit};
use crate::{About, path};

static UNBACKED: About = About {
    id: "execute.unbacked_memory",
    technique: "T1620",
    stage: Stage::Execute,
    severity: Severity::High,
    why: "Code ran that is in no file: it was put together in memory, where no scanner of files sees it.",
    false_positives: "Programs that make code as they run (JIT compilers) and are not in the profile's list; libffi on some systems.",
};

static WRITABLE: About = About {
    id: "execute.writable_code",
    technique: "T1620",
    stage: Stage::Execute,
    severity: Severity::Medium,
    why: "Memory was made writable and executable at once: what is written there can be run without asking again.",
    false_positives: "JIT compilers that are not in the profile's list; programs built with an executable stack.",
};

static REMOTE: About = About {
    id: "execute.remote_write",
    technique: "T1055",
    stage: Stage::Execute,
    severity: Severity::High,
    why: "The task wrote into the memory of another process: the way to have code run under that one's name and rights.",
    false_positives: "Debuggers, and programs that patch their own children.",
};

static PIVOT: About = About {
    id: "exploit.stack_pivot",
    technique: "T1203",
    stage: Stage::Exploit,
    severity: Severity::High,
    why: "A system call was made with the stack pointer outside of any stack: a chain of return addresses drives the program.",
    false_positives: "Programs that switch stacks by themselves and keep them in the heap or in static data (some coroutines).",
};

static RETURN: About = About {
    id: "exploit.return_to_data",
    technique: "T1203",
    stage: Stage::Exploit,
    severity: Severity::High,
    why: "A system call was made by, or returns to, memory that holds no code of a program.",
    false_positives: "JIT compilers that are not in the profile's list and make system calls from their own code.",
};

#[derive(Default)]
pub(super) struct Inject {
    jit: Vec<String>,
}

impl Inject {
    /// Whether the acting program makes code as its way of working.
    fn is_jit(&self, context: &Context<'_>) -> bool {
        let exe = context.event.process.as_ref().map(|process| path::base_name(process.exe.bytes()));
        exe.is_some_and(|exe| self.jit.iter().any(|name| name.as_bytes() == exe))
    }
}

impl Behaviour for Inject {
    fn about(&self) -> Vec<&'static About> {
        vec![&PIVOT, &RETURN, &UNBACKED, &WRITABLE, &REMOTE]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        if let Kind::VmTask { jit, .. } | Kind::VmMember { jit, .. } = &context.event.kind {
            self.jit.extend(jit.iter().cloned());
        }
        let Some(actor) = context.tainted_actor() else { return };
        if !context.event.kind.name().starts_with("memory.") {
            return;
        }
        let program = context.program();
        let once = |what: &[u8]| [format!("{}.{}.", actor.pid, actor.start_ns).as_bytes(), what].concat();
        let hit = match &context.event.kind {
            Kind::MemoryUnbackedExecution { backing, .. } if !self.is_jit(context) => {
                let deleted = backing.as_ref().is_some_and(|file| !in_memory(file));
                let what = match backing {
                    Some(file) if deleted => format!("{}, a file that was deleted", path::shown(file.bytes())),
                    Some(file) => format!("{}, which lives in memory only", path::shown(file.bytes())),
                    None => "memory that no file backs".to_owned(),
                };
                let title = format!("{program} ran code in {what}");
                let mut hit = Hit::new(&UNBACKED, context, title, once(if deleted { b"deleted" } else { b"" }));
                if deleted {
                    hit.severity = Severity::Low;
                }
                hit
            }
            Kind::MemoryMap { protection, .. } | Kind::MemoryProtect { new: protection, .. }
                if protection.writes() && protection.executes() && !self.is_jit(context) =>
            {
                let title = format!("{program} made memory writable and executable at once");
                Hit::new(&WRITABLE, context, title, once(b""))
            }
            Kind::MemoryRemoteWrite { target, way, .. } => {
                let (technique, how) = match way.as_str() {
                    "ptrace" => ("T1055.008", "with ptrace"),
                    "proc_mem" => ("T1055.009", "through /proc"),
                    _ => (REMOTE.technique, "with process_vm_writev"),
                };
                let name = path::shown(target.comm.bytes());
                let title = format!("{program} wrote into the memory of {name} (process {}) {how}", target.pid);
                let into = format!("{}.{}.{way}", target.pid, target.start_ns);
                let mut hit = Hit::new(&REMOTE, context, title, once(into.as_bytes()));
                hit.technique = technique;
                hit
            }
            Kind::MemoryStackPivot { region, call, .. } => {
                let region = path::shown(region.bytes());
                let title = format!("{program} called {call} with its stack pointer in {region}");
                let mut hit = Hit::new(&PIVOT, context, title, once(b""));
                // The place of the stack was seen; that it is no accident is concluded.
                hit.grade = Grade::Inferred;
                hit
            }
            Kind::MemoryReturnToData { region, call, .. } if !self.is_jit(context) => {
                let title =
                    format!("{program} called {call} from {}, which holds no program", path::shown(region.bytes()));
                let mut hit = Hit::new(&RETURN, context, title, once(b""));
                hit.grade = Grade::Inferred;
                hit
            }
            _ => return,
        };
        hits.push(hit);
    }
}

/// Names that the kernel gives to files without a place: memfds, shared anonymous memory, System V shared memory (mm/memfd.c,
/// mm/shmem.c, ipc/shm.c); and what was in the file system that is memory by agreement.
fn in_memory(file: &GuestText) -> bool {
    let name = file.bytes();
    [&b"/memfd:"[..], b"memfd:", b"/dev/zero", b"dev/zero", b"/SYSV", b"SYSV", b"/dev/shm/", b"/run/shm/"]
        .iter()
        .any(|start| name.starts_with(start))
}
