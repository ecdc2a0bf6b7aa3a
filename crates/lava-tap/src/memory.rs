//! The guest's virtual memory as the vCPU sees it that is in a callback now.

use lava_guest::memory::{Unreadable, Virtual};

use crate::api::{
    GByteArray, g_byte_array_new, g_byte_array_set_size, g_byte_array_unref, qemu_plugin_read_memory_vaddr,
};

/// A glib byte array of our own, used for all calls that return bytes.
pub struct Bytes(*mut GByteArray);

impl Bytes {
    pub fn new() -> Self {
        // SAFETY: takes nothing, returns an array that we own.
        Self(unsafe { g_byte_array_new() })
    }

    /// Empties the array and hands it to `fill`; returns what it holds then.
    pub fn fill<R>(&self, fill: impl FnOnce(*mut GByteArray) -> R) -> (R, &[u8]) {
        // SAFETY: the pointer is our live array.
        unsafe { g_byte_array_set_size(self.0, 0) };
        let result = fill(self.0);
        // SAFETY: the array is alive and QEMU keeps data and len consistent; data may be null when len is 0; nobody
        // changes it before the next `fill`, which takes the same &self: the slice is used before that (private type, callers copy).
        let bytes = unsafe {
            if (*self.0).len == 0 {
                &[][..]
            } else {
                std::slice::from_raw_parts((*self.0).data, (*self.0).len as usize)
            }
        };
        (result, bytes)
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: our own reference, not used afterwards.
        unsafe { g_byte_array_unref(self.0) }
    }
}

/// Memory of the current vCPU. Exists only inside a callback of that vCPU.
pub struct VcpuMemory<'a> {
    bytes: &'a Bytes,
}

impl<'a> VcpuMemory<'a> {
    pub fn new(bytes: &'a Bytes) -> Self {
        Self { bytes }
    }
}

impl Virtual for VcpuMemory<'_> {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        // SAFETY: called in a vCPU's callback (the type exists only there); the array is alive; QEMU checks the address.
        let (done, bytes) =
            self.bytes.fill(|array| unsafe { qemu_plugin_read_memory_vaddr(address, array, buf.len()) });
        if !done || bytes.len() < buf.len() {
            return Err(Unreadable { address });
        }
        buf.copy_from_slice(&bytes[..buf.len()]);
        Ok(())
    }
}
