//! A process's mappings: which one holds an address.
//!
//! Since Linux 6.1 they are in a maple tree (`mm->mm_mt`; lib/maple_tree.c, include/linux/maple_tree.h). Its nodes are 256
//! bytes, aligned so; the low bits of a pointer to one tell its type. A node has slots, and between them pivots: slot `i` holds
//! what is above pivot `i - 1` and not above pivot `i`.
//!
//! Limits: kernels with a maple tree; at most [`MAX_DEPTH`] levels; no lock is taken, so a tree that changes meanwhile can answer
//! that there is no mapping. A node that is no node gives that answer too, and a mapping that does not hold the address is no
//! answer.

use crate::btf::{TypeError, Types};
use crate::memory::{Unreadable, Virtual};

/// Levels of a tree; one of 16 slots per leaf and 10 per inner node holds more mappings than a process may have (65530) in six.
pub const MAX_DEPTH: usize = 12;
/// Bytes of a node (`MAPLE_NODE_SLOTS`, 31 slots and a parent).
const NODE: usize = 256;
/// Types of nodes (`enum maple_type`), and where they stand in a pointer (`MAPLE_NODE_TYPE_SHIFT`, lib/maple_tree.c).
const LEAF: u64 = 1;
const RANGE: u64 = 2;
const ALLOCATION_RANGE: u64 = 3;
const TYPE_SHIFT: u64 = 3;
const TYPE_MASK: u64 = 0xf;
/// `xa_is_node` (include/linux/xarray.h): the root is a node, not the one entry.
const INTERNAL: u64 = 2;

/// `VM_MAYSHARE` (include/linux/mm.h): mapped with `MAP_SHARED`, be it to read only. `VM_READ`, `VM_WRITE` and `VM_EXEC` are 1, 2 and 4.
pub const VM_MAYSHARE: u64 = 0x80;
/// `VM_EXEC`
pub const VM_EXEC: u64 = 4;
/// `VM_WRITE`
pub const VM_WRITE: u64 = 2;

/// Offsets that the readers here need, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmaLayout {
    /// `mm_struct.mm_mt.ma_root`
    pub root: u64,
    /// `mm_struct.start_brk`
    pub start_brk: u64,
    /// `mm_struct.brk`
    pub brk: u64,
    /// `mm_struct.start_stack`
    pub start_stack: u64,
    /// `mm_struct.owner`, where the kernel keeps it (`CONFIG_MEMCG`).
    pub owner: Option<u64>,
    /// `vm_area_struct.vm_start`
    pub start: u64,
    /// `vm_area_struct.vm_end`
    pub end: u64,
    /// `vm_area_struct.vm_flags`
    pub flags: u64,
    /// `vm_area_struct.vm_file`
    pub file: u64,
    /// `vm_area_struct.vm_pgoff`
    pub pgoff: u64,
    /// `vm_area_struct.vm_ops`
    pub ops: u64,
    /// Pivots and slots of leaves and inner nodes: first pivot, first slot, number of slots.
    pub range: (u64, u64, u64),
    /// The same of nodes that also know gaps (`maple_arange_64`).
    pub allocation: (u64, u64, u64),
}

impl VmaLayout {
    /// Resolves the members.
    ///
    /// # Errors
    /// The first that this kernel does not have.
    pub fn resolve(types: &Types) -> Result<Self, TypeError> {
        let of = |strukt: &str, member: &str| types.offset(strukt, member);
        let node = |name: &str| -> Result<(u64, u64, u64), TypeError> {
            let slots = types.member("maple_node", &format!("{name}.slot"))?;
            Ok((of("maple_node", &format!("{name}.pivot"))?, slots.offset, slots.size / 8))
        };
        Ok(Self {
            root: of("mm_struct", "mm_mt")?.saturating_add(of("maple_tree", "ma_root")?),
            start_brk: of("mm_struct", "start_brk")?,
            brk: of("mm_struct", "brk")?,
            start_stack: of("mm_struct", "start_stack")?,
            owner: of("mm_struct", "owner").ok(),
            start: of("vm_area_struct", "vm_start")?,
            end: of("vm_area_struct", "vm_end")?,
            flags: of("vm_area_struct", "vm_flags")?,
            file: of("vm_area_struct", "vm_file")?,
            pgoff: of("vm_area_struct", "vm_pgoff")?,
            ops: of("vm_area_struct", "vm_ops")?,
            range: node("mr64")?,
            allocation: node("ma64")?,
        })
    }
}

/// A mapping (`struct vm_area_struct`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vma {
    /// First byte.
    pub start: u64,
    /// First byte behind it.
    pub end: u64,
    /// `VM_*` (include/linux/mm.h).
    pub flags: u64,
    /// Its `struct file`; 0 for anonymous memory.
    pub file: u64,
    /// Where in the file it begins, in pages.
    pub pgoff: u64,
    /// Its operations; of a special mapping (vdso), `special_mapping_vmops`.
    pub ops: u64,
}

impl Vma {
    /// Whether `address` lies in it.
    #[must_use]
    pub const fn holds(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }
}

/// Reads the `vm_area_struct` at `address`.
///
/// # Errors
/// [`Unreadable`]
pub fn read_vma(memory: &dyn Virtual, layout: &VmaLayout, address: u64) -> Result<Vma, Unreadable> {
    let field = |offset: u64| memory.u64(address.wrapping_add(offset));
    Ok(Vma {
        start: field(layout.start)?,
        end: field(layout.end)?,
        flags: field(layout.flags)?,
        file: field(layout.file)?,
        pgoff: field(layout.pgoff)?,
        ops: field(layout.ops)?,
    })
}

/// The mapping of the `mm_struct` at `mm` that holds `address`; None if none does.
///
/// # Errors
/// [`Unreadable`] if the tree could not be followed to the end.
pub fn find(memory: &dyn Virtual, layout: &VmaLayout, mm: u64, address: u64) -> Result<Option<Vma>, Unreadable> {
    let mut entry = memory.u64(mm.wrapping_add(layout.root))?;
    for _ in 0..MAX_DEPTH {
        if entry == 0 {
            return Ok(None);
        }
        if entry & 3 != INTERNAL && entry & 3 != 0 {
            return Err(Unreadable { address: entry });
        }
        // The root has INTERNAL set; pointers to other nodes have their type alone, and come only from inner nodes.
        let kind = entry >> TYPE_SHIFT & TYPE_MASK;
        let (pivots, slots, count) = match kind {
            LEAF | RANGE => layout.range,
            ALLOCATION_RANGE => layout.allocation,
            _ => return Err(Unreadable { address: entry }),
        };
        let node = entry & !(NODE as u64 - 1);
        let mut bytes = [0; NODE];
        memory.read(node, &mut bytes)?;
        let word = |first: u64, index: u64| {
            let at = first.wrapping_add(index.wrapping_mul(8)) as usize;
            bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).map(|word| u64::from_le_bytes(*word))
        };
        // A pivot of 0 (but the first) ends the node: what is above the last goes up to the node's own maximum.
        let ends = |&index: &u64| {
            let pivot = if index + 1 < count { word(pivots, index) } else { None };
            pivot.is_none_or(|pivot| address <= pivot || (pivot == 0 && index > 0))
        };
        let slot = (0..count.min(NODE as u64 / 8)).find(ends).and_then(|index| word(slots, index));
        entry = slot.ok_or(Unreadable { address: node })?;
        if kind == LEAF {
            if entry == 0 {
                return Ok(None);
            }
            return Ok(Some(read_vma(memory, layout, entry)?).filter(|vma| vma.holds(address)));
        }
    }
    Err(Unreadable { address: mm })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeGuest, layout};

    const LAYOUT: VmaLayout = VmaLayout {
        root: 8,
        start_brk: 0,
        brk: 0,
        start_stack: 0,
        owner: None,
        start: 0,
        end: 8,
        flags: 32,
        file: 112,
        pgoff: 104,
        ops: 96,
        range: (8, 128, 16),
        allocation: (8, 80, 10),
    };

    fn node(guest: &mut FakeGuest) -> u64 {
        let at = guest.alloc(2 * NODE as u64);
        at.next_multiple_of(NODE as u64)
    }

    fn vma(guest: &mut FakeGuest, start: u64, end: u64, file: u64) -> u64 {
        let at = guest.alloc(192);
        for (offset, value) in [(0, start), (8, end), (32, 5), (112, file)] {
            guest.write_u64(at + offset, value);
        }
        at
    }

    /// An mm with leaves of two mappings each under one inner node.
    fn mm(guest: &mut FakeGuest) -> u64 {
        let (mm, inner) = (guest.alloc(64), node(guest));
        for (i, base) in [0x1000u64, 0x10_0000, 0x7f00_0000_0000].into_iter().enumerate() {
            let leaf = node(guest);
            let (low, high) = (vma(guest, base, base + 0x1000, 0), vma(guest, base + 0x3000, base + 0x5000, 7));
            // Slots: gap, low, gap, high, gap to the end.
            for (slot, (pivot, what)) in
                [(base - 1, 0), (base + 0xfff, low), (base + 0x2fff, 0), (base + 0x4fff, high)].into_iter().enumerate()
            {
                guest.write_u64(leaf + 8 + slot as u64 * 8, pivot);
                guest.write_u64(leaf + 128 + slot as u64 * 8, what);
            }
            if i < 2 {
                guest.write_u64(inner + 8 + i as u64 * 8, base + 0x7fff);
            }
            guest.write_u64(inner + 80 + i as u64 * 8, leaf | LEAF << TYPE_SHIFT | 4);
        }
        guest.write_u64(mm + LAYOUT.root, inner | ALLOCATION_RANGE << TYPE_SHIFT | INTERNAL);
        mm
    }

    #[test]
    fn finds_mappings_and_gaps() {
        let mut guest = FakeGuest::new(layout(), false);
        let mm = mm(&mut guest);
        let at = |address| find(&guest.space(), &LAYOUT, mm, address).unwrap().map(|vma| (vma.start, vma.file));
        assert_eq!(at(0x1000), Some((0x1000, 0)));
        assert_eq!(at(0x4fff), Some((0x4000, 7)));
        assert_eq!(at(0x10_0fff), Some((0x10_0000, 0)));
        assert_eq!(at(0x7f00_0000_3abc), Some((0x7f00_0000_3000, 7)));
        for gap in [0, 0xfff, 0x2000, 0x9000, 0x10_8000, 0x7f00_0000_5000, u64::MAX] {
            assert_eq!(at(gap), None, "{gap:#x}");
        }
    }

    #[test]
    fn a_tree_that_is_none() {
        let mut guest = FakeGuest::new(layout(), false);
        let mm = guest.alloc(64);
        assert_eq!(find(&guest.space(), &LAYOUT, mm, 0x1000), Ok(None));
        // A node that points to itself, wild pointers, types that do not exist.
        let cycle = node(&mut guest);
        let entry = cycle | RANGE << TYPE_SHIFT | INTERNAL;
        guest.write_u64(cycle + 8, u64::MAX);
        guest.write_u64(cycle + 128, entry);
        for root in [entry, u64::MAX, u64::MAX - 1, 0x1000, 0x10, 0x1002, cycle | 9 << TYPE_SHIFT | INTERNAL] {
            guest.write_u64(mm + LAYOUT.root, root);
            assert!(find(&guest.space(), &LAYOUT, mm, 0x1000).is_err(), "{root:#x}");
        }
    }
}
