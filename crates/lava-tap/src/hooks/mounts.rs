//! File systems that are mounted, moved, bound and unmounted.
//!
//! Limits: changes of a mount's propagation or flags alone (`mount_setattr`) and automounts are not told; nor is what a mount
//! namespace's end unmounts.

use lava_event::{GuestText, Kind};
use lava_guest::memory::{Unreadable, Virtual};

use crate::introspect::Context;
use crate::registers::Register;
use crate::returns::Then;

/// `MS_MOVE` (include/uapi/linux/mount.h).
const MOVE: u64 = 1 << 13;
/// Longest text that mount takes: a page (`copy_mount_string`, fs/namespace.c).
const MAX_TEXT: usize = 4096;
/// Longest name of a file system's type.
const MAX_TYPE: usize = 64;

fn told(kind: Kind) -> Result<Option<Then>, Unreadable> {
    Ok(Some(Box::new(move |context, result| if result.succeeded() { context.emit(kind) } else { Ok(()) })))
}

/// `path_mount(dev_name, path, type_page, flags, ..)`: `mount(2)`, all it can do.
pub fn mount(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let text = |index: usize| -> Result<GuestText, Unreadable> {
        Ok(match context.argument(index)? {
            0 => GuestText::default(),
            address => context.memory().read_cstr(address, MAX_TEXT).bytes.into(),
        })
    };
    let path = context.path(context.argument(1)?);
    told(Kind::FileMount { device: text(0)?, path, fs_type: text(2)?, flags: context.argument(3)? })
}

/// `do_move_mount(old_path, new_path, ..)`: `move_mount(2)`; from `mount(2)` it is told by [`mount`].
pub fn attach(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let (memory, layout) = (context.memory(), context.layout());
    let back = memory.u64(context.register(Register::Rsp))?.wrapping_sub(context.slide);
    if context.tap.kernel.symbols.lookup(back).is_some_and(|(name, _)| name == "path_mount") {
        return Ok(None);
    }
    let (old, new) = (context.argument(0)?, context.argument(1)?);
    let vfsmount = memory.pointer(old.wrapping_add(layout.path.mnt))?;
    let mount = vfsmount.wrapping_sub(layout.mount.mnt);
    // A mount that has no place yet is its own parent: it is called by its device.
    let attached = memory.pointer(mount.wrapping_add(layout.mount.mnt_parent))? != mount;
    let device = layout.mount.mnt_devname.and_then(|offset| memory.pointer(mount.wrapping_add(offset)).ok());
    let source = match device {
        Some(device) if !attached => memory.read_cstr(device, MAX_TEXT).bytes.into(),
        _ => context.path(old),
    };
    let fs_type = memory
        .pointer(vfsmount.wrapping_add(layout.vfsmount.mnt_sb))
        .and_then(|sb| memory.pointer(sb.wrapping_add(layout.super_block.s_type)))
        .and_then(|kind| memory.pointer(kind.wrapping_add(layout.file_system_type.name)))
        .map(|name| memory.read_cstr(name, MAX_TYPE).bytes.into())
        .unwrap_or_default();
    told(Kind::FileMount { device: source, path: context.path(new), fs_type, flags: if attached { MOVE } else { 0 } })
}

/// `path_umount(path, flags)`
pub fn unmount(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    told(Kind::FileUnmount { path: context.path(context.argument(0)?) })
}
