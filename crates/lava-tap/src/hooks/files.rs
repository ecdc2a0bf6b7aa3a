//! Files: their names and attributes. Told when the kernel's function returns, and only if it succeeded: by whatever system call,
//! io_uring request or kernel thread it came.
//!
//! Limits: an open by another kernel part than the system calls (`dentry_open`: POSIX message queues, overlay copies) is not told,
//! nor one that opens no content (`O_PATH`), nor a directory's, nor an exec's own (the exec is). Where a function was called from
//! a module its result is not known, and what it was asked is told. A file linked, made or renamed by an overlay is told with
//! its name in the overlay and again in the layer below.

use lava_event::{Access, FileType, GuestText, Kind};
use lava_guest::memory::{Unreadable, Virtual};

use super::content;
use crate::introspect::Context;
use crate::refuse::{self, Subject};
use crate::returns::Then;

/// `O_ACCMODE` (include/uapi/asm-generic/fcntl.h).
const ACCESS_MODE: u32 = 3;
/// `__O_TMPFILE` (include/uapi/asm-generic/fcntl.h): opened without a name.
const UNNAMED: u32 = 0o20_000_000;
/// `__FMODE_EXEC` among `f_flags` (include/linux/fs.h): opened to be executed; the exec itself is told.
pub const FOR_EXEC: u32 = 0x20;
/// `FMODE_PATH` (include/linux/fs.h): `O_PATH`.
const PATH_ONLY: u32 = 1 << 14;
/// `FMODE_WRITE` (include/linux/fs.h).
const WRITABLE: u32 = 2;
/// `FMODE_CREATED` (include/linux/fs.h, 4.19 and later).
const CREATED: u32 = 1 << 20;
/// `ATTR_MODE`, `ATTR_UID`, `ATTR_GID`, `ATTR_SIZE`, `ATTR_FILE`, `ATTR_OPEN` (include/linux/fs.h).
const ATTR_MODE: u32 = 1;
const ATTR_UID: u32 = 1 << 1;
const ATTR_GID: u32 = 1 << 2;
const ATTR_SIZE: u32 = 1 << 3;
const ATTR_FILE: u32 = 1 << 13;
const ATTR_OPEN: u32 = 1 << 15;
/// Longest target of a symbolic link, and longest name of an attribute (`PATH_MAX`, `XATTR_NAME_MAX`, include/uapi/linux/limits.h).
const MAX_TARGET: usize = 4096;
const MAX_ATTRIBUTE: usize = 255;

/// `do_filp_open(..)`, `do_file_open_root(..)`: what they return is the open file.
pub fn open(_: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    Ok(Some(Box::new(|context, result| result.pointer().map_or(Ok(()), |file| opened(context, file)))))
}

fn opened(context: &Context<'_>, address: u64) -> Result<(), Unreadable> {
    if context.tap.asks.about(Subject::Open) && context.tap.asks.opened(context.current_address()?, address) {
        return Ok(());
    }
    match open_of(context, address)? {
        Some(kind) => context.emit(kind),
        None => Ok(()),
    }
}

/// What is told of an open file, if it is. That the open made the file is told here.
fn open_of(context: &Context<'_>, address: u64) -> Result<Option<Kind>, Unreadable> {
    let (memory, layout) = (context.memory(), context.layout());
    let flags = memory.u32(address.wrapping_add(layout.file.f_flags))?;
    let mode = memory.u32(address.wrapping_add(layout.file.f_mode))?;
    if flags & FOR_EXEC != 0 || mode & PATH_ONLY != 0 {
        return Ok(None);
    }
    let (path, file) = context.file(address)?;
    if file.file_type() == FileType::Directory {
        return Ok(None);
    }
    if mode & CREATED != 0 || flags & UNNAMED != 0 {
        let what = file.file_type();
        context.emit(Kind::FileCreate { path: path.clone(), file: Some(file), what, target: None })?;
    }
    let access = match flags & ACCESS_MODE {
        0 => Access::Read,
        1 => Access::Write,
        _ => Access::ReadWrite,
    };
    Ok(Some(Kind::FileOpen { path, file, access }))
}

/// `security_file_open(file)`: before the file is cut to nothing, and before anybody can write to it; its operations are set, and read
/// again behind this.
pub fn opening(context: &Context<'_>) -> Result<(), Unreadable> {
    if !context.tap.task.started() {
        return Ok(());
    }
    let (task, address) = (context.current()?, context.argument(0)?);
    let mode = context.memory().u32(address.wrapping_add(context.layout().file.f_mode))?;
    let kind = if mode & WRITABLE == 0 { None } else { open_of(context, address)? };
    context.tap.asks.opening(task.address, kind.is_some().then_some(address));
    let Some(kind) = kind else { return Ok(()) };
    let event = context.tap.emitter.event(context.vcpu, Some(context.process(&task)), kind);
    refuse::submit(context, Subject::Open, event, || refuse::open(context, address));
    Ok(())
}

/// Tells `kind` if the function succeeds.
fn on_success(kind: Kind) -> Result<Option<Then>, Unreadable> {
    Ok(Some(Box::new(move |context, result| if result.succeeded() { context.emit(kind) } else { Ok(()) })))
}

/// `vfs_rename(rd)`: the names are read before they change, and told if the file system agreed.
pub fn rename(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let (memory, offsets, data) = (context.memory(), &context.tap.offsets, context.argument(0)?);
    let old = memory.pointer(data.wrapping_add(offsets.rename_old))?;
    let new = memory.pointer(data.wrapping_add(offsets.rename_new))?;
    let file = context.dentry_file(old)?;
    on_success(Kind::FileRename { from: context.dentry_path(old), to: context.dentry_path(new), file })
}

/// `vfs_unlink(.., dir, dentry, ..)`, `vfs_rmdir(.., dir, dentry)`
pub fn unlink(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let dentry = context.argument(0)?;
    on_success(Kind::FileUnlink { path: context.dentry_path(dentry), file: context.dentry_file(dentry)? })
}

/// Something is made with this name; its identity is known once it exists.
fn create(context: &Context<'_>, what: FileType, target: Option<GuestText>) -> Result<Option<Then>, Unreadable> {
    let dentry = context.argument(0)?;
    let path = context.dentry_path(dentry);
    Ok(Some(Box::new(move |context, result| {
        if !result.succeeded() {
            return Ok(());
        }
        // Not every file system gives a new directory its inode at once.
        let file = context.dentry_file(dentry).ok();
        context.emit(Kind::FileCreate { path, file, what, target })
    })))
}

/// `vfs_create(.., dir, dentry, mode, ..)`: a regular file by mknod.
pub fn regular(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    create(context, FileType::Regular, None)
}

/// `vfs_mkdir(.., dir, dentry, mode)`
pub fn directory(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    create(context, FileType::Directory, None)
}

/// `vfs_mknod(.., dir, dentry, mode, dev)`: devices, named pipes, sockets.
pub fn node(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let mode = context.argument(1)? as u32;
    let made = lava_event::FileId { device: (0, 0), inode: 0, mode, uid: 0, gid: 0, size: 0, node: None };
    create(context, made.file_type(), None)
}

/// `vfs_symlink(.., dir, dentry, oldname)`
pub fn symlink(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let target = context.memory().read_cstr(context.argument(1)?, MAX_TARGET).bytes.into();
    create(context, FileType::Symlink, Some(target))
}

/// `vfs_link(old_dentry, .., dir, new_dentry, ..)`
pub fn link(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let (old, new) = (context.argument(0)?, context.argument(1)?);
    let file = context.dentry_file(old)?;
    on_success(Kind::FileCreate {
        path: context.dentry_path(new),
        file: Some(file),
        what: file.file_type(),
        target: Some(context.dentry_path(old)),
    })
}

/// `notify_change(.., dentry, attr, ..)`: mode, owner and size. What they are then is read from the inode: the kernel takes
/// setuid bits away where the caller did not ask for it.
pub fn attributes(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let (memory, offsets) = (context.memory(), &context.tap.offsets);
    let (dentry, attr) = (context.argument(0)?, context.argument(1)?);
    let valid = memory.u32(attr.wrapping_add(offsets.attr_valid))?;
    // Most calls are about times only; those that take bits away say so in a bit of their own (ATTR_KILL_*), above these.
    const TIMES: u32 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 16 | 1 << 17;
    if valid & !TIMES == 0 {
        return Ok(None);
    }
    let before = context.dentry_file(dentry)?;
    let path = context.dentry_path(dentry);
    let size = memory.u64(attr.wrapping_add(offsets.attr_size))?;
    let open = valid & (ATTR_FILE | ATTR_OPEN) != 0;
    Ok(Some(Box::new(move |context, result| {
        if !result.succeeded() {
            return Ok(());
        }
        let after = context.dentry_file(dentry)?;
        if valid & (ATTR_MODE | ATTR_UID | ATTR_GID) != 0 || before.mode != after.mode {
            context.emit(Kind::FileAttributes {
                path: path.clone(),
                file: before,
                mode: (valid & ATTR_MODE != 0 || before.mode != after.mode).then_some(after.mode),
                uid: (valid & ATTR_UID != 0).then_some(after.uid),
                gid: (valid & ATTR_GID != 0).then_some(after.gid),
            })?;
        }
        if valid & ATTR_SIZE != 0 {
            context.emit(Kind::FileTruncate { path: path.clone(), file: before, size })?;
            let inode = context.memory().pointer(dentry.wrapping_add(context.layout().dentry.d_inode))?;
            content::resized(context, inode, path, open)?;
        }
        Ok(())
    })))
}

/// `vfs_fallocate(file, ..)`: may extend a file, and may change what is in it (holes).
pub fn allocate(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let address = context.argument(0)?;
    let (path, before) = context.file(address)?;
    Ok(Some(Box::new(move |context, result| {
        if !result.succeeded() {
            return Ok(());
        }
        let (_, after) = context.file(address)?;
        let inode = context.memory().pointer(address.wrapping_add(context.layout().file.f_inode))?;
        if before.size != after.size {
            context.emit(Kind::FileTruncate { path: path.clone(), file: before, size: after.size })?;
        }
        content::resized(context, inode, path, true)
    })))
}

fn xattr(context: &Context<'_>, removed: bool) -> Result<Option<Then>, Unreadable> {
    let dentry = context.argument(0)?;
    let name = context.memory().read_cstr(context.argument(1)?, MAX_ATTRIBUTE).bytes.into();
    let (path, file) = (context.dentry_path(dentry), context.dentry_file(dentry)?);
    on_success(Kind::FileXattr { path, file, name, removed })
}

/// `vfs_setxattr(.., dentry, name, ..)`, `vfs_set_acl(.., dentry, acl_name, ..)`
pub fn set_xattr(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    xattr(context, false)
}

/// `vfs_removexattr(.., dentry, name)`, `vfs_remove_acl(.., dentry, acl_name)`
pub fn remove_xattr(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    xattr(context, true)
}
