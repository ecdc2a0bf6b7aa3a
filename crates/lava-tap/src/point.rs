//! Instructions that were chosen at translation, and what they were chosen for.

/// Why the tap is called before an instruction. Travels through QEMU as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The entry of the kernel function with this number among the hooks.
    Hook(usize),
    /// The address with this number among those that hooked functions return to.
    Return(usize),
    /// `wrmsr`
    Msr,
    /// `mov` to a control register: its number, and the number of the general register (as in `REGISTERS`' encoding order of
    /// the instruction: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8..r15).
    Control {
        /// 0, 3, 4 or 8.
        register: u8,
        /// The source.
        from: u8,
    },
    /// `lidt` (an index of the integrity watch's own).
    Descriptor(usize),
    /// User code that the memory watch wants to see run (an index of its own).
    User(usize),
    /// Kernel code that the integrity watch wants to see run (an index of its own).
    Kernel(usize),
}

const BITS: u32 = 56;
const MASK: usize = (1 << BITS) - 1;

impl Point {
    /// As a number.
    pub const fn encode(self) -> usize {
        let (tag, value) = match self {
            Self::Hook(number) => (0, number),
            Self::Return(number) => (1, number),
            Self::Msr => (2, 0),
            Self::Control { register, from } => (3, (register as usize) << 8 | from as usize),
            Self::Descriptor(number) => (4, number),
            Self::User(number) => (5, number),
            Self::Kernel(number) => (6, number),
        };
        (tag << BITS) | (value & MASK)
    }

    /// From a number that [`Point::encode`] gave.
    pub const fn decode(word: usize) -> Option<Self> {
        let value = word & MASK;
        Some(match word >> BITS {
            0 => Self::Hook(value),
            1 => Self::Return(value),
            2 => Self::Msr,
            3 => Self::Control { register: (value >> 8) as u8, from: value as u8 },
            4 => Self::Descriptor(value),
            5 => Self::User(value),
            6 => Self::Kernel(value),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for point in [
            Point::Hook(7),
            Point::Return(1 << 20),
            Point::Msr,
            Point::Control { register: 4, from: 15 },
            Point::User(3),
        ] {
            assert_eq!(Point::decode(point.encode()), Some(point));
        }
        assert_eq!(Point::decode(usize::MAX), None);
    }
}
