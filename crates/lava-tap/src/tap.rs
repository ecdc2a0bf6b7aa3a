//! The tap's state, and the callbacks that QEMU calls.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use lava_event::{GapCause, Kind, Source};
use lava_guest::kernel::Kernel;
use lava_guest::layout::Layout;
use lava_guest::linux::sock;
use lava_guest::memory::{Unreadable, Virtual};

use crate::api::{self, Instruction, PerVcpu, PluginId, TranslationBlock};
use crate::areas::Areas;
use crate::arguments::Arguments;
use crate::costs::Costs;
use crate::emit::Emitter;
use crate::hooks::{self, Handler, Hook, OpenFiles};
use crate::integrity::Integrity;
use crate::introspect::Context;
use crate::locate::{Locator, tell_existing};
use crate::memory::{Bytes, Placement};
use crate::missing::Missing;
use crate::point::Point;
use crate::processes::{self, Exes, TaskProcesses};
use crate::ram::Ram;
use crate::refuse::{Asks, Subject};
use crate::registers::{Register, Registers};
use crate::returns::{self, Returns};
use crate::unbacked::{self, Unbacked};

/// Model-specific register that holds the 64-bit system call entry (Intel SDM vol. 4, IA32_LSTAR).
const MSR_LSTAR: u64 = 0xc000_0082;
/// Where an x86 processor begins after a reset (Intel SDM vol. 3, 10.1.4).
const RESET_VECTOR: u64 = 0xffff_fff0;
/// Among the kernel points: the reset vector.
const RESET: usize = 0;
/// CR0.PE (Intel SDM vol. 3, 2.5).
const PROTECTED: u64 = 1;

/// A vCPU's own things, used in its thread only; the lock is never contended.
struct Vcpu {
    registers: Registers,
    bytes: Bytes,
}

// SAFETY: the glib array inside is owned, and used by one thread at a time (behind a Mutex).
unsafe impl Send for Vcpu {}

/// Everything the callbacks need.
pub struct Tap {
    pub layout: Layout,
    pub kernel: Kernel,
    pub emitter: Emitter,
    pub asks: Asks,
    pub task: TaskProcesses,
    /// The system calls, if every one is told.
    pub api: Option<hooks::ApiTrace>,
    /// How mappings are read; None if this kernel's types lack something for it.
    pub areas: Option<Areas>,
    pub unbacked: Unbacked,
    pub remote_writes: hooks::RemoteWrites,
    pub pivots: hooks::Pivots,
    /// By vCPU: the address of the running task's `task_struct`; 0 before the first switch.
    current: Vec<AtomicU64>,
    /// Link addresses of the kernel's code.
    text: std::ops::Range<u64>,
    ram_file: Option<String>,
    ram: OnceLock<Option<Ram>>,
    locator: Locator,
    returns: Returns,
    pub exes: Exes,
    pub open_files: OpenFiles,
    pub offsets: hooks::Offsets,
    pub tasks: hooks::Tasks,
    pub transfers: hooks::Transfers,
    pub flows: hooks::Flows,
    /// Where sockets hold what; none if this kernel's types do not tell.
    pub sockets: Option<sock::Offsets>,
    /// Offsets of name and length of the name in `struct msghdr`.
    pub message: Option<(u64, u64)>,
    pub integrity: Integrity,
    hooks: Vec<Hook>,
    missing: Vec<String>,
    /// Hook numbers by link address.
    by_address: HashMap<u64, Vec<usize>>,
    vcpus: Vec<Mutex<Option<Vcpu>>>,
    panics: AtomicU64,
    costs: Option<Costs>,
}

static TAP: OnceLock<Tap> = OnceLock::new();

thread_local! {
    /// The vCPU whose thread this is (MTTCG: one each); none in QEMU's other threads.
    static VCPU: Cell<Option<u32>> = const { Cell::new(None) };
}

/// The vCPU whose thread this is, if it is one's.
pub fn vcpu() -> Option<u32> {
    VCPU.get()
}

/// QEMU's entry point.
///
/// # Safety
/// Called by QEMU with `argc` NUL-terminated strings in `argv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let words: Vec<String> = (0..usize::try_from(argc).unwrap_or(0))
        // SAFETY: QEMU passes argc valid strings that outlive this call.
        .map(|index| unsafe { CStr::from_ptr(*argv.add(index)) }.to_string_lossy().into_owned())
        .collect();
    let installed = catch_unwind(|| Tap::install(&words)).unwrap_or_else(|_| Err("it panicked at start".into()));
    match installed {
        Ok(tap) => {
            if TAP.set(tap).is_err() {
                eprintln!("lava-tap: loaded twice into one QEMU");
                return -1;
            }
            // SAFETY: registering callbacks of the right type during install is what the API is for.
            unsafe {
                api::qemu_plugin_register_vcpu_init_cb(id, on_vcpu);
                api::qemu_plugin_register_vcpu_idle_cb(id, on_idle);
                api::qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
                api::qemu_plugin_register_atexit_cb(id, on_exit, std::ptr::null_mut());
            }
            0
        }
        Err(error) => {
            eprintln!("lava-tap: {error}");
            -1
        }
    }
}

impl Tap {
    fn install(words: &[String]) -> Result<Self, String> {
        let arguments = Arguments::parse(words.iter().map(String::as_str))?;
        let file = &arguments.kernel;
        let elf = std::fs::read(file).map_err(|error| format!("kernel file {}: {error}", file.display()))?;
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let kernel = Kernel::from_elf(&elf).map_err(|error| told(&error))?;
        let layout = Layout::resolve(&kernel.types, &kernel.symbols).map_err(|error| told(&error))?;
        let address = |name: &str| kernel.symbols.address(name).ok_or(format!("the kernel has no symbol {name}"));
        let known = arguments.task.as_deref().map(processes::read).transpose()?;
        let mut missing = Missing::default();
        let asks = Asks::resolve(&kernel, arguments.asks, &mut missing);
        let hooks = hooks::resolve(&kernel, arguments.api, asks.about(Subject::Open), &mut missing);
        let switches = hooks.iter().any(|hook| hook.name == hooks::SWITCH);
        let message = |name: &str| kernel.types.offset("msghdr", name).ok();
        let api = if arguments.api { Some(hooks::ApiTrace::resolve(&elf, &kernel)?) } else { None };
        let integrity = Integrity::resolve(&kernel, &elf, &mut missing);
        let returning: Vec<(usize, u64)> = (0..)
            .zip(&hooks)
            .filter_map(|(number, hook)| matches!(hook.handler, Handler::Return(_)).then_some((number, hook.address)))
            .collect();
        let functions: Vec<u64> = returning.iter().map(|&(_, address)| address).collect();
        let found = lava_guest::calls::return_addresses(&elf, &kernel.symbols, &functions);
        let costs = arguments.costs.then(|| Costs::new(hooks.iter().map(|hook| hook.name)));
        let mut by_address: HashMap<u64, Vec<usize>> = HashMap::new();
        for (number, hook) in hooks.iter().enumerate() {
            by_address.entry(hook.address).or_default().push(number);
        }
        let producer = lava_ring::Ring::attach(&arguments.ring).map_err(|error| error.to_string())?;
        Ok(Self {
            asks,
            layout,
            exes: Exes::default(),
            open_files: OpenFiles::resolve(&kernel, &mut missing),
            offsets: hooks::Offsets::resolve(&kernel).map_err(|error| told(&error))?,
            tasks: hooks::Tasks::resolve(&kernel.types, &mut missing),
            transfers: hooks::Transfers::default(),
            flows: hooks::Flows::resolve(&kernel.types, &mut missing),
            sockets: missing.unless("hooks on sockets", sock::Offsets::resolve(&kernel.types)),
            message: message("msg_name").zip(message("msg_namelen")),
            integrity,
            by_address,
            hooks,
            task: TaskProcesses::of(&arguments.launcher, known),
            api,
            areas: missing.unless("mappings", Areas::resolve(&kernel)),
            unbacked: Unbacked::default(),
            remote_writes: hooks::RemoteWrites::resolve(&kernel),
            pivots: hooks::Pivots::default(),
            current: (0..producer.rings()).map(|_| AtomicU64::new(0)).collect(),
            text: address("_stext")?..address("_etext")?,
            ram_file: arguments.ram,
            ram: OnceLock::new(),
            locator: Locator::resolve(&kernel.symbols, &kernel.banner, arguments.placement)?,
            returns: Returns::new(returns::of_hooks(&returning, &found), switches),
            vcpus: (0..producer.rings()).map(|_| Mutex::new(None)).collect(),
            panics: AtomicU64::new(0),
            costs,
            missing: missing.into_sentences(),
            kernel,
            emitter: Emitter::new(producer, arguments.origin_ns),
        })
    }

    /// The one that is loaded into this process.
    pub fn installed() -> Option<&'static Self> {
        TAP.get()
    }

    /// Runs `body` for a vCPU in whose thread we are, unless it is in a callback already.
    pub fn with_context(&self, vcpu: u32, body: impl FnOnce(&Context<'_>)) {
        let Some(Ok(slot)) = self.vcpus.get(vcpu as usize).map(Mutex::try_lock) else { return };
        let Some(Vcpu { registers, bytes }) = slot.as_ref() else { return };
        let slide = self.locator.slide().unwrap_or_default();
        body(&Context { tap: self, vcpu, slide, registers, bytes, parameters: &[], paging: Cell::new(None) });
    }

    /// Runs a callback's body; a panic in it is reported as a gap and goes no further.
    pub fn guarded(&self, vcpu: u32, body: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(body)).is_err() && self.panics.fetch_add(1, Ordering::Relaxed) < 100 {
            self.emitter.emit(
                vcpu,
                None,
                Kind::VmGap {
                    at: Source::Tap,
                    cause: GapCause::Unreadable,
                    missing: Some(1),
                    detail: "a hook failed on what it read from the guest".into(),
                },
            );
        }
    }

    fn translated(&self, block: *const TranslationBlock) {
        // SAFETY: QEMU passes a block that is valid during the translation callback.
        let (count, start) = unsafe { (api::qemu_plugin_tb_n_insns(block), api::qemu_plugin_tb_vaddr(block)) };
        // A program can have code at that address too: whether the processor was reset is known when the instruction runs.
        if (start == RESET_VECTOR || start == RESET_VECTOR & 0xf_ffff) && count > 0 {
            // SAFETY: there is a first instruction, within the callback.
            watch(unsafe { api::qemu_plugin_tb_get_insn(block, 0) }, Point::Kernel(RESET));
        }
        if start >> 63 == 0 {
            // A translation happens in the thread of the vCPU that needs it.
            if count > 0 && vcpu().is_some_and(|vcpu| unbacked::wanted(self, vcpu, start)) {
                // SAFETY: the block has instructions; within the callback.
                watch(unsafe { api::qemu_plugin_tb_get_insn(block, 0) }, Point::User(0));
            }
            return;
        }
        let mut slide = self.locator.slide();
        if slide.is_none()
            && let Some(placement) = self.locator.running(self.ram())
        {
            self.found(0, placement);
            slide = Some(placement.slide);
        }
        for index in 0..count {
            // SAFETY: index < count, within the callback.
            let (instruction, address) = unsafe {
                let instruction = api::qemu_plugin_tb_get_insn(block, index);
                (instruction, api::qemu_plugin_insn_vaddr(instruction))
            };
            if let Some(slide) = slide {
                let link = address.wrapping_sub(slide);
                // A return address may be another function's entry: what returned is told first.
                if let Some(number) = self.returns.number(link) {
                    watch_if(instruction, Point::Return(number), self.returns.condition());
                }
                for &number in self.by_address.get(&link).into_iter().flatten() {
                    watch(instruction, Point::Hook(number));
                }
            }
            if let Some(point) = self.integrity.translated(instruction, address, index == 0) {
                watch(instruction, point);
            }
        }
    }

    /// The processor was reset: what was known of the running kernel holds no longer.
    pub fn forget_kernel(&self) {
        self.integrity.disarm(self.ram.get().and_then(Option::as_ref));
        if self.locator.forget() {
            self.open_files.flush_all(&self.emitter);
            self.transfers.flush_all(&self.emitter);
            self.tasks.clear();
            self.asks.clear();
            self.flows.clear();
            self.exes.clear();
            self.returns.clear();
            self.unbacked.clear();
            self.current.iter().for_each(|task| task.store(0, Ordering::Relaxed));
        }
    }

    /// A task begins to run on `vcpu`.
    pub fn switched(&self, vcpu: u32, task: u64) {
        if let Some(current) = self.current.get(vcpu as usize) {
            current.store(task, Ordering::Relaxed);
        }
        self.returns.switched(vcpu, task);
    }

    /// Address of the `task_struct` of the task that runs on `vcpu`, once one was switched to.
    pub fn running(&self, vcpu: u32) -> Option<u64> {
        self.current.get(vcpu as usize).map(|task| task.load(Ordering::Relaxed)).filter(|&task| task != 0)
    }

    /// Whether the link address lies in the kernel's code.
    pub fn is_text(&self, link: u64) -> bool {
        self.text.contains(&link)
    }

    /// The guest's RAM, if QEMU's mapping of it was found.
    pub fn ram(&self) -> Option<&Ram> {
        // Looked up at the first use: QEMU maps it after it loads plugins.
        let find = || {
            let file = self.ram_file.as_deref()?;
            Ram::find(file).map_err(|error| eprintln!("lava-tap: {error}: reading memory will be slow")).ok()
        };
        self.ram.get_or_init(find).as_ref()
    }

    /// Where the running kernel lies, once that is known.
    pub fn placement(&self) -> Option<Placement> {
        self.locator.placement()
    }

    fn executed(&self, vcpu: u32, point: Point) {
        let Some(Ok(slot)) = self.vcpus.get(vcpu as usize).map(Mutex::lock) else { return };
        let Some(Vcpu { registers, bytes }) = slot.as_ref() else { return };
        let known = self.locator.slide();
        let slide = known.unwrap_or_default();
        let context =
            |parameters| Context { tap: self, vcpu, slide, registers, bytes, parameters, paging: Cell::new(None) };
        if point == Point::Msr {
            return self.wrmsr(&context(&[]));
        }
        if point == Point::Kernel(RESET) {
            if context(&[]).register(Register::Cr0) & PROTECTED == 0 {
                self.forget_kernel();
            }
            return;
        }
        if known.is_none() {
            return;
        }
        if self.locator.take_untold() {
            let context = context(&[]);
            self.told(&context, "the list of tasks", tell_existing(self, &context));
            // Its start, at which the watch begins otherwise, is long over.
            self.told(&context, "the kernel's immutable memory", self.integrity.adopt(&context));
        }
        match point {
            Point::Hook(number) => {
                if let Some(hook) = self.hooks.get(number) {
                    let context = context(&hook.parameters);
                    self.told(&context, hook.name, self.entered(&context, number, hook));
                }
            }
            Point::Return(number) => {
                let context = context(&[]);
                self.told(&context, "a function's return", self.returns.returned(&context, number));
            }
            Point::User(_) => self.told(&context(&[]), "code without a file", unbacked::executed(&context(&[]))),
            Point::Control { register, from } => {
                self.integrity.registers.control_written(&context(&[]), register, from);
            }
            Point::Descriptor(operand) => {
                let context = context(&[]);
                let loaded = self.integrity.registers.descriptor_loaded(&context, operand);
                self.told(&context, "the place of the IDT", loaded);
            }
            Point::Msr | Point::Kernel(_) => {}
        }
    }

    fn entered(&self, context: &Context<'_>, number: usize, hook: &Hook) -> Result<(), Unreadable> {
        match hook.handler {
            Handler::Entry(handler) => handler(context),
            Handler::Return(handler) => {
                let Some(then) = handler(context)? else { return Ok(()) };
                let rsp = context.register(Register::Rsp);
                let back = context.memory().u64(rsp)?.wrapping_sub(context.slide);
                self.returns.entered(context, number, rsp, back, then)
            }
        }
    }

    /// An object that can't be read is told, not skipped: a gap is itself an event.
    pub fn told(&self, context: &Context<'_>, what: &str, result: Result<(), Unreadable>) {
        let Err(unreadable) = result else { return };
        self.emitter.emit(
            context.vcpu,
            context.current().ok().map(|task| context.process(&task)),
            Kind::VmGap {
                at: Source::Tap,
                cause: GapCause::Unreadable,
                missing: Some(1),
                detail: format!("{what}: {unreadable}"),
            },
        );
    }

    /// The kernel is about to write a model-specific register.
    fn wrmsr(&self, context: &Context<'_>) {
        let read = |register| context.register(register) & 0xffff_ffff;
        let (number, value) = (read(Register::Rcx), read(Register::Rdx) << 32 | read(Register::Rax));
        if number == MSR_LSTAR
            && let Some(placement) = self.locator.started(context, value)
        {
            self.forget_kernel();
            return self.found(context.vcpu, placement);
        }
        self.integrity.registers.msr_written(context, number as u32, value);
    }

    /// The running kernel was found.
    fn found(&self, vcpu: u32, placement: Placement) {
        let Placement { slide, direct_map, phys_base } = placement;
        self.locator.found(placement);
        self.integrity.registers.started(MSR_LSTAR as u32, self.locator.syscall_entry(slide));
        let hooks = self.hooks.iter().map(|hook| hook.name.to_owned()).collect();
        let missing = self.missing.clone();
        self.emitter.emit(vcpu, None, Kind::VmIntrospection { slide, direct_map, phys_base, hooks, missing });
    }
}

/// Asks QEMU to call us before `instruction` runs.
fn watch(instruction: *mut Instruction, point: Point) {
    watch_if(instruction, point, None);
}

/// The same, if the vCPU's number is not 0 then.
fn watch_if(instruction: *mut Instruction, point: Point, number: Option<PerVcpu>) {
    let (flags, userdata) = (api::READS_REGISTERS, std::ptr::without_provenance_mut(point.encode()));
    // SAFETY: the instruction is valid during translation; the userdata is a number, never dereferenced; the number's scoreboard
    // lives as long as the plugin.
    unsafe {
        match number {
            None => api::qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_execution, flags, userdata),
            Some(number) => api::qemu_plugin_register_vcpu_insn_exec_cond_cb(
                instruction,
                on_execution,
                flags,
                api::NOT_EQUAL,
                number,
                0,
                userdata,
            ),
        }
    }
}

extern "C" fn on_vcpu(_id: PluginId, vcpu: c_uint) {
    let Some(tap) = TAP.get() else { return };
    VCPU.set(Some(vcpu));
    tap.guarded(vcpu, || match (Registers::of_current_vcpu(), tap.vcpus.get(vcpu as usize)) {
        (Ok(registers), Some(slot)) => {
            if let Ok(mut slot) = slot.lock() {
                *slot = Some(Vcpu { registers, bytes: Bytes::new() });
            }
        }
        (Err(name), _) => eprintln!("lava-tap: this QEMU tells no register {name}: vCPU {vcpu} is not watched"),
        (_, None) => eprintln!("lava-tap: there is no ring for vCPU {vcpu}: it is not watched"),
    });
}

/// A vCPU rests. The last one to do so when the machine is stopped is in no hook, and no other is: so nothing that the guest did before is
/// told after.
extern "C" fn on_idle(_id: PluginId, vcpu: c_uint) {
    let Some(tap) = TAP.get().filter(|tap| tap.emitter.sums_are_wanted()) else { return };
    tap.guarded(vcpu, || {
        tap.open_files.tell_sums(&tap.emitter, vcpu);
        tap.transfers.tell_sums(&tap.emitter, vcpu);
    });
}

extern "C" fn on_translation(_id: PluginId, block: *mut TranslationBlock) {
    if let Some(tap) = TAP.get() {
        tap.guarded(0, || tap.translated(block));
    }
}

extern "C" fn on_execution(vcpu: c_uint, userdata: *mut c_void) {
    let Some((tap, point)) = TAP.get().zip(Point::decode(userdata.addr())) else { return };
    let body = || tap.guarded(vcpu, || tap.executed(vcpu, point));
    match &tap.costs {
        None => body(),
        Some(costs) => costs.measure(point, body),
    }
}

extern "C" fn on_exit(_id: PluginId, _userdata: *mut c_void) {
    if let Some(tap) = TAP.get() {
        tap.guarded(0, || tap.open_files.flush_all(&tap.emitter));
        tap.guarded(0, || tap.transfers.flush_all(&tap.emitter));
        if let Some(costs) = &tap.costs {
            eprint!("{}", costs.table());
        }
        tap.guarded(0, || tap.integrity.disarm(tap.ram()));
        tap.emitter.close();
    }
}
