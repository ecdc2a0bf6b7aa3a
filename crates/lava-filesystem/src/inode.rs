//! Inodes as they lie on the disk: what `ext4-view` does not tell. Numbers, links, devices, flags, all times, and extended attributes.
//!
//! Layout: Linux, fs/ext4/ext4.h (superblock, group descriptor, inode, folder entry), ext4_extents.h, xattr.h; little-endian.
//!
//! *Boundary:* the guest made these bytes. Every number is checked before it leads anywhere, by the disk's end if by nothing else; pieces,
//! names and values are bounded.
//!
//! Limits: folders with extents (all that ext4 makes today); no inline data, no values in inodes of their own, no `meta_bg`. What
//! lies in a journal that `ext4-view` replays (64-bit block numbers, checksums) is not seen here.

use std::rc::Rc;

use crate::disk::{Reader, word};

const EXTENTS: u32 = 0x8_0000;
const INLINE_DATA: u32 = 0x1000_0000;
/// Flags that a user sets (`chattr`): secure deletion, undeletable, compress, sync, immutable, append, no dump, no access time, synchronous
/// folder. ext4.h, `EXT4_FL_USER_MODIFIABLE`, without those that say how the content lies.
const USER_FLAGS: u32 = 0x1_00ff;
const XATTR_MAGIC: u32 = 0xea02_0000;
/// Depth of the deepest tree of extents (ext4_extents.h: `EXT4_MAX_EXTENT_DEPTH`).
const MAX_DEPTH: u16 = 5;
/// Pieces of a folder, and blocks of it, that are looked at.
const MAX_EXTENTS: usize = 4096;
const MAX_BLOCKS: u64 = 1 << 16;
/// Beginnings of names, by their index (xattr.h).
const PREFIXES: [(u8, &[u8]); 8] = [
    (0, b""),
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
    (7, b"system."),
    (8, b"system.richacl"),
];

/// The inodes of a file system.
pub(crate) struct Inodes {
    reader: Rc<Reader>,
    block_size: u64,
    inodes: u32,
    per_group: u32,
    inode_size: u64,
    /// Where the group descriptors begin, and the length of one, bytes.
    descriptors: (u64, u64),
}

/// One inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Inode {
    /// Its number.
    pub(crate) number: u32,
    raw: Vec<u8>,
}

/// A time: seconds (32 bits as they lie there), and the word with nanoseconds and the seconds' upper bits.
pub(crate) type RawTime = (u32, u32);

/// Name and value of an extended attribute.
pub(crate) type RawXattr = (Vec<u8>, Vec<u8>);

impl Inode {
    fn half(&self, at: usize) -> u16 {
        half(&self.raw, at)
    }
    /// Type and permissions.
    pub(crate) fn mode(&self) -> u16 {
        self.half(0)
    }
    pub(crate) fn uid(&self) -> u32 {
        u32::from(self.half(2)) | u32::from(self.half(0x78)) << 16
    }
    pub(crate) fn gid(&self) -> u32 {
        u32::from(self.half(0x18)) | u32::from(self.half(0x7a)) << 16
    }
    /// Names that it has.
    pub(crate) fn links(&self) -> u16 {
        self.half(0x1a)
    }
    fn flags(&self) -> u32 {
        word(&self.raw, 0x20)
    }
    /// Flags that a user sets.
    pub(crate) fn user_flags(&self) -> u32 {
        self.flags() & USER_FLAGS
    }
    /// The flag that its content lies in extents, if it does.
    pub(crate) fn how_it_lies(&self) -> u32 {
        self.flags() & EXTENTS
    }
    /// Flags that no user sets.
    pub(crate) fn other_flags(&self) -> u32 {
        self.flags() & !USER_FLAGS
    }
    /// Last access, last change of the inode, last change of the content, creation.
    pub(crate) fn times(&self) -> [RawTime; 4] {
        let extra = |at: usize| if at + 4 <= 128 + usize::from(self.half(0x80)) { word(&self.raw, at) } else { 0 };
        [
            (word(&self.raw, 0x08), extra(0x8c)),
            (word(&self.raw, 0x0c), extra(0x84)),
            (word(&self.raw, 0x10), extra(0x88)),
            (extra(0x90), extra(0x94)),
        ]
    }
    /// Numbers of a device: major and minor (Linux, include/linux/kdev_t.h: `old_decode_dev`, `new_decode_dev`).
    pub(crate) fn device(&self) -> (u32, u32) {
        let (old, new) = (word(&self.raw, 0x28), word(&self.raw, 0x2c));
        if old != 0 { (old >> 8 & 0xff, old & 0xff) } else { (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00) }
    }
}

impl Inodes {
    /// Reads where they lie.
    pub(crate) fn open(reader: Rc<Reader>, superblock: &[u8]) -> Result<Self, String> {
        let block_size = 1024_u64 << word(superblock, 24).min(6);
        let incompatible = word(superblock, 0x60);
        // meta_bg (0x10); large values (0x400) are refused where one is.
        if incompatible & 0x10 != 0 {
            return Err("its group descriptors lie apart (meta_bg)".to_owned());
        }
        let wide = incompatible & 0x80 != 0;
        let descriptor = if wide { u64::from(half(superblock, 0xfe)).max(32) } else { 32 };
        // Revision 0 has inodes of 128 bytes and says nothing.
        let inode_size = if word(superblock, 0x4c) == 0 { 128 } else { u64::from(half(superblock, 0x58)) };
        let (inodes, per_group) = (word(superblock, 0), word(superblock, 40));
        if per_group == 0 || !(128..=block_size).contains(&inode_size) {
            return Err("its superblock makes no sense".to_owned());
        }
        let first = (u64::from(word(superblock, 20)) + 1) * block_size;
        Ok(Self { reader, block_size, inodes, per_group, inode_size, descriptors: (first, descriptor) })
    }

    fn read(&self, offset: Option<u64>, len: u64) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        let offset = offset.ok_or_else(|| "a place behind every disk".to_owned())?;
        self.reader.read_at(offset, &mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    fn block(&self, number: u64) -> Result<Vec<u8>, String> {
        self.read(number.checked_mul(self.block_size), self.block_size)
    }

    fn inode(&self, number: u32) -> Result<Inode, String> {
        let index = number.checked_sub(1).filter(|_| number <= self.inodes).ok_or("an inode that does not exist")?;
        let (start, long) = self.descriptors;
        let descriptor = self.read(Some(start + u64::from(index / self.per_group) * long), long)?;
        let high = if long >= 64 { word(&descriptor, 0x28) } else { 0 };
        let table = u64::from(word(&descriptor, 8)) | u64::from(high) << 32;
        let within = u64::from(index % self.per_group) * self.inode_size;
        let offset = table.checked_mul(self.block_size).and_then(|table| table.checked_add(within));
        Ok(Inode { number, raw: self.read(offset, self.inode_size)? })
    }

    /// The inode of a path from the root; no symbolic link is followed.
    pub(crate) fn find(&self, path: &[u8]) -> Result<Inode, String> {
        let mut found = self.inode(2)?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let number = self.entry(&found, name)?.ok_or("it is not there")?;
            found = self.inode(number)?;
        }
        Ok(found)
    }

    /// The number that a folder has for a name.
    fn entry(&self, folder: &Inode, wanted: &[u8]) -> Result<Option<u32>, String> {
        if folder.mode() & 0xf000 != 0x4000 {
            return Err("what it lies in is no folder".to_owned());
        }
        if folder.flags() & INLINE_DATA != 0 || folder.flags() & EXTENTS == 0 {
            return Err("its folder is of a kind that is not read here".to_owned());
        }
        for (start, count) in self.extents(folder)? {
            for number in start..start + count {
                let block = self.block(number)?;
                let mut at = 0;
                while let Some(entry) = block.get(at..at + 8) {
                    let (inode, long) = (word(entry, 0), usize::from(half(entry, 4)));
                    let name = block.get(at + 8..at + 8 + usize::from(entry[6])).unwrap_or_default();
                    if inode != 0 && name == wanted {
                        return Ok(Some(inode));
                    }
                    if long < 8 {
                        break;
                    }
                    at += long;
                }
            }
        }
        Ok(None)
    }

    /// Where a folder's blocks lie: first, how many.
    fn extents(&self, inode: &Inode) -> Result<Vec<(u64, u64)>, String> {
        let (mut found, mut nodes, mut blocks) = (Vec::new(), vec![(inode.raw[40..100].to_vec(), MAX_DEPTH)], 0);
        while let Some((node, deepest)) = nodes.pop() {
            let (magic, count, depth) = (half(&node, 0), usize::from(half(&node, 2)), half(&node, 6));
            if magic != 0xf30a || depth > deepest || found.len() + nodes.len() + count > MAX_EXTENTS {
                return Err("its extents make no sense".to_owned());
            }
            for entry in node.get(12..).unwrap_or_default().chunks_exact(12).take(count) {
                if depth == 0 {
                    let long = u64::from(half(entry, 4));
                    blocks += long;
                    if blocks > MAX_BLOCKS {
                        return Err("it has more blocks than are looked at".to_owned());
                    }
                    found.push((u64::from(half(entry, 6)) << 32 | u64::from(word(entry, 8)), long));
                } else {
                    let below = u64::from(half(entry, 8)) << 32 | u64::from(word(entry, 4));
                    nodes.push((self.block(below)?, depth - 1));
                }
            }
        }
        Ok(found)
    }

    /// Its extended attributes, by name. The values are as they lie there: an access control list has another form in system calls.
    pub(crate) fn xattrs(&self, inode: &Inode) -> Result<Vec<RawXattr>, String> {
        let mut found = Vec::new();
        let own = 128 + usize::from(half(&inode.raw, 0x80));
        if inode.raw.len() > own && word(&inode.raw, own) == XATTR_MAGIC {
            let entries = inode.raw.get(own + 4..).unwrap_or_default();
            attributes(entries, entries, &mut found)?;
        }
        let block = u64::from(word(&inode.raw, 0x68)) | u64::from(half(&inode.raw, 0x76)) << 32;
        if block != 0 {
            let block = self.block(block)?;
            if word(&block, 0) != XATTR_MAGIC {
                return Err("its block of attributes is none".to_owned());
            }
            attributes(block.get(32..).unwrap_or_default(), &block, &mut found)?;
        }
        found.sort();
        Ok(found)
    }
}

/// Entries until the one that is zero; their values lie in `values`. Each is at least 16 bytes, so that they end.
fn attributes(mut entries: &[u8], values: &[u8], found: &mut Vec<RawXattr>) -> Result<(), String> {
    while entries.len() >= 16 && word(entries, 0) != 0 {
        let (length, index) = (usize::from(entries[0]), entries[1]);
        let (place, size) = (usize::from(half(entries, 2)), word(entries, 8) as usize);
        if word(entries, 4) != 0 {
            return Err("a value lies in an inode of its own".to_owned());
        }
        let (_, prefix) =
            PREFIXES.iter().find(|(known, _)| *known == index).ok_or("an attribute of an unknown kind")?;
        let name = entries.get(16..16 + length).ok_or("an attribute's name is cut off")?;
        let value = place.checked_add(size).and_then(|end| values.get(place..end)).ok_or("a value is cut off")?;
        found.push(([prefix, name].concat(), value.to_vec()));
        entries = entries.get((16 + length).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}
