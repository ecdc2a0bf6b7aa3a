//! The tap's state, and the callbacks that QEMU calls.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use lava_event::{GapCause, GuestText, Kind, Source};
use lava_guest::kernel::Kernel;
use lava_guest::layout::Layout;
use lava_guest::memory::Virtual;

use crate::api::{self, Instruction, PluginId, TranslationBlock};
use crate::arguments::Arguments;
use crate::emit::Emitter;
use crate::hooks::{self, Hook, OpenFiles};
use crate::introspect::Context;
use crate::memory::{Bytes, VcpuMemory};
use crate::registers::{Register, Registers};

/// The slide while it is not known.
const UNKNOWN: u64 = u64::MAX;
/// Model-specific register that holds the 64-bit system call entry (Intel SDM vol. 4, IA32_LSTAR).
const MSR_LSTAR: u64 = 0xc000_0082;
/// Where an x86 processor begins after a reset (Intel SDM vol. 3, 10.1.4).
const RESET_VECTOR: u64 = 0xffff_fff0;
/// Number that stands for "this is a wrmsr" among the hooks' numbers.
const WRMSR: usize = usize::MAX;
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
    pub emitter: Emitter,
    pub exes: Exes,
    pub open_files: OpenFiles,
    pub offsets: hooks::Offsets,
    hooks: Vec<Hook>,
    missing: Vec<String>,
    /// Hook numbers by link address.
    by_address: HashMap<u64, usize>,
    syscall_entry: u64,
    banner_address: u64,
    banner: String,
    slide: AtomicU64,
    vcpus: Vec<Mutex<Option<Vcpu>>>,
    panics: AtomicU64,
}

static TAP: OnceLock<Tap> = OnceLock::new();

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
        let kernel = Kernel::from_vmlinuz(&boot_file).map_err(|error| format!("{}: {error}", file.display()))?;
        let layout =
            Layout::resolve(&kernel.types, &kernel.symbols).map_err(|error| format!("{}: {error}", file.display()))?;
        let address = |name: &str| kernel.symbols.address(name).ok_or(format!("the kernel has no symbol {name}"));
        let (hooks, missing) = hooks::resolve(&kernel);
        let producer = lava_ring::Ring::attach(&arguments.ring).map_err(|error| error.to_string())?;
        Ok(Self {
            layout,
            exes: Exes::default(),
            open_files: OpenFiles::default(),
            offsets: hooks::Offsets::resolve(&kernel.types)?,
            by_address: hooks.iter().enumerate().map(|(number, hook)| (hook.address, number)).collect(),
            hooks,
            missing,
            syscall_entry: address("entry_SYSCALL_64")?,
            banner_address: address("linux_banner")?,
            banner: kernel.banner,
            slide: AtomicU64::new(UNKNOWN),
            vcpus: (0..producer.rings()).map(|_| Mutex::new(None)).collect(),
            panics: AtomicU64::new(0),
            emitter: Emitter::new(producer, arguments.origin_ns),
        })
    }

    /// Runs a callback's body; a panic in it is reported as a gap and goes no further.
    fn guarded(&self, vcpu: u32, body: impl FnOnce()) {
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
        if start == RESET_VECTOR || start == RESET_VECTOR & 0xf_ffff {
            self.forget_kernel();
        }
        if start >> 63 == 0 {
            return;
        }
        let slide = self.slide.load(Ordering::Acquire);
        for index in 0..count {
            // SAFETY: index < count, within the callback.
            let (instruction, address) = unsafe {
                let instruction = api::qemu_plugin_tb_get_insn(block, index);
                (instruction, api::qemu_plugin_insn_vaddr(instruction))
            };
            if slide != UNKNOWN
                && let Some(&number) = self.by_address.get(&address.wrapping_sub(slide))
            {
                watch(instruction, number);
            }
            if is_wrmsr(instruction) {
                watch(instruction, WRMSR);
            }
        }
    }

    /// The processor was reset: what was known of the running kernel holds no longer.
    fn forget_kernel(&self) {
        if self.slide.swap(UNKNOWN, Ordering::AcqRel) != UNKNOWN {
            self.open_files.flush_all(&self.emitter);
            self.exes.clear();
        }
    }

    fn executed(&self, vcpu: u32, number: usize) {
        let Some(Ok(slot)) = self.vcpus.get(vcpu as usize).map(Mutex::lock) else { return };
        let Some(Vcpu { registers, bytes }) = slot.as_ref() else { return };
        if number == WRMSR {
            return self.wrmsr(vcpu, registers, bytes);
        }
        let slide = self.slide.load(Ordering::Acquire);
        if let (true, Some(hook)) = (slide != UNKNOWN, self.hooks.get(number)) {
            let context = Context { tap: self, vcpu, slide, registers, bytes, parameters: &hook.parameters };
            // An object that can't be read is told, not skipped: a gap is itself an event.
            if let Err(unreadable) = (hook.handler)(&context) {
                self.emitter.emit(
                    vcpu,
                    context.current().ok().map(|task| context.process(&task)),
                    Kind::VmGap {
                        at: Source::Tap,
                        cause: GapCause::Unreadable,
                        missing: Some(1),
                        detail: format!("{}: {unreadable}", hook.name),
                    },
                );
            }
        }
    }

    /// The kernel is about to write a model-specific register.
    fn wrmsr(&self, vcpu: u32, registers: &Registers, bytes: &Bytes) {
        let read = |register| registers.read(bytes, register) & 0xffff_ffff;
        if read(Register::Rcx) != MSR_LSTAR {
            return;
        }
        let slide = (read(Register::Rdx) << 32 | read(Register::Rax)).wrapping_sub(self.syscall_entry);
        if slide >= SLIDE_END || slide % SLIDE_STEP != 0 || slide == self.slide.load(Ordering::Acquire) {
            return;
        }
        let found = VcpuMemory::new(bytes).read_cstr(self.banner_address.wrapping_add(slide), self.banner.len() + 2);
        if !found.bytes.starts_with(self.banner.as_bytes()) {
            return;
        }
        self.forget_kernel();
        self.slide.store(slide, Ordering::Release);
        let hooks = self.hooks.iter().map(|hook| hook.name.to_owned()).collect();
        self.emitter.emit(vcpu, None, Kind::VmIntrospection { slide, hooks, missing: self.missing.clone() });
    }
}

/// Asks QEMU to call us before `instruction` runs.
fn watch(instruction: *mut Instruction, number: usize) {
    // SAFETY: the instruction is valid during translation; the userdata is a number, never dereferenced.
    unsafe {
        api::qemu_plugin_register_vcpu_insn_exec_cb(
            instruction,
            on_execution,
            api::READS_REGISTERS,
            std::ptr::without_provenance_mut(number),
        );
    }
}

/// `0f 30`
fn is_wrmsr(instruction: *const Instruction) -> bool {
    let mut code = [0u8; 2];
    // SAFETY: the instruction is valid during translation; at most two bytes are written into a buffer of two.
    unsafe {
        api::qemu_plugin_insn_size(instruction) == 2
            && api::qemu_plugin_insn_data(instruction, code.as_mut_ptr().cast(), 2) == 2
            && code == [0x0f, 0x30]
    }
}

extern "C" fn on_vcpu(_id: PluginId, vcpu: c_uint) {
    let Some(tap) = TAP.get() else { return };
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
    if let Some(tap) = TAP.get() {
        tap.guarded(vcpu, || tap.executed(vcpu, userdata.addr()));
    }
}

extern "C" fn on_exit(_id: PluginId, _userdata: *mut c_void) {
    if let Some(tap) = TAP.get() {
        tap.guarded(0, || tap.open_files.flush_all(&tap.emitter));
        tap.emitter.close();
    }
}
