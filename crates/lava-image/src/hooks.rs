//! What mmdebstrap runs for us: the files laid over the guest, and the scripts that finish it.
//!
//! The scripts run as root of mmdebstrap's namespace, outside the guest's tree, with the tree as `$1`. In them stand
//! only values that [`crate::recipe`] has checked.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::recipe::Body;

/// Where the partition begins, in bytes: the first MiB has the MBR and the gap after it, which nobody uses.
pub const PARTITION: u64 = 1 << 20;
/// The descriptor on which the scripts get the disk: its path may lie where the namespace's root can't go.
pub const DISK_FD: &str = "9";
/// Written to the console by the guest when the loader is installed.
pub const INSTALLED: &str = "LAVA-LOADER-INSTALLED";
/// The guest's program that installs the loader, run in place of init.
pub const INSTALLER: &str = "/usr/lib/lava/install-loader";

/// Lays out the files of the recipe, the launcher and the installer below `tree`.
pub fn lay_out(body: &Body, launcher: &Path, tree: &Path) -> io::Result<()> {
    let write = |path: &str, content: &[u8], mode: u32| {
        let place = tree.join(path.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap_or(tree))?;
        fs::write(&place, content)?;
        fs::set_permissions(&place, fs::Permissions::from_mode(mode))
    };
    // OpenJDK's installation script links manual pages into a directory which the exclusions leave out.
    fs::create_dir_all(tree.join("usr/share/man/man1"))?;
    fs::create_dir_all(tree.join("opt/scenario"))?;
    write("/etc/initramfs-tools/conf.d/lava", b"MODULES=list\nCOMPRESS=lz4\nRESUME=none\n", 0o644)?;
    write("/usr/share/initramfs-tools/modules.d/lava", (body.modules.join("\n") + "\n").as_bytes(), 0o644)?;
    write("/etc/hostname", format!("{}\n", body.hostname).as_bytes(), 0o644)?;
    write("/usr/lib/lava/launcher", &fs::read(launcher)?, 0o755)?;
    let installer = format!(
        "#!/bin/sh\nmount -t proc proc /proc\nmount -t sysfs sysfs /sys\n\
         extlinux --install /boot/extlinux && echo {INSTALLED} >/dev/console\n\
         sync\nmount -o remount,ro /\nexec systemctl poweroff --force --force\n"
    );
    write(INSTALLER, installer.as_bytes(), 0o755)?;
    body.file.iter().try_for_each(|file| {
        write(&file.path, file.content.trim_start().as_bytes(), if file.executable { 0o755 } else { 0o644 })
    })
}

/// The script that makes the user, sets the units and takes away what the build left.
pub fn finish(body: &Body) -> String {
    let (user, id) = (&body.user.name, body.user.id);
    let mut script = format!(
        "set -e\n\
         chroot \"$1\" useradd -u {id} -U -m -s /bin/bash {user}\n\
         chroot \"$1\" passwd -l root\n\
         chroot \"$1\" passwd -l {user}\n"
    );
    if !body.enable.is_empty() {
        script += &format!("chroot \"$1\" systemctl enable {}\n", body.enable.join(" "));
    }
    if !body.mask.is_empty() {
        script += &format!("chroot \"$1\" systemctl mask {}\n", body.mask.join(" "));
    }
    for link in &body.link {
        script += &format!("ln -sfn {} \"$1{}\"\n", link.target, link.path);
    }
    script += "mkdir -p \"$1/boot/extlinux\"\n\
        : > \"$1/etc/machine-id\"\n\
        rm -f \"$1/etc/apt/apt.conf.d/99mmdebstrap\" \"$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap\" \"$1\"/etc/*- \"$1\"/boot/*.bak\n\
        rm -f \"$1/var/lib/systemd/random-seed\" \"$1/var/lib/dbus/machine-id\" \"$1\"/var/cache/ldconfig/aux-cache\n\
        rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/*.bin \"$1\"/var/cache/apt/archives/*.deb\n\
        find \"$1/var/log\" -type f -delete\n\
        rm -rf \"$1\"/tmp/* \"$1\"/var/tmp/*\n";
    script
}

/// The script that makes the file system, with the ownerships only the namespace knows, on the disk at [`DISK_FD`].
///
/// mmdebstrap has /proc, /sys and /dev mounted on the tree while scripts run. They must not be copied: /proc/kcore alone
/// would fill any disk. A bind mount that isn't recursive shows the tree without them.
pub fn make_file_system(body: &Body) -> String {
    let (epoch, uuid) = (body.source_date_epoch, &body.filesystem_uuid);
    let size = (body.disk_size_mib << 10) - (PARTITION >> 10);
    format!(
        "set -e\n\
         bare=$(mktemp -d)\n\
         mount --bind \"$1\" \"$bare\"\n\
         trap 'umount \"$bare\"; rmdir \"$bare\"' EXIT\n\
         test -z \"$(ls -A \"$bare/proc\" \"$bare/sys\" | grep -v : )\"\n\
         find \"$bare\" -xdev -newermt @{epoch} -exec touch -h -d @{epoch} {{}} +\n\
         E2FSPROGS_FAKE_TIME={epoch} mke2fs -q -F -t ext4 -d \"$bare\" -m 0 -L lava-root -U {uuid} \
         -O ^64bit,^metadata_csum,^metadata_csum_seed,^orphan_file -J size=16 \
         -E offset={PARTITION},hash_seed={uuid},lazy_itable_init=0,lazy_journal_init=0 \
         /proc/self/fd/{DISK_FD} {size}k\n"
    )
}

/// The loader's configuration for one kernel.
pub fn loader(release: &str, command_line: &str) -> String {
    format!(
        "DEFAULT lava\nPROMPT 0\nTIMEOUT 0\nLABEL lava\n  LINUX /boot/vmlinuz-{release}\n  \
         INITRD /boot/initrd.img-{release}\n  APPEND {command_line}\n"
    )
}
