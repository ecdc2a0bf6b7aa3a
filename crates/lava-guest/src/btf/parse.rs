//! The bytes of BTF: header, type records, strings. `include/uapi/linux/btf.h`, Linux 6.12.

use super::{Shape, TypeError};

const MAGIC: u16 = 0xeb9f;
/// A real kernel has about 150,000 types.
const MAX_TYPES: usize = 4_000_000;
/// No C identifier of the kernel is longer; longer ones are cut.
const MAX_NAME: usize = 512;

/// What of the 19 kinds makes a difference here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ptr,
    Array,
    Struct,
    Union,
    /// INT, ENUM, ENUM64, FLOAT, DATASEC: `size_or_type` is a size.
    Sized,
    Fwd,
    Typedef,
    /// VOLATILE, CONST, RESTRICT, TYPE_TAG.
    Modifier,
    Func,
    FuncProto,
    /// VAR, DECL_TAG.
    Other,
}

/// `struct btf_type`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Type {
    pub(super) kind: Kind,
    pub(super) name: u32,
    pub(super) size_or_type: u32,
    code: u32,
    vlen: usize,
    kind_flag: bool,
    /// Where the kind's own records begin.
    body: usize,
}

pub(super) struct Member {
    pub(super) name: u32,
    pub(super) type_id: u32,
    pub(super) bit_offset: u64,
    pub(super) bit_size: u32,
}

/// Type and string sections, and where each type begins. Identifiers count from 1; 0 is void.
#[derive(Clone)]
pub(super) struct Raw {
    types: Vec<u8>,
    strings: Vec<u8>,
    starts: Vec<u32>,
}

impl Raw {
    pub(super) fn parse(bytes: &[u8]) -> Result<Raw, TypeError> {
        let bad = TypeError::Malformed;
        let word = |at| le32(bytes, at).map(|v| v as usize).ok_or(bad("no header"));
        if bytes.get(..2) != Some(&MAGIC.to_le_bytes()) || bytes.get(2) != Some(&1) {
            return Err(bad("not BTF version 1, little-endian"));
        }
        let header = word(4)?;
        let section = |offset: usize, length: usize| {
            let start = header.checked_add(offset)?;
            bytes.get(start..start.checked_add(length)?)
        };
        let types = section(word(8)?, word(12)?).ok_or(bad("types lie outside"))?;
        let strings = section(word(16)?, word(20)?).ok_or(bad("strings lie outside"))?;
        let mut raw = Raw { types: types.to_vec(), strings: strings.to_vec(), starts: Vec::new() };
        let mut at = 0;
        while at < raw.types.len() {
            let (t, length) = raw.record(at).ok_or(bad("a type of unknown kind, or cut off"))?;
            if t.body + length > raw.types.len() {
                return Err(bad("a type reaches past the end"));
            }
            if raw.starts.len() >= MAX_TYPES {
                return Err(bad("too many types"));
            }
            raw.starts.push(at as u32);
            at = t.body + length;
        }
        Ok(raw)
    }

    /// The type at byte `at`, and how many bytes follow its fixed part.
    fn record(&self, at: usize) -> Option<(Type, usize)> {
        let info = le32(&self.types, at + 4)?;
        let code = info >> 24 & 0x1f;
        let vlen = (info & 0xffff) as usize;
        let (kind, length) = match code {
            1 => (Kind::Sized, 4),
            2 => (Kind::Ptr, 0),
            3 => (Kind::Array, 12),
            4 => (Kind::Struct, vlen * 12),
            5 => (Kind::Union, vlen * 12),
            6 => (Kind::Sized, vlen * 8),
            7 => (Kind::Fwd, 0),
            8 => (Kind::Typedef, 0),
            9..=11 | 18 => (Kind::Modifier, 0),
            12 => (Kind::Func, 0),
            13 => (Kind::FuncProto, vlen * 8),
            14 | 17 => (Kind::Other, 4),
            15 | 19 => (Kind::Sized, vlen * 12),
            16 => (Kind::Sized, 0),
            _ => return None,
        };
        let t = Type {
            kind,
            name: le32(&self.types, at)?,
            size_or_type: le32(&self.types, at + 8)?,
            code,
            vlen,
            kind_flag: info >> 31 != 0,
            body: at + 12,
        };
        Some((t, length))
    }

    /// The highest type identifier.
    pub(super) fn count(&self) -> u32 {
        self.starts.len() as u32
    }

    /// None for void and for identifiers out of range.
    pub(super) fn get(&self, id: u32) -> Option<Type> {
        let start = *self.starts.get((id as usize).checked_sub(1)?)?;
        self.record(start as usize).map(|(t, _)| t)
    }

    /// The string at `offset`; empty if it lies outside or is not text.
    pub(super) fn string(&self, offset: u32) -> &str {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        let rest = &rest[..rest.len().min(MAX_NAME)];
        let text = rest.split(|&b| b == 0).next().unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }

    fn words(&self, t: Type, width: usize) -> impl Iterator<Item = &[u8]> {
        self.types.get(t.body..).unwrap_or_default().chunks_exact(width).take(t.vlen)
    }

    /// Members of a struct or union; nothing for other types.
    pub(super) fn members(&self, id: u32) -> impl Iterator<Item = Member> {
        let t = self.get(id).filter(|t| matches!(t.kind, Kind::Struct | Kind::Union));
        t.into_iter().flat_map(move |t| {
            self.words(t, 12).map(move |b| {
                let (name, type_id, offset) = (word(b, 0), word(b, 4), word(b, 8));
                // With the kind flag the upper byte is the width of a bit field (0: none).
                let (bit_offset, bit_size) = if t.kind_flag { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
                Member { name, type_id, bit_offset: u64::from(bit_offset), bit_size }
            })
        })
    }

    /// What an INT, ENUM, ENUM64 or FLOAT is; a section of variables is nothing.
    pub(super) fn sized(&self, t: Type) -> Shape {
        /// `BTF_INT_SIGNED`, `BTF_INT_CHAR`, `BTF_INT_BOOL`, in the encoding's bits.
        const ENCODING: [u32; 3] = [1 << 24, 2 << 24, 4 << 24];
        let size = t.size_or_type;
        match t.code {
            1 => {
                let encoding = le32(&self.types, t.body).unwrap_or(0);
                let [signed, char, bool] = ENCODING.map(|bit| encoding & bit != 0);
                Shape::Int { size, signed, char, bool }
            }
            6 | 19 => Shape::Enum { size },
            16 => Shape::Float { size },
            _ => Shape::Void,
        }
    }

    /// Element type and length of an array.
    pub(super) fn array(&self, id: u32) -> Option<(u32, u32)> {
        let t = self.get(id).filter(|t| t.kind == Kind::Array)?;
        Some((le32(&self.types, t.body)?, le32(&self.types, t.body + 8)?))
    }

    /// Name and type of each parameter of a prototype.
    pub(super) fn params(&self, id: u32) -> Option<impl Iterator<Item = (u32, u32)>> {
        let t = self.get(id).filter(|t| t.kind == Kind::FuncProto)?;
        Some(self.words(t, 8).map(|b| (word(b, 0), word(b, 4))))
    }

    /// Name and value of each constant of an enum.
    pub(super) fn constants(&self, id: u32) -> impl Iterator<Item = (u32, i64)> {
        let t = self.get(id).filter(|t| matches!(t.code, 6 | 19));
        t.into_iter().flat_map(move |t| {
            let wide = t.code == 19;
            self.words(t, if wide { 12 } else { 8 }).map(move |b| {
                let low = word(b, 4);
                let value = match (wide, t.kind_flag) {
                    (true, _) => (u64::from(word(b, 8)) << 32 | u64::from(low)) as i64,
                    (false, true) => i64::from(low as i32),
                    // Before the kind flag of 6.0 said so, negative constants were stored all the same.
                    (false, false) => i64::from(low),
                };
                (word(b, 0), value)
            })
        })
    }
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

/// A word of a chunk whose length is known to hold it.
fn word(chunk: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([chunk[at], chunk[at + 1], chunk[at + 2], chunk[at + 3]])
}
