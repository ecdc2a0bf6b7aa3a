//! A finished image and what it says of itself.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The name of the file that describes an image, in the image's directory.
pub(crate) const MANIFEST: &str = "image.json";

/// A finished image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its directory.
    pub dir: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
}

/// `image.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The recipe's identifier.
    pub recipe: String,
    /// The recipe's name.
    pub name: String,
    /// When it was built, in seconds since 1970.
    pub built: u64,
    /// Debian packages and their versions.
    pub packages: BTreeMap<String, String>,
    /// By kernel name, such as `6.1`.
    pub kernels: BTreeMap<String, ManifestKernel>,
}

/// One kernel of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestKernel {
    /// As `uname -r` gives it.
    pub release: String,
    /// SHA-256 of the disk, in hexadecimal.
    pub disk_sha256: String,
    /// The kernel command line the loader gives.
    pub command_line: String,
}

impl Image {
    /// The disk that boots this kernel. Read-only by custom: a micro-VM writes to a copy or an overlay.
    pub fn disk(&self, kernel: &str) -> Option<PathBuf> {
        self.file(kernel, disk_name(kernel))
    }

    /// The kernel's image, as it is on the disk.
    pub fn vmlinuz(&self, kernel: &str) -> Option<PathBuf> {
        self.file(kernel, format!("vmlinuz-{kernel}"))
    }

    /// The kernel's initramfs, as it is on the disk.
    pub fn initrd(&self, kernel: &str) -> Option<PathBuf> {
        self.file(kernel, format!("initrd-{kernel}"))
    }

    /// Bytes that its files take on the disk.
    pub fn size(&self) -> u64 {
        let files = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.blocks() * 512)).sum()
    }

    fn file(&self, kernel: &str, name: String) -> Option<PathBuf> {
        self.manifest.kernels.contains_key(kernel).then(|| self.dir.join(name))
    }

    /// Opens the image in a directory; `None` when it isn't a whole one.
    pub(crate) fn open(dir: &Path) -> Option<Self> {
        let manifest: Manifest = serde_json::from_slice(&std::fs::read(dir.join(MANIFEST)).ok()?).ok()?;
        let image = Self { dir: dir.to_owned(), manifest };
        let whole = image.manifest.kernels.keys().all(|kernel| {
            [image.disk(kernel), image.vmlinuz(kernel), image.initrd(kernel)]
                .iter()
                .flatten()
                .all(|file| file.is_file())
        });
        whole.then_some(image)
    }
}

pub(crate) fn disk_name(kernel: &str) -> String {
    format!("disk-{kernel}.raw")
}
