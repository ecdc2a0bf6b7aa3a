//! The kernel's types, out of the `.BTF` section the kernel carries for BPF.
//!
//! Member offsets are asked for by name (`member("file", "f_path.dentry")`), so nothing here knows a kernel version.
//! Format: Documentation/bpf/btf.rst, Linux 6.12; kinds up to 19 (ENUM64, Linux 6.0).
//!
//! Limits: base BTF of `vmlinux`, not the split BTF of modules; needs `CONFIG_DEBUG_INFO_BTF`. Static functions of the
//! same name are kept once. A member is looked for through at most 32 nested anonymous types.

mod parse;
mod shape;

use crate::elf::{Elf, NotElf};
use parse::{Kind, Raw};
pub use shape::{Member, Shape};
use std::collections::HashMap;

/// How deep nested types and chains of typedefs are followed.
const MAX_DEPTH: usize = 32;
/// How many members one question may look at: a type that contains itself through anonymous unions ends here.
const MAX_MEMBERS: usize = 100_000;

/// Why a type could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// The file is not an ELF file.
    #[error(transparent)]
    NotElf(#[from] NotElf),
    /// The kernel has no `.BTF` section.
    #[error("this kernel carries no types: build it with CONFIG_DEBUG_INFO_BTF=y")]
    NoBtf,
    /// The section does not follow the format.
    #[error("damaged BTF: {0}")]
    Malformed(&'static str),
    /// No full definition of this struct, union or typedef.
    #[error("no type `{0}` in this kernel")]
    NoType(String),
    /// The type has no such member.
    #[error("no member `{member}` in `{strukt}`")]
    NoMember {
        /// The type that was asked.
        strukt: String,
        /// The path that was asked for.
        member: String,
    },
}

/// Where a member lies within its struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Field {
    /// Bytes from the start of the outermost struct; for a bit field, of the byte that holds its first bit.
    pub offset: u64,
    /// Bytes the member occupies; for a bit field, bytes to read to have it whole.
    pub size: u64,
    /// First bit of a bit field within the byte at `offset`; 0 for a plain member.
    pub bit_offset: u32,
    /// Bits of a bit field; 0 for a plain member.
    pub bit_size: u32,
}

/// One parameter of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Its name in the kernel's source; empty if it has none.
    pub name: String,
    /// The struct or union it points to, through const, volatile and typedef; None for all other types.
    pub pointee: Option<String>,
}

/// All types of one kernel.
#[derive(Clone)]
pub struct Types {
    raw: Raw,
    /// Structs and unions, full definitions only.
    composites: HashMap<Box<str>, u32>,
    typedefs: HashMap<Box<str>, u32>,
    functions: HashMap<Box<str>, u32>,
}

impl Types {
    /// Reads the `.BTF` section of a kernel's ELF file.
    ///
    /// # Errors
    /// [`TypeError::NoBtf`] if there is none, else as [`Types::parse`].
    pub fn from_elf(elf: &[u8]) -> Result<Types, TypeError> {
        Types::parse(Elf::parse(elf)?.section(".BTF").ok_or(TypeError::NoBtf)?)
    }

    /// Reads base BTF: what `.BTF` of an ELF file and `/sys/kernel/btf/vmlinux` hold.
    ///
    /// # Errors
    /// [`TypeError::Malformed`] if the bytes do not follow the format.
    pub fn parse(bytes: &[u8]) -> Result<Types, TypeError> {
        /// Names are indexed up to this many bytes in all; a real kernel has 2 MiB of them.
        const MAX_NAMES: usize = 64 << 20;
        let raw = Raw::parse(bytes)?;
        let mut types = Types { raw, composites: HashMap::new(), typedefs: HashMap::new(), functions: HashMap::new() };
        let mut names = 0;
        for id in 1..=types.raw.count() {
            let Some(t) = types.raw.get(id) else { continue };
            let index = match t.kind {
                Kind::Struct | Kind::Union => &mut types.composites,
                Kind::Typedef => &mut types.typedefs,
                Kind::Func => &mut types.functions,
                _ => continue,
            };
            let name = types.raw.string(t.name);
            if name.is_empty() {
                continue;
            }
            names += name.len();
            if names > MAX_NAMES {
                return Err(TypeError::Malformed("too many names"));
            }
            index.entry(name.into()).or_insert(id);
        }
        Ok(types)
    }

    /// Where the member `path` of the struct, union or typedef `strukt` lies.
    ///
    /// `path` may go into members of members (`f_path.dentry`) and into arrays (`slots[2].next`); members of anonymous
    /// structs and unions are found as in C. Pointers are not followed.
    ///
    /// # Errors
    /// [`TypeError::NoType`], [`TypeError::NoMember`].
    pub fn member(&self, strukt: &str, path: &str) -> Result<Field, TypeError> {
        let id = self.composite(strukt).ok_or_else(|| TypeError::NoType(strukt.into()))?;
        let missing = || TypeError::NoMember { strukt: strukt.into(), member: path.into() };
        self.walk(id, path).ok_or_else(missing)
    }

    /// The offset of that member, in bytes.
    ///
    /// # Errors
    /// As [`Types::member`].
    pub fn offset(&self, strukt: &str, path: &str) -> Result<u64, TypeError> {
        self.member(strukt, path).map(|field| field.offset)
    }

    fn walk(&self, mut id: u32, path: &str) -> Option<Field> {
        let mut base = 0u64;
        let mut field = None;
        for part in path.split('.') {
            let (name, index) = match part.split_once('[') {
                Some((name, rest)) => (name, Some(rest.strip_suffix(']')?.parse::<u64>().ok()?)),
                None => (part, None),
            };
            let (bits, bit_size, type_id) = self.find(id, name, 0, &mut { MAX_MEMBERS })?;
            base = base.checked_add(bits / 8)?;
            id = self.resolve(type_id)?;
            if let Some(index) = index {
                let (element, count) = self.raw.array(id)?;
                id = self.resolve(element)?;
                let step = index.checked_mul(self.type_size(id)?)?;
                base = base.checked_add(step).filter(|_| index < u64::from(count))?;
            }
            let bit_offset = (bits % 8) as u32;
            let size = match bit_size {
                0 => self.type_size(id).unwrap_or(0),
                n => u64::from((bit_offset + n).div_ceil(8)),
            };
            field = Some(Field { offset: base, size, bit_offset, bit_size });
        }
        field
    }

    /// Bit offset, bit-field width (0: none) and type of the member `name` of type `id`, or of what it holds unnamed.
    fn find(&self, id: u32, name: &str, depth: usize, budget: &mut usize) -> Option<(u64, u32, u32)> {
        // What is anonymous has the empty name: nobody can ask for it.
        if depth > MAX_DEPTH || name.is_empty() {
            return None;
        }
        for m in self.raw.members(id) {
            *budget = budget.checked_sub(1)?;
            let own = self.raw.string(m.name);
            if own == name {
                return Some((m.bit_offset, m.bit_size, m.type_id));
            }
            if own.is_empty()
                && let Some(inner) = self.resolve(m.type_id)
                && let Some((bits, width, t)) = self.find(inner, name, depth + 1, budget)
            {
                return Some((m.bit_offset.checked_add(bits)?, width, t));
            }
        }
        None
    }

    /// The size in bytes of a struct, union or typedef.
    ///
    /// # Errors
    /// [`TypeError::NoType`].
    pub fn size_of(&self, strukt: &str) -> Result<u64, TypeError> {
        let id = self.composite(strukt).or_else(|| self.typedefs.get(strukt).copied());
        id.and_then(|id| self.type_size(id)).ok_or_else(|| TypeError::NoType(strukt.into()))
    }

    /// The parameters of a kernel function, in order; None if there is no such function.
    pub fn function(&self, name: &str) -> Option<Vec<Param>> {
        let prototype = self.raw.get(*self.functions.get(name)?)?.size_or_type;
        let param = |(name, type_id)| Param { name: self.raw.string(name).to_owned(), pointee: self.pointee(type_id) };
        Some(self.raw.params(prototype)?.map(param).collect())
    }

    /// Which parameter of a function (counted from 0) bears this name.
    pub fn param_index(&self, function: &str, param: &str) -> Option<usize> {
        self.function(function)?.iter().position(|p| p.name == param)
    }

    /// The value of an enum's constant; of any enum in the kernel if `enumeration` is None.
    pub fn enum_value(&self, enumeration: Option<&str>, constant: &str) -> Option<i64> {
        (1..=self.raw.count()).find_map(|id| {
            let t = self.raw.get(id)?;
            if enumeration.is_some_and(|name| name != self.raw.string(t.name)) {
                return None;
            }
            self.raw.constants(id).find(|&(name, _)| self.raw.string(name) == constant).map(|(_, value)| value)
        })
    }

    /// Whether there is a full definition of this struct or union.
    pub fn has_struct(&self, name: &str) -> bool {
        self.composites.contains_key(name)
    }

    /// How many types there are.
    pub fn len(&self) -> usize {
        self.raw.count() as usize
    }

    /// True of BTF without a single type.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn composite(&self, name: &str) -> Option<u32> {
        let typedef = || self.typedefs.get(name).and_then(|&id| self.resolve(id));
        self.composites.get(name).copied().or_else(typedef)
    }

    /// What is behind typedefs and qualifiers; for a forward declaration, the full definition if there is one.
    fn resolve(&self, mut id: u32) -> Option<u32> {
        for _ in 0..MAX_DEPTH {
            let t = self.raw.get(id)?;
            match t.kind {
                Kind::Modifier | Kind::Typedef => id = t.size_or_type,
                Kind::Fwd => return self.composites.get(self.raw.string(t.name)).copied(),
                _ => return Some(id),
            }
        }
        None
    }

    fn pointee(&self, type_id: u32) -> Option<String> {
        let pointer = self.raw.get(self.resolve(type_id)?)?;
        if pointer.kind != Kind::Ptr {
            return None;
        }
        // A struct that is only declared still has a name.
        let mut id = pointer.size_or_type;
        for _ in 0..MAX_DEPTH {
            let t = self.raw.get(id)?;
            match t.kind {
                Kind::Modifier | Kind::Typedef => id = t.size_or_type,
                Kind::Struct | Kind::Union | Kind::Fwd => {
                    return Some(self.raw.string(t.name).to_owned()).filter(|name| !name.is_empty());
                }
                _ => return None,
            }
        }
        None
    }

    /// Size in bytes; arrays of arrays are multiplied out.
    fn type_size(&self, id: u32) -> Option<u64> {
        let mut id = id;
        let mut times = 1u64;
        for _ in 0..MAX_DEPTH {
            id = self.resolve(id)?;
            let t = self.raw.get(id)?;
            match t.kind {
                Kind::Ptr => return times.checked_mul(8),
                Kind::Array => {
                    let (element, count) = self.raw.array(id)?;
                    times = times.checked_mul(u64::from(count))?;
                    id = element;
                }
                Kind::Sized | Kind::Struct | Kind::Union => return times.checked_mul(u64::from(t.size_or_type)),
                _ => return None,
            }
        }
        None
    }
}

impl std::fmt::Debug for Types {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Types").field("len", &self.len()).finish_non_exhaustive()
    }
}
