//! The tap's state, and the callbacks that QEMU calls.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use lava_event::{GapCause, GuestText, Kind, Process, ProcessKey, ProcessRef, Source};
use lava_guest::kernel::Kernel;
use lava_guest::layout::Layout;
use lava_guest::memory::{Physical, Unreadable, Virtual};

use crate::api::{self, Instruction, PluginId, TranslationBlock};
use crate::areas::Areas;
use crate::arguments::Arguments;
use crate::costs::Costs;
use crate::emit::Emitter;
use crate::hooks::{self, Handler, Hook, OpenFiles};
use crate::integrity::Integrity;
use crate::introspect::Context;
use crate::memory::{Bytes, Placement};
use crate::point::Point;
use crate::ram::Ram;
use crate::registers::{Register, Registers};
use crate::returns::{self, Returns};
use crate::unbacked::{self, Unbacked};

/// The slide while it is not known.
const UNKNOWN: u64 = u64::MAX;
/// Model-specific register that holds the 64-bit system call entry (Intel SDM vol. 4, IA32_LSTAR).
const MSR_LSTAR: u64 = 0xc000_0082;
/// Where an x86 processor begins after a reset (Intel SDM vol. 3, 10.1.4).
const RESET_VECTOR: u64 = 0xffff_fff0;
/// Among the kernel points: the reset vector.
const RESET: usize = 0;
/// CR0.PE (Intel SDM vol. 3, 2.5).
const PROTECTED: u64 = 1;
/// The kernel image lies within 1 GiB from its link address (`KERNEL_IMAGE_SIZE`, arch/x86/include/asm/page_64_types.h),
/// moved by multiples of 2 MiB (`CONFIG_PHYSICAL_ALIGN`).
const SLIDE_END: u64 = 1 << 30;
const SLIDE_STEP: u64 = 2 << 20;

/// Paths of running programs, by (pid, start time).
#[derive(Default)]
pub struct Exes(Mutex<HashMap<(u32, u64), GuestText>>);

impl Exes {
    /// A guest that makes processes without end does not make this table grow without end.
    const MAX: usize = 16 * 1024;

    pub fn get_or(&self, key: (u32, u64), read: impl FnOnce() -> GuestText) -> GuestText {
        let Ok(mut map) = self.0.lock() else { return read() };
        if map.len() >= Self::MAX {
            map.clear();
        }
        map.entry(key).or_insert_with(read).clone()
    }

    pub fn forget(&self, key: (u32, u64)) {
        if let Ok(mut map) = self.0.lock() {
            map.remove(&key);
        }
    }

    fn clear(&self) {
        if let Ok(mut map) = self.0.lock() {
            map.clear();
        }
    }
}

/// The processes of the task: what the launcher forked, and what those forked.
#[derive(Default)]
pub struct TaskProcesses {
    launcher: String,
    started: AtomicBool,
    keys: Mutex<HashSet<ProcessKey>>,
}

impl TaskProcesses {
    /// As [`Exes::MAX`].
    const MAX: usize = 64 * 1024;

    pub fn forked(&self, parent: &Process, child: &ProcessRef) {
        let Ok(mut keys) = self.keys.lock() else { return };
        let launched = !self.launcher.is_empty() && parent.exe.bytes() == self.launcher.as_bytes();
        if launched {
            self.started.store(true, Ordering::Relaxed);
        }
        if (launched || keys.contains(&parent.key())) && keys.len() < Self::MAX {
            keys.insert(ProcessKey { pid: child.pid, start_ns: child.start_ns });
        }
    }

    pub fn ended(&self, process: &Process) {
        if let Ok(mut keys) = self.keys.lock() {
            keys.remove(&process.key());
        }
    }

    /// True once the launcher has forked; always, if nobody said which program that is.
    pub fn started(&self) -> bool {
        self.launcher.is_empty() || self.started.load(Ordering::Relaxed)
    }

    /// True for a process of the task.
    pub fn contains(&self, process: &Process) -> bool {
        self.keys.lock().is_ok_and(|keys| keys.contains(&process.key()))
    }
}

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
    direct_map: AtomicU64,
    phys_base: AtomicU64,
    returns: Returns,
    /// Where a kernel lies that runs already, until it was looked at.
    running: Mutex<Option<Placement>>,
    /// The tasks of such a kernel are still to be told.
    untold: AtomicBool,
    pub exes: Exes,
    pub open_files: OpenFiles,
    pub offsets: hooks::Offsets,
    pub tasks: hooks::Tasks,
    pub transfers: hooks::Transfers,
    pub flows: hooks::Flows,
    /// Where sockets hold what; none if this kernel's types do not tell.
    pub sockets: Option<lava_guest::linux::sock::Offsets>,
    /// Offsets of name and length of the name in `struct msghdr`.
    pub message: Option<(u64, u64)>,
    pub integrity: Integrity,
    hooks: Vec<Hook>,
    missing: Vec<String>,
    /// Hook numbers by link address.
    by_address: HashMap<u64, Vec<usize>>,
    syscall_entry: u64,
    banner_address: u64,
    page_offset_base: u64,
    phys_base_address: u64,
    slide: AtomicU64,
    vcpus: Vec<Mutex<Option<Vcpu>>>,
    panics: AtomicU64,
    costs: Option<Costs>,
}

static TAP: OnceLock<Tap> = OnceLock::new();

thread_local! {
    /// The vCPU whose thread this is (MTTCG: one each).
    static VCPU: Cell<u32> = const { Cell::new(u32::MAX) };
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
        let boot_file = std::fs::read(file).map_err(|error| format!("kernel file {}: {error}", file.display()))?;
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let elf = lava_guest::image::kernel_elf(&boot_file).map_err(|error| told(&error))?;
        drop(boot_file);
        let kernel = Kernel::from_elf(&elf).map_err(|error| told(&error))?;
        let layout = Layout::resolve(&kernel.types, &kernel.symbols).map_err(|error| told(&error))?;
        let address = |name: &str| kernel.symbols.address(name).ok_or(format!("the kernel has no symbol {name}"));
        let (hooks, mut missing) = hooks::resolve(&kernel, arguments.api);
        let (tasks, without_tasks) = hooks::Tasks::resolve(&kernel.types);
        let (flows, without_flows) = hooks::Flows::resolve(&kernel.types);
        let sockets = lava_guest::linux::sock::Offsets::resolve(&kernel.types);
        let without_sockets = sockets.as_ref().err().map(|why| format!("hooks on sockets: {why}"));
        missing.extend([without_tasks, without_flows, without_sockets].into_iter().flatten());
        let message = |name: &str| kernel.types.member("msghdr", name).ok().map(|field| field.offset);
        let areas = Areas::resolve(&kernel).map_err(|error| missing.push(error)).ok();
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
            layout,
            exes: Exes::default(),
            open_files: OpenFiles::of(&kernel),
            offsets: hooks::Offsets::resolve(&kernel)?,
            tasks,
            transfers: hooks::Transfers::default(),
            flows,
            sockets: sockets.ok(),
            message: message("msg_name").zip(message("msg_namelen")),
            integrity,
            by_address,
            hooks,
            missing,
            syscall_entry: address("entry_SYSCALL_64")?,
            banner_address: address("linux_banner")?,
            task: TaskProcesses { launcher: arguments.launcher, ..TaskProcesses::default() },
            api,
            areas,
            unbacked: Unbacked::default(),
            remote_writes: hooks::RemoteWrites::resolve(&kernel),
            pivots: hooks::Pivots::default(),
            current: (0..producer.rings()).map(|_| AtomicU64::new(0)).collect(),
            text: address("_stext")?..address("_etext")?,
            ram_file: arguments.ram,
            ram: OnceLock::new(),
            direct_map: AtomicU64::new(0),
            phys_base: AtomicU64::new(0),
            running: Mutex::new(arguments.placement),
            untold: AtomicBool::new(false),
            returns: Returns::new(returns::of_hooks(&returning, &found)),
            page_offset_base: address("page_offset_base")?,
            phys_base_address: address("phys_base")?,
            slide: AtomicU64::new(UNKNOWN),
            vcpus: (0..producer.rings()).map(|_| Mutex::new(None)).collect(),
            panics: AtomicU64::new(0),
            costs,
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
        let slide = self.slide.load(Ordering::Acquire);
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
            if count > 0 && unbacked::wanted(self, VCPU.get(), start) {
                // SAFETY: the block has instructions; within the callback.
                watch(unsafe { api::qemu_plugin_tb_get_insn(block, 0) }, Point::User(0));
            }
            return;
        }
        if self.slide.load(Ordering::Relaxed) == UNKNOWN {
            self.look_at_running();
        }
        let slide = self.slide.load(Ordering::Acquire);
        for index in 0..count {
            // SAFETY: index < count, within the callback.
            let (instruction, address) = unsafe {
                let instruction = api::qemu_plugin_tb_get_insn(block, index);
                (instruction, api::qemu_plugin_insn_vaddr(instruction))
            };
            if slide != UNKNOWN {
                let link = address.wrapping_sub(slide);
                // A return address may be another function's entry: what returned is told first.
                if let Some(number) = self.returns.number(link) {
                    watch(instruction, Point::Return(number));
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
        if self.slide.swap(UNKNOWN, Ordering::AcqRel) != UNKNOWN {
            self.open_files.flush_all(&self.emitter);
            self.transfers.flush_all(&self.emitter);
            self.tasks.clear();
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
        let slide = self.slide.load(Ordering::Acquire);
        let (direct_map, phys_base) = (self.direct_map.load(Ordering::Relaxed), self.phys_base.load(Ordering::Relaxed));
        (slide != UNKNOWN).then_some(Placement { slide, direct_map, phys_base })
    }

    fn executed(&self, vcpu: u32, point: Point) {
        let Some(Ok(slot)) = self.vcpus.get(vcpu as usize).map(Mutex::lock) else { return };
        let Some(Vcpu { registers, bytes }) = slot.as_ref() else { return };
        let slide = self.slide.load(Ordering::Acquire);
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
        if slide == UNKNOWN {
            return;
        }
        if self.untold.load(Ordering::Relaxed) && self.untold.swap(false, Ordering::AcqRel) {
            let context = context(&[]);
            self.tell_existing(&context);
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
                let (rsp, rax) = (context.register(Register::Rsp), context.register(Register::Rax));
                self.told(&context, "a function's return", self.returns.returned(&context, number, rsp, rax));
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
        if number == MSR_LSTAR && self.kernel_started(context, value) {
            return;
        }
        self.integrity.registers.msr_written(context, number as u32, value);
    }

    /// The system call entry is set: true if it is that of a kernel that was not known to run there.
    fn kernel_started(&self, context: &Context<'_>, entry: u64) -> bool {
        let slide = entry.wrapping_sub(self.syscall_entry);
        if slide >= SLIDE_END || !slide.is_multiple_of(SLIDE_STEP) || slide == self.slide.load(Ordering::Acquire) {
            return false;
        }
        // Where the kernel lies is not known yet: these reads walk the page tables.
        let memory = context.memory();
        let banner = &self.kernel.banner;
        let found = memory.read_cstr(self.banner_address.wrapping_add(slide), banner.len() + 2);
        let variable = |address: u64| memory.u64(address.wrapping_add(slide));
        let (Ok(direct_map), Ok(phys_base)) = (variable(self.page_offset_base), variable(self.phys_base_address))
        else {
            return false;
        };
        if !found.bytes.starts_with(banner.as_bytes()) {
            return false;
        }
        self.forget_kernel();
        self.found(context.vcpu, Placement { slide, direct_map, phys_base });
        true
    }

    /// The running kernel was found.
    fn found(&self, vcpu: u32, Placement { slide, direct_map, phys_base }: Placement) {
        self.direct_map.store(direct_map, Ordering::Relaxed);
        self.phys_base.store(phys_base, Ordering::Relaxed);
        self.slide.store(slide, Ordering::Release);
        let entry = self.syscall_entry.wrapping_add(slide);
        self.integrity.registers.started(MSR_LSTAR as u32, entry);
        let hooks = self.hooks.iter().map(|hook| hook.name.to_owned()).collect();
        let missing = self.missing.clone();
        self.emitter.emit(vcpu, None, Kind::VmIntrospection { slide, direct_map, phys_base, hooks, missing });
    }

    /// A kernel that runs already is where we were told, if its banner is there.
    fn look_at_running(&self) {
        let Some(placement) = self.running.lock().ok().and_then(|mut running| running.take()) else { return };
        let banner = self.kernel.banner.as_bytes();
        let mut found = vec![0; banner.len()];
        let at = Placement::image(&placement, self.banner_address.wrapping_add(placement.slide));
        match self.ram().zip(at).map(|(ram, gpa)| ram.read(gpa, &mut found)) {
            Some(Ok(())) if found == banner => {
                self.untold.store(true, Ordering::Release);
                self.found(0, placement);
            }
            _ => eprintln!("lava-tap: the kernel is not where the template says: nothing will be seen until a restart"),
        }
    }

    /// Tells the tasks that were there before the tap.
    fn tell_existing(&self, context: &Context<'_>) {
        /// More are not followed: a list that a hostile kernel has tied into a ring ends here.
        const MAX_TASKS: usize = 32 * 1024;
        let (memory, list) = (context.memory(), self.layout.task.tasks);
        let Some(first) = self.kernel.symbols.address("init_task") else { return };
        let first = first.wrapping_add(context.slide);
        let mut task = first;
        for _ in 0..MAX_TASKS {
            let next = memory.pointer(task.wrapping_add(list)).map(|next| next.wrapping_sub(list));
            let read = next.and_then(|next| {
                task = next;
                lava_guest::linux::read_task(&memory, &self.layout, next)
            });
            match read {
                _ if task == first => return,
                Ok(found) => {
                    let process = Some(context.process(&found));
                    self.emitter.emit(context.vcpu, process, Kind::ProcessExisting {});
                }
                Err(unreadable) => return self.told(context, "the list of tasks", Err(unreadable)),
            }
        }
    }
}

/// Asks QEMU to call us before `instruction` runs.
fn watch(instruction: *mut Instruction, point: Point) {
    // SAFETY: the instruction is valid during translation; the userdata is a number, never dereferenced.
    unsafe {
        api::qemu_plugin_register_vcpu_insn_exec_cb(
            instruction,
            on_execution,
            api::READS_REGISTERS,
            std::ptr::without_provenance_mut(point.encode()),
        );
    }
}

extern "C" fn on_vcpu(_id: PluginId, vcpu: c_uint) {
    let Some(tap) = TAP.get() else { return };
    VCPU.set(vcpu);
    Integrity::on_vcpu(vcpu);
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
