//! Replaying a journal in memory: what `ext4-view` can't, a JBD2 journal without checksums, as file systems without
//! `metadata_csum` have (our images). A guest that is switched off leaves its latest metadata there and nowhere else.
//!
//! Layout: Linux, include/linux/jbd2.h (all numbers big-endian); the order of things: fs/jbd2/recovery.c.

use std::collections::BTreeMap;

use crate::disk::{Disk, NotRead, Place, word};

const MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];
/// Types of blocks.
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;
/// Flags of a descriptor's tag.
const ESCAPED: u16 = 1;
const SAME_UUID: u16 = 2;
const LAST: u16 = 8;
/// Incompatible features that are understood: revoked blocks.
const UNDERSTOOD: u32 = 1;
/// Blocks of the longest journal that is read: 1 GiB of 4 KiB each; mke2fs makes none of more without being told.
const MAX_BLOCKS: u32 = 1 << 18;

/// Blocks of a file system that lie in its journal.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    block_size: u64,
    /// Block → the block in which it lies, and whether its first bytes were taken out as they looked like the journal's own.
    moved: BTreeMap<u64, (u64, bool)>,
}

/// Where the journal's blocks lie: (first in the journal, how many, first in the file system).
struct Extents(Vec<(u32, u32, u64)>);

/// A file system as it lies on its disk, by blocks.
struct Raw<'a> {
    disk: &'a dyn Disk,
    place: Place,
    block_size: u64,
}

impl Raw<'_> {
    fn block(&self, number: u64) -> Result<Vec<u8>, NotRead> {
        let offset = number.checked_mul(self.block_size).ok_or(NotRead::Journal("a block lies nowhere"))?;
        let mut bytes = vec![0; self.block_size as usize];
        self.place.read(self.disk, offset, &mut bytes)?;
        Ok(bytes)
    }
}

impl Journal {
    /// Reads the journal of a file system that needs one replayed; its superblock was checked. `None` if that is for `ext4-view` to do.
    pub(crate) fn read(disk: &dyn Disk, place: Place, superblock: &[u8]) -> Result<Option<Self>, NotRead> {
        let incompatible = word(superblock, 0x60);
        // Needs recovery (4); with 64-bit numbers (0x80) or checksums of metadata (read-only 0x400) it is ext4-view's.
        if incompatible & 4 == 0 || incompatible & 0x80 != 0 || word(superblock, 0x64) & 0x400 != 0 {
            return Ok(None);
        }
        let raw = Raw { disk, place, block_size: 1024 << word(superblock, 24) };
        let extents = extents(&raw, superblock)?;
        let head = raw.block(extents.find(0)?)?;
        if head[..4] != MAGIC || u64::from(big(&head, 12)) != raw.block_size {
            return Err(NotRead::Journal("its head is none"));
        }
        if big(&head, 40) & !UNDERSTOOD != 0 {
            return Err(NotRead::Journal("it has features that are not known here"));
        }
        let moved = replay(&raw, &extents, &head)?;
        Ok(Some(Self { block_size: raw.block_size, moved }))
    }

    /// Puts over `buffer`, the bytes from `offset` on, what the journal has of them.
    pub(crate) fn patch(&self, disk: &dyn Disk, place: Place, offset: u64, buffer: &mut [u8]) -> Result<(), NotRead> {
        let end = offset + buffer.len() as u64;
        for (block, (lies, escaped)) in self.moved.range(offset / self.block_size..end.div_ceil(self.block_size)) {
            let mut bytes = Raw { disk, place, block_size: self.block_size }.block(*lies)?;
            if *escaped {
                bytes[..4].copy_from_slice(&MAGIC);
            }
            let start = block * self.block_size;
            let (from, to) = (offset.max(start), end.min(start + self.block_size));
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        // It is replayed now.
        if let Some(at) = 0x460_u64.checked_sub(offset).filter(|at| *at < buffer.len() as u64) {
            buffer[at as usize] &= !4;
        }
        Ok(())
    }
}

/// The journal's inode, which must have its extents within it: mke2fs gives a journal one or two.
fn extents(raw: &Raw<'_>, superblock: &[u8]) -> Result<Extents, NotRead> {
    let bad = NotRead::Journal;
    let number = word(superblock, 0xe0).checked_sub(1).ok_or(bad("it has no inode"))?;
    let per_group = word(superblock, 40);
    let group = number.checked_div(per_group).ok_or(bad("groups without inodes"))?;
    let descriptor = u64::from(group) * 32;
    let table = raw.block(u64::from(word(superblock, 20)) + 1 + descriptor / raw.block_size)?;
    let table = u64::from(word(&table, (descriptor % raw.block_size) as usize + 8));
    let size = u64::from(word(superblock, 0x58) & 0xffff);
    let offset = u64::from(number % per_group) * size;
    let block = raw.block(table.saturating_add(offset / raw.block_size))?;
    let inode = block.get((offset % raw.block_size) as usize..).unwrap_or_default();
    let tree = inode.get(40..100).ok_or(bad("its inode is cut off"))?;
    let half = |at: usize| u16::from_le_bytes([tree[at], tree[at + 1]]);
    // Magic, entries, most entries, depth.
    if half(0) != 0xf30a || half(2) > 4 || half(6) != 0 {
        return Err(bad("it lies in more pieces than its inode holds"));
    }
    let extent = |entry: &[u8]| {
        let high = word(entry, 4) >> 16;
        (word(entry, 0), word(entry, 4) & 0xffff, u64::from(high) << 32 | u64::from(word(entry, 8)))
    };
    Ok(Extents(tree[12..].chunks_exact(12).take(half(2).into()).map(extent).collect()))
}

impl Extents {
    fn find(&self, block: u32) -> Result<u64, NotRead> {
        let within = |&&(first, count, _): &&(u32, u32, u64)| block.checked_sub(first).is_some_and(|at| at < count);
        let found = self.0.iter().find(within).ok_or(NotRead::Journal("a part of it lies nowhere"))?;
        Ok(found.2 + u64::from(block - found.0))
    }
}

/// What its committed transactions hold, the latest of each block, without what was revoked.
fn replay(raw: &Raw<'_>, extents: &Extents, head: &[u8]) -> Result<BTreeMap<u64, (u64, bool)>, NotRead> {
    let (len, first, mut sequence, mut at) = (big(head, 16), big(head, 20), big(head, 24), big(head, 28));
    if len > MAX_BLOCKS || first >= len || at >= len {
        return Err(NotRead::Journal("its head makes no sense"));
    }
    let (mut blocks, mut revoked) = (Vec::new(), BTreeMap::new());
    // Of the transaction that is being read: whether it was committed is known at its end.
    let (mut pending, mut pending_revoked) = (Vec::new(), Vec::new());
    // Zero: nothing to replay. Once around, a journal is at its end, whatever stands in it.
    let mut left = if at == 0 { 0 } else { len };
    let mut step = |at: &mut u32| {
        let here = *at;
        *at = if here + 1 >= len { first } else { here + 1 };
        left = left.checked_sub(1)?;
        Some(here)
    };
    while let Some(here) = step(&mut at) {
        let block = raw.block(extents.find(here)?)?;
        if block[..4] != MAGIC || big(&block, 8) != sequence {
            break;
        }
        match big(&block, 4) {
            DESCRIPTOR => {
                for (number, escaped) in tags(&block) {
                    let Some(here) = step(&mut at) else { break };
                    pending.push((sequence, number, extents.find(here)?, escaped));
                }
            }
            REVOKE => {
                let used = (big(&block, 12) as usize).min(block.len());
                let numbers = block.get(16..used).unwrap_or_default().chunks_exact(4);
                pending_revoked.extend(numbers.map(|number| (u64::from(big(number, 0)), sequence)));
            }
            COMMIT => {
                blocks.append(&mut pending);
                // A later transaction's counts: they come in order.
                revoked.extend(pending_revoked.drain(..));
                sequence = sequence.wrapping_add(1);
            }
            _ => break,
        }
    }
    let holds = |&(sequence, number, _, _): &(u32, u64, u64, bool)| {
        // Sequence numbers go around.
        revoked.get(&number).is_none_or(|until: &u32| (sequence.wrapping_sub(*until) as i32) > 0)
    };
    Ok(blocks.into_iter().filter(holds).map(|(_, number, lies, escaped)| (number, (lies, escaped))).collect())
}

/// The blocks whose contents follow a descriptor, in order.
fn tags(block: &[u8]) -> Vec<(u64, bool)> {
    let (mut found, mut at) = (Vec::new(), 12);
    while let Some(tag) = block.get(at..at + 8) {
        let flags = u16::from_be_bytes([tag[6], tag[7]]);
        found.push((u64::from(big(tag, 0)), flags & ESCAPED != 0));
        if flags & LAST != 0 {
            break;
        }
        at += if flags & SAME_UUID != 0 { 8 } else { 24 };
    }
    found
}

fn big(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
