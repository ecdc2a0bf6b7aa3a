//! Templates: a guest that has booted, saved so that clones of it start in a blink.
//!
//! A template is a folder: the guest's RAM (`ram`, sparse), the devices' state (`state`), what the boot changed on the disks
//! (`vda.overlay` and its map, `vdb.overlay`...), the kernel's ELF file (`kernel`), and `template.json`, which is written last: a folder
//! without it is no template.
//! It is named by a hash of all it was made from; a change of any makes another template.
//!
//! Clones map the RAM privately: the pages they do not write are the template's, in the host's page cache, once for all.
//!
//! *Invariant:* a template is never changed. It is made in a folder beside its place and moved there whole.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use lava_event::Sha256;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Counted up when templates are made or restored in another way.
const FORMAT: u32 = 3;
/// The kernel's file in a template, and in a draft: whoever makes the template puts it there.
pub const KERNEL: &str = "kernel";
const MANIFEST: &str = "template.json";
/// The folder of the makers' locks: it has no manifest, so it is no template.
const LOCKS: &str = ".locks";
/// Longest manifest that is read, bytes.
const MANIFEST_LIMIT: u64 = 64 << 10;
const PAGE: usize = 4096;

/// What a template is made from. Two that are equal make the same template.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TemplateParts {
    /// The task profile that it is for.
    pub profile: String,
    /// What is run in it before it is saved, so that programs and files are in memory.
    pub warm: Vec<String>,
    /// Identifier of the image.
    pub image: String,
    /// Release of the guest's kernel.
    pub kernel: String,
    /// QEMU's version.
    pub qemu: String,
    /// The tap's library.
    pub tap: Sha256,
    /// The second disk, if there is one.
    pub scenario_disk: Option<Sha256>,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Whether it has a network card.
    #[serde(default = "with_network", skip_serializing_if = "Clone::clone")]
    pub network: bool,
    /// It has a VGA.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub display: bool,
    /// And a pointer. Templates that were made without one do not fit the machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pointer: bool,
}

/// What templates have that were made before it was said.
const fn with_network() -> bool {
    true
}

impl TemplateParts {
    /// The template's name: the profile's, and the beginning of a hash of everything.
    #[must_use]
    pub fn name(&self) -> String {
        let text = serde_json::to_string(&(FORMAT, self)).unwrap_or_default();
        let hash = Sha256::of(text.as_bytes()).to_string();
        let profile: String =
            self.profile.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
        format!("{profile}-{}", hash.get(..16).unwrap_or(&hash))
    }
}

/// Where the template's kernel lies: the tap of a clone sees no boot that would tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KernelPlace {
    /// KASLR slide.
    pub slide: u64,
    /// `page_offset_base`.
    pub direct_map: u64,
    /// `phys_base`.
    pub phys_base: u64,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    parts: TemplateParts,
    place: KernelPlace,
    disks: usize,
    /// RFC 3339.
    built: String,
}

/// A template, ready to be cloned.
#[derive(Clone, Debug)]
pub struct Template {
    /// Its folder.
    pub dir: PathBuf,
    /// What it was made from.
    pub parts: TemplateParts,
    /// Where its kernel lies.
    pub place: KernelPlace,
    /// When it was made.
    pub built: String,
}

/// Why there is no usable template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A file of it.
    #[error("template {}: {what}: {source}; it is made anew when a task needs it", dir.display())]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// Which file, or what.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The folder of templates.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn name(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Template {
    /// The guest's RAM.
    #[must_use]
    pub fn ram(&self) -> PathBuf {
        self.dir.join("ram")
    }

    /// The ELF file of the guest's kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.dir.join(KERNEL)
    }

    /// The devices' state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The sealed overlay of disk `name` (`vda`, `vdb`).
    #[must_use]
    pub fn layer(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.overlay"))
    }

    /// Bytes it takes on the host's disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).sum()
    }

    /// Reads the template in `dir`; None if there is none.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn open(dir: &Path) -> Result<Option<Self>, TemplateError> {
        let damaged = |what: &str, source| TemplateError::Damaged { dir: dir.into(), what: what.into(), source };
        let text = match read_manifest(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| damaged(MANIFEST, error))?,
        };
        if is_of_another_version(&text) {
            return Err(damaged(MANIFEST, io::Error::other("made by another version of LAVA")));
        }
        let manifest: Manifest = serde_json::from_str(&text).map_err(|e| damaged(MANIFEST, e.into()))?;
        let template = Self { dir: dir.into(), parts: manifest.parts, place: manifest.place, built: manifest.built };
        let size = |path: &Path| fs::metadata(path).map(|file| file.len());
        let ram = size(&template.ram()).map_err(|error| damaged("ram", error))?;
        if ram != u64::from(template.parts.memory_mib) << 20 {
            return Err(damaged("ram", io::Error::other(format!("{ram} bytes are not the memory's size"))));
        }
        for (what, path) in
            [("state", template.state()), (KERNEL, template.kernel()), ("vda.overlay", template.layer("vda"))]
        {
            if size(&path).map_err(|error| damaged(what, error))? == 0 {
                return Err(damaged(what, io::Error::other("empty")));
            }
        }
        Ok(Some(template))
    }
}

fn read_manifest(dir: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(dir.join(MANIFEST))?.take(MANIFEST_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

fn is_of_another_version(manifest: &str) -> bool {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    serde_json::from_str::<Version>(manifest).is_ok_and(|version| version.format != FORMAT)
}

/// A template's name, and what it is or why it is damaged.
pub type Listed = (String, Result<Template, TemplateError>);

/// The folder of templates.
#[derive(Clone, Debug)]
pub struct TemplateStore {
    dir: PathBuf,
}

impl TemplateStore {
    /// The store below a cache folder.
    #[must_use]
    pub fn new(cache: &Path) -> Self {
        Self { dir: cache.join("lava/templates") }
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The template made from these parts, if there is one.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn find(&self, parts: &TemplateParts) -> Result<Option<Template>, TemplateError> {
        Ok(Template::open(&self.dir.join(parts.name()))?.filter(|template| template.parts == *parts))
    }

    /// Keeps others from making the template of these parts, until what is returned is dropped or the process ends. If somebody makes it
    /// already, `waiting` is told, and this waits.
    ///
    /// # Errors
    /// If the lock can't be made.
    pub fn lock(&self, parts: &TemplateParts, waiting: impl FnOnce()) -> Result<File, TemplateError> {
        let (folder, path) = (self.dir.join(LOCKS), self.dir.join(LOCKS).join(parts.name()));
        let lock = fs::create_dir_all(&folder).and_then(|()| {
            let lock = File::options().create(true).append(true).open(&path)?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                waiting();
                flock(&lock, FlockOperation::LockExclusive)?;
            }
            Ok(lock)
        });
        lock.map_err(|source| TemplateError::Io { path, source })
    }

    /// Names of all, and each with what it is or why it is damaged.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn list(&self) -> Result<Vec<Listed>, TemplateError> {
        let io = |source| TemplateError::Io { path: self.dir.clone(), source };
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let dir = entry.map_err(io)?.path();
            let found = Template::open(&dir).transpose();
            all.extend(found.map(|template| (name(&dir), template)));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// Removes a template by its name; false if there is none.
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn remove(&self, name: &str) -> Result<bool, TemplateError> {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !name.is_empty();
        let dir = self.dir.join(name);
        if !plain || !dir.is_dir() {
            return Ok(false);
        }
        // First out of its place: cut off in the middle, this leaves no template that lacks a file.
        let out = self.dir.join(format!("{name}.draft-{}", std::process::id()));
        let removed = fs::rename(&dir, &out).and_then(|()| fs::remove_dir_all(&out));
        removed.map(|()| true).map_err(|source| TemplateError::Io { path: dir, source })
    }

    /// Removes what the template of these parts takes the place of: the same, made with another image, QEMU or tap; what another version
    /// of LAVA has made, which this one cannot use; and drafts whose makers are gone. Clones that run keep the files they have open.
    fn remove_superseded(&self, parts: &TemplateParts) -> Result<(), TemplateError> {
        for (name, old) in self.list()? {
            let Ok(old) = old else {
                if read_manifest(&self.dir.join(&name)).is_ok_and(|text| is_of_another_version(&text)) {
                    self.remove(&name)?;
                }
                continue;
            };
            let renewed = TemplateParts {
                image: parts.image.clone(),
                kernel: parts.kernel.clone(),
                qemu: parts.qemu.clone(),
                tap: parts.tap,
                pointer: parts.pointer,
                ..old.parts.clone()
            };
            let made_with = |parts: &TemplateParts| (parts.image.clone(), parts.qemu.clone(), parts.tap, parts.pointer);
            let other = made_with(&old.parts) != made_with(parts);
            if other && renewed == *parts {
                self.remove(&old.parts.name())?;
            }
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let file_name = entry.file_name();
            let maker = file_name.to_str().and_then(|name| name.rsplit_once(".draft-")).map(|(_, process)| process);
            if maker.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                // Another process may be at it too.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    /// A folder to make a template in: on the same file system as its place. What a build that was cut off has left there is
    /// removed.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn draft(&self, parts: &TemplateParts) -> Result<PathBuf, TemplateError> {
        let dir = self.dir.join(format!("{}.draft-{}", parts.name(), std::process::id()));
        let made = fs::create_dir_all(&self.dir).and_then(|()| match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::create_dir(&dir),
        });
        made.map(|()| dir.clone()).map_err(|source| TemplateError::Io { path: dir, source })
    }

    /// Puts a finished draft in its place. If another process was faster, its template stays.
    ///
    /// # Errors
    /// If it can't be moved.
    pub fn finish(
        &self,
        draft: &Path,
        parts: &TemplateParts,
        place: KernelPlace,
        built: &str,
    ) -> Result<Template, TemplateError> {
        let io = |path: &Path, source| TemplateError::Io { path: path.into(), source };
        let disks = if parts.scenario_disk.is_some() { 2 } else { 1 };
        let manifest = Manifest { format: FORMAT, parts: parts.clone(), place, disks, built: built.to_owned() };
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| io(draft, error.into()))?;
        fs::write(draft.join(MANIFEST), text).map_err(|error| io(draft, error))?;
        let dir = self.dir.join(parts.name());
        if fs::rename(draft, &dir).is_err() && Template::open(&dir)?.is_none() {
            // What lies there is no template: make room.
            let _ = fs::remove_dir_all(&dir);
            fs::rename(draft, &dir).map_err(|error| io(&dir, error))?;
        }
        let _ = fs::remove_dir_all(draft);
        self.remove_superseded(parts)?;
        let lost = || io(&dir, io::Error::other("the template that was just made is gone"));
        Template::open(&dir)?.ok_or_else(lost)
    }
}

/// Copies `from` to the new file `to`, leaving out pages of zeroes.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?;
    let mut to = File::options().write(true).create_new(true).open(to)?;
    let mut buffer = vec![0; 256 * PAGE];
    let mut length = 0;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        length += count as u64;
        for page in buffer[..count].chunks(PAGE) {
            if page.iter().all(|&byte| byte == 0) {
                to.seek(SeekFrom::Current(page.len() as i64))?;
            } else {
                to.write_all(page)?;
            }
        }
    }
    to.set_len(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> TemplateParts {
        TemplateParts {
            profile: "script".into(),
            warm: vec![],
            image: "i".into(),
            kernel: "6.1".into(),
            qemu: "10.0.2".into(),
            tap: Sha256::of(b"tap"),
            scenario_disk: None,
            memory_mib: 1,
            vcpus: 2,
            display: false,
            pointer: false,
            network: true,
        }
    }

    #[test]
    fn a_draft_becomes_a_template_and_damage_is_told() {
        let cache = tempfile::tempdir().expect("folder");
        let store = TemplateStore::new(cache.path());
        let (parts, place) = (parts(), KernelPlace { slide: 1, direct_map: 2, phys_base: 3 });
        assert!(store.find(&parts).expect("find").is_none());
        let draft = store.draft(&parts).expect("draft");
        fs::write(draft.join("state"), "s").expect("state");
        fs::write(draft.join(KERNEL), "k").expect("kernel");
        fs::write(draft.join("vda.overlay"), "o").expect("overlay");
        fs::write(draft.join("whole"), [vec![1; PAGE], vec![0; (1 << 20) - PAGE]].concat()).expect("ram");
        copy_sparse(&draft.join("whole"), &draft.join("ram")).expect("copy");
        assert!(Template::open(&draft).expect("no manifest").is_none());
        let template = store.finish(&draft, &parts, place, "now").expect("finish");
        assert_eq!(fs::read(template.ram()).expect("ram"), fs::read(template.dir.join("whole")).expect("whole"));
        let found = store.find(&parts).expect("find").expect("template");
        assert_eq!((found.place, store.list().expect("list").len()), (place, 1));
        assert!(store.find(&TemplateParts { vcpus: 1, ..parts.clone() }).expect("find").is_none());
        assert!(store.find(&TemplateParts { network: false, ..parts.clone() }).expect("find").is_none());

        // Made anew with another tap it replaces the old one; one of another kernel does not.
        let make = |parts: &TemplateParts| {
            let draft = store.draft(parts).expect("draft");
            for name in ["state", KERNEL, "vda.overlay", "ram"] {
                fs::copy(template.dir.join(name), draft.join(name)).expect("copy");
            }
            store.finish(&draft, parts, place, "later").expect("finish")
        };
        fs::create_dir(store.dir().join("plain-0.draft-4294967295")).expect("left behind");
        make(&TemplateParts { kernel: "6.12".into(), ..parts.clone() });
        assert_eq!(store.list().expect("list").len(), 2);
        assert!(!store.dir().join("plain-0.draft-4294967295").exists());
        let newer = TemplateParts { tap: Sha256::of(b"newer"), ..parts.clone() };
        let other = make(&TemplateParts { profile: "other".into(), ..newer });
        assert_eq!(store.list().expect("list").len(), 3);
        let second = TemplateParts { kernel: "6.12".into(), ..parts.clone() };
        assert!(store.remove(&other.parts.name()).expect("removed") && store.remove(&second.name()).expect("removed"));

        // What another version has made is told, and goes when the next one is made.
        let manifest = fs::read_to_string(template.dir.join(MANIFEST)).expect("manifest");
        let old = store.dir().join("plain-1");
        fs::create_dir(&old).expect("old");
        let older = manifest.replace(&format!("\"format\": {FORMAT}"), "\"format\": 1");
        assert_ne!(older, manifest);
        fs::write(old.join(MANIFEST), older).expect("manifest");
        let told = Template::open(&old).expect_err("another version's").to_string();
        assert!(told.contains("another version"), "{told}");
        assert!(store.remove(&make(&second).parts.name()).expect("removed") && !old.exists());

        fs::write(template.ram(), "short").expect("ram");
        let error = store.find(&parts).expect_err("damaged").to_string();
        assert!(error.contains("ram: 5 bytes") && error.contains("made anew"), "{error}");
        assert!(!store.remove("../x").expect("no name") && store.remove(&parts.name()).expect("removed"));
        assert!(store.list().expect("list").is_empty());
    }

    #[test]
    fn one_makes_it_and_the_others_wait() {
        let cache = tempfile::tempdir().expect("folder");
        let store = TemplateStore::new(cache.path());
        let (parts, told) = (parts(), std::sync::atomic::AtomicUsize::new(0));
        let lock = store.lock(&parts, || panic!("nobody else")).expect("lock");
        let other = TemplateParts { kernel: "6.12".into(), ..parts.clone() };
        store.lock(&other, || panic!("another template is made at the same time")).expect("lock");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                store.lock(&parts, || _ = told.fetch_add(1, std::sync::atomic::Ordering::SeqCst)).expect("lock");
            });
            while told.load(std::sync::atomic::Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            assert!(!waiting.is_finished());
            drop(lock);
        });
        assert!(store.list().expect("list").is_empty(), "locks are no templates");
    }
}
