//! The kernel itself: its start, modules, BPF programs, another kernel, and its patching of itself.
//!
//! Limits: a module's file is the last one that its task had the kernel read.

use std::collections::HashMap;

use lava_event::{GuestText, Kind};
use lava_guest::btf::{Field, Types};
use lava_guest::memory::{Unreadable, Virtual};

use crate::introspect::Context;
use crate::refuse::{self, Subject};

/// Types of BPF programs (include/uapi/linux/bpf.h, `enum bpf_prog_type`); their numbers come from the kernel's own types.
const PROGRAMS: &[&str] = &[
    "socket_filter",
    "kprobe",
    "sched_cls",
    "sched_act",
    "tracepoint",
    "xdp",
    "perf_event",
    "cgroup_skb",
    "cgroup_sock",
    "lwt_in",
    "lwt_out",
    "lwt_xmit",
    "sock_ops",
    "sk_skb",
    "cgroup_device",
    "sk_msg",
    "raw_tracepoint",
    "cgroup_sock_addr",
    "lwt_seg6local",
    "lirc_mode2",
    "sk_reuseport",
    "flow_dissector",
    "cgroup_sysctl",
    "raw_tracepoint_writable",
    "cgroup_sockopt",
    "tracing",
    "struct_ops",
    "ext",
    "lsm",
    "sk_lookup",
    "syscall",
    "netfilter",
];

/// Where these hooks read, bytes; None where a kernel does not have it: then that part is left out.
pub struct Offsets {
    bpf_aux: Option<u64>,
    bpf_name: Option<Field>,
    bpf_type: Option<u64>,
    bpf_len: Option<u64>,
    programs: HashMap<u32, &'static str>,
    kexec_file: Option<Field>,
    probe_address: Option<u64>,
    probe_handler: Option<u64>,
}

impl Offsets {
    pub fn resolve(types: &Types) -> Self {
        let field = |strukt, member| types.member(strukt, member).ok();
        let of = |strukt, member| types.offset(strukt, member).ok();
        let number = |name: &str| {
            let constant = format!("BPF_PROG_TYPE_{}", name.to_ascii_uppercase());
            types.enum_value(None, &constant).and_then(|value| u32::try_from(value).ok())
        };
        Self {
            bpf_aux: of("bpf_prog", "aux"),
            bpf_name: field("bpf_prog_aux", "name"),
            bpf_type: of("bpf_prog", "type"),
            bpf_len: of("bpf_prog", "len"),
            programs: PROGRAMS.iter().filter_map(|name| Some((number(name)?, *name))).collect(),
            kexec_file: field("kimage", "file_mode"),
            probe_address: of("kprobe", "addr"),
            probe_handler: of("kprobe", "pre_handler"),
        }
    }
}

/// `rcu_end_inkernel_boot()`: the kernel's memory has its final rights; the first program is about to run.
pub fn started(context: &Context<'_>) -> Result<(), Unreadable> {
    context.tap.integrity.arm(context)
}

/// `kernel_read_file(file, ...)`: the kernel reads a whole file for its own use.
pub fn file_read(context: &Context<'_>) -> Result<(), Unreadable> {
    let (path, _) = context.file(context.argument(0)?)?;
    let task = context.current()?.address;
    context.tap.integrity.modules.file_read(task, path);
    Ok(())
}

/// `do_init_module(mod)`: the module is linked into the kernel and about to run its init function.
pub fn module(context: &Context<'_>) -> Result<(), Unreadable> {
    let address = context.argument(0)?;
    let module = context.tap.integrity.modules.load(context, address);
    context.tap.integrity.watch_module(context, &module);
    let task = context.current()?.address;
    let path = context.tap.integrity.modules.file_of(task);
    let (start, end) = module.parts.first().map_or((0, 0), |part| (part.0, part.1));
    let event = context.whole(Kind::KernelModuleLoad { name: module.name, path, address: start, size: end - start })?;
    refuse::submit(context, Subject::Module, event, || refuse::module(context, address));
    Ok(())
}

/// `free_module(mod)`: the module's memory goes back.
pub fn module_freed(context: &Context<'_>) -> Result<(), Unreadable> {
    let Some(module) = context.tap.integrity.modules.unload(context.argument(0)?) else { return Ok(()) };
    context.tap.integrity.release_module(context, &module);
    context.emit(Kind::KernelModuleUnload { name: module.name })
}

/// `bpf_prog_kallsyms_add(fp)`: the program was verified and translated, and is about to get its descriptor.
pub fn bpf(context: &Context<'_>) -> Result<(), Unreadable> {
    let (memory, offsets, program) = (context.memory(), &context.tap.offsets.kernel, context.argument(0)?);
    let number = |offset: Option<u64>| offset.map_or(Ok(0), |offset| memory.u32(program.wrapping_add(offset)));
    let name = match (offsets.bpf_aux, offsets.bpf_name) {
        (Some(aux), Some(name)) => {
            let aux = memory.pointer(program.wrapping_add(aux))?;
            memory.read_cstr(aux.wrapping_add(name.offset), name.size.min(64) as usize).bytes.into()
        }
        _ => GuestText::default(),
    };
    let (way, instructions) = (number(offsets.bpf_type)?, number(offsets.bpf_len)?);
    let program = offsets.programs.get(&way).map_or_else(|| way.to_string(), |name| (*name).to_owned());
    context.emit(Kind::KernelBpfLoad { name, program, instructions })
}

/// `machine_kexec_prepare(image)`: another kernel was read, by either system call.
pub fn kexec(context: &Context<'_>) -> Result<(), Unreadable> {
    let by_file = match context.tap.offsets.kernel.kexec_file {
        Some(field) => {
            let byte = context.memory().u8(context.argument(0)?.wrapping_add(field.offset))?;
            byte >> field.bit_offset.min(7) & 1 == 1
        }
        None => false,
    };
    let way = if by_file { "kexec_file_load" } else { "kexec_load" };
    context.emit_with_registers(Kind::KernelKexec { way: way.to_owned() })
}

/// `__switch_to(prev_p, next_p)`
pub fn switched(context: &Context<'_>) -> Result<(), Unreadable> {
    context.tap.integrity.hidden.switched(context, context.argument(0)?)
}

/// `__text_poke(func, addr, src, len)`
pub fn poke(context: &Context<'_>) -> Result<(), Unreadable> {
    context.tap.integrity.pokes.poke(context, context.argument(0)?, context.argument(1)?);
    Ok(())
}

/// `text_poke` and the others that come before `__text_poke`.
pub fn poke_called(context: &Context<'_>) -> Result<(), Unreadable> {
    context.tap.integrity.pokes.called(context)
}

/// `arch_arm_kprobe(p)`: a breakpoint is about to be set.
pub fn kprobe(context: &Context<'_>) -> Result<(), Unreadable> {
    let (memory, offsets, probe) = (context.memory(), &context.tap.offsets.kernel, context.argument(0)?);
    let Some(at) = offsets.probe_address else { return Ok(()) };
    let address = memory.pointer(probe.wrapping_add(at))?;
    let target = offsets.probe_handler.and_then(|at| memory.pointer(probe.wrapping_add(at)).ok()).unwrap_or(0);
    let (integrity, kernel) = (&context.tap.integrity, &context.tap.kernel);
    if !integrity.pokes.probe(address) {
        return Ok(());
    }
    context.emit_with_registers(Kind::KernelFunctionHooked {
        function: integrity.symbol(kernel, context.slide, address),
        address,
        target,
        target_symbol: integrity.symbol(kernel, context.slide, target),
    })
}
