//! The disk as bytes: MBR, files read out of the partition and written into it, checksum.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::hooks::PARTITION;

/// The MBR's boot code ends here; disk signature and partition table follow.
const BOOT_CODE: usize = 440;

/// Debugfs' name of the file system in the disk's partition.
pub fn partition(disk: &Path) -> String {
    format!("{}?offset={PARTITION}", disk.display())
}

/// Copies boot code into the MBR, and nothing else.
pub fn write_boot_code(disk: &Path, code: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).open(disk)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&code[..code.len().min(BOOT_CODE)])
}

/// SHA-256 in hexadecimal.
pub fn checksum(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..count]);
    }
}

/// The installed packages of a dpkg status file.
pub fn packages(status: &str) -> BTreeMap<String, String> {
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    let installed = status
        .split("\n\n")
        .filter(|stanza| field(stanza, "Status").is_some_and(|status| status.ends_with(" installed")));
    installed.filter_map(|stanza| Some((field(stanza, "Package")?, field(stanza, "Version")?))).collect()
}

/// The release of the kernel that a (meta) package installs, found in the status file by its dependency.
pub fn release(status: &str, package: &str) -> Option<String> {
    let head = format!("Package: {package}");
    let stanza = status.split("\n\n").find(|stanza| stanza.lines().any(|line| line == head))?;
    let depends = stanza.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
    let names = depends.split(',').filter_map(|dependency| dependency.split_whitespace().next());
    let releases = names.chain([package]).filter_map(|name| name.strip_prefix("linux-image-"));
    // A kernel's own package has its version in its name; a metapackage has not.
    releases.filter(|release| release.matches('.').count() >= 2).map(str::to_owned).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: linux-image-cloud-amd64\nStatus: install ok installed\nVersion: 6.1.192-2\n\
        Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n";

    #[test]
    fn packages_and_releases_come_from_dpkg_s_status() {
        assert_eq!(packages(STATUS), BTreeMap::from([("linux-image-cloud-amd64".into(), "6.1.192-2".into())]));
        assert_eq!(release(STATUS, "linux-image-cloud-amd64").as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(release(STATUS, "linux-image-other"), None);
    }

    #[test]
    fn boot_code_leaves_the_partition_table_alone() {
        let disk = tempfile::NamedTempFile::new().expect("disk");
        std::fs::write(disk.path(), [7; 1024]).expect("disk");
        write_boot_code(disk.path(), &[1; 512]).expect("written");
        let bytes = std::fs::read(disk.path()).expect("disk");
        assert!(bytes[..440].iter().all(|&byte| byte == 1) && bytes[440..].iter().all(|&byte| byte == 7));
        assert_eq!(bytes.len(), 1024);
    }
}
