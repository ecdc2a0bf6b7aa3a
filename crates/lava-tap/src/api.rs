//! QEMU's plugin interface, as far as the tap uses it.
//!
//! Declared here after the documentation of `include/qemu/qemu-plugin.h` (QEMU 9.2 to 10.0, API version 4): Debian ships
//! no header. The symbols are resolved by the QEMU process that loads the library, glib's among them.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// `qemu_plugin_id_t`
pub type PluginId = u64;

/// The API version that the tap is written for: QEMU reads this symbol before it loads us.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static qemu_plugin_version: c_int = 4;

/// `struct qemu_plugin_tb`
#[repr(C)]
pub struct TranslationBlock {
    _opaque: [u8; 0],
}

/// `struct qemu_plugin_insn`
#[repr(C)]
pub struct Instruction {
    _opaque: [u8; 0],
}

/// `struct qemu_plugin_register`
#[repr(C)]
pub struct RegisterHandle {
    _opaque: [u8; 0],
}

/// `qemu_plugin_reg_descriptor`
#[repr(C)]
pub struct RegisterDescriptor {
    pub handle: *mut RegisterHandle,
    pub name: *const c_char,
    pub feature: *const c_char,
}

/// glib's `GArray` (public part).
#[repr(C)]
pub struct GArray {
    pub data: *mut u8,
    pub len: c_uint,
}

/// glib's `GByteArray`.
#[repr(C)]
pub struct GByteArray {
    pub data: *mut u8,
    pub len: c_uint,
}

/// `QEMU_PLUGIN_CB_R_REGS`: the callback reads registers.
pub const READS_REGISTERS: c_int = 1;

/// `struct qemu_plugin_scoreboard`
#[repr(C)]
pub struct Scoreboard {
    _opaque: [u8; 0],
}

/// `qemu_plugin_u64`: a 64-bit number in each vCPU's element of a scoreboard.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PerVcpu {
    scoreboard: *mut Scoreboard,
    offset: usize,
}

// SAFETY: a token of QEMU's; its interface may be used from any thread.
unsafe impl Send for PerVcpu {}
// SAFETY: as above.
unsafe impl Sync for PerVcpu {}

impl PerVcpu {
    /// For every vCPU one, 0 at first. Only while the plugin is installed.
    pub fn new() -> Self {
        // SAFETY: takes a size, returns a scoreboard that lives as long as the plugin.
        Self { scoreboard: unsafe { qemu_plugin_scoreboard_new(size_of::<u64>()) }, offset: 0 }
    }

    fn of(self, vcpu: u32) -> Option<*mut u64> {
        // SAFETY: the scoreboard was made by `new`; called for a vCPU that runs, so that it has its element.
        let element = unsafe { qemu_plugin_scoreboard_find(self.scoreboard, vcpu) }.cast::<u64>();
        (!element.is_null()).then_some(element)
    }

    /// The number of a vCPU that runs.
    pub fn get(self, vcpu: u32) -> u64 {
        // SAFETY: an element of eight bytes, which the vCPU's own thread writes; read at once.
        self.of(vcpu).map_or(0, |element| unsafe { element.read_volatile() })
    }

    /// Sets it. Only in that vCPU's thread.
    pub fn set(self, vcpu: u32, value: u64) {
        if let Some(element) = self.of(vcpu) {
            // SAFETY: as above; nobody else writes.
            unsafe { element.write_volatile(value) };
        }
    }
}

/// `QEMU_PLUGIN_INLINE_STORE_U64`
pub const STORE: c_int = 1;
/// `QEMU_PLUGIN_COND_NE`
pub const NOT_EQUAL: c_int = 3;

pub type VcpuCallback = extern "C" fn(id: PluginId, vcpu: c_uint);
pub type TranslationCallback = extern "C" fn(id: PluginId, block: *mut TranslationBlock);
pub type ExecCallback = extern "C" fn(vcpu: c_uint, userdata: *mut c_void);
pub type ExitCallback = extern "C" fn(id: PluginId, userdata: *mut c_void);

unsafe extern "C" {
    pub fn qemu_plugin_register_vcpu_init_cb(id: PluginId, callback: VcpuCallback);
    pub fn qemu_plugin_register_vcpu_idle_cb(id: PluginId, callback: VcpuCallback);
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: PluginId, callback: TranslationCallback);
    pub fn qemu_plugin_register_atexit_cb(id: PluginId, callback: ExitCallback, userdata: *mut c_void);
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        callback: ExecCallback,
        flags: c_int,
        userdata: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_insn_exec_cond_cb(
        instruction: *mut Instruction,
        callback: ExecCallback,
        flags: c_int,
        condition: c_int,
        entry: PerVcpu,
        immediate: u64,
        userdata: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
        instruction: *mut Instruction,
        operation: c_int,
        entry: PerVcpu,
        value: u64,
    );
    fn qemu_plugin_scoreboard_new(element_size: usize) -> *mut Scoreboard;
    fn qemu_plugin_scoreboard_find(scoreboard: *mut Scoreboard, vcpu: c_uint) -> *mut c_void;
    pub fn qemu_plugin_tb_n_insns(block: *const TranslationBlock) -> usize;
    pub fn qemu_plugin_tb_vaddr(block: *const TranslationBlock) -> u64;
    pub fn qemu_plugin_tb_get_insn(block: *const TranslationBlock, index: usize) -> *mut Instruction;
    pub fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
    pub fn qemu_plugin_insn_data(instruction: *const Instruction, into: *mut c_void, len: usize) -> usize;
    pub fn qemu_plugin_get_registers() -> *mut GArray;
    pub fn qemu_plugin_read_register(handle: *mut RegisterHandle, into: *mut GByteArray) -> c_int;
    pub fn qemu_plugin_read_memory_vaddr(address: u64, into: *mut GByteArray, len: usize) -> bool;
    pub fn g_byte_array_new() -> *mut GByteArray;
    pub fn g_byte_array_set_size(array: *mut GByteArray, len: c_uint) -> *mut GByteArray;
    pub fn g_byte_array_unref(array: *mut GByteArray);
    pub fn g_array_free(array: *mut GArray, free_segment: c_int) -> *mut c_char;
}

/// `cpu_physical_memory_rw` (include/exec/cpu-common.h, unchanged since QEMU 2)
type PhysicalAccess = extern "C" fn(address: u64, buffer: *mut c_void, length: u64, write: bool);

/// Stores bytes into the guest's RAM as a device would: QEMU drops what it translated from there. False if this QEMU does not export the
/// function: it is no part of the plugin interface, but every build with loadable modules, Debian's too, exports all its functions.
pub fn write_physical(address: u64, bytes: &[u8]) -> bool {
    static FUNCTION: std::sync::OnceLock<Option<PhysicalAccess>> = std::sync::OnceLock::new();
    let function = FUNCTION.get_or_init(|| {
        // SAFETY: looks a name up in the process.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"cpu_physical_memory_rw".as_ptr()) };
        // SAFETY: a function of that name in QEMU has this type.
        (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, PhysicalAccess>(found) })
    });
    let Some(function) = function else { return false };
    // A copy: QEMU takes a pointer to mutable bytes, though it only reads them when it writes.
    let mut bytes = bytes.to_vec();
    function(address, bytes.as_mut_ptr().cast(), bytes.len() as u64, true);
    true
}
