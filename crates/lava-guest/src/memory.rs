//! How this crate reads a guest: two traits it asks of whoever has the guest's memory.
//!
//! A guest's memory is always partly unreadable (paged out, not yet mapped, a wild pointer), so strings come back as far
//! as they could be read. Every length is bounded by the caller's `max`, never by what the guest says.
//!
//! Limits: little-endian; nothing is cached, and two reads may see different moments of a running guest.

/// The bytes at this guest address could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("guest memory at {address:#x} is not readable")]
pub struct Unreadable {
    /// The first address that could not be read; virtual or physical, as the read was.
    pub address: u64,
}

/// Guest physical memory.
pub trait Physical {
    /// Fills `buf` with the bytes from guest physical address `gpa` on.
    ///
    /// # Errors
    /// [`Unreadable`] if any of it is not RAM; `buf` is then unspecified.
    fn read(&self, gpa: u64, buf: &mut [u8]) -> Result<(), Unreadable>;
}

impl<P: Physical + ?Sized> Physical for &P {
    fn read(&self, gpa: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        (**self).read(gpa, buf)
    }
}

/// A string read from a guest, as far as it could be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestString {
    /// The bytes before the terminating NUL.
    pub bytes: Vec<u8>,
    /// No NUL was found: the limit was reached, or memory became unreadable.
    pub truncated: bool,
}

/// Guest virtual memory of one address space.
pub trait Virtual {
    /// Fills `buf` with the bytes from virtual address `address` on.
    ///
    /// # Errors
    /// [`Unreadable`] if any of it is not mapped; `buf` is then unspecified.
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), Unreadable>;

    /// One byte. Errors as [`Virtual::read`].
    fn u8(&self, address: u64) -> Result<u8, Unreadable> {
        let mut b = [0; 1];
        self.read(address, &mut b).map(|()| b[0])
    }

    /// Two bytes, little-endian. Errors as [`Virtual::read`].
    fn u16(&self, address: u64) -> Result<u16, Unreadable> {
        let mut b = [0; 2];
        self.read(address, &mut b).map(|()| u16::from_le_bytes(b))
    }

    /// Four bytes, little-endian. Errors as [`Virtual::read`].
    fn u32(&self, address: u64) -> Result<u32, Unreadable> {
        let mut b = [0; 4];
        self.read(address, &mut b).map(|()| u32::from_le_bytes(b))
    }

    /// Eight bytes, little-endian. Errors as [`Virtual::read`].
    fn u64(&self, address: u64) -> Result<u64, Unreadable> {
        let mut b = [0; 8];
        self.read(address, &mut b).map(|()| u64::from_le_bytes(b))
    }

    /// A pointer; null and the kernel's error pointers (the last 4095 addresses) are unreadable, not addresses.
    ///
    /// # Errors
    /// [`Unreadable`] at the pointer's value if that is no address, else as [`Virtual::read`].
    fn pointer(&self, address: u64) -> Result<u64, Unreadable> {
        /// include/linux/err.h, `MAX_ERRNO`.
        const MAX_ERRNO: u64 = 4095;
        match self.u64(address)? {
            value if value == 0 || value >= MAX_ERRNO.wrapping_neg() => Err(Unreadable { address: value }),
            value => Ok(value),
        }
    }

    /// The bytes up to a NUL, at most `max` of them; what can be read, if memory ends before that.
    fn read_cstr(&self, address: u64, max: usize) -> GuestString {
        let mut bytes = Vec::new();
        while bytes.len() < max {
            let Some(at) = address.checked_add(bytes.len() as u64) else { break };
            // Small steps that never cross a page: short strings cost one read, and none is lost to the next page.
            let mut chunk = [0; 128];
            let step = chunk.len().min(max - bytes.len()).min(to_page_end(at));
            if self.read(at, &mut chunk[..step]).is_err() {
                break;
            }
            match chunk[..step].iter().position(|&b| b == 0) {
                Some(nul) => {
                    bytes.extend_from_slice(&chunk[..nul]);
                    return GuestString { bytes, truncated: false };
                }
                None => bytes.extend_from_slice(&chunk[..step]),
            }
        }
        GuestString { bytes, truncated: true }
    }

    /// `len` bytes, but at most `max`, and only as far as memory is readable.
    fn read_vec(&self, address: u64, len: u64, max: usize) -> Vec<u8> {
        let len = usize::try_from(len).unwrap_or(max).min(max);
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let Some(at) = address.checked_add(bytes.len() as u64) else { break };
            let done = bytes.len();
            bytes.resize(done + (len - done).min(to_page_end(at)), 0);
            if self.read(at, &mut bytes[done..]).is_err() {
                bytes.truncate(done);
                break;
            }
        }
        bytes
    }
}

/// Bytes from `address` to the end of its 4 KiB page.
pub(crate) fn to_page_end(address: u64) -> usize {
    4096 - (address & 0xfff) as usize
}
