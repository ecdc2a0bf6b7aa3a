//! The tap: introspection of a Linux guest from inside the QEMU process, outside the guest.
//!
//! Loaded by an unmodified QEMU (`-plugin liblava_tap.so,ring=F,kernel=F,origin=NS`, plugin API 4). At translation it
//! picks the few instructions that matter, the first one of each hooked kernel function and `wrmsr`; everything else runs
//! at full speed. When a hooked function is entered, [`hooks`] read its arguments and the kernel's objects behind them,
//! and the resulting event goes through a shared-memory ring to the supervisor. A full ring holds the vCPU.
//!
//! Where the kernel runs is found when it tells the processor its system call entry (MSR LSTAR): that address minus
//! `entry_SYSCALL_64` is the KASLR slide, accepted only if the kernel's banner is found where it must then be.
//!
//! *Boundary:* everything read from the guest is hostile; readers are bounded (crate `lava-guest`), and a panic in a
//! callback is caught, reported as a gap, and does not reach QEMU.
//!
//! *Limits:* x86-64 Linux with kallsyms and BTF; TCG. Events of an earlier kernel than LSTAR's first write are not seen:
//! before it no user space runs.

mod api;
mod areas;
mod arguments;
mod backtrace;
mod costs;
mod emit;
mod hooks;
mod integrity;
mod introspect;
mod kill;
mod locate;
mod memory;
mod missing;
mod point;
mod processes;
mod ram;
mod refuse;
mod registers;
mod returns;
mod tap;
mod unbacked;
