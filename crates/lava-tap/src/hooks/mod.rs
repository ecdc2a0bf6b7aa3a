//! The hooks: which kernel functions are watched, and what is read when one is entered.
//!
//! A hook names the function and the parameters it needs. Addresses come from kallsyms, the parameters' places from BTF:
//! a function that gained or lost a parameter between kernels needs no special case. A function that this kernel does not
//! have is told in `vm.introspection`. A hook that must know whether the function succeeded says at its entry what is to be told
//! when it returns.

mod files;
mod kernel;
mod network;
mod process;
mod writes;

use lava_guest::btf::Types;
use lava_guest::kernel::Kernel;
use lava_guest::memory::Unreadable;

use crate::introspect::Context;
use crate::returns::Then;
pub use writes::OpenFiles;

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
    ("security_file_open", &["file"], Entry(files::open)),
    ("rw_verify_area", &["read_write", "file", "ppos", "count"], Entry(writes::write)),
    ("security_file_free", &["file"], Entry(writes::close)),
    ("vfs_rename", &["rd"], Return(files::rename)),
    ("vfs_unlink", &["dentry"], Return(files::unlink)),
    ("security_inode_setattr", &["dentry", "attr"], Entry(files::attributes)),
    ("security_inode_symlink", &["dentry", "old_name"], Entry(files::symlink)),
    ("security_inode_link", &["old_dentry", "new_dentry"], Entry(files::link)),
    ("security_inode_mkdir", &["dentry"], Entry(files::directory)),
    ("security_inode_mknod", &["dentry", "mode"], Entry(files::node)),
    ("security_socket_connect", &["sock", "address", "addrlen"], Entry(network::connect)),
    ("do_init_module", &["mod"], Entry(kernel::module)),
    ("free_module", &["mod"], Entry(kernel::module_freed)),
    ("kernel_read_file", &["file"], Entry(kernel::file_read)),
    ("bpf_prog_kallsyms_add", &["fp"], Entry(kernel::bpf)),
    ("machine_kexec_prepare", &["image"], Entry(kernel::kexec)),
    ("rcu_end_inkernel_boot", &[], Entry(kernel::started)),
    ("__switch_to", &["next_p"], Entry(kernel::switched)),
    ("__text_poke", &["addr", "len"], Entry(kernel::poke)),
    ("text_poke", &[], Entry(kernel::poke_called)),
    ("text_poke_bp", &[], Entry(kernel::poke_called)),
    ("text_poke_queue", &[], Entry(kernel::poke_called)),
    ("text_poke_copy", &[], Entry(kernel::poke_called)),
    ("text_poke_set", &[], Entry(kernel::poke_called)),
    ("arch_arm_kprobe", &["p"], Entry(kernel::kprobe)),
];

/// Finds every hook's place in `kernel`; second, those that it lacks, and why.
pub fn resolve(kernel: &Kernel) -> (Vec<Hook>, Vec<String>) {
    let (mut hooks, mut missing) = (Vec::new(), Vec::new());
    for &(name, wanted, handler) in HOOKS {
        let place = |parameter: &&str| {
            let index = kernel.types.param_index(name, parameter);
            index.ok_or(format!("{name}: no parameter `{parameter}` in the kernel's types"))
        };
        let address = kernel.symbols.address(name).ok_or(format!("{name}: no such symbol in this kernel"));
        match address.and_then(|address| Ok((address, wanted.iter().map(place).collect::<Result<_, _>>()?))) {
            Ok((address, parameters)) => hooks.push(Hook { name, address, parameters, handler }),
            Err(why) => missing.push(why),
        }
    }
    (hooks, missing)
}

/// Offsets that only hooks need, bytes.
pub struct Offsets {
    attr_valid: u64,
    attr_mode: u64,
    attr_uid: u64,
    attr_gid: u64,
    rename_old: u64,
    rename_new: u64,
    pub kernel: kernel::Offsets,
}

impl Offsets {
    pub fn resolve(types: &Types) -> Result<Self, String> {
        let of = |strukt: &str, names: &[&str]| {
            let found = names.iter().find_map(|name| types.member(strukt, name).ok());
            found.map(|field| field.offset).ok_or(format!("this kernel's types have no {strukt}.{}", names.join("|")))
        };
        Ok(Self {
            attr_valid: of("iattr", &["ia_valid"])?,
            attr_mode: of("iattr", &["ia_mode"])?,
            attr_uid: of("iattr", &["ia_uid", "ia_vfsuid"])?,
            attr_gid: of("iattr", &["ia_gid", "ia_vfsgid"])?,
            rename_old: of("renamedata", &["old_dentry"])?,
            rename_new: of("renamedata", &["new_dentry"])?,
            kernel: kernel::Offsets::resolve(types),
        })
    }
}
