//! A file mapped into memory, shared with another process that may change it at any time.
//!
//! Therefore no reference into it is ever handed out: 32- and 64-bit cells are atomics, bytes are copied in and out.

use std::fs::File;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A shared, writable mapping.
pub(crate) struct SharedMap {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping belongs to no thread; all access goes through atomics or volatile-like byte copies below.
unsafe impl Send for SharedMap {}
// SAFETY: as above; callers keep to one producer and one consumer per ring, and torn bytes are only ever plain bytes.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Maps the first `len` bytes of `file`.
    pub(crate) fn new(file: &File, len: usize) -> std::io::Result<Self> {
        // SAFETY: a fresh address is asked for (null hint, no MAP_FIXED), so no existing object is touched; the length is
        // not zero (callers add the header); the file stays as long as `len` because its creator set its size and a
        // process that truncates it can only cause SIGBUS in itself and us, which the supervisor treats as a crash.
        let base =
            unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0) }?;
        Ok(Self { base: base.cast(), len })
    }

    /// The 64-bit cell at `offset` (a multiple of 8).
    pub(crate) fn u64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len, "cell outside the mapping");
        // SAFETY: in bounds and aligned (mmap returns page-aligned memory, offset is a multiple of 8), valid for the life of
        // self; concurrent access by the other process is what atomics are for.
        unsafe { AtomicU64::from_ptr(self.base.add(offset).cast()) }
    }

    /// The 32-bit cell at `offset` (a multiple of 4).
    pub(crate) fn u32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len, "cell outside the mapping");
        // SAFETY: as for `u64`.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast()) }
    }

    /// Copies bytes in.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len), "write outside the mapping");
        // SAFETY: in bounds by the assertion; source and destination do not overlap (bytes is ordinary memory).
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset), bytes.len()) }
    }

    /// Copies bytes out.
    pub(crate) fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(offset.checked_add(into.len()).is_some_and(|end| end <= self.len), "read outside the mapping");
        // SAFETY: in bounds by the assertion; no overlap; the bytes may be changed meanwhile, then the copy is torn, and any
        // bit pattern is a valid u8.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(offset), into.as_mut_ptr(), into.len()) }
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: base and len are those of our own mapping, and no reference outlives self.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}
