//! Where images are kept: one directory for each, named by the recipe's identifier.
//!
//! An image appears by one rename, whole or not at all. A build works in a directory beside it, under a lock; what an
//! interrupted build left is removed by the next one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::builder;
use crate::image::Image;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::run::RunError;

const BUILDING: &str = ".building-";
const LOCK: &str = ".lock";

/// A directory of images.
#[derive(Debug, Clone)]
pub struct ImageStore {
    images: PathBuf,
}

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file of the store.
    #[error("{path}: {source}; is the cache writable, and is there room for 4 GB?")]
    Store {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A tool failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The tools ran, and the result isn't what it must be.
    #[error("{what}; this is a fault of the recipe or of lava-image")]
    Result {
        /// What is wrong.
        what: String,
    },
}

impl ImageError {
    pub(crate) fn store(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Store { path, source }
    }
}

impl ImageStore {
    /// The store in a cache directory, in its `lava/images`.
    pub fn new(cache: &Path) -> Self {
        Self { images: cache.join("lava/images") }
    }

    /// The user's cache directory: `$XDG_CACHE_HOME`, or `~/.cache`; `None` when neither is known.
    pub fn user_cache() -> Option<PathBuf> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))
    }

    /// The recipe's image, if it has been built.
    pub fn find(&self, recipe: &Recipe) -> Option<Image> {
        Image::open(&self.images.join(recipe.id())).filter(|image| image.manifest.recipe == recipe.id())
    }

    /// All images, ordered by identifier.
    pub fn list(&self) -> Vec<Image> {
        let entries = fs::read_dir(&self.images).into_iter().flatten().flatten();
        let named = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
        let mut images: Vec<Image> = named.filter_map(|entry| Image::open(&entry.path())).collect();
        images.sort_by(|a, b| a.dir.cmp(&b.dir));
        images
    }

    /// Removes an image of this store. Micro-VMs that run on it keep it open until they end.
    ///
    /// # Errors
    /// [`ImageError::Store`] if its files can't be removed.
    pub fn remove(&self, image: &Image) -> Result<(), ImageError> {
        fs::remove_dir_all(&image.dir).map_err(ImageError::store(&image.dir))
    }

    /// Builds the recipe's image, or returns it when it is there. Waits for another build of the same store.
    pub fn build(&self, recipe: &Recipe, progress: &mut dyn Progress) -> Result<Image, ImageError> {
        self.build_with(recipe, progress, builder::build)
    }

    fn build_with(
        &self,
        recipe: &Recipe,
        progress: &mut dyn Progress,
        make: impl FnOnce(&Recipe, &Path, &mut dyn Progress) -> Result<(), ImageError>,
    ) -> Result<Image, ImageError> {
        if let Some(image) = self.find(recipe) {
            return Ok(image);
        }
        fs::create_dir_all(&self.images).map_err(ImageError::store(&self.images))?;
        let _lock = self.lock(progress)?;
        if let Some(image) = self.find(recipe) {
            return Ok(image);
        }
        self.remove_leftovers()?;
        let work = tempfile::Builder::new().prefix(BUILDING).tempdir_in(&self.images);
        let work = work.map_err(ImageError::store(&self.images))?;
        make(recipe, work.path(), progress)?;
        let place = self.images.join(recipe.id());
        // Only a damaged image can be here: a whole one would have been found.
        if place.exists() {
            fs::remove_dir_all(&place).map_err(ImageError::store(&place))?;
        }
        fs::rename(work.path(), &place).map_err(ImageError::store(&place))?;
        self.find(recipe).ok_or_else(|| ImageError::Result { what: format!("{} is not whole", place.display()) })
    }

    fn lock(&self, progress: &mut dyn Progress) -> Result<File, ImageError> {
        let path = self.images.join(LOCK);
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(ImageError::store(&path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            progress.begin("waiting for another build");
            flock(&file, FlockOperation::LockExclusive).map_err(|error| ImageError::store(&path)(error.into()))?;
        }
        Ok(file)
    }

    fn remove_leftovers(&self) -> Result<(), ImageError> {
        for entry in fs::read_dir(&self.images).map_err(ImageError::store(&self.images))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(BUILDING) {
                fs::remove_dir_all(entry.path()).map_err(ImageError::store(&entry.path()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::image::{MANIFEST, Manifest, ManifestKernel};
    use crate::progress::Silent;

    fn recipe() -> Recipe {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../images/debian-bookworm.toml");
        Recipe::load(Path::new(path)).expect("shipped recipe")
    }

    fn fake(recipe: &Recipe, dir: &Path, _: &mut dyn Progress) -> Result<(), ImageError> {
        let kernel =
            ManifestKernel { release: "6.1.0".into(), disk_sha256: String::new(), command_line: String::new() };
        let manifest = Manifest {
            recipe: recipe.id().into(),
            name: recipe.name().into(),
            built: 0,
            packages: BTreeMap::new(),
            kernels: BTreeMap::from([("6.1".into(), kernel)]),
        };
        for name in ["disk-6.1.raw", "vmlinuz-6.1", "initrd-6.1"] {
            fs::write(dir.join(name), "x").expect("file");
        }
        fs::write(dir.join(MANIFEST), serde_json::to_vec(&manifest).expect("json")).expect("manifest");
        Ok(())
    }

    #[test]
    fn an_image_is_built_once_and_found() {
        let (cache, recipe) = (tempfile::tempdir().expect("cache"), recipe());
        let store = ImageStore::new(cache.path());
        assert!(store.find(&recipe).is_none() && store.list().is_empty());
        let image = store.build_with(&recipe, &mut Silent, fake).expect("built");
        assert_eq!(image.disk("6.1"), Some(image.dir.join("disk-6.1.raw")));
        assert_eq!(image.vmlinuz("5.0"), None);
        store.build_with(&recipe, &mut Silent, |_, _, _| panic!("built twice")).expect("found");
        assert_eq!(store.list().len(), 1);
        store.remove(&image).expect("removed");
        assert!(store.find(&recipe).is_none() && store.list().is_empty());
    }

    #[test]
    fn a_failed_build_leaves_nothing_and_leftovers_go() {
        let (cache, recipe) = (tempfile::tempdir().expect("cache"), recipe());
        let store = ImageStore::new(cache.path());
        fs::create_dir_all(store.images.join(".building-old/deep")).expect("leftover");
        let failed = store.build_with(&recipe, &mut Silent, |_, dir, _| {
            fs::write(dir.join("half"), "x").expect("half");
            Err(ImageError::Result { what: "trial".into() })
        });
        assert!(failed.is_err());
        let names: Vec<_> =
            fs::read_dir(&store.images).expect("store").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, [LOCK]);
    }

    #[test]
    fn a_damaged_image_is_not_found_and_is_built_anew() {
        let (cache, recipe) = (tempfile::tempdir().expect("cache"), recipe());
        let store = ImageStore::new(cache.path());
        let image = store.build_with(&recipe, &mut Silent, fake).expect("built");
        fs::remove_file(image.dir.join("initrd-6.1")).expect("damage");
        assert!(store.find(&recipe).is_none());
        store.build_with(&recipe, &mut Silent, fake).expect("built anew");
    }
}
