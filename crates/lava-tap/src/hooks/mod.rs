//! The hooks: which kernel functions are watched, and what is read when one is entered.
//!
//! A hook names the function and the parameters it needs. Addresses come from kallsyms, the parameters' places from BTF:
//! a function that gained or lost a parameter between kernels needs no special case. A function that this kernel does not
//! have is told in `vm.introspection`.

mod files;
mod kernel;
mod network;
mod process;
mod writes;

use lava_guest::btf::Types;
use lava_guest::kernel::Kernel;
use lava_guest::memory::Unreadable;

use crate::introspect::Context;
pub use writes::OpenFiles;

/// Reads what a function was called with and emits the event.
type Handler = fn(&Context<'_>) -> Result<(), Unreadable>;

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
    ("wake_up_new_task", &["p"], process::fork),
    ("security_bprm_committed_creds", &["bprm"], process::exec),
    ("taskstats_exit", &["tsk", "group_dead"], process::exit),
    ("commit_creds", &["new"], process::credentials),
    ("security_file_open", &["file"], files::open),
    ("rw_verify_area", &["read_write", "file", "ppos", "count"], writes::write),
    ("security_file_free", &["file"], writes::close),
    ("security_inode_rename", &["old_dentry", "new_dentry"], files::rename),
    ("security_inode_unlink", &["dentry"], files::unlink),
    ("security_inode_setattr", &["dentry", "attr"], files::attributes),
    ("security_inode_symlink", &["dentry", "old_name"], files::symlink),
    ("security_inode_link", &["old_dentry", "new_dentry"], files::link),
    ("security_inode_mkdir", &["dentry"], files::directory),
    ("security_inode_mknod", &["dentry", "mode"], files::node),
    ("security_socket_connect", &["sock", "address", "addrlen"], network::connect),
    ("do_init_module", &["mod"], kernel::module),
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
        })
    }
}
