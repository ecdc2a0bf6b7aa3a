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

#[cfg(test)]
mod tests {
    use lava_event::{Event, EventSeq, Process, ProcessKey, ProcessRef, Protection, Range, Source};

    use super::*;
    use crate::{Detector, Taint};

    /// Process 7 is the task's.
    struct Fake;

    impl Taint for Fake {
        fn task_started(&self) -> bool {
            true
        }
        fn is_tainted(&self, process: ProcessKey) -> bool {
            process.pid == 7
        }
        fn is_task_file(&self, _: &GuestText) -> bool {
            false
        }
        fn is_host(&self, _: ProcessKey) -> bool {
            false
        }
        fn parent(&self, _: ProcessKey) -> Option<ProcessKey> {
            None
        }
        fn attributed(&self, _: EventSeq) -> Option<ProcessKey> {
            None
        }
    }

    fn by(pid: u32, exe: &str, kind: Kind) -> Event {
        let process = Process { pid, tid: pid, start_ns: 1, ppid: 1, uid: 1000, comm: "x".into(), exe: exe.into() };
        Event { seq: 9, process: Some(process), ..Event::new(0, Source::Tap, kind) }
    }

    fn unbacked(backing: Option<&str>) -> Kind {
        Kind::MemoryUnbackedExecution {
            address: 0x7000,
            region: Range { start: 0x7000, end: 0x8000 },
            protection: Protection::from_bits(7),
            backing: backing.map(GuestText::from),
            code: "c3".into(),
        }
    }

    fn task(jit: &[&str]) -> Kind {
        Kind::VmTask {
            name: "x".into(),
            path: "/home/user/x".into(),
            sha256: lava_event::Sha256::of(b""),
            profile: "jar".into(),
            command: vec![],
            launcher: String::new(),
            hosts: vec![],
            jit: jit.iter().map(|&name| name.to_owned()).collect(),
            unpacks: None,
        }
    }

    /// Detector and severity of the findings of these events.
    fn found(events: &[Event]) -> Vec<(String, String, Severity)> {
        let mut detector = Detector::new();
        let findings = events.iter().flat_map(|event| detector.observe(event, &Fake));
        findings.map(|finding| (finding.detector, finding.technique.id, finding.severity)).collect()
    }

    #[test]
    fn code_without_a_file() {
        let of = |id: &str, severity| vec![("execute.unbacked_memory".to_owned(), id.to_owned(), severity)];
        let twice = [by(7, "/usr/bin/python3", unbacked(None)), by(7, "/usr/bin/python3", unbacked(None))];
        assert_eq!(found(&twice), of("T1620", Severity::High));
        assert_eq!(found(&[by(7, "/x", unbacked(Some("/memfd:x")))]), of("T1620", Severity::High));
        assert_eq!(found(&[by(7, "/x", unbacked(Some("/home/user/gone")))]), of("T1620", Severity::Low));
        assert_eq!(found(&[by(8, "/x", unbacked(None))]), [], "not the task's");
    }

    #[test]
    fn a_java_vm_is_expected_to() {
        let rwx = Kind::MemoryMap {
            address: 0,
            length: 4096,
            protection: Protection::from_bits(7),
            shared: false,
            path: None,
            file: None,
        };
        let java = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java";
        let with = |jit: &[&str]| {
            let java = [by(7, java, unbacked(None)), by(7, java, rwx.clone())];
            found(&[&[Event::new(0, Source::Microvisor, task(jit))][..], &java].concat()).len()
        };
        assert_eq!(with(&["java"]), 0);
        assert_eq!(with(&[]), 2);
    }

    #[test]
    fn other_processes_memory() {
        let write = |way: &str| {
            let target = ProcessRef { pid: 20, tid: 20, start_ns: 5, comm: "sleep".into() };
            by(7, "/x", Kind::MemoryRemoteWrite { target, address: 0x1000, bytes: 8, way: way.into() })
        };
        let ids: Vec<String> =
            found(&[write("ptrace"), write("proc_mem"), write("process_vm_writev"), write("ptrace")])
                .into_iter()
                .map(|(_, id, _)| id)
                .collect();
        assert_eq!(ids, ["T1055.008", "T1055.009", "T1055"]);
    }

    #[test]
    fn pivots() {
        let pivot = Kind::MemoryStackPivot { rsp: 1, rip: 2, region: "[heap]".into(), call: "execve".into() };
        let back = Kind::MemoryReturnToData { address: 1, region: "[heap]".into(), call: "execve".into() };
        let ids: Vec<String> = found(&[by(7, "/x", pivot), by(7, "/x", back)]).into_iter().map(|(id, ..)| id).collect();
        assert_eq!(ids, ["exploit.stack_pivot", "exploit.return_to_data"]);
    }
}
