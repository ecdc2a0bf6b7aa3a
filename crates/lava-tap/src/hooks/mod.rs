//! The hooks: which kernel functions are watched, and what is read when one is entered.
//!
//! A hook names the function and the parameters it needs. Addresses come from kallsyms, the parameters' places from BTF:
//! a function that gained or lost a parameter between kernels needs no special case. A function that this kernel does not
//! have is told in `vm.introspection`. A hook that must know whether the function succeeded says at its entry what is to be told
//! when it returns.

mod api;
mod content;
mod files;
mod io;
mod kernel;
mod memory;
mod mounts;
mod network;
mod pivot;
mod process;
mod splice;
mod switch;
mod tasks;
mod transfer;

use lava_guest::btf::TypeError;
use lava_guest::kernel::Kernel;
use lava_guest::memory::Unreadable;

use crate::introspect::Context;
use crate::missing::Missing;
use crate::returns::Then;
pub use api::ApiTrace;
pub use io::OpenFiles;
pub use memory::RemoteWrites;
pub use network::Flows;
pub use pivot::Pivots;
pub use tasks::Tasks;
pub use transfer::Transfers;

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

/// The function in which tasks are switched.
pub const SWITCH: &str = "__switch_to";

/// (function, parameters by their names in the kernel's source, handler). Alternatives are separated by `|`, the first that the
/// kernel has is taken; an empty one at the end: kernels without any do the same by way of another function in the table.
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
    // Before 6.2 an ACL is set by vfs_setxattr.
    ("vfs_set_acl|", &["dentry", "acl_name"], Return(files::set_xattr)),
    ("vfs_remove_acl|", &["dentry", "acl_name"], Return(files::remove_xattr)),
    ("path_mount", &["dev_name", "path", "type_page", "flags"], Return(mounts::mount)),
    ("do_move_mount", &["old_path", "new_path"], Return(mounts::attach)),
    ("path_umount", &["path"], Return(mounts::unmount)),
    ("security_socket_connect", &["sock", "address", "addrlen"], Entry(network::connect)),
    ("do_init_module", &["mod"], Entry(kernel::module)),
    ("kernel_clone", &["args"], Return(tasks::clone)),
    ("__ptrace_link", &["child", "new_parent"], Entry(tasks::ptrace)),
    ("do_send_sig_info", &["sig", "info", "p"], Return(tasks::signal)),
    ("switch_task_namespaces", &["p", "new"], Entry(tasks::namespaces)),
    ("set_fs_root", &["fs", "path"], Entry(tasks::chroot)),
    ("chroot_fs_refs", &["old_root", "new_root"], Entry(tasks::pivot)),
    ("__set_task_comm", &["tsk", "buf", "exec"], Entry(tasks::name)),
    ("shmem_file_setup", &["name"], Return(tasks::memfd)),
    ("hugetlb_file_setup", &["name"], Return(tasks::memfd)),
    ("security_socket_post_create", &["sock", "family", "type", "protocol", "kern"], Entry(network::create)),
    ("security_socket_bind", &["sock"], Entry(network::subject)),
    ("security_socket_listen", &["sock"], Entry(network::subject)),
    ("__sys_bind", &[], Return(network::bind)),
    ("__sys_listen", &[], Return(network::listen)),
    // io_uring's, from 6.11 on.
    ("__sys_bind_socket|", &[], Return(network::bind)),
    ("__sys_listen_socket|", &[], Return(network::listen)),
    ("do_accept", &[], Return(network::accept)),
    ("tcp_connect", &["sk"], Entry(network::tcp_flow)),
    ("udp_send_skb", &["fl4"], Entry(network::udp_flow)),
    ("udp_v6_send_skb", &["fl6"], Entry(network::udp6_flow)),
    ("security_socket_sendmsg", &["sock", "msg", "size"], Entry(transfer::sends)),
    ("__sys_sendto", &[], Return(transfer::sendto)),
    ("____sys_sendmsg", &["sock"], Return(transfer::send)),
    ("sock_sendmsg", &["sock"], Return(transfer::send)),
    // Up to 6.4; splice_to_socket calls sock_sendmsg since then.
    ("kernel_sendpage|", &["sock"], Return(transfer::send)),
    ("vfs_write", &["file"], Return(transfer::write)),
    ("vfs_writev", &["file"], Return(transfer::write)),
    ("sock_recvmsg", &["sock", "msg", "flags"], Return(transfer::receive)),
    ("____sys_recvmsg", &["sock", "msg_sys", "flags", "nosec"], Return(transfer::receive_more)),
    ("do_splice_to|do_splice_read|vfs_splice_read", &["in"], Return(transfer::splice)),
    ("__sock_release", &["sock"], Entry(transfer::release)),
    (SWITCH, &["next_p"], Entry(switch::switch)),
    ("do_mmap", &["file", "len", "prot", "flags"], Return(memory::map)),
    ("mprotect_fixup", &["vma", "start", "end", "newflags"], Return(memory::protect)),
    ("ptrace_access_vm", &["tsk", "addr", "len", "gup_flags"], Return(memory::poke)),
    ("process_vm_rw", &["rvec", "vm_write"], Return(memory::vm_writev)),
    ("mm_access", &["task"], Entry(memory::target)),
    ("mem_rw", &["file", "count", "ppos", "write"], Entry(memory::proc_mem)),
    ("access_remote_vm", &["mm", "gup_flags"], Return(memory::remote)),
    // Entries of system calls: their one argument is the saved registers, however it is called.
    ("__x64_sys_execve", &[], Entry(|c| pivot::check(c, "execve"))),
    ("__x64_sys_execveat", &[], Entry(|c| pivot::check(c, "execveat"))),
    ("__x64_sys_mmap", &[], Entry(|c| pivot::check_protecting(c, "mmap"))),
    ("__x64_sys_mprotect", &[], Entry(|c| pivot::check_protecting(c, "mprotect"))),
    ("__x64_sys_pkey_mprotect", &[], Entry(|c| pivot::check_protecting(c, "pkey_mprotect"))),
    ("__x64_sys_memfd_create", &[], Entry(|c| pivot::check(c, "memfd_create"))),
    ("__x64_sys_connect", &[], Entry(|c| pivot::check(c, "connect"))),
    ("__x64_sys_ptrace", &[], Entry(|c| pivot::check(c, "ptrace"))),
    ("__ia32_compat_sys_execve", &[], Entry(|c| pivot::check(c, "execve"))),
    ("__ia32_sys_mmap_pgoff", &[], Entry(|c| pivot::check_protecting(c, "mmap2"))),
    ("__ia32_sys_mprotect", &[], Entry(|c| pivot::check_protecting(c, "mprotect"))),
    ("__ia32_sys_connect", &[], Entry(|c| pivot::check(c, "connect"))),
    ("free_module", &["mod"], Entry(kernel::module_freed)),
    ("kernel_read_file", &["file"], Entry(kernel::file_read)),
    ("bpf_prog_kallsyms_add", &["fp"], Entry(kernel::bpf)),
    ("machine_kexec_prepare", &["image"], Entry(kernel::kexec)),
    ("rcu_end_inkernel_boot", &[], Entry(kernel::started)),
    ("__text_poke", &["addr", "len"], Entry(kernel::poke)),
    ("text_poke", &[], Entry(kernel::poke_called)),
    ("text_poke_bp", &[], Entry(kernel::poke_called)),
    ("text_poke_queue", &[], Entry(kernel::poke_called)),
    ("text_poke_copy", &[], Entry(kernel::poke_called)),
    ("text_poke_set", &[], Entry(kernel::poke_called)),
    ("arch_arm_kprobe", &["p"], Entry(kernel::kprobe)),
];

/// The same, set only if every system call is to be told.
const API_HOOKS: &[(&str, &[&str], Handler)] = &[
    ("do_syscall_64", &["regs", "nr"], Entry(api::enter_64)),
    ("do_int80_emulation", &["regs"], Entry(api::enter_int80)),
    ("do_fast_syscall_32", &["regs"], Entry(api::enter_fast_32)),
    ("syscall_exit_to_user_mode", &["regs"], Entry(api::leave)),
];

/// Set only if the policy wants to be asked about opens.
const OPEN_HOOKS: &[(&str, &[&str], Handler)] = &[("security_file_open", &["file"], Entry(files::opening))];

/// Finds every hook's place in `kernel`.
pub fn resolve(kernel: &Kernel, api: bool, opens: bool, missing: &mut Missing) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for &(names, wanted, handler) in
        HOOKS.iter().chain(API_HOOKS.iter().filter(|_| api)).chain(OPEN_HOOKS.iter().filter(|_| opens))
    {
        let mut alternatives = names.split('|');
        let Some(name) =
            alternatives.clone().find(|name| kernel.symbols.address(name).is_some()).or(alternatives.next())
        else {
            continue;
        };
        if names.ends_with('|') && kernel.symbols.address(name).is_none() {
            continue;
        }
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
    hooks
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
    pub kernel: kernel::Offsets,
}

impl Offsets {
    pub fn resolve(kernel: &Kernel) -> Result<Self, TypeError> {
        let types = &kernel.types;
        let of = |strukt: &str, member: &str| types.offset(strukt, member);
        Ok(Self {
            attr_valid: of("iattr", "ia_valid")?,
            attr_size: of("iattr", "ia_size")?,
            rename_old: of("renamedata", "old_dentry")?,
            rename_new: of("renamedata", "new_dentry")?,
            mount_namespace: of("nsproxy", "mnt_ns").ok(),
            init_nsproxy: kernel.symbols.address("init_nsproxy"),
            kernel: kernel::Offsets::resolve(types),
        })
    }
}
