//! All types, one by one, for who wants to write them down elsewhere (Volatility's symbol files).

use super::{Kind, MAX_DEPTH, Types};

/// What a type is. Others are named by their identifiers; 0 is `void`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `void`, or what is no data: a variable, a tag.
    Void,
    /// A number.
    Int {
        /// Bytes.
        size: u32,
        /// Below zero too.
        signed: bool,
        /// A letter.
        char: bool,
        /// A truth value.
        bool: bool,
    },
    /// A floating-point number.
    Float {
        /// Bytes.
        size: u32,
    },
    /// To what.
    Pointer(u32),
    /// Of what, and how many.
    Array(u32, u32),
    /// A structure: see [`Types::members`].
    Struct {
        /// Bytes.
        size: u32,
    },
    /// A union: see [`Types::members`].
    Union {
        /// Bytes.
        size: u32,
    },
    /// Named numbers: see [`Types::constants`].
    Enum {
        /// Bytes.
        size: u32,
    },
    /// A structure or union that is defined nowhere.
    Forward,
    /// A function.
    Function,
}

/// A member as it was declared; those without a name hold others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// Empty if it has none.
    pub name: &'a str,
    /// Its type's identifier.
    pub of: u32,
    /// From the structure's beginning.
    pub bit_offset: u64,
    /// Of a bit field; else 0.
    pub bits: u32,
}

impl Types {
    /// Every type's identifier.
    pub fn ids(&self) -> impl Iterator<Item = u32> + use<> {
        1..=self.raw.count()
    }

    /// The type's name; empty if it has none.
    #[must_use]
    pub fn name(&self, id: u32) -> &str {
        self.raw.get(id).map_or("", |t| self.raw.string(t.name))
    }

    /// The alias that a `typedef` gives to this identifier, if it is one, and what it stands for.
    #[must_use]
    pub fn alias(&self, id: u32) -> Option<(&str, u32)> {
        let t = self.raw.get(id).filter(|t| t.kind == Kind::Typedef)?;
        Some((self.raw.string(t.name), t.size_or_type))
    }

    /// What is behind typedefs and qualifiers, and its identifier; of a forward declaration the definition.
    #[must_use]
    pub fn shape(&self, mut id: u32) -> (u32, Shape) {
        for _ in 0..MAX_DEPTH {
            let Some(t) = self.raw.get(id) else { break };
            let shape = match t.kind {
                Kind::Modifier | Kind::Typedef => {
                    id = t.size_or_type;
                    continue;
                }
                Kind::Fwd => match self.composites.get(self.raw.string(t.name)) {
                    Some(&definition) => {
                        id = definition;
                        continue;
                    }
                    None => Shape::Forward,
                },
                Kind::Ptr => Shape::Pointer(t.size_or_type),
                Kind::Array => self.raw.array(id).map_or(Shape::Void, |(of, count)| Shape::Array(of, count)),
                Kind::Struct => Shape::Struct { size: t.size_or_type },
                Kind::Union => Shape::Union { size: t.size_or_type },
                Kind::Sized => self.raw.sized(t),
                Kind::Func | Kind::FuncProto => Shape::Function,
                Kind::Other => Shape::Void,
            };
            return (id, shape);
        }
        (0, Shape::Void)
    }

    /// The members of a structure or union, in its order.
    pub fn members(&self, id: u32) -> impl Iterator<Item = Member<'_>> {
        self.raw.members(id).map(|m| Member {
            name: self.raw.string(m.name),
            of: m.type_id,
            bit_offset: m.bit_offset,
            bits: m.bit_size,
        })
    }

    /// Names and values of an enum's constants.
    pub fn constants(&self, id: u32) -> impl Iterator<Item = (&str, i64)> {
        self.raw.constants(id).map(|(name, value)| (self.raw.string(name), value))
    }
}
