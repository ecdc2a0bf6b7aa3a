//! Persist: the kernel itself is no longer what it was.
//!
//! Who did it need not descend from the task: code in the kernel acts in whatever process runs. All of it counts once the task began.

use lava_event::{Kind, Severity, Stage, Writer};

use super::{Behaviour, Context, Hit};
use crate::{About, path};

static WRITTEN: About = About {
    id: "persist.kernel_memory",
    technique: "T1014",
    stage: Stage::Persist,
    severity: Severity::Critical,
    why: "Memory was written that a sound kernel never changes; whoever does that controls the kernel and what it says.",
    false_positives: "None known: the kernel's own patching (static keys, ftrace, kprobes) is told apart where it happens.",
};
static DMA: About = About {
    id: "persist.kernel_dma",
    technique: "T1014",
    stage: Stage::Persist,
    severity: Severity::High,
    why: "A device was told to put a disk's content where a sound kernel never has it put, around the processor's protection. It was refused.",
    false_positives: "None known.",
};
static REGISTER: About = About {
    id: "persist.kernel_register",
    technique: "T1014",
    stage: Stage::Persist,
    severity: Severity::High,
    why: "A processor's protection was switched off, or one of the kernel's entries moved.",
    false_positives: "Hypervisors that run in the guest.",
};
static HIDDEN: About = About {
    id: "persist.hidden_object",
    technique: "T1014",
    stage: Stage::Persist,
    severity: Severity::Critical,
    why: "What runs but is in none of the kernel's lists was taken out of them to hide it.",
    false_positives: "None known.",
};
static HOOKED: About = About {
    id: "persist.kernel_function_hooked",
    technique: "T1014",
    stage: Stage::Persist,
    severity: Severity::Low,
    why: "A kernel function was redirected by the kernel's own means, as tracers do, and rootkits.",
    false_positives: "Tracers: ftrace, kprobes, BPF programs.",
};
static BPF: About = About {
    id: "persist.bpf_program",
    technique: "T1014",
    stage: Stage::Persist,
    severity: Severity::Medium,
    why: "A BPF program runs in the kernel, and can watch or change what other programs see.",
    false_positives: "Tracers, container engines and network tools that run as root.",
};
static KEXEC: About = About {
    id: "persist.kexec",
    technique: "T1542",
    stage: Stage::Persist,
    severity: Severity::High,
    why: "Another kernel was loaded, to take this one's place without the boot loader.",
    false_positives: "Crash dump services (kdump).",
};

pub(super) struct Kernel;

impl Behaviour for Kernel {
    fn about(&self) -> Vec<&'static About> {
        vec![&WRITTEN, &DMA, &REGISTER, &HIDDEN, &HOOKED, &BPF, &KEXEC]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        if !context.event.kind.name().starts_with("kernel.") {
            return;
        }
        let program = context.program();
        let tainted = context.tainted_actor().is_some();
        let (about, title, once) = match &context.event.kind {
            Kind::KernelImmutableWrite { symbol, by, .. } => {
                let title = match by {
                    Writer::Cpu => format!("{program} changed the kernel's {symbol}"),
                    Writer::Device => format!("a device changed the kernel's {symbol}"),
                    Writer::Unknown => format!("the kernel's {symbol} was changed"),
                };
                // Each function once, however many bytes of it.
                (&WRITTEN, title, symbol.split('+').next().unwrap_or_default().to_owned())
            }
            Kind::KernelDmaRefused { disk, .. } => {
                let title = format!("the disk {disk} was to be read into the kernel's memory that never changes");
                (&DMA, title, disk.clone())
            }
            Kind::KernelRegister { register, meaning, .. } => {
                (&REGISTER, format!("{program} changed {register}: {meaning}"), format!("{register} {meaning}"))
            }
            Kind::KernelHiddenTask { task, missing } => {
                let title = format!("{}[{}] runs, but is missing in the {missing}", task.comm, task.pid);
                (&HIDDEN, title, format!("{} {}", task.pid, task.start_ns))
            }
            Kind::KernelHiddenModule { name, address, .. } => {
                let title = format!("the kernel module {} hides itself", path::shown(name.bytes()));
                (&HIDDEN, title, format!("{address:#x}"))
            }
            Kind::KernelFunctionHooked { function, target_symbol, .. } if tainted => {
                (&HOOKED, format!("{program} redirected {function} to {target_symbol}"), function.clone())
            }
            Kind::KernelBpfLoad { name, program: way, .. } if tainted => {
                let title = format!("{program} loaded the BPF program {} ({way})", path::shown(name.bytes()));
                (&BPF, title, format!("{name} {way}"))
            }
            Kind::KernelKexec { way } if tainted => {
                (&KEXEC, format!("{program} loaded another kernel ({way})"), way.clone())
            }
            _ => return,
        };
        hits.push(Hit::new(about, context, title, once.into_bytes()));
    }
}
