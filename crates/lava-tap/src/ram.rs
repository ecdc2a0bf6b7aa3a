//! The guest's RAM, where QEMU has mapped it: read without asking QEMU.
//!
//! QEMU's RAM is a shared file; the tap lives in the same process and finds the mapping by the file's name in
//! /proc/self/maps. Reading there costs nanoseconds; QEMU's own interface walks its page tables and memory map for each read.
//!
//! Limits: q35's memory map (below 4 GiB a hole, the rest above); ROMs and device memory are not RAM and unreadable here; the legacy
//! area below 1 MiB is read as RAM, whatever is mapped over it.

use std::sync::atomic::{Ordering, fence};

use lava_guest::memory::{Physical, Unreadable};

const GIB4: u64 = 4 << 30;

/// The mapping.
pub struct Ram {
    base: *mut u8,
    size: u64,
    /// RAM below the hole, bytes.
    low: u64,
}

// SAFETY: the mapping lives as long as the QEMU process and belongs to no thread; bytes in it are only copied, and any bit
// pattern is a valid byte.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// Finds the mapping of `file` in this process.
    pub fn find(file: &str) -> Result<Self, String> {
        let maps = std::fs::read_to_string("/proc/self/maps").map_err(|error| format!("/proc/self/maps: {error}"))?;
        let (start, end) = span(&maps, file).ok_or(format!("QEMU has not mapped the RAM file {file}"))?;
        let size = end - start;
        // hw/i386/pc_q35.c, pc_q35_init: all below the hole if it fits below 0xb0000000, else 2 GiB of it.
        let low = if size >= 0xb000_0000 { 0x8000_0000 } else { size };
        Ok(Self { base: std::ptr::with_exposed_provenance_mut(start as usize), size, low })
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the byte at guest physical address `gpa` is in this process, and how many follow it without a break.
    pub fn host(&self, gpa: u64) -> Option<(*mut u8, u64)> {
        let (offset, left) = match gpa {
            low if low < self.low => (low, self.low - low),
            high if high >= GIB4 => {
                let offset = (high - GIB4).checked_add(self.low)?;
                (offset, self.size.checked_sub(offset).filter(|&left| left > 0)?)
            }
            _ => return None,
        };
        // SAFETY: offset < size, within the one mapping.
        Some((unsafe { self.base.add(offset as usize) }, left))
    }

    /// The guest physical address of a byte of the mapping.
    pub fn gpa(&self, host: u64) -> Option<u64> {
        let offset = host.checked_sub(self.base.addr() as u64).filter(|&offset| offset < self.size)?;
        Some(if offset < self.low { offset } else { GIB4 + offset - self.low })
    }

    /// Puts bytes into the guest's memory: responses only (restoring, killing). The page must be writable.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), Unreadable> {
        let (host, left) = self.host(gpa).ok_or(Unreadable { address: gpa })?;
        if (bytes.len() as u64) > left {
            return Err(Unreadable { address: gpa });
        }
        // SAFETY: in bounds; the source is ordinary memory of ours. The guest may see it half done, as with any other CPU's.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, bytes.len()) };
        fence(Ordering::SeqCst);
        Ok(())
    }
}

impl Physical for Ram {
    fn read(&self, gpa: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let (host, left) = self.host(gpa).ok_or(Unreadable { address: gpa })?;
        if (buf.len() as u64) > left {
            return Err(Unreadable { address: gpa });
        }
        // SAFETY: in bounds; the destination is ours and does not overlap. Other vCPUs may write meanwhile: then the copy is torn,
        // and readers take no value on trust anyway.
        unsafe { std::ptr::copy_nonoverlapping(host, buf.as_mut_ptr(), buf.len()) };
        Ok(())
    }
}

/// First and last address of the mappings of `file`, which must be one span.
fn span(maps: &str, file: &str) -> Option<(u64, u64)> {
    let mut found: Option<(u64, u64)> = None;
    for line in maps.lines().filter(|line| line.trim_end_matches(" (deleted)").ends_with(&format!(" {file}"))) {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        found = match found {
            None => Some((start, end)),
            Some((first, last)) if last == start => Some((first, end)),
            Some(_) => return None,
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps() {
        let text = "7f00-8000 rw-p 0 00:00 0\n10000-20000 rw-s 00000000 00:1a 5 /dev/shm/x/ram\n20000-21000 r--s 00010000 00:1a 5 /dev/shm/x/ram (deleted)\n";
        assert_eq!(span(text, "/dev/shm/x/ram"), Some((0x10000, 0x21000)));
        assert_eq!(span(text, "/x/ram"), None);
    }

    #[test]
    fn addresses() {
        let ram = Ram { base: std::ptr::without_provenance_mut(0x1000), size: 0xc000_0000, low: 0x8000_0000 };
        assert!(ram.host(0x8000_0000).is_none() && ram.host(GIB4 + 0x4000_0000).is_none());
        assert_eq!(ram.host(GIB4).map(|(_, left)| left), Some(0x4000_0000));
        for gpa in [0, 0x7fff_ffff, GIB4, GIB4 + 5] {
            assert_eq!(ram.gpa(ram.host(gpa).unwrap().0.addr() as u64), Some(gpa));
        }
    }
}
