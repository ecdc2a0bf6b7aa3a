//! Bytes that go from file to file within the kernel: sendfile, copy_file_range, splice, tee, vmsplice.
//!
//! One call counts as one read and one write, of as many bytes as went over: told by the function's result. What it
//! does within itself (`rw_verify_area` for each piece) is not counted again.
//!
//! Limits: a call whose result is not known (from a module) counts by its pieces; reflinks (`FICLONE`) are not told: no file
//! system of the guest has them.

use lava_guest::memory::{Unreadable, Virtual};

use super::io::{Position, Way, used};
use crate::introspect::Context;
use crate::returns::Then;

/// `FMODE_WRITE` (include/linux/fs.h).
const WRITABLE: u32 = 2;
/// Slots of a file table that are believed (`sysctl_nr_open_max` is more, but a process with that many files is none of ours).
const MAX_SLOTS: u64 = 1 << 20;

/// An open file, what happens to it, and where.
type Use = (u64, Way, Position);

fn between(context: &Context<'_>, uses: Vec<Use>) -> Result<Option<Then>, Unreadable> {
    let thread = context.current_address()?;
    context.tap.open_files.enter(thread);
    Ok(Some(Box::new(move |context, result| {
        context.tap.open_files.leave(thread);
        match result.0.map(|bytes| bytes as i64) {
            Some(bytes) if bytes > 0 => {
                uses.into_iter().try_for_each(|(file, way, at)| used(context, thread, file, way, at, bytes as u64))
            }
            _ => Ok(()),
        }
    })))
}

/// The position at the pointer, or the file's own; read now, for it moves.
fn position(context: &Context<'_>, file: u64, pointer: u64) -> Result<Position, Unreadable> {
    let own = file.wrapping_add(context.layout().file.f_pos);
    context.memory().u64(if pointer == 0 { own } else { pointer }).map(Position::At)
}

/// The `struct file` behind a descriptor of the acting process, if it has one.
fn descriptor(context: &Context<'_>, fd: u64) -> Option<u64> {
    let (memory, offsets) = (context.memory(), context.tap.open_files.offsets?);
    let files = memory.pointer(context.current_address().ok()?.wrapping_add(offsets.files)).ok()?;
    let table = memory.pointer(files.wrapping_add(offsets.table)).ok()?;
    let count = u64::from(memory.u32(table.wrapping_add(offsets.slot_count)).ok()?).min(MAX_SLOTS);
    let slots = memory.pointer(table.wrapping_add(offsets.slots)).ok()?;
    let fd = fd & 0xffff_ffff;
    (fd < count).then(|| memory.pointer(slots.wrapping_add(fd * 8)).ok()).flatten()
}

/// `do_sendfile(out_fd, in_fd, ppos, count, max)`
pub fn sendfile(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let (to, from) = (descriptor(context, context.argument(0)?), descriptor(context, context.argument(1)?));
    let (Some(to), Some(from)) = (to, from) else { return Ok(None) };
    let read = position(context, from, context.argument(2)?)?;
    between(context, vec![(from, Way::Read, read), (to, Way::Write, position(context, to, 0)?)])
}

/// `vfs_copy_file_range(file_in, pos_in, file_out, pos_out, len, flags)`: the positions are values.
pub fn copy_file_range(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let argument = |index| context.argument(index);
    let read = (argument(0)?, Way::Read, Position::At(argument(1)?));
    between(context, vec![read, (argument(2)?, Way::Write, Position::At(argument(3)?))])
}

/// `do_splice(in, off_in, out, off_out, ..)`
pub fn splice(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let (from, to) = (context.argument(0)?, context.argument(2)?);
    let read = position(context, from, context.argument(1)?)?;
    let write = position(context, to, context.argument(3)?)?;
    between(context, vec![(from, Way::Read, read), (to, Way::Write, write)])
}

/// `do_tee(in, out, ..)`: both are pipes.
pub fn tee(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let (from, to) = (context.argument(0)?, context.argument(1)?);
    between(context, vec![(from, Way::Read, Position::Pointer(0)), (to, Way::Write, Position::Pointer(0))])
}

/// `__do_sys_vmsplice(fd, ..)`: memory into a pipe, or a pipe into memory, as the descriptor is open.
pub fn vmsplice(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let Some(pipe) = descriptor(context, context.argument(0)?) else { return Ok(None) };
    let mode = context.memory().u32(pipe.wrapping_add(context.layout().file.f_mode))?;
    let way = if mode & WRITABLE != 0 { Way::Write } else { Way::Read };
    between(context, vec![(pipe, way, Position::Pointer(0))])
}
