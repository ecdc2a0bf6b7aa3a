//! Against real kernels: what is known of them must come out of their boot files alone.

use lava_guest::fake::{FakeGuest, Identity};
use lava_guest::linux::{Credentials, path_of_dentry, read_file, read_task};
use lava_guest::{btf::Types, kallsyms::Symbols, kernel::Kernel, layout::Layout};
use lava_vmlinuz::kernel_elf;
use object::{Object, ObjectSegment};

/// Path and bytes of every kernel `cargo xtask test` prepared.
fn kernels() -> Vec<(String, Vec<u8>)> {
    const HELP: &str = "run `cargo xtask test`, which prepares kernels";
    let list = std::env::var("LAVA_TEST_KERNELS")
        .unwrap_or_else(|_| panic!("LAVA_TEST_KERNELS (vmlinuz paths, colon-separated) is not set: {HELP}"));
    let read = |path: &str| (path.to_owned(), std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}: {HELP}")));
    let kernels: Vec<_> = list.split(':').filter(|path| !path.is_empty()).map(read).collect();
    assert!(!kernels.is_empty(), "LAVA_TEST_KERNELS names no kernel: {HELP}");
    kernels
}

/// What a kernel file holds at a link address.
fn at<'a>(elf: &object::File<'a>, address: u64, len: u64) -> &'a [u8] {
    let found = elf.segments().find_map(|s| s.data_range(address, len).ok().flatten());
    found.unwrap_or_else(|| panic!("nothing at {address:#x}"))
}

/// Symbols and types hold against what the kernel's own data says: init_task is linked in, members and all.
#[test]
fn symbols_and_types_agree_with_the_kernels_data() {
    for (path, vmlinuz) in kernels() {
        let elf = kernel_elf(&vmlinuz).unwrap_or_else(|e| panic!("{path}: {e}"));
        let kernel = Kernel::from_elf(&elf).unwrap_or_else(|e| panic!("{path}: {e}"));
        let (symbols, types) = (&kernel.symbols, &kernel.types);
        let file = object::File::parse(elf.as_slice()).unwrap();
        let address = |name: &str| symbols.address(name).unwrap_or_else(|| panic!("{path}: no symbol {name}"));
        let member = |path: &str| types.member("task_struct", path).unwrap();
        let pointer = |address: u64| u64::from_le_bytes(at(&file, address, 8).try_into().unwrap());
        let init = address("init_task");
        let comm = member("comm");
        assert_eq!(comm.size, 16);
        assert!(at(&file, init + comm.offset, 16).starts_with(b"swapper\0"), "{path}");
        assert_eq!(pointer(init + member("real_parent").offset), init, "{path}");
        assert_eq!(pointer(init + member("cred").offset), address("init_cred"), "{path}");
        assert_eq!(pointer(init + member("signal").offset), address("init_signals"), "{path}");
        assert_eq!(pointer(init + member("fs").offset), address("init_fs"), "{path}");
        // swapgs, with or without endbr64 before it.
        let entry = at(&file, address("entry_SYSCALL_64"), 16);
        assert!(entry.windows(3).any(|w| w == [0x0f, 0x01, 0xf8]), "{path}: {entry:02x?}");
        assert!(kernel.release.starts_with("6."), "{path}: {}", kernel.banner);
    }
}

#[test]
fn symbols() {
    for (path, vmlinuz) in kernels() {
        let elf = kernel_elf(&vmlinuz).unwrap();
        let symbols = Symbols::from_elf(&elf).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(symbols.len() > 50_000, "{path}: {}", symbols.len());
        for name in ["_text", "entry_SYSCALL_64", "linux_banner", "commit_creds", "wake_up_new_task", "sys_call_table"]
        {
            let address = symbols.address(name).unwrap_or_else(|| panic!("{path}: no {name}"));
            assert!((0xffff_ffff_8100_0000..0xffff_ffff_a000_0000).contains(&address), "{path}: {name} {address:#x}");
            assert_eq!(symbols.lookup(address).map(|(_, above)| above), Some(0), "{path}: {name}");
        }
        let commit = symbols.address("commit_creds").unwrap();
        assert_eq!(symbols.lookup(commit + 9), Some(("commit_creds", 9)), "{path}");
        assert!(symbols.iter().is_sorted_by_key(|(address, ..)| address), "{path}");
        assert!(symbols.iter().all(|(_, kind, name)| kind.is_ascii_alphabetic() && !name.is_empty()), "{path}");
        // Static functions that share a name are all found.
        let all = symbols.all("cleanup_module").chain(symbols.all("init_once")).count();
        let listed = symbols.iter().filter(|(.., name)| ["cleanup_module", "init_once"].contains(name)).count();
        assert!(all == listed && all > 1, "{path}: {all} {listed}");
    }
}

#[test]
fn types() {
    for (path, vmlinuz) in kernels() {
        let elf = kernel_elf(&vmlinuz).unwrap();
        let types = Types::from_elf(&elf).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(types.len() > 20_000, "{path}: {}", types.len());
        let dentry = types.member("path", "dentry").unwrap();
        let f_path = types.member("file", "f_path").unwrap();
        let nested = types.member("file", "f_path.dentry").unwrap();
        assert_eq!((nested.offset, nested.size), (f_path.offset + dentry.offset, 8), "{path}");
        let bit = types.member("task_struct", "in_execve").unwrap();
        assert_eq!((bit.bit_size, bit.size), (1, 1), "{path}");
        for (function, index, name, pointee) in [
            ("security_file_open", 0, "file", "file"),
            ("security_bprm_check", 0, "bprm", "linux_binprm"),
            ("commit_creds", 0, "new", "cred"),
            ("wake_up_new_task", 0, "p", "task_struct"),
            ("security_socket_connect", 0, "sock", "socket"),
        ] {
            let params = types.function(function).unwrap_or_else(|| panic!("{path}: no function {function}"));
            assert_eq!(
                (params[index].name.as_str(), params[index].pointee.as_deref()),
                (name, Some(pointee)),
                "{path}"
            );
            assert_eq!(types.param_index(function, name), Some(index));
        }
        let cache = lava_guest::linux::CacheLayout::resolve(&types).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(cache.page == 64 && cache.slots.is_multiple_of(8) && cache.up_to_date > 0, "{path}: {cache:?}");
        assert_eq!(types.enum_value(None, "READING_MODULE"), Some(2), "{path}");
        assert_eq!(types.enum_value(Some("kernel_read_file_id"), "READING_FIRMWARE"), Some(1), "{path}");
        assert!(types.has_struct("linux_binprm") && !types.has_struct("no_such_struct"));
    }
}

/// The readers work on a guest laid out as the real kernel lays it out.
#[test]
fn objects_in_the_real_layout() {
    for (path, vmlinuz) in kernels() {
        let kernel = Kernel::from_elf(&kernel_elf(&vmlinuz).unwrap()).unwrap();
        let layout = Layout::resolve(&kernel.types, &kernel.symbols).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!((0x1000..0x10_0000).contains(&layout.current_task_offset) && !layout.current_task_slides, "{path}");
        let mut g = FakeGuest::new(layout, true);
        let root =
            Credentials { uid: 0, cap_effective: (1 << 41) - 1, cap_permitted: (1 << 41) - 1, ..Default::default() };
        let task = g.task(Identity { pid: 9, tgid: 9, start_ns: 5, comm: "sshd", ..Default::default() }, &root);
        let read = read_task(&g.space(), &layout, task).unwrap();
        assert_eq!((read.pid, read.comm.as_slice(), read.credentials), (9, b"sshd".as_slice(), Some(root)), "{path}");
        let disk = g.file_system("ext4", 8 << 20);
        let mount = g.mount(disk, g.root(disk), 0, 0);
        let sh = g.tree(disk, "usr/bin/sh");
        let opened = g.file(mount, sh);
        let (opened, _) = read_file(&g.space(), &layout, opened).unwrap();
        assert_eq!(
            (opened.bytes.as_slice(), opened.complete, opened.deleted),
            (b"/usr/bin/sh".as_slice(), true, false)
        );
        assert_eq!(path_of_dentry(&g.space(), &layout, sh), opened, "{path}");
    }
}

#[test]
fn system_calls() {
    use lava_guest::syscalls::{Abi, Content, Syscalls};
    for (_, vmlinuz) in kernels() {
        let elf = kernel_elf(&vmlinuz).unwrap();
        let kernel = lava_guest::kernel::Kernel::from_elf(&elf).unwrap();
        let calls = Syscalls::read(&elf, &kernel.symbols, &kernel.types).unwrap();
        let check = |abi, number, name: &str, parameters: &[&str]| {
            let call = calls.get(abi, number).unwrap_or_else(|| panic!("{} {number}", kernel.release));
            assert_eq!(call.name, name);
            let known: Vec<&str> = call.parameters.iter().flatten().map(|p| p.name).collect();
            assert_eq!(known, parameters, "{name}");
        };
        check(Abi::X64, 0, "read", &["fd", "buf", "count"]);
        check(Abi::X64, 4, "stat", &["filename", "statbuf"]);
        check(Abi::X64, 59, "execve", &["filename", "argv", "envp"]);
        check(Abi::X64, 257, "openat", &["dfd", "filename", "flags", "mode"]);
        check(Abi::X64, 39, "getpid", &[]);
        check(Abi::I386, 20, "getpid", &[]);
        check(Abi::I386, 4, "write", &["fd", "buf", "count"]);
        let execve = calls.get(Abi::X64, 59).and_then(|call| call.parameters.clone()).unwrap();
        assert_eq!(execve[0].content, Content::Text);
        assert!(calls.get(Abi::X64, 5000).is_none());
    }
}
