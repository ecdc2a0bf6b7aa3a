//! What an event can be.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use std::borrow::Cow;
use std::net::IpAddr;

use crate::{
    Access, Action, ApiArgument, Credentials, DiskRegion, FileId, FileType, GapCause, GuestText, ImmutableArea,
    NetEndpoint, ProcessRef, Protection, Protocol, Range, SessionId, Sha256, Writer,
};

/// What was seen. The names in the attributes are the contract.
#[derive(Clone, PartialEq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "kind")]
#[allow(clippy::large_enum_variant)] // An event is short-lived; boxing each variant would cost more than it saves.
pub enum Kind {
    /// A process (or thread) was made; the acting process is its parent.
    #[serde(rename = "process.fork")]
    ProcessFork {
        /// The new one.
        child: ProcessRef,
        /// True if it is a thread of the acting process.
        thread: bool,
        /// What was asked of clone: `CLONE_*` (include/uapi/linux/sched.h); 0 if the kernel itself made it.
        #[serde(default)]
        flags: u64,
    },
    /// The acting process was there already when watching began (a clone's, or a restored machine's).
    #[serde(rename = "process.existing")]
    ProcessExisting {},
    /// The acting process became another program. `process.exe` is already the new one.
    #[serde(rename = "process.exec")]
    ProcessExec {
        /// The path that was given to execve, as the kernel copied it. For a script: the script.
        path: GuestText,
        /// Arguments, as the program sees them (for a script: with its interpreter in front).
        argv: Vec<GuestText>,
        /// Environment.
        envp: Vec<GuestText>,
        /// True if `argv` or `envp` was longer than what is kept.
        truncated: bool,
        /// Working directory.
        cwd: GuestText,
        /// The program file that was loaded.
        file: FileId,
        /// The interpreter, if `path` is a script.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interpreter: Option<GuestText>,
    },
    /// The acting process ended: its last thread is gone.
    #[serde(rename = "process.exit")]
    ProcessExit {
        /// Exit code, if it exited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u32>,
        /// Signal, if one ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<u32>,
    },
    /// The acting task got other rights.
    #[serde(rename = "process.credentials")]
    ProcessCredentials {
        /// Before.
        old: Credentials,
        /// After.
        new: Credentials,
    },
    /// The acting process was allowed to trace another, or asked to be traced.
    #[serde(rename = "process.ptrace")]
    ProcessPtrace {
        /// The traced one.
        target: ProcessRef,
        /// `attach`, `seize` or `traceme`.
        request: String,
    },
    /// A signal was sent by a system call.
    #[serde(rename = "process.signal")]
    ProcessSignal {
        /// To whom.
        target: ProcessRef,
        /// Its number.
        signal: u32,
    },
    /// The acting process went into other namespaces (setns, unshare, clone).
    #[serde(rename = "process.namespaces")]
    ProcessNamespaces {
        /// Which, as in /proc/PID/ns: `mnt`, `pid`, `net`, `user`...
        changed: Vec<String>,
    },
    /// The acting process got another root directory (chroot, pivot_root).
    #[serde(rename = "process.chroot")]
    ProcessChroot {
        /// The new root.
        path: GuestText,
    },
    /// The acting thread took another name (not by exec).
    #[serde(rename = "process.name")]
    ProcessName {
        /// Before.
        old: GuestText,
        /// After.
        new: GuestText,
    },
    /// A file was made that lives in memory only (memfd_create).
    #[serde(rename = "process.memfd")]
    ProcessMemfd {
        /// The name it was given.
        name: GuestText,
        /// Its identity.
        file: FileId,
    },
    /// A file was opened. Directories are left out.
    #[serde(rename = "file.open")]
    FileOpen {
        /// Its path.
        path: GuestText,
        /// Its identity.
        file: FileId,
        /// For reading, writing or both.
        access: Access,
    },
    /// A file came to be.
    #[serde(rename = "file.create")]
    FileCreate {
        /// Its path.
        path: GuestText,
        /// Its identity, where it is known already (an open file).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<FileId>,
        /// What was made.
        what: FileType,
        /// For a symbolic link: where it points. For a hard link: the other name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<GuestText>,
    },
    /// Bytes were written to an open file: the first write at once, later ones summed up until the file is closed or
    /// somebody else writes.
    #[serde(rename = "file.write")]
    FileWrite {
        /// Its path.
        path: GuestText,
        /// Its identity. A block device's `node` tells which disk.
        file: FileId,
        /// What was written, merged, at most 64 ranges; empty for files without positions (pipes, terminals).
        ranges: Vec<Range>,
        /// Sum of the sizes asked for, bytes.
        bytes: u64,
        /// Number of writes.
        count: u64,
    },
    /// Bytes were read from an open file or pipe, summed up as for `file.write`.
    #[serde(rename = "file.read")]
    FileRead {
        /// Its path; `pipe:[INODE]` for a pipe.
        path: GuestText,
        /// Its identity.
        file: FileId,
        /// What was asked for, merged, at most 64 ranges; empty for files without positions.
        ranges: Vec<Range>,
        /// Sum of the sizes asked for, bytes.
        bytes: u64,
        /// Number of reads.
        count: u64,
    },
    /// Pages of a file were made writable in a shared mapping: what is stored there goes to the file.
    #[serde(rename = "file.map_write")]
    FileMapWrite {
        /// Its path.
        path: GuestText,
        /// Its identity.
        file: FileId,
        /// The pages, as bytes of the file, merged, at most 64.
        ranges: Vec<Range>,
    },
    /// The content of a file that the task wrote, when it was closed.
    #[serde(rename = "file.content")]
    FileContent {
        /// Its path.
        path: GuestText,
        /// Its identity.
        file: FileId,
        /// What was kept: artifact.
        sha256: Sha256,
        /// Bytes kept.
        kept: u64,
        /// False if the file is longer than what is kept, or parts were not in memory (they are zero there).
        complete: bool,
    },
    /// A file was cut or extended.
    #[serde(rename = "file.truncate")]
    FileTruncate {
        /// Its path.
        path: GuestText,
        /// Before.
        file: FileId,
        /// New size, bytes.
        size: u64,
    },
    /// An extended attribute was set or removed.
    #[serde(rename = "file.xattr")]
    FileXattr {
        /// Its path.
        path: GuestText,
        /// Its identity.
        file: FileId,
        /// The attribute: `security.capability`, `user.x`...
        name: GuestText,
        /// True if it was removed.
        removed: bool,
    },
    /// A file system was mounted, moved or bound.
    #[serde(rename = "file.mount")]
    FileMount {
        /// What was mounted: a device, a path.
        device: GuestText,
        /// Where.
        path: GuestText,
        /// Type of the file system; empty where none was given.
        fs_type: GuestText,
        /// `MS_*` (include/uapi/linux/mount.h).
        flags: u64,
    },
    /// A file system was unmounted.
    #[serde(rename = "file.unmount")]
    FileUnmount {
        /// Where it was.
        path: GuestText,
    },
    /// Memory was mapped that can be executed, or a file was mapped shared.
    #[serde(rename = "memory.map")]
    MemoryMap {
        /// Where; 0 if the kernel had not chosen yet.
        address: u64,
        /// Bytes.
        length: u64,
        /// `rwx` letters.
        protection: Protection,
        /// True for a shared mapping.
        shared: bool,
        /// The file, if one backs it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<GuestText>,
        /// Its identity.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<FileId>,
    },
    /// Memory was made executable.
    #[serde(rename = "memory.protect")]
    MemoryProtect {
        /// First byte.
        address: u64,
        /// Bytes.
        length: u64,
        /// Before.
        old: Protection,
        /// After.
        new: Protection,
        /// The file, if one backs it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<GuestText>,
    },
    /// The first instruction was executed in memory that no file backs, or whose file is gone.
    #[serde(rename = "memory.unbacked_execution")]
    MemoryUnbackedExecution {
        /// Of the instruction.
        address: u64,
        /// The mapping it lies in.
        region: Range,
        /// The mapping's rights.
        protection: Protection,
        /// What backs it all the same: a memfd, a deleted file; none for anonymous memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backing: Option<GuestText>,
        /// The first bytes executed, as hex digits.
        code: GuestText,
    },
    /// The acting process wrote into the memory of another.
    #[serde(rename = "memory.remote_write")]
    MemoryRemoteWrite {
        /// Into whose.
        target: ProcessRef,
        /// Where.
        address: u64,
        /// How many.
        bytes: u64,
        /// `ptrace`, `process_vm_writev` or `proc_mem`.
        way: String,
    },
    /// At a system call the stack pointer did not point into a stack.
    #[serde(rename = "memory.stack_pivot")]
    MemoryStackPivot {
        /// The stack pointer.
        rsp: u64,
        /// The instruction behind the system call.
        rip: u64,
        /// What it points into.
        region: GuestText,
        /// The system call.
        call: String,
    },
    /// A system call was made from, or returns into, memory that holds no code of a file.
    #[serde(rename = "memory.return_to_data")]
    MemoryReturnToData {
        /// Where it returns to.
        address: u64,
        /// What lies there.
        region: GuestText,
        /// The system call.
        call: String,
    },
    /// A socket was made by a process.
    #[serde(rename = "net.socket")]
    NetSocket {
        /// `inet`, `inet6`, `unix`, `netlink`, `packet`... or its number.
        family: String,
        /// `stream`, `dgram`, `raw`, `seqpacket`... or its number. For netlink the part of the kernel that is spoken to: `route`,
        /// `audit`, `generic`...
        way: String,
        /// Transport protocol.
        protocol: Protocol,
    },
    /// A socket was bound to an address of its own.
    #[serde(rename = "net.bind")]
    NetBind {
        /// Transport protocol.
        protocol: Protocol,
        /// The address, for TCP and UDP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<NetEndpoint>,
        /// For Unix sockets.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<GuestText>,
    },
    /// A socket began to wait for connections.
    #[serde(rename = "net.listen")]
    NetListen {
        /// Transport protocol.
        protocol: Protocol,
        /// Its address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<NetEndpoint>,
        /// For Unix sockets.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<GuestText>,
    },
    /// A connection was accepted.
    #[serde(rename = "net.accept")]
    NetAccept {
        /// Transport protocol.
        protocol: Protocol,
        /// Our end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        local: Option<NetEndpoint>,
        /// The other end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remote: Option<NetEndpoint>,
        /// For Unix sockets: the listening one's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<GuestText>,
    },
    /// Bytes went through a socket: the first of each direction at once, later ones of the same process summed up until it is
    /// closed.
    #[serde(rename = "net.transfer")]
    NetTransfer {
        /// Transport protocol.
        protocol: Protocol,
        /// This end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        local: Option<NetEndpoint>,
        /// The other end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remote: Option<NetEndpoint>,
        /// For Unix sockets: the name of the one that has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<GuestText>,
        /// Inode number of the socket.
        socket: u64,
        /// Unix sockets: inode number of the other end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<u64>,
        /// Bytes.
        sent: u64,
        /// Bytes.
        received: u64,
        /// Number of sends.
        sends: u64,
        /// Number of receives.
        receives: u64,
    },
    /// The process whose socket sends on this flow: joins `net.flow` of the wire to a process.
    #[serde(rename = "net.flow_owner")]
    NetFlowOwner {
        /// Transport protocol.
        protocol: Protocol,
        /// The guest's end.
        origin: NetEndpoint,
        /// The other end.
        destination: NetEndpoint,
    },
    /// Permissions or owner changed.
    #[serde(rename = "file.attributes")]
    FileAttributes {
        /// Its path.
        path: GuestText,
        /// Before.
        file: FileId,
        /// New type and permission bits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// New owner.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// New group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gid: Option<u32>,
    },
    /// A file got another name.
    #[serde(rename = "file.rename")]
    FileRename {
        /// Old path.
        from: GuestText,
        /// New path.
        to: GuestText,
        /// Its identity.
        file: FileId,
    },
    /// A name of a file was removed.
    #[serde(rename = "file.unlink")]
    FileUnlink {
        /// Its path.
        path: GuestText,
        /// Its identity.
        file: FileId,
    },
    /// A process asked for a connection (seen at the socket layer; the wire has `net.flow`).
    #[serde(rename = "net.connect")]
    NetConnect {
        /// Transport protocol.
        protocol: Protocol,
        /// Where to, for TCP and UDP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        destination: Option<NetEndpoint>,
        /// Where to, for Unix sockets (an abstract name begins with `@`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<GuestText>,
    },
    /// A flow on the wire, seen for the first time.
    #[serde(rename = "net.flow")]
    NetFlow {
        /// Transport protocol.
        protocol: Protocol,
        /// The guest's end.
        origin: NetEndpoint,
        /// The other end.
        destination: NetEndpoint,
        /// What our network did with it, in a word: `refused`, `dropped`, `answered`, `accepted`, `passed` (names to the host's resolver, in
        /// egress mode); `asked`: what the policy said, and
        /// the decision about this event says what that was.
        answer: String,
        /// Number of the frame in traffic.pcapng, from 1.
        frame: u64,
    },
    /// The guest got its address from our DHCP server.
    #[serde(rename = "net.lease")]
    NetLease {
        /// The guest's address.
        address: IpAddr,
        /// The guest's host name, if it sent one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host_name: Option<GuestText>,
        /// Number of the frame in traffic.pcapng, from 1.
        frame: u64,
    },
    /// A module became part of the kernel.
    #[serde(rename = "kernel.module_load")]
    KernelModuleLoad {
        /// Its name.
        name: GuestText,
        /// The file it was read from, where it came from one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<GuestText>,
        /// Where its code begins.
        #[serde(default)]
        address: u64,
        /// Length of its code, bytes.
        #[serde(default)]
        size: u64,
    },
    /// A module left the kernel.
    #[serde(rename = "kernel.module_unload")]
    KernelModuleUnload {
        /// Its name.
        name: GuestText,
    },
    /// A BPF program was loaded.
    #[serde(rename = "kernel.bpf_load")]
    KernelBpfLoad {
        /// The name it was given.
        name: GuestText,
        /// Its type, as the kernel names it (`kprobe`, `xdp`...), or its number.
        program: String,
        /// How many.
        instructions: u32,
    },
    /// Another kernel was loaded, to be started by this one.
    #[serde(rename = "kernel.kexec")]
    KernelKexec {
        /// The system call.
        way: String,
    },
    /// Memory was written that never changes in a sound kernel.
    #[serde(rename = "kernel.immutable_write")]
    KernelImmutableWrite {
        /// Kernel virtual address of the first byte changed.
        address: u64,
        /// Guest physical address.
        physical: u64,
        /// What lies there.
        area: ImmutableArea,
        /// Nearest symbol and offset; `[module]` where a module's.
        symbol: String,
        /// Bytes before, as hex digits, at most 64 bytes.
        before: GuestText,
        /// Bytes after, as hex digits.
        after: GuestText,
        /// CPU or device.
        by: Writer,
    },
    /// A control register was changed in a way that no sound kernel does after its start.
    #[serde(rename = "kernel.register")]
    KernelRegister {
        /// `cr0`, `cr4`, `efer`, `lstar`, `sysenter_eip`, `idtr`...
        register: String,
        /// Before.
        old: u64,
        /// After.
        new: u64,
        /// What that does, in a word: `WP cleared`, `SMEP cleared`...
        meaning: String,
    },
    /// A task runs that is not in the kernel's list of tasks.
    #[serde(rename = "kernel.hidden_task")]
    KernelHiddenTask {
        /// Which.
        task: ProcessRef,
        /// Where it is missing: `task list`, `pid table`.
        missing: String,
    },
    /// A module's code is in the kernel, but it is in no list.
    #[serde(rename = "kernel.hidden_module")]
    KernelHiddenModule {
        /// Its name, where it is known.
        name: GuestText,
        /// Where its code begins.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// The guest told a device to read its disk into memory that never changes (the kernel's code, its read-only data). It was refused: the
    /// memory is as it was, and the guest got an I/O error. Who told it, and which page, is not known.
    #[serde(rename = "kernel.dma_refused")]
    KernelDmaRefused {
        /// `vda`, `vdb`...
        disk: String,
        /// From where on the disk, bytes.
        offset: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// A kernel function's entry was redirected by the kernel's own means (ftrace, kprobes).
    #[serde(rename = "kernel.function_hooked")]
    KernelFunctionHooked {
        /// Which.
        function: String,
        /// Where it is.
        address: u64,
        /// Where it goes now.
        target: u64,
        /// What lies there.
        target_symbol: String,
    },
    /// A system call returned (API trace; user memory may have changed meanwhile).
    #[serde(rename = "api.call")]
    ApiCall {
        /// Its number.
        number: u64,
        /// Its name.
        name: Cow<'static, str>,
        /// `x64`, `x32` or `i386`.
        abi: Cow<'static, str>,
        /// Its arguments.
        arguments: Vec<ApiArgument>,
        /// What it returned; -4095..-1 are errors.
        result: i64,
    },
    /// A write reached the disk. Watched regions: each request, before it lands. The rest: summed up.
    #[serde(rename = "disk.write")]
    DiskWrite {
        /// `vda`, `vdb`...
        disk: String,
        /// Where it goes.
        region: DiskRegion,
        /// The bytes of the region that it asks for, merged, at most 64 ranges.
        ranges: Vec<Range>,
        /// Sum of their sizes, bytes.
        bytes: u64,
        /// Number of requests.
        count: u64,
        /// The ranges in which new and old bytes differ; watched regions only.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changed: Vec<Range>,
        /// Bytes of the region before: artifact. Watched regions only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Sha256>,
        /// Bytes of the region as they would be after it: artifact. Watched regions only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Sha256>,
    },
    /// The micro-VM began to run.
    #[serde(rename = "vm.started")]
    VmStarted {
        /// QEMU's version.
        qemu: String,
        /// Release of the guest kernel.
        kernel: String,
    },
    /// The tap found the running kernel and its hooks are in place.
    #[serde(rename = "vm.introspection")]
    VmIntrospection {
        /// KASLR slide, bytes.
        slide: u64,
        /// Where the kernel has all RAM mapped (`page_offset_base`).
        #[serde(default)]
        direct_map: u64,
        /// What the kernel image was moved by in physical memory (`phys_base`).
        #[serde(default)]
        phys_base: u64,
        /// Hooks set, by the kernel function's name.
        hooks: Vec<String>,
        /// What could not be hooked, and why.
        missing: Vec<String>,
    },
    /// The micro-VM is a clone of a template, and goes on where that was saved.
    #[serde(rename = "vm.cloned")]
    VmCloned {
        /// The template.
        template: String,
        /// How long restoring it took, ns.
        restored_ns: u64,
    },
    /// The micro-VM goes on where a snapshot of another session's was taken: every event before this one is that session's, and so is
    /// what was decided there.
    #[serde(rename = "vm.continued")]
    VmContinued {
        /// The other session.
        session: SessionId,
        /// The snapshot's number in it, from 1.
        snapshot: u32,
        /// How long restoring it took, ns.
        restored_ns: u64,
    },
    /// The task was handed to the guest.
    #[serde(rename = "vm.task")]
    VmTask {
        /// Its name.
        name: String,
        /// Its path in the guest.
        path: String,
        /// Its content: artifact.
        sha256: Sha256,
        /// Its profile.
        profile: String,
        /// The command line that opens it.
        command: Vec<String>,
        /// Path of the program in the guest that starts it: the first process it forks from now on is the task.
        launcher: String,
        /// Programs that open the content and are not expected to start programs of their own.
        hosts: Vec<String>,
        /// Programs that are known to make code as they run (JIT).
        #[serde(default)]
        jit: Vec<String>,
        /// The content is an archive: the directory in the guest that it is unpacked into.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unpacks: Option<String>,
    },
    /// A file that an archive held, as the launcher says; the task's content from now on. If `profile` is none it is not opened.
    #[serde(rename = "vm.member")]
    VmMember {
        /// Its path in the guest.
        path: GuestText,
        /// Its size, bytes.
        size: u64,
        /// Its content: artifact, unless it is too large.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<Sha256>,
        /// The profile that opens it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        profile: Option<String>,
        /// The command line that opens it: the next process that the launcher forks.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        command: Vec<String>,
        /// As in `vm.task`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hosts: Vec<String>,
        /// As in `vm.task`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        jit: Vec<String>,
        /// As in `vm.task`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unpacks: Option<String>,
        /// Why it is not opened.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        skipped: Option<String>,
    },
    /// The task ended, as the launcher says.
    #[serde(rename = "vm.task_exit")]
    VmTaskExit {
        /// Exit code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i64>,
        /// Signal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i64>,
        /// Why it could not be started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<GuestText>,
    },
    /// The picture on the guest's screen, unlike those before it.
    #[serde(rename = "vm.screen")]
    VmScreen {
        /// A PNG: artifact.
        picture: Sha256,
    },
    /// The guest was restarted.
    #[serde(rename = "vm.reset")]
    VmReset {
        /// By whom: `guest` or `lava`.
        by: String,
    },
    /// The policy answered, and this is what became of it.
    #[serde(rename = "vm.decision")]
    VmDecision {
        /// The event that waited.
        subject: u64,
        /// The answer.
        action: Action,
        /// Name of the policy.
        policy: String,
        /// The rule that matched; none if the default answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
        /// The rule's reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// What was done, in a sentence.
        outcome: String,
    },
    /// Events are missing here.
    #[serde(rename = "vm.gap")]
    VmGap {
        /// Where.
        at: crate::Source,
        /// Why.
        cause: GapCause,
        /// How many, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        missing: Option<u64>,
        /// More, in words.
        detail: String,
    },
    /// The micro-VM is gone.
    #[serde(rename = "vm.ended")]
    VmEnded {
        /// `finished`, `timeout`, `killed`, `crashed`...
        reason: String,
        /// True if everything up to here was recorded and the VM ended as LAVA asked.
        orderly: bool,
        /// More, in words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// A command from outside was carried out on the running micro-VM.
    #[serde(rename = "vm.response")]
    VmResponse {
        /// `pause`, `resume`, `stop`, `discard`, `registers`, `screen`, `dump`, `snapshot N`, `kill PID`, `type "TEXT"`, `key KEYS`, `click X Y BUTTON`,
        /// `control taken` and `control given back` (keyboard and pointer, in a live view of the screen).
        command: String,
        /// `done`, or why it failed; of a snapshot ([`crate::snapshots::done`]) also what was kept.
        outcome: String,
        /// Who asked: `analyst (user 1000)`, the host's user.
        by: String,
    },
    /// The guest asked for a name and our simulated network answered; in egress mode told twice of a name that is passed on to the host's
    /// resolver: when it is asked for, without an address, and with the addresses of the answer, if there are any.
    #[serde(rename = "net.dns")]
    NetDns {
        /// Transport protocol.
        protocol: Protocol,
        /// The guest's end.
        origin: NetEndpoint,
        /// The name, labels joined by dots, in lower case and without the last dot; at most 254 bytes.
        question: GuestText,
        /// Type of the record asked for (IANA's number: 1 is A, 28 is AAAA).
        qtype: u16,
        /// The addresses of the answer, unless the policy was asked and said otherwise: made up (198.18.0.0/15), or in egress mode the
        /// real ones; empty: the name exists and has no such record, or all names are refused.
        addresses: Vec<IpAddr>,
        /// Number of the query's frame in traffic.pcapng, from 1.
        frame: u64,
    },
    /// A connection, or an exchange of datagrams or pings, that our simulated network took part in or that was passed on to the real
    /// network has ended.
    #[serde(rename = "net.stream")]
    NetStream {
        /// Transport protocol.
        protocol: Protocol,
        /// The guest's end.
        origin: NetEndpoint,
        /// The other end.
        destination: NetEndpoint,
        /// What was spoken: `http`, `tls`, `smtp`, `ssh`...; within TLS what was spoken there. `unknown`: it was recorded only.
        application: String,
        /// Bytes that the guest sent, on the wire.
        sent: u64,
        /// Bytes that the guest was sent, on the wire.
        received: u64,
        /// The first of what the guest sent, decrypted where we ended the TLS: artifact. Not for HTTP, which has events of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sent_sha256: Option<Sha256>,
        /// The first of what the guest was sent, likewise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        received_sha256: Option<Sha256>,
        /// True if the artifacts are all there was.
        complete: bool,
        /// Who ended it, or what: `guest`, `network`, `reset`, `idle`, `evicted` (too many at a time), `session`.
        ended: String,
        /// Number of its first frame in traffic.pcapng, from 1.
        frame: u64,
    },
    /// The guest asked for something by HTTP, and our simulated network answered.
    #[serde(rename = "net.http")]
    NetHttp {
        /// The guest's end.
        origin: NetEndpoint,
        /// The other end.
        destination: NetEndpoint,
        /// True if it came through TLS, which we ended.
        tls: bool,
        /// `GET`, `POST`...
        method: GuestText,
        /// Whom it asked: the Host header without port, else the address.
        host: GuestText,
        /// Path and query, at most 2048 bytes.
        path: GuestText,
        /// The User-Agent header, at most 512 bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user_agent: Option<GuestText>,
        /// Type of the request's body, as its header says, at most 512 bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content_type: Option<GuestText>,
        /// Status of the answer; 0 if there was none.
        status: u16,
        /// Where the answer came from: `content` (the folder given), `default` (made up), `none`.
        answer: String,
        /// Type of the answer's body.
        response_type: String,
        /// Bytes of the request's body.
        request_bytes: u64,
        /// The request's body: artifact.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_sha256: Option<Sha256>,
        /// True if the body came whole, and the artifact is all of it.
        request_complete: bool,
        /// Bytes of the answer's body.
        response_bytes: u64,
        /// The answer's body: artifact.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        response_sha256: Option<Sha256>,
        /// Number of the frame in traffic.pcapng with which the request was whole, from 1.
        frame: u64,
    },
    /// The guest began TLS with a host of our simulated network, or of the real one, which it is only passed on to.
    #[serde(rename = "net.tls")]
    NetTls {
        /// The guest's end.
        origin: NetEndpoint,
        /// The other end.
        destination: NetEndpoint,
        /// The name it asked for (SNI), at most 255 bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server_name: Option<GuestText>,
        /// Protocols it offered within (ALPN).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        alpn: Vec<GuestText>,
        /// Agreed upon: `TLSv1.3`, `TLSv1.2`; empty if nothing was.
        version: String,
        /// Fingerprint of its hello: JA3 (MD5, as hex digits); empty if that was not understood.
        ja3: String,
        /// Fingerprint of its hello: JA4; empty likewise.
        ja4: String,
        /// `established`, or why it was not: most often that the guest does not trust our certificate; or that it was passed on.
        outcome: String,
        /// Number of a frame of the handshake in traffic.pcapng, from 1.
        frame: u64,
    },
    /// The guest handed over a mail, and our simulated network took it.
    #[serde(rename = "net.mail")]
    NetMail {
        /// The guest's end.
        origin: NetEndpoint,
        /// The other end.
        destination: NetEndpoint,
        /// Sender of the envelope, at most 256 bytes.
        from: GuestText,
        /// Receivers of the envelope, at most 64.
        to: Vec<GuestText>,
        /// How many receivers there were.
        receivers: u64,
        /// Its subject, as the header has it, at most 256 bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<GuestText>,
        /// Length of the mail, bytes.
        bytes: u64,
        /// The mail: artifact.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<Sha256>,
        /// True if the artifact is all of it.
        complete: bool,
        /// Number of the frame in traffic.pcapng with which it was whole, from 1.
        frame: u64,
    },
}

/// The port of DHCP servers (RFC 2131 section 4.1).
const DHCP: u16 = 67;

impl Kind {
    /// The dotted names of those whose events can wait for a policy's answer.
    pub const WAITING: &[&str] = &[
        "process.exec",
        "file.open",
        "net.flow",
        "net.dns",
        "kernel.module_load",
        "kernel.immutable_write",
        "disk.write",
    ];

    /// Whether this one can: opens to write alone do, disk writes to watched regions, and flows that our network neither drops nor
    /// lives by (DHCP).
    #[must_use]
    pub fn can_wait(&self) -> bool {
        match self {
            Self::FileOpen { access, .. } => access.writes(),
            Self::DiskWrite { region, .. } => !matches!(region, DiskRegion::Data),
            Self::NetFlow { protocol, destination, answer, .. } => {
                answer != "dropped" && (*protocol, destination.port) != (Protocol::Udp, DHCP)
            }
            Self::ProcessExec { .. }
            | Self::NetDns { .. }
            | Self::KernelModuleLoad { .. }
            | Self::KernelImmutableWrite { .. } => true,
            _ => false,
        }
    }
}

macro_rules! names {
    ($($Variant:ident = $name:literal,)*) => {
        impl Kind {
            /// Every kind's dotted name.
            pub const NAMES: &[&str] = &[$($name),*];

            /// The dotted name, as in JSON.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$Variant { .. } => $name,)*
                }
            }
        }
    };
}

names! {
    ProcessFork = "process.fork",
    ProcessExisting = "process.existing",
    ProcessExec = "process.exec",
    ProcessExit = "process.exit",
    ProcessCredentials = "process.credentials",
    FileOpen = "file.open",
    FileCreate = "file.create",
    FileWrite = "file.write",
    FileAttributes = "file.attributes",
    FileRename = "file.rename",
    FileUnlink = "file.unlink",
    NetConnect = "net.connect",
    NetFlow = "net.flow",
    NetLease = "net.lease",
    KernelModuleLoad = "kernel.module_load",
    DiskWrite = "disk.write",
    ProcessPtrace = "process.ptrace",
    ProcessSignal = "process.signal",
    ProcessNamespaces = "process.namespaces",
    ProcessChroot = "process.chroot",
    ProcessName = "process.name",
    ProcessMemfd = "process.memfd",
    FileRead = "file.read",
    FileMapWrite = "file.map_write",
    FileContent = "file.content",
    FileTruncate = "file.truncate",
    FileXattr = "file.xattr",
    FileMount = "file.mount",
    FileUnmount = "file.unmount",
    MemoryMap = "memory.map",
    MemoryProtect = "memory.protect",
    MemoryUnbackedExecution = "memory.unbacked_execution",
    MemoryRemoteWrite = "memory.remote_write",
    MemoryStackPivot = "memory.stack_pivot",
    MemoryReturnToData = "memory.return_to_data",
    NetSocket = "net.socket",
    NetBind = "net.bind",
    NetListen = "net.listen",
    NetAccept = "net.accept",
    NetTransfer = "net.transfer",
    NetFlowOwner = "net.flow_owner",
    KernelModuleUnload = "kernel.module_unload",
    KernelBpfLoad = "kernel.bpf_load",
    KernelKexec = "kernel.kexec",
    KernelImmutableWrite = "kernel.immutable_write",
    KernelRegister = "kernel.register",
    KernelHiddenTask = "kernel.hidden_task",
    KernelHiddenModule = "kernel.hidden_module",
    KernelDmaRefused = "kernel.dma_refused",
    KernelFunctionHooked = "kernel.function_hooked",
    ApiCall = "api.call",
    VmStarted = "vm.started",
    VmIntrospection = "vm.introspection",
    VmCloned = "vm.cloned",
    VmContinued = "vm.continued",
    VmTask = "vm.task",
    VmMember = "vm.member",
    VmTaskExit = "vm.task_exit",
    VmScreen = "vm.screen",
    VmReset = "vm.reset",
    VmDecision = "vm.decision",
    VmGap = "vm.gap",
    VmEnded = "vm.ended",
    VmResponse = "vm.response",
    NetDns = "net.dns",
    NetStream = "net.stream",
    NetHttp = "net.http",
    NetTls = "net.tls",
    NetMail = "net.mail",
}
