//! Events as the records that auditd would write of them.
//!
//! A system call is named only where the event proves which it was; others are seen with the API trace (`api.call`).

use lava_event::{ApiArgument, Event, FileId, FileType, GuestText, Kind, Process};

use super::record::{Record, command_line, text};
use super::source::Source;

/// Types of records that are made.
pub(super) const TYPES: [&str; 6] = ["SYSCALL", "EXECVE", "PATH", "CWD", "PROCTITLE", "KERN_MODULE"];

/// System calls that events prove, with their numbers on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
pub(super) const PROVEN: [(&str, u64); 17] = [
    ("socket", 41),
    ("connect", 42),
    ("bind", 49),
    ("listen", 50),
    ("execve", 59),
    ("ptrace", 101),
    // The event does not tell which of the two.
    ("mknod", 133),
    ("mknodat", 259),
    ("umount2", 166),
    ("init_module", 175),
    ("delete_module", 176),
    ("kexec_load", 246),
    ("process_vm_writev", 311),
    ("finit_module", 313),
    ("memfd_create", 319),
    ("kexec_file_load", 320),
    ("bpf", 321),
];

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_I386` (include/uapi/linux/audit.h), as auditd writes them.
const X86_64: &str = "c000003e";
const I386: &str = "40000003";

/// What made the record; in a log it stands in the SYSCALL record of the same event.
fn put_actor(record: &mut Record, process: &Process) {
    record.put("exe", text(&process.exe));
    record.put("comm", text(&process.comm));
    record.put("pid", process.pid.to_string());
    record.put("ppid", process.ppid.to_string());
    record.put("uid", process.uid.to_string());
    record.put("euid", process.uid.to_string());
}

fn begin(kind: &'static str, subject: &[u8]) -> Record {
    let mut record = Record::new(Source::Auditd, subject);
    record.put("type", kind);
    record
}

fn end(mut record: Record, process: &Process, out: &mut Vec<Record>) {
    record.end_own();
    put_actor(&mut record, process);
    out.push(record);
}

/// A system call that succeeded, by one of these names.
fn syscall(names: &[&'static str], subject: Option<&[u8]>, process: &Process) -> Record {
    let told = format!("{} by {}", names.first().copied().unwrap_or_default(), text(&process.exe));
    let mut record = begin("SYSCALL", subject.unwrap_or(told.as_bytes()));
    for &name in names {
        if let Some((_, number)) = PROVEN.iter().find(|(known, _)| *known == name) {
            record.put("syscall", number.to_string());
        }
        record.put("syscall", name);
        record.put("SYSCALL", name);
    }
    record.put("arch", X86_64);
    record.put("success", "yes");
    put_actor(&mut record, process);
    record
}

/// The event's records. Of a kind that has none: no more than a look.
pub(super) fn records(event: &Event, process: &Process, out: &mut Vec<Record>) {
    match &event.kind {
        Kind::ProcessExec { path, argv, cwd, file, .. } => exec(process, path, argv, cwd, file, out),
        Kind::FileOpen { path, file, access } => self::path(process, path, Some(file), "NORMAL", !access.writes(), out),
        Kind::FileCreate { path, file, what, .. } => {
            self::path(process, path, file.as_ref(), "CREATE", false, out);
            if matches!(what, FileType::BlockDevice | FileType::CharacterDevice | FileType::Fifo) {
                out.push(syscall(&["mknod", "mknodat"], Some(path.bytes()), process));
            }
        }
        Kind::FileUnlink { path, file } => self::path(process, path, Some(file), "DELETE", false, out),
        Kind::FileRename { from, to, file } => {
            self::path(process, from, Some(file), "DELETE", false, out);
            self::path(process, to, Some(file), "CREATE", false, out);
        }
        Kind::FileAttributes { path, file, .. }
        | Kind::FileTruncate { path, file, .. }
        | Kind::FileXattr { path, file, .. } => {
            self::path(process, path, Some(file), "NORMAL", false, out);
        }
        Kind::KernelModuleLoad { name, path, .. } => {
            let mut record = begin("KERN_MODULE", name.bytes());
            record.put("name", text(name));
            end(record, process, out);
            let call = if path.is_some() { "finit_module" } else { "init_module" };
            out.push(syscall(&[call], Some(name.bytes()), process));
        }
        Kind::ApiCall { number, name, abi, arguments, result } => {
            out.extend(traced(process, (*number, name, abi), arguments, *result));
        }
        kind => out.extend(proven(kind, process)),
    }
}

/// Other events that prove one system call.
fn proven(kind: &Kind, process: &Process) -> Option<Record> {
    let name = match kind {
        Kind::NetSocket { family, .. } => {
            let mut record = syscall(&["socket"], None, process);
            // include/linux/socket.h
            let number = match family.as_str() {
                "unix" => 1,
                "inet" => 2,
                "inet6" => 10,
                "netlink" => 16,
                "packet" => 17,
                "bluetooth" => 31,
                "alg" => 38,
                "vsock" => 40,
                "xdp" => 44,
                other => other.parse().ok()?,
            };
            record.put("a0", format!("{number:x}"));
            return Some(record);
        }
        Kind::NetConnect { .. } => "connect",
        Kind::NetBind { .. } => "bind",
        Kind::NetListen { .. } => "listen",
        Kind::ProcessMemfd { .. } => "memfd_create",
        Kind::ProcessPtrace { .. } => "ptrace",
        Kind::FileUnmount { .. } => "umount2",
        Kind::KernelModuleUnload { .. } => "delete_module",
        Kind::KernelBpfLoad { .. } => "bpf",
        Kind::KernelKexec { way } => PROVEN.iter().find(|(known, _)| known == way)?.0,
        Kind::MemoryRemoteWrite { way, .. } if way == "process_vm_writev" => "process_vm_writev",
        _ => return None,
    };
    Some(syscall(&[name], None, process))
}

fn exec(
    process: &Process,
    path: &GuestText,
    argv: &[GuestText],
    cwd: &GuestText,
    file: &FileId,
    out: &mut Vec<Record>,
) {
    let line = command_line(argv);
    let mut call = syscall(&["execve"], Some(line.as_bytes()), process);
    call.put("cwd", text(cwd));
    out.push(call);

    let mut record = begin("EXECVE", line.as_bytes());
    record.put("argc", argv.len().to_string());
    for (i, argument) in argv.iter().enumerate() {
        record.put(format!("a{i}"), text(argument));
    }
    // A log has it in a record of its own; keywords that rules look for here reach over several arguments.
    record.put("proctitle", line.clone());
    end(record, process, out);

    for (kind, name, value) in [("CWD", "cwd", text(cwd)), ("PROCTITLE", "proctitle", line.clone())] {
        let mut record = begin(kind, line.as_bytes());
        record.put(name, value);
        end(record, process, out);
    }
    self::path(process, path, Some(file), "NORMAL", false, out);
}

fn path(
    process: &Process,
    path: &GuestText,
    file: Option<&FileId>,
    nametype: &'static str,
    read: bool,
    out: &mut Vec<Record>,
) {
    let mut record = begin("PATH", path.bytes());
    record.read = read;
    record.put("name", text(path));
    record.put("nametype", nametype);
    if let Some(file) = file {
        record.put("inode", file.inode.to_string());
        record.put("mode", format!("0{:o}", file.mode));
        record.put("ouid", file.uid.to_string());
        record.put("ogid", file.gid.to_string());
    }
    end(record, process, out);
}

/// A system call of the API trace, unless an event of its own has told of it.
fn traced(process: &Process, call: (u64, &str, &str), arguments: &[ApiArgument], result: i64) -> Option<Record> {
    let (number, name, abi) = call;
    // -4095..-1 are errors.
    let failed = (-4095..0).contains(&result);
    if !failed && PROVEN.iter().any(|(known, _)| *known == name) {
        return None;
    }
    let mut record = begin("SYSCALL", format!("{name} by {}", text(&process.exe)).as_bytes());
    record.put("syscall", number.to_string());
    record.put("syscall", name);
    record.put("SYSCALL", name);
    record.put("arch", if abi == "i386" { I386 } else { X86_64 });
    record.put("success", if failed { "no" } else { "yes" });
    record.put("exit", result.to_string());
    // auditd writes four.
    for (i, argument) in arguments.iter().take(4).enumerate() {
        record.put(format!("a{i}"), format!("{:x}", argument.value));
    }
    put_actor(&mut record, process);
    Some(record)
}
