//! What part of a disk a byte belongs to.
//!
//! Parsed once, from the base image as it was before the guest ran: master boot record (with extended partitions), GUID
//! partition table, boot sectors. The parser takes any bytes: a table that makes no sense is no table.
//!
//! Sources: UEFI specification 2.10, chapter 5 (GPT, protective MBR); Linux `block/partitions/msdos.c` (what counts as an
//! MBR partition, extended partitions).
//!
//! # Limits
//! * Sectors of 512 bytes.
//! * At most 1024 GPT entries and 128 logical partitions are looked at. CRCs are not checked: what the firmware would
//!   reject is watched none the less.
//! * Without 55 AA at byte 510 the disk is a bare file system, all of it [`DiskRegion::Data`].

use std::io;

use lava_event::{DiskRegion, Range};

use crate::ranges::without;

/// Bytes per sector.
pub const SECTOR: u64 = 512;

/// How much of a partition's start is its boot area, bytes: ext4 leaves it free for a boot loader, FAT and NTFS begin
/// with their boot sector.
pub const BOOT_AREA: u64 = 1024;

const GPT_ENTRIES: u32 = 1024;
const LOGICAL_PARTITIONS: usize = 128;

/// A stretch of the disk that is all one region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Where, in bytes of the disk.
    pub range: Range,
    /// What.
    pub region: DiskRegion,
}

/// The watched stretches of one disk; whatever is in none of them is [`DiskRegion::Data`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Regions {
    size: u64,
    watched: Vec<Extent>,
}

impl Regions {
    /// Parses a disk of `size` bytes through `read`, which fills a buffer from a byte offset on and is only asked for
    /// bytes inside the disk.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn parse(size: u64, read: impl Fn(u64, &mut [u8]) -> io::Result<()>) -> io::Result<Self> {
        let mut layout = Layout { size, read, watched: Vec::new(), partitions: Vec::new() };
        layout.parse()?;
        let mut watched = layout.watched;
        watched.sort_by_key(|extent| extent.range);
        Ok(Self { size, watched })
    }

    /// The watched stretches, in order, disjoint.
    #[must_use]
    pub fn watched(&self) -> &[Extent] {
        &self.watched
    }

    /// What of `range` is watched, in order.
    pub fn touched(&self, range: Range) -> impl Iterator<Item = Extent> + '_ {
        let first = self.watched.partition_point(|extent| extent.range.end <= range.start);
        self.watched[first..].iter().take_while(move |extent| extent.range.start < range.end).map(move |extent| {
            Extent {
                range: Range { start: extent.range.start.max(range.start), end: extent.range.end.min(range.end) },
                region: extent.region,
            }
        })
    }

    /// All of `range`, as far as it is inside the disk, cut at the regions' borders.
    #[must_use]
    pub fn split(&self, range: Range) -> Vec<Extent> {
        let range = Range { start: range.start, end: range.end.min(self.size) };
        let mut parts: Vec<_> = self.touched(range).collect();
        let data = without(range, parts.iter().map(|extent| extent.range).collect::<Vec<_>>());
        parts.extend(data.into_iter().map(|range| Extent { range, region: DiskRegion::Data }));
        parts.sort_by_key(|extent| extent.range);
        parts
    }
}

struct Layout<R> {
    size: u64,
    read: R,
    watched: Vec<Extent>,
    /// First bytes of the partitions.
    partitions: Vec<u64>,
}

/// One of the four entries of an MBR or EBR.
struct MbrEntry {
    kind: u8,
    /// First sector, relative to what the table says.
    start: u64,
    sectors: u64,
}

impl MbrEntry {
    const fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

impl<R: Fn(u64, &mut [u8]) -> io::Result<()>> Layout<R> {
    fn parse(&mut self) -> io::Result<()> {
        let Some(mbr) = self.sector(0)? else { return Ok(()) };
        if mbr[510..] != [0x55, 0xaa] {
            return Ok(());
        }
        self.watch(0, 440, DiskRegion::MbrBootCode);
        self.watch(440, 446, DiskRegion::MbrSignature);
        self.watch(446, 512, DiskRegion::PartitionTable);
        for entry in mbr_entries(&mbr) {
            if entry.is_extended() {
                self.parse_extended(entry.start)?;
            } else if entry.kind != 0xee {
                self.partitions.push(entry.start * SECTOR);
            }
        }
        self.parse_gpt()?;
        self.partitions.retain(|start| (SECTOR..self.size).contains(start));
        // A table wins over what it lies in: the gap is what nothing else claims.
        for start in self.partitions.clone() {
            self.watch(start, start.saturating_add(BOOT_AREA), DiskRegion::BootSector);
        }
        if let Some(first) = self.partitions.iter().min() {
            self.watch(SECTOR, *first, DiskRegion::PostMbrGap);
        }
        Ok(())
    }

    /// The chain of extended boot records from sector `first` on.
    fn parse_extended(&mut self, first: u64) -> io::Result<()> {
        // The container begins with a table, not with a boot sector, but it ends the gap like any partition.
        let mut table = first;
        for _ in 0..LOGICAL_PARTITIONS {
            let Some(sector) = self.sector(table)? else { break };
            if sector[510..] != [0x55, 0xaa] {
                break;
            }
            self.watch(table * SECTOR + 446, table * SECTOR + 512, DiskRegion::PartitionTable);
            let entries = mbr_entries(&sector);
            self.partitions
                .extend(entries.iter().filter(|entry| !entry.is_extended()).map(|e| (table + e.start) * SECTOR));
            match entries.iter().find(|entry| entry.is_extended()) {
                Some(next) if first + next.start > table => table = first + next.start,
                _ => break,
            }
        }
        Ok(())
    }

    fn parse_gpt(&mut self) -> io::Result<()> {
        let last = (self.size / SECTOR).saturating_sub(1);
        let primary = self.gpt_header(1)?;
        let backup = match &primary {
            Some(header) if header.other != last => self.gpt_header(header.other)?.map(|found| (header.other, found)),
            _ => None,
        };
        let at_end = self.gpt_header(last)?.map(|found| (last, found));
        for (at, header) in [primary.map(|header| (1, header)), backup, at_end].into_iter().flatten() {
            self.watch_sectors(at, 1);
            self.watch_sectors(header.entries_at, header.bytes().div_ceil(SECTOR));
            self.gpt_partitions(&header)?;
        }
        Ok(())
    }

    fn gpt_header(&self, at: u64) -> io::Result<Option<GptHeader>> {
        Ok(self.sector(at)?.and_then(|sector| GptHeader::parse(&sector)))
    }

    fn gpt_partitions(&mut self, header: &GptHeader) -> io::Result<()> {
        for number in 0..header.entries {
            let Some(at) = header.entries_at.checked_mul(SECTOR) else { break };
            let Some(at) = at.checked_add(u64::from(number) * u64::from(header.entry_len)) else { break };
            if at.checked_add(40).is_none_or(|end| end > self.size) {
                break;
            }
            let mut entry = [0; 40];
            (self.read)(at, &mut entry)?;
            if entry[..16] != [0; 16] {
                let start = u64_at(&entry, 32).saturating_mul(SECTOR);
                if !self.partitions.contains(&start) {
                    self.partitions.push(start);
                }
            }
        }
        Ok(())
    }

    fn sector(&self, at: u64) -> io::Result<Option<[u8; SECTOR as usize]>> {
        let Some(offset) = at.checked_mul(SECTOR) else { return Ok(None) };
        if offset.checked_add(SECTOR).is_none_or(|end| end > self.size) {
            return Ok(None);
        }
        let mut sector = [0; SECTOR as usize];
        (self.read)(offset, &mut sector)?;
        Ok(Some(sector))
    }

    fn watch_sectors(&mut self, at: u64, count: u64) {
        let start = at.saturating_mul(SECTOR);
        self.watch(start, start.saturating_add(count * SECTOR), DiskRegion::Gpt);
    }

    /// Claims what of `start..end` is inside the disk and not claimed yet.
    fn watch(&mut self, start: u64, end: u64, region: DiskRegion) {
        self.watched.sort_by_key(|extent| extent.range);
        let range = Range { start, end: end.min(self.size) };
        let free = without(range, self.watched.iter().map(|extent| extent.range));
        self.watched.extend(free.into_iter().map(|range| Extent { range, region }));
    }
}

/// The used entries; none if the table makes no sense (a FAT boot sector ends in 55 AA too).
fn mbr_entries(sector: &[u8; SECTOR as usize]) -> Vec<MbrEntry> {
    let entries = sector[446..510].chunks_exact(16);
    if entries.clone().any(|entry| entry[0] & 0x7f != 0) {
        return Vec::new();
    }
    entries
        .map(|entry| MbrEntry { kind: entry[4], start: u32_at(entry, 8).into(), sectors: u32_at(entry, 12).into() })
        .filter(|entry| entry.kind != 0 && entry.start != 0 && entry.sectors != 0)
        .collect()
}

struct GptHeader {
    other: u64,
    entries_at: u64,
    entries: u32,
    entry_len: u32,
}

impl GptHeader {
    /// UEFI 2.10, table 5.5.
    fn parse(sector: &[u8]) -> Option<Self> {
        let header = Self {
            other: u64_at(sector, 32),
            entries_at: u64_at(sector, 72),
            entries: u32_at(sector, 80).min(GPT_ENTRIES),
            entry_len: u32_at(sector, 84),
        };
        (sector.starts_with(b"EFI PART") && header.entries_at > 0 && (128..=4096).contains(&header.entry_len))
            .then_some(header)
    }

    fn bytes(&self) -> u64 {
        u64::from(self.entries) * u64::from(self.entry_len)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at + 4)) << 32 | u64::from(u32_at(bytes, at))
}

#[cfg(test)]
#[path = "regions_tests.rs"]
mod tests;
