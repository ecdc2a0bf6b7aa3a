use proptest::prelude::*;

use super::*;

const SIZE: u64 = 8 << 20;

fn parse(disk: &[u8]) -> Regions {
    Regions::parse(disk.len() as u64, |offset, buffer| {
        let offset = offset as usize;
        buffer.copy_from_slice(&disk[offset..offset + buffer.len()]);
        Ok(())
    })
    .unwrap()
}

fn mbr(disk: &mut [u8], at: u64, entries: &[(u8, u32, u32)]) {
    let sector = &mut disk[(at * SECTOR) as usize..][..512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    for (number, (kind, start, sectors)) in entries.iter().enumerate() {
        let entry = &mut sector[446 + number * 16..][..16];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&sectors.to_le_bytes());
    }
}

fn gpt_header(disk: &mut [u8], at: u64, other: u64, entries_at: u64) {
    let sector = &mut disk[(at * SECTOR) as usize..][..512];
    sector[..8].copy_from_slice(b"EFI PART");
    sector[32..40].copy_from_slice(&other.to_le_bytes());
    sector[72..80].copy_from_slice(&entries_at.to_le_bytes());
    sector[80..84].copy_from_slice(&128u32.to_le_bytes());
    sector[84..88].copy_from_slice(&128u32.to_le_bytes());
}

fn gpt_entry(disk: &mut [u8], entries_at: u64, start: u64) {
    let entry = &mut disk[(entries_at * SECTOR) as usize..][..40];
    entry[0] = 1;
    entry[32..].copy_from_slice(&start.to_le_bytes());
}

/// Every watched stretch, one line each: `start..end Region`.
fn check(disk: &[u8], expect: &[&str]) {
    let found: Vec<String> = parse(disk)
        .watched()
        .iter()
        .map(|extent| format!("{}..{} {:?}", extent.range.start, extent.range.end, extent.region))
        .collect();
    assert_eq!(found, expect);
}

const MBR: [&str; 3] = ["0..440 MbrBootCode", "440..446 MbrSignature", "446..512 PartitionTable"];

#[test]
fn a_bare_file_system_is_data() {
    check(&vec![7; SIZE as usize], &[]);
    check(&[], &[]);
}

#[test]
fn one_partition() {
    let mut disk = vec![0; SIZE as usize];
    mbr(&mut disk, 0, &[(0x83, 2048, 8192)]);
    check(&disk, &[&MBR[..], &["512..1048576 PostMbrGap", "1048576..1049600 BootSector"]].concat());
}

#[test]
fn no_valid_table_but_boot_code() {
    let mut disk = vec![0; SIZE as usize];
    mbr(&mut disk, 0, &[(0x83, 2048, 8192)]);
    disk[446] = 0x12; // As in a FAT boot sector: the status byte of an entry is 00 or 80.
    check(&disk, &MBR);
}

#[test]
fn a_partition_behind_the_end_is_none() {
    let mut disk = vec![0; SIZE as usize];
    mbr(&mut disk, 0, &[(0x83, u32::MAX, u32::MAX), (0x83, 16383, 9)]);
    check(&disk, &[&MBR[..], &["512..8388096 PostMbrGap", "8388096..8388608 BootSector"]].concat());
}

#[test]
fn logical_partitions() {
    let mut disk = vec![0; SIZE as usize];
    mbr(&mut disk, 0, &[(0x83, 63, 100), (0x05, 1000, 5000)]);
    mbr(&mut disk, 1000, &[(0x83, 63, 100), (0x05, 500, 500)]);
    mbr(&mut disk, 1500, &[(0x83, 63, 100), (0x05, 0, 0)]);
    let expect = [
        "512..32256 PostMbrGap",
        "32256..33280 BootSector",
        "512446..512512 PartitionTable",
        "544256..545280 BootSector",
        "768446..768512 PartitionTable",
        "800256..801280 BootSector",
    ];
    check(&disk, &[&MBR[..], &expect].concat());
}

#[test]
fn a_chain_of_tables_that_bites_its_tail_ends() {
    let mut disk = vec![0; SIZE as usize];
    mbr(&mut disk, 0, &[(0x05, 1000, 5000)]);
    mbr(&mut disk, 1000, &[(0x05, 500, 500)]);
    mbr(&mut disk, 1500, &[(0x05, 500, 500)]);
    check(&disk, &[&MBR[..], &["512446..512512 PartitionTable", "768446..768512 PartitionTable"]].concat());
}

#[test]
fn gpt_both_copies() {
    let mut disk = vec![0; SIZE as usize];
    mbr(&mut disk, 0, &[(0xee, 1, 16383)]);
    gpt_header(&mut disk, 1, 16383, 2);
    gpt_header(&mut disk, 16383, 1, 16351);
    gpt_entry(&mut disk, 2, 2048);
    gpt_entry(&mut disk, 16351, 2048);
    let expect = [
        "512..1024 Gpt",
        "1024..17408 Gpt",
        "17408..1048576 PostMbrGap",
        "1048576..1049600 BootSector",
        "8371712..8388096 Gpt",
        "8388096..8388608 Gpt",
    ];
    check(&disk, &[&MBR[..], &expect].concat());
}

#[test]
fn only_the_backup_is_left() {
    let mut disk = vec![0; SIZE as usize];
    mbr(&mut disk, 0, &[(0xee, 1, 16383)]);
    gpt_header(&mut disk, 16383, 1, 16351);
    gpt_entry(&mut disk, 16351, 2048);
    let found = parse(&disk);
    assert!(found.watched().iter().any(|extent| extent.region == DiskRegion::BootSector));
    assert!(found.watched().iter().any(|extent| extent.range.end == SIZE && extent.region == DiskRegion::Gpt));
}

#[test]
fn a_request_is_cut_at_the_borders() {
    let mut disk = vec![0; SIZE as usize];
    mbr(&mut disk, 0, &[(0x83, 1, 8192)]);
    let parts = parse(&disk).split(Range { start: 100, end: 4096 });
    let found: Vec<_> = parts.iter().map(|part| (part.range.start, part.range.end, part.region)).collect();
    assert_eq!(
        found,
        [
            (100, 440, DiskRegion::MbrBootCode),
            (440, 446, DiskRegion::MbrSignature),
            (446, 512, DiskRegion::PartitionTable),
            (512, 1536, DiskRegion::BootSector),
            (1536, 4096, DiskRegion::Data),
        ]
    );
}

/// A disk whose tables hold anything: the signatures are right, so that the parser goes on.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let sectors = prop::collection::vec((0u64..64, any::<[u8; 16]>(), 0usize..4, any::<bool>()), 0..40);
    (sectors, any::<[u8; 64]>()).prop_map(|(tables, header)| {
        let mut disk = vec![0; 64 * SECTOR as usize];
        disk[512 + 32..][..56].copy_from_slice(&header[..56]);
        disk[512..520].copy_from_slice(b"EFI PART");
        for (at, mut entry, number, small) in tables {
            entry[0] &= 0x80;
            if small {
                entry[4] = 5;
                entry[9..12].fill(0);
                entry[8] &= 63;
            }
            let sector = &mut disk[(at * SECTOR) as usize..][..512];
            sector[446 + number * 16..][..16].copy_from_slice(&entry);
            sector[510..].copy_from_slice(&[0x55, 0xaa]);
        }
        disk
    })
}

proptest! {
    #[test]
    fn any_disk_is_covered_once(disk in hostile(), cut in 0usize..64 * 512, start in 0u64..40_000, len in 0u64..40_000) {
        let disk = &disk[..disk.len() - cut / 512 * 512];
        let found = parse(disk);
        let size = disk.len() as u64;
        prop_assert!(found.watched().iter().all(|e| !e.range.is_empty() && e.range.end <= size));
        prop_assert!(found.watched().windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));

        let parts = found.split(Range { start, end: start + len });
        prop_assert!(parts.windows(2).all(|pair| pair[0].range.end == pair[1].range.start));
        let covered: u64 = parts.iter().map(|part| part.range.len()).sum();
        prop_assert_eq!(covered, (start + len).min(size).saturating_sub(start));
    }
}
