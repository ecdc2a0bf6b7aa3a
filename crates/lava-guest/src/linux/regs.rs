//! The registers a task had in user mode, as the kernel saved them when it was entered.
//!
//! They lie at the top of the task's kernel stack (`task_pt_regs`, arch/x86/include/asm/processor.h). How much is left free above
//! them differs between kernels (`TOP_OF_KERNEL_STACK_PADDING`, 16 bytes with `CONFIG_X86_FRED`), so both places are tried, and
//! the segment registers say which one holds registers of user mode.
//!
//! Limits: stacks of 16 KiB (`THREAD_SIZE`, arch/x86/include/asm/page_64_types.h; a kernel with KASAN has larger ones). What a
//! system call has not saved yet, or a signal has changed, is as it stands there.

use crate::btf::{TypeError, Types};
use crate::memory::{Unreadable, Virtual};

/// `THREAD_SIZE` (arch/x86/include/asm/page_64_types.h), bytes.
pub const THREAD_SIZE: u64 = 16 * 1024;
/// `TOP_OF_KERNEL_STACK_PADDING` (arch/x86/include/asm/thread_info.h), without and with `CONFIG_X86_FRED`.
const PADDINGS: [u64; 2] = [0, 16];
/// More than any `struct pt_regs` has, bytes.
const MAX_SIZE: usize = 512;

macro_rules! saved {
    ($( $field:ident $what:literal ),*) => {
        /// Offsets in `struct pt_regs`, and of the stack in `task_struct`, bytes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct RegsLayout {
            /// `task_struct.stack`
            pub stack: u64,
            /// Size of `struct pt_regs`.
            pub size: u64,
            $( #[doc = concat!("`pt_regs.", stringify!($field), "`")] pub $field: u64, )*
        }

        /// Registers of user mode.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct UserRegisters {
            $( #[doc = $what] pub $field: u64, )*
        }

        impl RegsLayout {
            /// Resolves the members.
            ///
            /// # Errors
            /// The first that this kernel does not have.
            pub fn resolve(types: &Types) -> Result<Self, TypeError> {
                let of = |member: &str| types.offset("pt_regs", member);
                Ok(Self {
                    stack: types.offset("task_struct", "stack")?,
                    size: types.size_of("pt_regs")?,
                    $( $field: of(stringify!($field))?, )*
                })
            }
        }

        /// Reads the `struct pt_regs` at `address`.
        ///
        /// # Errors
        /// [`Unreadable`]
        pub fn read_registers(
            memory: &dyn Virtual,
            layout: &RegsLayout,
            address: u64,
        ) -> Result<UserRegisters, Unreadable> {
            let mut bytes = [0; MAX_SIZE];
            let bytes = bytes.get_mut(..layout.size as usize).ok_or(Unreadable { address })?;
            memory.read(address, bytes)?;
            let at = |offset: u64| {
                let value = bytes.get(offset as usize..).and_then(|rest| rest.first_chunk::<8>());
                value.map(|value| u64::from_le_bytes(*value)).ok_or(Unreadable { address })
            };
            Ok(UserRegisters { $( $field: at(layout.$field)?, )* })
        }
    };
}

saved! {
    ax "rax; when a system call returns, its result", bx "rbx", cx "rcx", dx "rdx", si "rsi", di "rdi", bp "rbp",
    r8 "r8", r9 "r9", r10 "r10", orig_ax "The system call's number, or an error code",
    ip "rip", sp "rsp", cs "Code segment", ss "Stack segment"
}

impl UserRegisters {
    /// Whether these are registers of user mode, by their privilege level (Intel SDM vol. 3, 5.5).
    #[must_use]
    pub const fn is_user(&self) -> bool {
        self.cs & 3 == 3 && self.ss & 3 == 3 && self.cs < 1 << 16 && self.ss < 1 << 16
    }
}

/// The registers of user mode of the task whose `task_struct` is at `task`.
///
/// # Errors
/// [`Unreadable`] also if it has none: a kernel thread.
pub fn user_registers(memory: &dyn Virtual, layout: &RegsLayout, task: u64) -> Result<UserRegisters, Unreadable> {
    let stack = memory.pointer(task.wrapping_add(layout.stack))?;
    let top = stack.wrapping_add(THREAD_SIZE);
    for padding in PADDINGS {
        let saved = read_registers(memory, layout, top.wrapping_sub(padding).wrapping_sub(layout.size))?;
        if saved.is_user() {
            return Ok(saved);
        }
    }
    Err(Unreadable { address: top })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeGuest, layout};

    const LAYOUT: RegsLayout = RegsLayout {
        stack: 32,
        size: 168,
        ax: 80,
        bx: 40,
        cx: 88,
        dx: 96,
        si: 104,
        di: 112,
        bp: 32,
        r8: 72,
        r9: 64,
        r10: 56,
        orig_ax: 120,
        ip: 128,
        sp: 152,
        cs: 136,
        ss: 160,
    };

    fn check(padding: u64) {
        let mut guest = FakeGuest::new(layout(), false);
        let (task, stack) = (guest.alloc(64), guest.alloc(THREAD_SIZE));
        guest.write_u64(task + LAYOUT.stack, stack);
        let saved = stack + THREAD_SIZE - padding - LAYOUT.size;
        assert!(user_registers(&guest.space(), &LAYOUT, task).is_err(), "a kernel thread has none");
        for (offset, value) in [(LAYOUT.cs, 0x33), (LAYOUT.ss, 0x2b), (LAYOUT.ip, 0x40_1000), (LAYOUT.sp, 0x7ffd_0000)]
        {
            guest.write_u64(saved + offset, value);
        }
        let read = user_registers(&guest.space(), &LAYOUT, task).unwrap();
        assert_eq!((read.ip, read.sp), (0x40_1000, 0x7ffd_0000));
    }

    #[test]
    fn with_and_without_padding() {
        check(0);
        check(16);
    }

    #[test]
    fn a_wild_stack() {
        let mut guest = FakeGuest::new(layout(), false);
        let task = guest.alloc(64);
        assert!(user_registers(&guest.space(), &LAYOUT, task).is_err());
        guest.write_u64(task + LAYOUT.stack, u64::MAX - 8192);
        assert!(user_registers(&guest.space(), &LAYOUT, task).is_err());
    }
}
