//! What a run needs before it can start, each checked with an error that says what to do.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use lava_event::Sha256;
use lava_evidence::Manifest;
use lava_guest::kernel::Kernel;
use lava_image::Image;
use lava_microvisor::{Profile, Profiles};
use lava_policy::Policy;
use tempfile::NamedTempFile;

use crate::{image, places};

/// Largest task, bytes: it is held in memory and copied into the guest.
pub const MAX_TASK: u64 = 256 << 20;

/// Longest address, bytes.
const MAX_ADDRESS: usize = 4096;

/// The untrusted thing.
pub struct TaskFile {
    pub name: String,
    pub content: Vec<u8>,
    pub sha256: Sha256,
}

/// Reads the task: a file, or the page that leads to an address.
pub fn task(path: &Path) -> Result<TaskFile> {
    if let Some(address) = path.to_str().filter(|text| lava_event::is_address(text)) {
        let content = page(address)?.into_bytes();
        return Ok(TaskFile { name: address.to_owned(), sha256: Sha256::of(&content), content });
    }
    let shown = path.display();
    let facts = fs::metadata(path).with_context(|| format!("the task {shown}"))?;
    if !facts.is_file() {
        bail!("the task {shown} is no file");
    }
    if facts.len() == 0 {
        bail!("the task {shown} is empty: there is nothing to open");
    }
    if facts.len() > MAX_TASK {
        let mib = facts.len() >> 20;
        bail!("the task {shown} has {mib} MiB; tasks up to {} MiB can be opened", MAX_TASK >> 20);
    }
    let content = fs::read(path).with_context(|| format!("the task {shown}"))?;
    let name = path.file_name().map_or("task".into(), |name| name.to_string_lossy().into_owned());
    Ok(TaskFile { name, sha256: Sha256::of(&content), content })
}

/// A page that leads the browser on to an address: so an address has a file, as every task has.
fn page(address: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_graphic() && !"\"'<>\\^`{|}".contains(c);
    if address.len() > MAX_ADDRESS || !address.chars().all(plain) {
        bail!(
            "the address {address:?}: write it as a browser sends it, in at most {MAX_ADDRESS} characters, others as %XX"
        );
    }
    let address = address.replace('&', "&amp;");
    Ok(format!("<!DOCTYPE html><meta http-equiv=\"refresh\" content=\"0;url={address}\">\n"))
}

/// The profile asked for (by name, or by its file's or folder's path), or the one that recognises the task.
pub fn profile(wanted: Option<&str>, task: &TaskFile) -> Result<Profile> {
    match wanted {
        Some(path) if path.contains('/') => {
            let path = Path::new(path);
            if !path.exists() {
                bail!("the profile {}: no such file", path.display());
            }
            let found = match path.is_dir() {
                true => Profiles::load(path)?.iter().next().cloned(),
                false => lava_microvisor::profile::load_file(path)?.into_iter().next(),
            };
            found.with_context(|| format!("{} holds no profile", path.display()))
        }
        Some(name) => {
            let profiles = shipped()?;
            let found = profiles.named(name, &task.name, &task.content).cloned();
            found.with_context(|| format!("there is no profile `{name}`; there are: {}", names(&profiles)))
        }
        None => {
            let profiles = shipped()?;
            profiles.recognise(&task.name, &task.content).cloned().with_context(|| {
                format!(
                    "{}: what kind of file this is, no profile recognises; name one with --profile: {}",
                    task.name,
                    names(&profiles)
                )
            })
        }
    }
}

/// Has the profile open its task in that image, and says what may open the files of an archive: the shipped profiles, if it is one.
pub fn in_image(mut profile: Profile, image: Option<&str>) -> Result<(Profile, Profiles)> {
    let members = if profile.unpacks.is_some() { shipped()? } else { Profiles::default() };
    if let Some(image) = image {
        profile.image = (image != places::ORDINARY).then(|| image.to_owned());
        // What the image is for may need more than the archive itself.
        for member in members.iter().filter(|member| member.image == profile.image) {
            profile.memory_mib = profile.memory_mib.max(member.memory_mib);
            profile.display |= member.display;
        }
    }
    Ok((profile, members))
}

fn shipped() -> Result<Profiles> {
    Ok(Profiles::load(&places::share()?.join("images/profiles"))?)
}

/// The profile of this name or file, where there is no task yet.
pub fn profile_named(wanted: &str) -> Result<Profile> {
    profile(Some(wanted), &TaskFile { name: String::new(), sha256: Sha256::default(), content: Vec::new() })
}

fn names(profiles: &Profiles) -> String {
    let mut names: Vec<_> = profiles.iter().map(|profile| profile.name.as_str()).collect();
    names.dedup();
    names.join(", ")
}

/// Compiles the policy: a shipped one by name, or a file. Mistakes are printed with their lines underlined.
pub fn policy(wanted: &str) -> Result<(Policy, Sha256)> {
    let (source, text) = match lava_policy::builtin(wanted) {
        Some(text) => (wanted.to_owned(), text.to_owned()),
        None => {
            let bytes = fs::read(wanted).with_context(|| {
                format!("the policy {wanted}: neither a file nor one of {}", lava_policy::BUILTIN.join(", "))
            })?;
            let text = String::from_utf8(bytes).map_err(|_| anyhow!("the policy {wanted} is no UTF-8 text"))?;
            (wanted.to_owned(), text)
        }
    };
    let hash = Sha256::of(text.as_bytes());
    match Policy::compile(&source, &text) {
        Ok(policy) => Ok((policy, hash)),
        Err(errors) => {
            let count = errors.len();
            for error in errors {
                eprintln!("{:?}", miette::Report::new(error));
            }
            bail!("the policy {wanted} has {count} mistake{}", if count == 1 { "" } else { "s" })
        }
    }
}

/// The tap, and which one it is.
pub struct Tap {
    pub path: PathBuf,
    pub sha256: Sha256,
}

/// Finds the tap.
pub fn tap() -> Result<Tap> {
    let path = places::tap()?;
    Ok(Tap { sha256: hash(&path)?, path })
}

/// Hash of a file.
pub fn hash(path: &Path) -> Result<Sha256> {
    fs::File::open(path).and_then(Sha256::of_reader).with_context(|| path.display().to_string())
}

/// Hashes of programs and files by name; one that can't be read has none.
pub fn hashes<const N: usize>(files: [(&str, Option<PathBuf>); N]) -> Vec<(String, Sha256)> {
    let hash = |(name, path): (&str, Option<PathBuf>)| Some((name.to_owned(), hash(&path?).ok()?));
    files.into_iter().filter_map(hash).collect()
}

/// The guest: image, disk, kernel.
pub struct Guest {
    pub image: Image,
    pub disk: PathBuf,
    pub vmlinuz: PathBuf,
    pub release: String,
}

impl Guest {
    /// That kernel of the image.
    pub fn of(image: Image, kernel: &str, release: String) -> Result<Self> {
        let found = image.disk(kernel).zip(image.vmlinuz(kernel));
        let (disk, vmlinuz) = found.with_context(|| format!("the guest image has no kernel {kernel}"))?;
        Ok(Self { image, disk, vmlinuz, release })
    }

    /// The kernel's ELF file, unpacked.
    pub fn kernel_elf(&self) -> Result<Vec<u8>> {
        unpack(&self.vmlinuz)
    }

    /// The same in a file in `folder`, which is gone with what comes back.
    pub fn kernel_file(&self, folder: &Path) -> Result<NamedTempFile> {
        let what = || format!("a temporary file in {} for the guest's kernel", folder.display());
        let mut file = NamedTempFile::new_in(folder).with_context(what)?;
        file.write_all(&self.kernel_elf()?).with_context(what)?;
        // QEMU's user reads it.
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).with_context(what)?;
        Ok(file)
    }
}

/// A kernel's ELF file, out of its boot file.
pub fn unpack(vmlinuz: &Path) -> Result<Vec<u8>> {
    let shown = || format!("the guest's kernel {}", vmlinuz.display());
    let boot_file = fs::read(vmlinuz).with_context(shown)?;
    lava_vmlinuz::kernel_elf(&boot_file).with_context(shown)
}

/// Finds the image that the profile needs, and its kernel. What the image was built with was introspected before: unpacking and reading a
/// kernel takes a third of a second, and the tap has to read it again. Another one (`LAVA_VMLINUZ`) is looked at first.
pub fn guest(profile: &Profile, kernel: &str) -> Result<Guest> {
    let name = profile.image.as_deref().unwrap_or(places::ORDINARY);
    guest_of(name, kernel).with_context(|| format!("opening it as {}", profile.name))
}

/// That kernel of the image of that name.
pub fn guest_of(name: &str, kernel: &str) -> Result<Guest> {
    let (recipe, image) = image::find(name)?;
    let known = || recipe.kernels().collect::<Vec<_>>().join(", ");
    let missing = || anyhow!("the guest image has no kernel {kernel}; it has: {}", known());
    let disk = image.disk(kernel).ok_or_else(missing)?;
    let (vmlinuz, release) = match std::env::var_os("LAVA_VMLINUZ") {
        Some(other) => {
            let path = PathBuf::from(other);
            let shown = || format!("{}: this kernel can't be introspected", path.display());
            let release = Kernel::from_elf(&unpack(&path).with_context(shown)?).with_context(shown)?.release;
            (path, release)
        }
        None => {
            let known = image.manifest.kernels.get(kernel).ok_or_else(missing)?;
            (image.vmlinuz(kernel).ok_or_else(missing)?, known.release.clone())
        }
    };
    Ok(Guest { image, disk, vmlinuz, release })
}

/// The image that a recorded session ran on, and which of its kernels: exactly that one.
pub fn recorded_image(manifest: &Manifest) -> Result<(Image, String)> {
    let recipe = manifest.image.recipe.context("its manifest names no guest image")?.to_string();
    let kernel = manifest.options.get("kernel").context("its manifest names no kernel")?;
    let image = places::images()?.list().into_iter().find(|image| image.manifest.recipe == recipe);
    let image = image.filter(|image| {
        let known = image.manifest.kernels.get(kernel).and_then(|kernel| kernel.disk_sha256.parse().ok());
        known.is_some() && known == manifest.image.disk && image.disk(kernel).is_some()
    });
    let image = image.ok_or_else(|| {
        anyhow!(
            "the guest image it ran on ({}, kernel {kernel}) is not here any more: `lava image list`",
            &recipe[..12]
        )
    })?;
    Ok((image, kernel.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_a_page_that_cannot_say_more() {
        let page = page("https://example.org/a?b=1&c=%20#d").expect("page");
        assert!(page.contains("content=\"0;url=https://example.org/a?b=1&amp;c=%20#d\">"), "{page}");
        for bad in [
            "http://x/\"><script>",
            "http://x/ y",
            "http://x/\n",
            "http://\u{e4}.de",
            &format!("http://{}", "a".repeat(MAX_ADDRESS)),
        ] {
            assert!(super::page(bad).is_err(), "{bad}");
        }
        let task = task(Path::new("http://example.org/evil.sh")).expect("task");
        assert_eq!(task.name, "http://example.org/evil.sh");
    }
}
