//! The stages of a build, in their order: launcher, root file system, partition, loader, one disk per kernel.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::disk;
use crate::hooks;
use crate::image::{MANIFEST, Manifest, ManifestKernel, disk_name};
use crate::mirror::Host;
use crate::progress::Progress;
use crate::recipe::{Kernel, Recipe};
use crate::run::{self, RunError};
use crate::store::ImageError;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const MINUTES: Duration = Duration::from_secs(60);

/// Builds the recipe's image in `dir`, which has nothing else in it afterwards.
pub fn build(recipe: &Recipe, dir: &Path, progress: &mut dyn Progress) -> Result<(), ImageError> {
    let mut build = Build { recipe, dir, scratch: dir.join("scratch"), disk: dir.join("disk.raw"), progress };
    fs::create_dir(&build.scratch).map_err(ImageError::store(&build.scratch))?;
    let launcher = build.launcher()?;
    build.root_file_system(&launcher)?;
    build.partition()?;
    let status = build.read("/var/lib/dpkg/status", "dpkg-status")?;
    let status = fs::read_to_string(&status).map_err(ImageError::store(&status))?;
    let mut releases = Vec::new();
    for kernel in &recipe.body.kernel {
        releases.push((kernel, build.kernel(kernel, &status)?));
    }
    build.loader()?;
    let mut kernels = BTreeMap::new();
    for (kernel, release) in releases {
        kernels.insert(kernel.name.clone(), build.kernel_disk(kernel, release)?);
    }
    build.manifest(kernels, &status)?;
    fs::remove_file(&build.disk).map_err(ImageError::store(&build.disk))?;
    fs::remove_dir_all(&build.scratch).map_err(ImageError::store(&build.scratch))
}

struct Build<'a> {
    recipe: &'a Recipe,
    dir: &'a Path,
    scratch: PathBuf,
    disk: PathBuf,
    progress: &'a mut dyn Progress,
}

impl Build<'_> {
    fn run(&mut self, stage: &str, command: &mut Command, limit: Duration) -> Result<String, RunError> {
        // The administrator's tools are not on everybody's search path.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        run::run(stage, command, &self.scratch.join("log"), limit, self.progress)
    }

    /// Compiles the launcher, linked statically, for any guest.
    fn launcher(&mut self) -> Result<PathBuf, ImageError> {
        let sources = &self.recipe.launcher;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| sources.join("../../target"), PathBuf::from);
        let target = target.join("launcher");
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--locked", "--target", TARGET]).arg("--manifest-path");
        cargo.arg(sources.join("Cargo.toml")).arg("--target-dir").arg(&target);
        cargo.args(["--config", "profile.release.strip=\"symbols\""]);
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
        self.run("compiling the launcher", &mut cargo, 15 * MINUTES)?;
        Ok(target.join(TARGET).join("release/lava-launcher"))
    }

    /// Lets mmdebstrap make the guest's tree, and a file system of it on the disk.
    fn root_file_system(&mut self, launcher: &Path) -> Result<(), ImageError> {
        let body = &self.recipe.body;
        let tree = self.scratch.join("overlay");
        hooks::lay_out(body, launcher, &tree).map_err(ImageError::store(&tree))?;
        let overlay = self.scratch.join("overlay.tar");
        let mut tar = Command::new("tar");
        tar.args(["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--mode=go-w,a+rX"]);
        tar.arg(format!("--mtime=@{}", body.source_date_epoch)).arg("-C").arg(&tree).arg("-cf").arg(&overlay).arg(".");
        self.run("packing the recipe's files", &mut tar, MINUTES)?;

        let disk = File::create(&self.disk).map_err(ImageError::store(&self.disk))?;
        disk.set_len(body.disk_size_mib << 20).map_err(ImageError::store(&self.disk))?;
        // The namespace's root is a stranger to this file; it can write to it through the descriptor it gets.
        disk.set_permissions(fs::Permissions::from_mode(0o666)).map_err(ImageError::store(&self.disk))?;
        let mut mmdebstrap = self.mmdebstrap(&overlay);
        self.run("installing Debian", &mut mmdebstrap, 60 * MINUTES)?;
        disk.set_permissions(fs::Permissions::from_mode(0o644)).map_err(ImageError::store(&self.disk))
    }

    fn mmdebstrap(&self, overlay: &Path) -> Command {
        let body = &self.recipe.body;
        let mode = if rustix::process::geteuid().is_root() { "root" } else { "unshare" };
        let kernels = body.kernel.iter().map(|kernel| kernel.package.as_str());
        let packages: Vec<_> = kernels.chain(body.packages.iter().map(String::as_str)).collect();
        let host = Host::ask();
        let lay_over = format!("tar-in \"{}\" /", overlay.display());
        // The shell opens the disk for mmdebstrap and its scripts to inherit; paths come as arguments.
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("exec {}<>\"$0\"; exec mmdebstrap \"$@\"", hooks::DISK_FD)).arg(&self.disk);
        command.arg(format!("--mode={mode}")).arg("--variant=minbase").arg("--format=null");
        command.arg(format!("--include={}", packages.join(",")));
        command.args(host.options.iter().map(|option| format!("--aptopt={option}")));
        command.args(body.exclude.iter().map(|pattern| format!("--dpkgopt=path-exclude={pattern}")));
        command.args(["--dpkgopt=path-include=/usr/share/doc/*/copyright"]);
        command.args(["--dpkgopt=force-confold", "--dpkgopt=force-unsafe-io"]);
        command.arg(format!("--essential-hook={lay_over}")).arg(format!("--customize-hook={lay_over}"));
        command.arg(format!("--customize-hook={}", hooks::finish(body)));
        command.arg(format!("--customize-hook={}", hooks::make_file_system(body)));
        command.arg(body.source[0].suites[0].as_str()).arg("/dev/null").args(host.lines(body));
        command.env("SOURCE_DATE_EPOCH", body.source_date_epoch.to_string()).env("LC_ALL", "C.UTF-8");
        // The namespace's root can't go into a private directory that the environment may name.
        command.env("TMPDIR", "/tmp");
        command
    }

    /// Writes the partition table and the boot code that the guest's own syslinux has.
    fn partition(&mut self) -> Result<(), ImageError> {
        let table = self.scratch.join("table");
        let signature = &self.recipe.body.disk_signature;
        let start = hooks::PARTITION / 512;
        let text = format!("label: dos\nlabel-id: {signature}\nstart={start}, type=83, bootable\n");
        fs::write(&table, text).map_err(ImageError::store(&table))?;
        let mut sfdisk = Command::new("sh");
        sfdisk.args(["-c", "exec sfdisk -q --wipe never \"$1\" <\"$2\"", "sh"]).arg(&self.disk).arg(&table);
        self.run("partitioning", &mut sfdisk, MINUTES)?;
        let code = self.read("/usr/lib/syslinux/mbr/mbr.bin", "mbr.bin")?;
        let code = fs::read(&code).map_err(ImageError::store(&code))?;
        disk::write_boot_code(&self.disk, &code).map_err(ImageError::store(&self.disk))
    }

    /// Reads a file out of the guest's file system into the scratch directory.
    fn read(&mut self, guest: &str, name: &str) -> Result<PathBuf, ImageError> {
        let place = self.scratch.join(name);
        let mut debugfs = Command::new("debugfs");
        // debugfs reads its request as words: it is given a plain name, and the directory as its own.
        debugfs
            .current_dir(&self.scratch)
            .arg("-R")
            .arg(format!("dump {guest} {name}"))
            .arg(disk::partition(&self.disk));
        let output = self.run(&format!("reading {guest}"), &mut debugfs, MINUTES)?;
        // debugfs succeeds whatever happens.
        match fs::metadata(&place) {
            Ok(found) if found.len() > 0 => Ok(place),
            _ => Err(ImageError::Result { what: format!("the guest has no {guest}: {}", output.trim()) }),
        }
    }

    /// Takes one kernel and its initramfs out of the guest, and returns the kernel's release.
    fn kernel(&mut self, kernel: &Kernel, status: &str) -> Result<String, ImageError> {
        let Some(release) = disk::release(status, &kernel.package) else {
            return Err(ImageError::Result { what: format!("{} installed no kernel", kernel.package) });
        };
        for (guest, name) in [("vmlinuz", "vmlinuz"), ("initrd.img", "initrd")] {
            let name = format!("{name}-{}", kernel.name);
            let from = self.read(&format!("/boot/{guest}-{release}"), &name)?;
            let to = self.dir.join(&name);
            fs::rename(&from, &to).map_err(ImageError::store(&to))?;
        }
        Ok(release)
    }

    /// Boots the guest once, with a program of ours for init, to install extlinux on its own disk.
    fn loader(&mut self) -> Result<(), ImageError> {
        let kernel = &self.recipe.body.kernel[0].name;
        let serial = self.scratch.join("serial");
        // A comma ends a value in QEMU's options; doubled it stands for itself.
        let quoted = |path: &Path| path.display().to_string().replace(',', ",,");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-M", "q35,accel=tcg", "-cpu", "max,la57=off", "-smp", "2", "-m", "512", "-nodefaults"]);
        qemu.args(["-display", "none", "-no-reboot", "-device", "virtio-blk-pci,drive=d"]);
        qemu.arg("-drive").arg(format!("if=none,id=d,format=raw,file={}", quoted(&self.disk)));
        qemu.arg("-serial").arg(format!("file:{}", serial.display()));
        qemu.arg("-kernel").arg(self.dir.join(format!("vmlinuz-{kernel}")));
        qemu.arg("-initrd").arg(self.dir.join(format!("initrd-{kernel}")));
        let installer = hooks::INSTALLER;
        // On a busy host the kernel's check of the timer interrupt, which counts ticks against emulated time, fails and panics.
        let line =
            format!("root=/dev/vda1 rw console=ttyS0,115200 no_timer_check fsck.mode=skip panic=-1 init={installer}");
        qemu.arg("-append").arg(line);
        self.run("installing the boot loader", &mut qemu, 10 * MINUTES)?;
        let console = fs::read(&serial).map_err(ImageError::store(&serial))?;
        let console = String::from_utf8_lossy(&console);
        if console.contains(hooks::INSTALLED) {
            return Ok(());
        }
        let lines: Vec<_> = console.lines().collect();
        let end = lines[lines.len().saturating_sub(10)..].join("\n");
        Err(ImageError::Result {
            what: format!("the guest did not install its loader; its console ends with:\n{end}\n"),
        })
    }

    /// Copies the disk and makes the copy boot one kernel.
    fn kernel_disk(&mut self, kernel: &Kernel, release: String) -> Result<ManifestKernel, ImageError> {
        let (name, command_line) = (&kernel.name, &self.recipe.body.command_line);
        let disk = self.dir.join(disk_name(name));
        let mut copy = Command::new("cp");
        copy.args(["--sparse=always", "--reflink=auto"]).arg(&self.disk).arg(&disk);
        self.run(&format!("copying the disk for {name}"), &mut copy, 10 * MINUTES)?;

        let configuration = self.scratch.join("extlinux.conf");
        let text = hooks::loader(&release, command_line);
        fs::write(&configuration, &text).map_err(ImageError::store(&configuration))?;
        let mut debugfs = Command::new("debugfs");
        debugfs.current_dir(&self.scratch).args(["-w", "-R", "write extlinux.conf /boot/extlinux/extlinux.conf"]);
        debugfs.arg(disk::partition(&disk)).env("E2FSPROGS_FAKE_TIME", self.recipe.body.source_date_epoch.to_string());
        self.run(&format!("making {name} boot"), &mut debugfs, MINUTES)?;
        let mut check = Command::new("e2fsck");
        check.args(["-f", "-n"]).arg(disk::partition(&disk));
        self.run(&format!("checking the disk for {name}"), &mut check, 5 * MINUTES)?;
        let disk_sha256 = disk::checksum(&disk).map_err(ImageError::store(&disk))?;
        Ok(ManifestKernel { release, disk_sha256, command_line: command_line.clone() })
    }

    fn manifest(&self, kernels: BTreeMap<String, ManifestKernel>, status: &str) -> Result<(), ImageError> {
        let manifest = Manifest {
            recipe: self.recipe.id().to_owned(),
            name: self.recipe.name().to_owned(),
            built: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            packages: disk::packages(status),
            kernels,
        };
        let path = self.dir.join(MANIFEST);
        let text =
            serde_json::to_vec_pretty(&manifest).map_err(|error| ImageError::Result { what: error.to_string() })?;
        fs::write(&path, text).map_err(ImageError::store(&path))
    }
}
