//! The hooks: which kernel functions are watched, and what is read when one is entered.
//!
//! A hook names the function and the parameters it needs. Addresses come from kallsyms, the parameters' places from BTF:
//! a function that gained or lost a parameter between kernels needs no special case. A function that this kernel does not
//! have is told in `vm.introspection`. A hook that must know whether the function succeeded says at its entry what is to be told
//! when it returns.

mod content;
mod files;
mod io;
mod kernel;
mod mounts;
mod network;
mod process;
mod splice;

use lava_guest::btf::Types;
use lava_guest::kernel::Kernel;
use lava_guest::memory::Unreadable;

use crate::introspect::Context;
use crate::returns::Then;
pub use io::OpenFiles;

/// When a hook is called.
#[derive(Clone, Copy)]
pub enum Handler {
    /// At the function's entry: reads what it was called with and emits the event.
    Entry(fn(&Context<'_>) -> Result<(), Unreadable>),
    /// At its entry, and again when it returns: reads what it was called with; what comes back is called with the result.
    Return(fn(&Context<'_>) -> Result<Option<Then>, Unreadable>),
}
use Handler::{Entry, Return};

/// A hook that is set.
pub struct Hook {
    /// The kernel function.
    pub name: &'static str,
    /// Its link address.
    pub address: u64,
    /// Places of the parameters it named.
    pub parameters: Vec<usize>,
    pub handler: Handler,
}

/// (function, parameters by their names in the kernel's source, handler).
const HOOKS: &[(&str, &[&str], Handler)] = &[
    ("wake_up_new_task", &["p"], Entry(process::fork)),
    ("security_bprm_committed_creds", &["bprm"], Entry(process::exec)),
    ("taskstats_exit", &["tsk", "group_dead"], Entry(process::exit)),
    ("commit_creds", &["new"], Entry(process::credentials)),
    ("do_filp_open", &[], Return(files::open)),
    ("do_file_open_root", &[], Return(files::open)),
    ("rw_verify_area", &["read_write", "file", "ppos", "count"], Entry(io::verify)),
    ("fault_dirty_shared_page", &["vmf"], Entry(io::fault)),
    ("shmem_mmap", &["file", "vma"], Entry(io::map)),
    ("__fput", &["file"], Entry(io::close)),
    ("do_sendfile", &["out_fd", "in_fd", "ppos"], Return(splice::sendfile)),
    ("vfs_copy_file_range", &["file_in", "pos_in", "file_out", "pos_out"], Return(splice::copy_file_range)),
    ("do_splice", &["in", "off_in", "out", "off_out"], Return(splice::splice)),
    ("do_tee", &["in", "out"], Return(splice::tee)),
    ("__do_sys_vmsplice", &["fd"], Return(splice::vmsplice)),
    ("vfs_rename", &["rd"], Return(files::rename)),
    ("vfs_unlink", &["dentry"], Return(files::unlink)),
    ("vfs_rmdir", &["dentry"], Return(files::unlink)),
    ("vfs_create", &["dentry"], Return(files::regular)),
    ("vfs_mkdir", &["dentry"], Return(files::directory)),
    ("vfs_mknod", &["dentry", "mode"], Return(files::node)),
    ("vfs_symlink", &["dentry", "oldname"], Return(files::symlink)),
    ("vfs_link", &["old_dentry", "new_dentry"], Return(files::link)),
    ("notify_change", &["dentry", "attr"], Return(files::attributes)),
    ("vfs_fallocate", &["file"], Return(files::allocate)),
    ("vfs_setxattr", &["dentry", "name"], Return(files::set_xattr)),
    ("vfs_removexattr", &["dentry", "name"], Return(files::remove_xattr)),
    ("vfs_set_acl", &["dentry", "acl_name"], Return(files::set_xattr)),
    ("vfs_remove_acl", &["dentry", "acl_name"], Return(files::remove_xattr)),
    ("path_mount", &["dev_name", "path", "type_page", "flags"], Return(mounts::mount)),
    ("do_move_mount", &["old_path", "new_path"], Return(mounts::attach)),
    ("path_umount", &["path"], Return(mounts::unmount)),
    ("security_socket_connect", &["sock", "address", "addrlen"], Entry(network::connect)),
    ("do_init_module", &["mod"], Entry(kernel::module)),
];

/// Functions that not every kernel has, because one that is hooked too does their work there.
const NOT_EVERYWHERE: &[&str] = &[
    // Before 6.2 an ACL is set by vfs_setxattr.
    "vfs_set_acl",
    "vfs_remove_acl",
];

/// Finds every hook's place in `kernel`; second, those that it lacks, and why.
pub fn resolve(kernel: &Kernel) -> (Vec<Hook>, Vec<String>) {
    let (mut hooks, mut missing) = (Vec::new(), Vec::new());
    for &(name, wanted, handler) in HOOKS {
        let place = |parameter: &&str| {
            let index = kernel.types.param_index(name, parameter);
            index.ok_or(format!("{name}: no parameter `{parameter}` in the kernel's types"))
        };
        if NOT_EVERYWHERE.contains(&name) && kernel.symbols.address(name).is_none() {
            continue;
        }
        let address = kernel.symbols.address(name).ok_or(format!("{name}: no such symbol in this kernel"));
        match address.and_then(|address| Ok((address, wanted.iter().map(place).collect::<Result<_, _>>()?))) {
            Ok((address, parameters)) => hooks.push(Hook { name, address, parameters, handler }),
            Err(why) => missing.push(why),
        }
    }
    missing.extend(io::Offsets::resolve(&kernel.types).err());
    missing.extend(content::Places::resolve(kernel).err());
    (hooks, missing)
}

/// Offsets that only hooks need, bytes.
pub struct Offsets {
    attr_valid: u64,
    attr_size: u64,
    rename_old: u64,
    rename_new: u64,
    /// `nsproxy.mnt_ns`
    pub mount_namespace: Option<u64>,
    /// Link address of the first process's `struct nsproxy`.
    pub init_nsproxy: Option<u64>,
}

impl Offsets {
    pub fn resolve(kernel: &Kernel) -> Result<Self, String> {
        let types: &Types = &kernel.types;
        let of = |strukt: &str, names: &[&str]| {
            let found = names.iter().find_map(|name| types.member(strukt, name).ok());
            found.map(|field| field.offset).ok_or(format!("this kernel's types have no {strukt}.{}", names.join("|")))
        };
        Ok(Self {
            attr_valid: of("iattr", &["ia_valid"])?,
            attr_size: of("iattr", &["ia_size"])?,
            rename_old: of("renamedata", &["old_dentry"])?,
            rename_new: of("renamedata", &["new_dentry"])?,
            mount_namespace: of("nsproxy", &["mnt_ns"]).ok(),
            init_nsproxy: kernel.symbols.address("init_nsproxy"),
        })
    }
}
