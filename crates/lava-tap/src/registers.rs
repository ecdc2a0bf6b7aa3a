//! The registers of one vCPU.

use std::collections::HashMap;
use std::ffi::CStr;

use lava_event::REGISTERS;

use crate::api::{RegisterHandle, g_array_free, qemu_plugin_get_registers, qemu_plugin_read_register};
use crate::memory::Bytes;

/// Those the tap reads, in the order of [`lava_event::REGISTERS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code)] // All stand in events, by their place; few are asked for by name.
pub enum Register {
    Rax,
    Rbx,
    Rcx,
    Rdx,
    Rsi,
    Rdi,
    Rbp,
    Rsp,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    Rip,
    Eflags,
    Cs,
    Ss,
    Ds,
    Es,
    Fs,
    Gs,
    FsBase,
    GsBase,
    KernelGsBase,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Cr8,
    Efer,
}

/// By the number that instructions have for them.
pub const ENCODED: [Register; 16] = {
    use Register::{R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp, Rbx, Rcx, Rdi, Rdx, Rsi, Rsp};
    [Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi, R8, R9, R10, R11, R12, R13, R14, R15]
};

/// Handles to a vCPU's registers.
pub struct Registers {
    handles: [*mut RegisterHandle; REGISTERS.len()],
}

// SAFETY: the handles are tokens that QEMU hands out for one vCPU and never frees; they are used in that vCPU's thread only.
unsafe impl Send for Registers {}

impl Registers {
    /// Looks the registers of the current vCPU up.
    ///
    /// # Errors
    /// The name of the first that this QEMU does not have.
    pub fn of_current_vcpu() -> Result<Self, &'static str> {
        let mut found = HashMap::new();
        // SAFETY: called in a vCPU's callback; the result is a GArray of descriptors that we own and free; names are
        // NUL-terminated strings that QEMU keeps for good.
        unsafe {
            let array = qemu_plugin_get_registers();
            if array.is_null() {
                return Err("any");
            }
            if (*array).len > 0 {
                let all = std::slice::from_raw_parts(
                    (*array).data.cast::<crate::api::RegisterDescriptor>(),
                    (*array).len as usize,
                );
                for descriptor in all {
                    found.insert(CStr::from_ptr(descriptor.name).to_string_lossy().into_owned(), descriptor.handle);
                }
            }
            g_array_free(array, 1);
        }
        let mut handles = [std::ptr::null_mut(); REGISTERS.len()];
        for (handle, name) in handles.iter_mut().zip(REGISTERS) {
            *handle = *found.get(name).ok_or(name)?;
        }
        Ok(Self { handles })
    }

    /// The register's value; 0 if QEMU does not tell.
    pub fn read(&self, bytes: &Bytes, register: Register) -> u64 {
        read(self.handles[register as usize], bytes)
    }

    /// All of them, as the vCPU has them now.
    pub fn all(&self, bytes: &Bytes) -> lava_event::Registers {
        let mut all = lava_event::Registers::default();
        for (value, handle) in all.0.iter_mut().zip(self.handles) {
            *value = read(handle, bytes);
        }
        all
    }

    /// Argument `index` of a kernel function that was just entered (System V AMD64 ABI, section 3.2.3).
    pub fn argument(&self, bytes: &Bytes, index: usize) -> Option<u64> {
        use Register::{R8, R9, Rcx, Rdi, Rdx, Rsi};
        Some(self.read(bytes, *[Rdi, Rsi, Rdx, Rcx, R8, R9].get(index)?))
    }
}

fn read(handle: *mut RegisterHandle, bytes: &Bytes) -> u64 {
    // SAFETY: called in this vCPU's callback that was registered as reading registers; handle and array are alive.
    let (_, value) = bytes.fill(|array| unsafe { qemu_plugin_read_register(handle, array) });
    let mut eight = [0; 8];
    let len = value.len().min(8);
    eight[..len].copy_from_slice(&value[..len]);
    u64::from_le_bytes(eight)
}
