//! What the tap answers when it is asked to kill a process, beside the number of its threads: for who answers and who asked.

/// There is no such process, or it is ending.
pub const NO_PROCESS: u32 = 1 << 31;
/// It is the first process, or the kernel's own.
pub const SPARED: u32 = NO_PROCESS + 1;
/// What the guest's kernel keeps of it could not be read.
pub const UNREADABLE: u32 = NO_PROCESS + 2;
