//! Guest images: from a declared recipe to the disks a micro-VM boots.
//!
//! A [`Recipe`] is data. [`ImageStore::build`] makes of it, with Debian's own tools, one disk per kernel; an image is
//! found again by its identifier, the hash of all that went into it. Nothing here needs root, a loop device or KVM: the
//! file system is made inside mmdebstrap's own namespace, and the boot loader is installed by the guest itself.
//!
//! Limits: Debian and x86-64 only. Images of one recipe differ in packages when the mirror has newer ones, and in the
//! file times the loader's installation leaves (e2fsprogs before 1.47.1 has no SOURCE_DATE_EPOCH).
#![forbid(unsafe_code)]

mod builder;
mod disk;
mod hooks;
mod image;
mod mirror;
mod progress;
mod recipe;
mod run;
mod store;

pub use image::{Image, Manifest, ManifestKernel};
pub use progress::{Lines, Progress, Silent};
pub use recipe::{Recipe, RecipeError};
pub use run::RunError;
pub use store::{ImageError, ImageStore};
