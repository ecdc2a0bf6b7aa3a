//! Every system call, with arguments and result: `--trace api`.
//!
//! Read where the kernel's own C code takes a system call (x64, x32, `int 0x80`, `sysenter`, 32-bit `syscall`) and where it leaves
//! it, before signals change what is returned. From the task's start on, of every process.
//!
//! This is the interface as it was used, not what happened: text is user memory, read when the call comes in, or, where that page
//! is not there yet, when it goes out; another thread can change it between.
//!
//! Limits: 256 bytes of text. `exit` and `exit_group` do not return: told at their entry, with result 0. A call during which its
//! thread is killed is not told. Results -512 to -516 are the kernel's own (`ERESTARTSYS`..): a signal came, and the call is made
//! again or ends with `EINTR`. What a call writes into memory is not decoded.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Mutex;

use lava_event::{ApiArgument, GuestText, Kind};
use lava_guest::kernel::Kernel;
use lava_guest::linux::regs::{UserRegisters, read_registers};
use lava_guest::memory::{Unreadable, Virtual};
use lava_guest::syscalls::{Abi, Call, Content, Syscalls};

use crate::introspect::Context;

/// Bytes of text kept of an argument.
const MAX_TEXT: usize = 256;
/// Calls under way at once.
const MAX_PENDING: usize = 64 * 1024;
/// `__X32_SYSCALL_BIT` (arch/x86/include/uapi/asm/unistd.h)
const X32_BIT: u32 = 0x4000_0000;

/// Arguments of a system call.
const ARGUMENTS: usize = 6;

/// A call under way.
struct Pending {
    number: u32,
    abi: Abi,
    values: [u64; ARGUMENTS],
    texts: [Option<GuestText>; ARGUMENTS],
}

/// The kernel's calls, and those under way by the address of their saved registers.
pub struct ApiTrace {
    calls: Syscalls,
    pending: Mutex<HashMap<u64, Pending>>,
}

impl ApiTrace {
    pub fn resolve(elf: &[u8], kernel: &Kernel) -> Result<Self, String> {
        let calls = Syscalls::read(elf, &kernel.symbols, &kernel.types)?;
        Ok(Self { calls, pending: Mutex::default() })
    }
}

/// `do_syscall_64(regs, nr)`
pub fn enter_64(context: &Context<'_>) -> Result<(), Unreadable> {
    let number = context.argument(1)? as u32;
    let abi = if number & X32_BIT != 0 { Abi::X32 } else { Abi::X64 };
    enter(context, abi, |_| number & !X32_BIT)
}

/// `do_int80_emulation(regs)`: the number is still where the program put it.
pub fn enter_int80(context: &Context<'_>) -> Result<(), Unreadable> {
    enter(context, Abi::I386, |user| user.ax as u32)
}

/// `do_fast_syscall_32(regs)`
pub fn enter_fast_32(context: &Context<'_>) -> Result<(), Unreadable> {
    enter(context, Abi::I386, |user| user.orig_ax as u32)
}

fn enter(context: &Context<'_>, abi: Abi, number: impl Fn(&UserRegisters) -> u32) -> Result<(), Unreadable> {
    let tap = context.tap;
    let Some((trace, areas)) = tap.api.as_ref().zip(tap.areas.as_ref()).filter(|_| tap.task.started()) else {
        return Ok(());
    };
    let (memory, address) = (context.memory(), context.argument(0)?);
    let user = read_registers(&memory, &areas.regs, address)?;
    let number = number(&user);
    let values = match abi {
        Abi::X64 | Abi::X32 => [user.di, user.si, user.dx, user.r10, user.r8, user.r9],
        Abi::I386 => [user.bx, user.cx, user.dx, user.si, user.di, user.bp].map(|value| value & 0xffff_ffff),
    };
    let call = trace.calls.get(abi, number);
    let mut pending = Pending { number, abi, values, texts: Default::default() };
    decode(&memory, call, &mut pending);
    if call.is_some_and(|call| matches!(call.name, "exit" | "exit_group")) {
        return tell(context, call, pending, 0);
    }
    if let Ok(mut all) = trace.pending.lock() {
        if all.len() >= MAX_PENDING {
            all.clear();
        }
        all.insert(address, pending);
    }
    Ok(())
}

/// `syscall_exit_to_user_mode(regs)`: the result is in the saved registers.
pub fn leave(context: &Context<'_>) -> Result<(), Unreadable> {
    let Some((trace, areas)) = context.tap.api.as_ref().zip(context.tap.areas.as_ref()) else { return Ok(()) };
    if !context.tap.task.started() {
        return Ok(());
    }
    let address = context.argument(0)?;
    let Some(mut pending) = trace.pending.lock().ok().and_then(|mut all| all.remove(&address)) else { return Ok(()) };
    let memory = context.memory();
    let call = trace.calls.get(pending.abi, pending.number);
    decode(&memory, call, &mut pending);
    let result = memory.u64(address.wrapping_add(areas.regs.ax))?;
    // A 32-bit program gets 32 bits.
    let result = if pending.abi == Abi::I386 { i64::from(result as u32 as i32) } else { result as i64 };
    tell(context, call, pending, result)
}

/// Reads text that was not read yet.
fn decode(memory: &dyn Virtual, call: Option<&Call>, pending: &mut Pending) {
    let parameters = call.and_then(|call| call.parameters.as_deref()).unwrap_or_default();
    for (index, parameter) in parameters.iter().enumerate() {
        let (Some(&value), Some(text)) = (pending.values.get(index), pending.texts.get_mut(index)) else { return };
        if text.is_some() || value == 0 {
            continue;
        }
        *text = match parameter.content {
            Content::None => None,
            Content::Text => {
                let text = memory.read_cstr(value, MAX_TEXT);
                (!text.truncated || !text.bytes.is_empty()).then(|| text.bytes.into())
            }
            Content::Bytes => {
                let length = pending.values.get(index + 1).copied().unwrap_or(0);
                let bytes = memory.read_vec(value, length, MAX_TEXT);
                (!bytes.is_empty() || length == 0).then(|| bytes.into())
            }
        };
    }
}

/// What registers are called whose meaning the kernel does not tell.
const UNNAMED: [&str; ARGUMENTS] = ["arg1", "arg2", "arg3", "arg4", "arg5", "arg6"];

fn tell(context: &Context<'_>, call: Option<&Call>, pending: Pending, result: i64) -> Result<(), Unreadable> {
    let given = pending.values.into_iter().zip(pending.texts);
    let argument = |(name, (value, text))| ApiArgument { name: Cow::Borrowed(name), value, text };
    let arguments = match call.and_then(|call| call.parameters.as_ref()) {
        Some(parameters) => parameters.iter().map(|parameter| parameter.name).zip(given).map(argument).collect(),
        None => UNNAMED.into_iter().zip(given).map(argument).collect(),
    };
    context.emit(Kind::ApiCall {
        number: u64::from(pending.number),
        name: call.map_or_else(|| format!("syscall_{}", pending.number).into(), |call| call.name.into()),
        abi: pending.abi.name().into(),
        arguments,
        result,
    })
}
