//! A file's content, as the page cache holds it: `inode->i_mapping->i_pages`, an xarray (lib/xarray.c, include/linux/xarray.h,
//! Linux 6.1 and 6.12) of folios.
//!
//! Files that were just written lie there whole: what is on the disk is older, and of tmpfs and memfd files there is nothing
//! else. A folio larger than a page is one entry of its own level or one slot followed by sibling entries.
//!
//! Limits: pages that are not in memory (holes, evicted, swapped out), or not yet up to date, are zeros and counted as missing;
//! no locks are taken: a file that is written meanwhile may come out torn.

use super::member;
use crate::btf::{TypeError, Types};
use crate::memory::{Unreadable, Virtual};

const PAGE: u64 = 4096;
/// Slots of a node (`XA_CHUNK_SIZE`, `CONFIG_BASE_SMALL` unset).
const SLOTS: u64 = 64;
/// Levels of a tree whose indices have 64 bits.
const MAX_LEVELS: usize = 11;
/// Pages of the largest folio (`MAX_PAGECACHE_ORDER` is below `PUD_ORDER`, 1 GiB).
const MAX_FOLIO: u64 = 1 << 18;

/// Offsets of what leads from an inode to its pages, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLayout {
    /// `inode.i_mapping`
    pub mapping: u64,
    /// `address_space.i_pages.xa_head`
    pub head: u64,
    /// `xa_node.shift`
    pub shift: u64,
    /// `xa_node.slots`
    pub slots: u64,
    /// `folio.index`
    pub index: u64,
    /// `folio.flags`
    pub flags: u64,
    /// Number of the flag `PG_uptodate`.
    pub up_to_date: u32,
    /// Size of `struct page`.
    pub page: u64,
}

impl CacheLayout {
    /// Resolves every member.
    ///
    /// # Errors
    /// [`TypeError`] names the first that is missing.
    pub fn resolve(types: &Types) -> Result<CacheLayout, TypeError> {
        let of = |strukt: &str, member: &str| types.offset(strukt, member);
        let bit = types.enum_value(Some("pageflags"), "PG_uptodate").and_then(|bit| u32::try_from(bit).ok());
        Ok(CacheLayout {
            mapping: of("inode", "i_mapping")?,
            head: of("address_space", "i_pages.xa_head")?,
            shift: of("xa_node", "shift")?,
            slots: of("xa_node", "slots")?,
            index: of("folio", "index").or_else(|_| of("page", "index"))?,
            flags: of("folio", "flags").or_else(|_| of("page", "flags"))?,
            up_to_date: bit.filter(|&bit| bit < 64).ok_or_else(|| TypeError::NoType("PG_uptodate".into()))?,
            page: types.size_of("page")?.max(1),
        })
    }
}

/// Where the running kernel has what all pages need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The array of all `struct page`s (`vmemmap_base`).
    pub pages: u64,
    /// Where all RAM is mapped (`page_offset_base`).
    pub direct_map: u64,
}

/// Content out of the page cache.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cached {
    /// The file's bytes; zeros where a page is missing.
    pub bytes: Vec<u8>,
    /// Pages that were not there.
    pub missing: u64,
}

/// The first `size` bytes of the file with the `struct inode` at `inode`.
///
/// # Errors
/// [`Unreadable`] if the inode leads to no page cache.
pub fn read_cached(
    memory: &dyn Virtual,
    layout: &CacheLayout,
    placed: Placed,
    inode: u64,
    size: usize,
) -> Result<Cached, Unreadable> {
    let mapping = memory.pointer(member(inode, layout.mapping)?)?;
    let head = memory.u64(member(mapping, layout.head)?)?;
    let mut cached = Cached { bytes: vec![0; size], missing: 0 };
    for (index, bytes) in (0..).zip(cached.bytes.chunks_mut(PAGE as usize)) {
        let page = find(memory, layout, head, index).and_then(|folio| address(memory, layout, placed, folio, index));
        if page.and_then(|page| memory.read(page, bytes).ok()).is_none() {
            bytes.fill(0);
            cached.missing += 1;
        }
    }
    Ok(cached)
}

/// `xas_load`: the folio that holds page `index` of a file.
fn find(memory: &dyn Virtual, layout: &CacheLayout, head: u64, index: u64) -> Option<u64> {
    let mut entry = head;
    let mut below_root = false;
    for _ in 0..MAX_LEVELS {
        let Some(node) = node(entry) else { break };
        let shift = u32::from(memory.u8(node.checked_add(layout.shift)?).ok()?);
        let slot = index.checked_shr(shift)?;
        // The root says how far the tree reaches.
        if !below_root && slot >= SLOTS {
            return None;
        }
        below_root = true;
        let load = |slot: u64| memory.u64(node.checked_add(layout.slots)?.checked_add((slot % SLOTS) * 8)?).ok();
        entry = load(slot)?;
        if let Some(sibling_of) = sibling(entry) {
            entry = load(sibling_of)?;
        }
    }
    // A head that is no node is the file's only page.
    let only = below_root || index == 0 || entry == 0;
    (entry != 0 && entry & 3 == 0 && only).then_some(entry)
}

/// `xa_to_node`, if the entry is one (`xa_is_node`).
fn node(entry: u64) -> Option<u64> {
    (entry & 3 == 2 && entry > PAGE).then(|| entry - 2)
}

/// `xa_to_sibling`: the slot that holds what this slot is a further part of.
fn sibling(entry: u64) -> Option<u64> {
    (entry & 3 == 2 && entry < (SLOTS - 1) << 2).then_some(entry >> 2)
}

/// Where page `index` of the file lies in the direct map, given the folio that holds it.
fn address(memory: &dyn Virtual, layout: &CacheLayout, placed: Placed, folio: u64, index: u64) -> Option<u64> {
    let flags = memory.u64(folio.checked_add(layout.flags)?).ok()?;
    let first = memory.u64(folio.checked_add(layout.index)?).ok()?;
    let into = index.checked_sub(first).filter(|&into| into < MAX_FOLIO)?;
    let offset = folio.checked_sub(placed.pages)?;
    if flags >> layout.up_to_date & 1 == 0 || offset % layout.page != 0 {
        return None;
    }
    (offset / layout.page).checked_add(into)?.checked_mul(PAGE)?.checked_add(placed.direct_map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeGuest;

    const LAYOUT: CacheLayout =
        CacheLayout { mapping: 48, head: 16, shift: 0, slots: 40, index: 32, flags: 0, up_to_date: 2, page: 64 };

    /// A guest with its array of `struct page`s.
    struct Cache {
        guest: FakeGuest,
        placed: Placed,
        inode: u64,
    }

    impl Cache {
        fn new(head: u64) -> Cache {
            let mut guest = FakeGuest::new(crate::fake::layout(), false);
            let direct_map = guest.memory.direct_map();
            let pages = direct_map + guest.memory.pages((64 << 20) / PAGE * 64);
            let (inode, mapping) = (guest.alloc(128), guest.alloc(128));
            guest.write_u64(inode + LAYOUT.mapping, mapping);
            guest.write_u64(mapping + LAYOUT.head, head);
            Cache { guest, placed: Placed { pages, direct_map }, inode }
        }

        /// A folio of these pages, each filled with its byte, that begins at page `index` of the file.
        fn folio(&mut self, index: u64, fill: &[u8]) -> u64 {
            let gpa = self.guest.memory.pages(fill.len() as u64 * PAGE);
            for (at, &byte) in (0..).zip(fill) {
                self.guest.memory.write(gpa + at * PAGE, &[byte; PAGE as usize]);
            }
            let page = self.placed.pages + gpa / PAGE * 64;
            self.guest.write_u64(page + LAYOUT.flags, 1 << LAYOUT.up_to_date);
            self.guest.write_u64(page + LAYOUT.index, index);
            page
        }

        fn node(&mut self, shift: u8, slots: &[(u64, u64)]) -> u64 {
            let node = self.guest.alloc(600);
            self.guest.write(node + LAYOUT.shift, &[shift]);
            for (slot, entry) in slots {
                self.guest.write_u64(node + LAYOUT.slots + slot * 8, *entry);
            }
            node + 2
        }

        fn head(&mut self, head: u64) {
            let mapping = self.guest.space().u64(self.inode + LAYOUT.mapping).unwrap();
            self.guest.write_u64(mapping + LAYOUT.head, head);
        }

        fn read(&self, size: usize) -> Cached {
            read_cached(&self.guest.space(), &LAYOUT, self.placed, self.inode, size).unwrap()
        }
    }

    #[test]
    fn one_page_and_none() {
        let mut cache = Cache::new(0);
        assert_eq!(cache.read(10), Cached { bytes: vec![0; 10], missing: 1 });
        let page = cache.folio(0, b"a");
        cache.head(page);
        assert_eq!(cache.read(10), Cached { bytes: vec![b'a'; 10], missing: 0 });
        let two = cache.read(5000);
        assert_eq!((two.missing, two.bytes[4095], two.bytes[4096]), (1, b'a', 0));
        assert_eq!(cache.read(0), Cached::default());
    }

    #[test]
    fn trees_large_folios_and_siblings() {
        let mut cache = Cache::new(0);
        let (small, large, far) = (cache.folio(1, b"b"), cache.folio(4, b"cdef"), cache.folio(64, b"z"));
        // Pages 5 to 7 are siblings of slot 4; page 2 is a shadow entry of an evicted page.
        let sibling = 4 << 2 | 2;
        let leaf = cache.node(0, &[(1, small), (2, 0x123), (4, large), (5, sibling), (6, sibling), (7, sibling)]);
        let second = cache.node(0, &[(0, far)]);
        let root = cache.node(6, &[(0, leaf), (1, second)]);
        cache.head(root);
        let read = cache.read(65 * PAGE as usize);
        let firsts: Vec<u8> = read.bytes.chunks(PAGE as usize).map(|page| page[0]).collect();
        assert_eq!(&firsts[..9], [0, b'b', 0, 0, b'c', b'd', b'e', b'f', 0]);
        assert_eq!((firsts[64], read.missing), (b'z', 65 - 6));
    }

    #[test]
    fn not_up_to_date_and_hostile() {
        let mut cache = Cache::new(0);
        let page = cache.folio(0, b"a");
        cache.head(page);
        cache.guest.write_u64(page + LAYOUT.flags, 0);
        assert_eq!(cache.read(1).missing, 1);
        // A node that is its own child, a sibling of itself, wild pointers: an end, and nothing read.
        let node = cache.node(6, &[]);
        cache.guest.write_u64(node - 2 + LAYOUT.slots, node);
        cache.head(node);
        assert_eq!(cache.read(3).missing, 1);
        let node = cache.node(0, &[(0, 2), (1, 1 << 2 | 2), (2, u64::MAX - 1), (3, 0x8000_0000_0000_0000)]);
        cache.head(node);
        assert_eq!(cache.read(4 * PAGE as usize).missing, 4);
        cache.head(u64::MAX - 1);
        assert_eq!(cache.read(1).missing, 1);
    }
}
