//! Files: open, create, rename, unlink, attributes.
//!
//! Limits: LSM hooks are asked before the file system acts; an operation that then fails for another reason than rights
//! (a full disk, say) is told all the same.

use lava_event::{Access, FileType, Kind};
use lava_guest::memory::{Unreadable, Virtual};

use crate::introspect::Context;
use crate::returns::Then;

/// `O_ACCMODE` and its values (include/uapi/asm-generic/fcntl.h).
const ACCESS_MODE: u32 = 3;
/// `__FMODE_EXEC` among `f_flags` (include/linux/fs.h): opened to be executed; the exec itself is told.
const FOR_EXEC: u32 = 0x20;
/// `FMODE_CREATED` (include/linux/fs.h, 4.19 and later).
const CREATED: u32 = 1 << 20;
/// `ATTR_MODE`, `ATTR_UID`, `ATTR_GID` (include/linux/fs.h).
const ATTR_MODE: u32 = 1;
const ATTR_UID: u32 = 2;
const ATTR_GID: u32 = 4;

/// `security_file_open(file)`
pub fn open(context: &Context<'_>) -> Result<(), Unreadable> {
    let (memory, layout) = (context.memory(), context.layout());
    let address = context.argument(0)?;
    let flags = memory.u32(address.wrapping_add(layout.file.f_flags))?;
    if flags & FOR_EXEC != 0 {
        return Ok(());
    }
    let (path, file) = context.file(address)?;
    if file.file_type() == FileType::Directory {
        return Ok(());
    }
    let process = context.process(&context.current()?);
    if memory.u32(address.wrapping_add(layout.file.f_mode))? & CREATED != 0 {
        let what = file.file_type();
        let kind = Kind::FileCreate { path: path.clone(), file: Some(file), what, target: None };
        context.tap.emitter.emit(context.vcpu, Some(process.clone()), kind);
    }
    let access = match flags & ACCESS_MODE {
        0 => Access::Read,
        1 => Access::Write,
        _ => Access::ReadWrite,
    };
    context.tap.emitter.emit(context.vcpu, Some(process), Kind::FileOpen { path, file, access });
    Ok(())
}

/// `vfs_rename(rd)`: the names are read before they change, and told if the file system agreed.
pub fn rename(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let (memory, offsets, data) = (context.memory(), &context.tap.offsets, context.argument(0)?);
    let old = memory.pointer(data.wrapping_add(offsets.rename_old))?;
    let new = memory.pointer(data.wrapping_add(offsets.rename_new))?;
    let file = context.dentry_file(old)?;
    let kind = Kind::FileRename { from: context.dentry_path(old), to: context.dentry_path(new), file };
    Ok(Some(Box::new(move |context, result| if result.succeeded() { context.emit(kind) } else { Ok(()) })))
}

/// `vfs_unlink(.., dir, dentry, ..)`
pub fn unlink(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let dentry = context.argument(0)?;
    let kind = Kind::FileUnlink { path: context.dentry_path(dentry), file: context.dentry_file(dentry)? };
    Ok(Some(Box::new(move |context, result| if result.succeeded() { context.emit(kind) } else { Ok(()) })))
}

/// `security_inode_setattr(.., dentry, attr)`: told if mode, owner or group is to change.
pub fn attributes(context: &Context<'_>) -> Result<(), Unreadable> {
    let (memory, offsets) = (context.memory(), &context.tap.offsets);
    let (dentry, attr) = (context.argument(0)?, context.argument(1)?);
    let valid = memory.u32(attr.wrapping_add(offsets.attr_valid))?;
    if valid & (ATTR_MODE | ATTR_UID | ATTR_GID) == 0 {
        return Ok(());
    }
    let when = |bit: u32, value: Result<u32, Unreadable>| if valid & bit == 0 { Ok(None) } else { value.map(Some) };
    let kind = Kind::FileAttributes {
        path: context.dentry_path(dentry),
        file: context.dentry_file(dentry)?,
        mode: when(ATTR_MODE, memory.u16(attr.wrapping_add(offsets.attr_mode)).map(u32::from))?,
        uid: when(ATTR_UID, memory.u32(attr.wrapping_add(offsets.attr_uid)))?,
        gid: when(ATTR_GID, memory.u32(attr.wrapping_add(offsets.attr_gid)))?,
    };
    context.emit(kind)
}

fn create(context: &Context<'_>, what: FileType, target: Option<lava_event::GuestText>) -> Result<(), Unreadable> {
    let path = context.dentry_path(context.argument(0)?);
    context.emit(Kind::FileCreate { path, file: None, what, target })
}

/// `security_inode_symlink(dir, dentry, old_name)`
pub fn symlink(context: &Context<'_>) -> Result<(), Unreadable> {
    let target = context.memory().read_cstr(context.argument(1)?, 4096).bytes.into();
    create(context, FileType::Symlink, Some(target))
}

/// `security_inode_link(old_dentry, dir, new_dentry)`
pub fn link(context: &Context<'_>) -> Result<(), Unreadable> {
    let (old, new) = (context.argument(0)?, context.argument(1)?);
    let file = context.dentry_file(old)?;
    let kind = Kind::FileCreate {
        path: context.dentry_path(new),
        file: Some(file),
        what: file.file_type(),
        target: Some(context.dentry_path(old)),
    };
    context.emit(kind)
}

/// `security_inode_mkdir(dir, dentry, mode)`
pub fn directory(context: &Context<'_>) -> Result<(), Unreadable> {
    create(context, FileType::Directory, None)
}

/// `security_inode_mknod(dir, dentry, mode, dev)`
pub fn node(context: &Context<'_>) -> Result<(), Unreadable> {
    let mode = context.argument(1)? as u32;
    let made = lava_event::FileId { device: (0, 0), inode: 0, mode, uid: 0, gid: 0, size: 0, node: None };
    create(context, made.file_type(), None)
}
