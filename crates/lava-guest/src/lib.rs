//! Reading a Linux x86-64 guest from outside.
//!
//! Everything that must be known of a guest kernel is read out of that kernel's own ELF file: [`kallsyms`] recovers
//! every symbol, [`btf`] every type. [`kernel`] puts the two together, and
//! [`layout`] resolves the member offsets the readers need, once. With a way to read guest memory ([`memory`],
//! [`paging`]), [`linux`] turns addresses into tasks, credentials, paths and file identities. [`fake`] is a guest
//! made of bytes, so that all of this is tested and measured without a virtual machine.
//!
//! *Invariant:* nothing here does I/O or reads a clock, and nothing here panics, loops or allocates without bound on
//! what it reads: a kernel file and a guest's memory are hostile input.
//!
//! Limits: x86-64 only; kernels with `CONFIG_KALLSYMS` and `CONFIG_DEBUG_INFO_BTF` (5.2 and later) only. Modules' own
//! symbols and types are not covered. `CONFIG_RANDSTRUCT` does no harm: BTF tells the shuffled offsets.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod btf;
pub mod calls;
mod elf;
pub mod fake;
pub mod kallsyms;
pub mod kernel;
pub mod layout;
pub mod linux;
pub mod memory;
pub mod paging;
pub mod patchable;
pub mod syscalls;
