//! Where the members we read lie, resolved by name once, so that a reader adds integers.
//!
//! A name that changed between kernels is a list of alternatives, tried in order: data, not version checks. Every field is
//! an offset in bytes from the start of its struct. A member that some kernels lack and readers can do without is an
//! `Option`.
//!
//! Limits: offsets are checked to lie within their struct, not to have the type the readers expect.

use crate::btf::Types;
use crate::kallsyms::Symbols;

/// Something the readers cannot do without is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A struct or each of a member's names is unknown to this kernel.
    #[error("this kernel's types have no `{strukt}.{member}`: its layout is not known to LAVA")]
    Missing {
        /// The struct.
        strukt: &'static str,
        /// The member's names that were tried, joined with `|`.
        member: String,
    },
    /// Neither `current_task` nor `pcpu_hot`.
    #[error("this kernel has no per-CPU `current_task`, nor `pcpu_hot`: the running task cannot be found")]
    NoCurrentTask,
}

/// A field of a layout: an offset that must be there, or one that may be.
trait Resolve: Sized {
    fn from_found(found: Option<u64>) -> Option<Self>;
}

impl Resolve for u64 {
    fn from_found(found: Option<u64>) -> Option<Self> {
        found
    }
}

impl Resolve for Option<u64> {
    fn from_found(found: Option<u64>) -> Option<Self> {
        Some(found)
    }
}

fn resolve<T: Resolve>(types: &Types, strukt: &'static str, names: &[&str]) -> Result<T, LayoutError> {
    let size = types.size_of(strukt).unwrap_or(0);
    let found = names.iter().find_map(|name| types.member(strukt, name).ok().filter(|f| f.offset < size));
    T::from_found(found.map(|f| f.offset)).ok_or_else(|| LayoutError::Missing { strukt, member: names.join("|") })
}

macro_rules! layouts {
    ($( $group:ident: $Name:ident = $strukt:literal { $( $field:ident: $ty:ty = [$($path:literal),+], )* } )*) => {
        $(
            #[doc = concat!("Offsets in `struct ", $strukt, "`, in bytes.")]
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub struct $Name {
                $(
                    #[doc = concat!("Offset of", $(" `", $path, "`"),+, ", in bytes.")]
                    pub $field: $ty,
                )*
                #[doc = concat!("Size of `struct ", $strukt, "`, in bytes.")]
                pub size: u64,
            }

            impl $Name {
                fn resolve(types: &Types) -> Result<Self, LayoutError> {
                    let missing = |_| LayoutError::Missing { strukt: $strukt, member: "(any)".into() };
                    Ok($Name {
                        $( $field: resolve(types, $strukt, &[$($path),+])?, )*
                        size: types.size_of($strukt).map_err(missing)?,
                    })
                }
            }
        )*

        /// Every offset the readers of [`crate::linux`] and the hooks need.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Layout {
            $(
                #[doc = concat!("`struct ", $strukt, "`.")]
                pub $group: $Name,
            )*
            /// Where the pointer to the running task lies in per-CPU data: see [`Layout::current_task_pointer`].
            pub current_task_offset: u64,
            /// `current_task_offset` is a link address (Linux 6.15 and later), which the KASLR slide moves, and not an
            /// offset into the per-CPU area.
            pub current_task_slides: bool,
        }

        impl Layout {
            /// Resolves every member.
            ///
            /// # Errors
            /// [`LayoutError`] names the first that is missing.
            pub fn resolve(types: &Types, symbols: &Symbols) -> Result<Layout, LayoutError> {
                let current_task_offset = current_task(types, symbols).ok_or(LayoutError::NoCurrentTask)?;
                Ok(Layout {
                    $( $group: $Name::resolve(types)?, )*
                    current_task_offset,
                    current_task_slides: current_task_offset >> 63 != 0,
                })
            }
        }

        /// (struct, names tried) of every member, for a made-up kernel's types.
        pub(crate) const MEMBERS: &[(&str, &[&[&str]])] = &[$( ($strukt, &[$( &[$($path),+] ),*]) ),*];
    };
}

layouts! {
    task: TaskLayout = "task_struct" {
        pid: u64 = ["pid"],
        tgid: u64 = ["tgid"],
        comm: u64 = ["comm"],
        start_time: u64 = ["start_boottime", "real_start_time", "start_time"],
        real_parent: u64 = ["real_parent"],
        group_leader: u64 = ["group_leader"],
        mm: u64 = ["mm"],
        cred: u64 = ["cred"],
        real_cred: u64 = ["real_cred"],
        signal: u64 = ["signal"],
        exit_code: u64 = ["exit_code"],
        flags: u64 = ["flags"],
        nsproxy: u64 = ["nsproxy"],
        tasks: u64 = ["tasks"],
        fs: u64 = ["fs"],
    }
    mm: MmLayout = "mm_struct" {
        pgd: u64 = ["pgd"],
        exe_file: u64 = ["exe_file"],
        arg_start: u64 = ["arg_start"],
        arg_end: u64 = ["arg_end"],
        env_start: u64 = ["env_start"],
        env_end: u64 = ["env_end"],
    }
    cred: CredLayout = "cred" {
        uid: u64 = ["uid"],
        gid: u64 = ["gid"],
        euid: u64 = ["euid"],
        egid: u64 = ["egid"],
        suid: u64 = ["suid"],
        sgid: u64 = ["sgid"],
        fsuid: u64 = ["fsuid"],
        fsgid: u64 = ["fsgid"],
        cap_permitted: u64 = ["cap_permitted"],
        cap_effective: u64 = ["cap_effective"],
    }
    file: FileLayout = "file" {
        f_path: u64 = ["f_path"],
        f_inode: u64 = ["f_inode"],
        f_flags: u64 = ["f_flags"],
        f_mode: u64 = ["f_mode"],
        f_pos: u64 = ["f_pos"],
    }
    path: PathLayout = "path" {
        mnt: u64 = ["mnt"],
        dentry: u64 = ["dentry"],
    }
    dentry: DentryLayout = "dentry" {
        d_parent: u64 = ["d_parent"],
        d_name: u64 = ["d_name", "__d_name"],
        d_iname: u64 = ["d_iname", "d_shortname"],
        d_inode: u64 = ["d_inode"],
        d_sb: u64 = ["d_sb"],
        hash_pprev: u64 = ["d_hash.pprev"],
    }
    qstr: QstrLayout = "qstr" {
        len: u64 = ["len"],
        name: u64 = ["name"],
    }
    inode: InodeLayout = "inode" {
        i_mode: u64 = ["i_mode"],
        i_uid: u64 = ["i_uid"],
        i_gid: u64 = ["i_gid"],
        i_ino: u64 = ["i_ino"],
        i_sb: u64 = ["i_sb"],
        i_rdev: u64 = ["i_rdev"],
        i_size: u64 = ["i_size"],
    }
    super_block: SuperBlockLayout = "super_block" {
        s_dev: u64 = ["s_dev"],
        s_root: u64 = ["s_root"],
        s_mounts: u64 = ["s_mounts"],
        s_type: u64 = ["s_type"],
        s_id: u64 = ["s_id"],
    }
    file_system_type: FileSystemTypeLayout = "file_system_type" {
        name: u64 = ["name"],
    }
    mount: MountLayout = "mount" {
        mnt: u64 = ["mnt"],
        mnt_parent: u64 = ["mnt_parent"],
        mnt_mountpoint: u64 = ["mnt_mountpoint"],
        mnt_instance: Option<u64> = ["mnt_instance"],
        next_for_sb: Option<u64> = ["mnt_next_for_sb"],
        mnt_ns: Option<u64> = ["mnt_ns"],
        mnt_devname: Option<u64> = ["mnt_devname"],
    }
    vfsmount: VfsmountLayout = "vfsmount" {
        mnt_root: u64 = ["mnt_root"],
        mnt_sb: u64 = ["mnt_sb"],
    }
    binprm: BinprmLayout = "linux_binprm" {
        file: u64 = ["file"],
        executable: u64 = ["executable"],
        interpreter: u64 = ["interpreter"],
        filename: u64 = ["filename"],
        interp: u64 = ["interp"],
        p: u64 = ["p"],
        argc: u64 = ["argc"],
        envc: u64 = ["envc"],
        mm: u64 = ["mm"],
    }
    fs: FsLayout = "fs_struct" {
        pwd: u64 = ["pwd"],
        root: u64 = ["root"],
    }
    socket: SocketLayout = "socket" {
        kind: u64 = ["type"],
        sk: u64 = ["sk"],
    }
    sock: SockLayout = "sock" {
        protocol: u64 = ["sk_protocol"],
        family: u64 = ["__sk_common.skc_family"],
        destination_port: u64 = ["__sk_common.skc_dport"],
        source_port: u64 = ["__sk_common.skc_num"],
        destination: u64 = ["__sk_common.skc_daddr"],
        source: u64 = ["__sk_common.skc_rcv_saddr"],
        destination6: Option<u64> = ["__sk_common.skc_v6_daddr"],
        source6: Option<u64> = ["__sk_common.skc_v6_rcv_saddr"],
    }
    module: ModuleLayout = "module" {
        name: u64 = ["name"],
        list: u64 = ["list"],
    }
    signal: SignalLayout = "signal_struct" {
        group_exit_code: u64 = ["group_exit_code"],
        live: u64 = ["live"],
    }
}

/// `current_task` (up to 6.1, and again from 6.15), or its place in `pcpu_hot` (6.2 to 6.14).
fn current_task(types: &Types, symbols: &Symbols) -> Option<u64> {
    symbols.address("current_task").or_else(|| {
        let hot = symbols.address("pcpu_hot")?;
        hot.checked_add(types.member("pcpu_hot", "current_task").ok()?.offset)
    })
}

impl Layout {
    /// The virtual address of the pointer to the running task of the CPU whose kernel GS base is `gs_base`.
    ///
    /// `slide` is the KASLR slide: run-time address minus link address of any kernel symbol.
    pub fn current_task_pointer(&self, gs_base: u64, slide: u64) -> u64 {
        let slide = if self.current_task_slides { slide } else { 0 };
        gs_base.wrapping_add(self.current_task_offset).wrapping_add(slide)
    }
}
