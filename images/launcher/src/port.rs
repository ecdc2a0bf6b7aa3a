//! Finding and opening the virtio-serial port.
//!
//! The port's name is in sysfs before udev makes `/dev/virtio-ports/NAME`, so sysfs is asked when the link isn't there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The port's name, as given to QEMU's `virtserialport`.
pub const NAME: &str = "lava.task";

/// Opens the port called `name`, if the machine has it (yet).
pub fn open(name: &str) -> Option<File> {
    let link = Path::new("/dev/virtio-ports").join(name);
    let node = if link.exists() { link } else { find(Path::new("/sys/class/virtio-ports"), Path::new("/dev"), name)? };
    File::options().read(true).write(true).open(node).ok()
}

/// Looks for the port called `name` below `class`; its node has the same name below `dev`.
fn find(class: &Path, dev: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(class).ok()?.flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("name")).ok()?;
        (found.trim_end() == name).then(|| dev.join(entry.file_name()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let class = tempfile::tempdir().expect("temporary directory");
        for (port, name) in [("vport1p1", "other\n"), ("vport2p1", "lava.task\n")] {
            fs::create_dir(class.path().join(port)).expect("port");
            fs::write(class.path().join(port).join("name"), name).expect("name");
        }
        assert_eq!(find(class.path(), Path::new("/dev"), NAME), Some(PathBuf::from("/dev/vport2p1")));
        assert_eq!(find(class.path(), Path::new("/dev"), "missing"), None);
    }
}
