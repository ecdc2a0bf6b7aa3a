//! The recipe: what a guest image is made of, as a TOML file says it.
//!
//! A recipe is parsed and checked once; whatever reaches a shell or a tool's command line afterwards (names, paths,
//! units) has only characters that mean nothing to them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Counted up when the builder makes something else of the same recipe.
const BUILDER_VERSION: u32 = 1;
/// Recipes below one another.
const GENERATIONS: u32 = 4;

/// A recipe, as loaded from its file.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub(crate) body: Body,
    pub(crate) launcher: PathBuf,
    id: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    pub name: String,
    pub description: String,
    pub hostname: String,
    pub source_date_epoch: u64,
    pub disk_size_mib: u64,
    pub filesystem_uuid: String,
    pub disk_signature: String,
    pub launcher: PathBuf,
    pub command_line: String,
    pub packages: Vec<String>,
    #[serde(default)]
    pub exclude: Vec<String>,
    pub modules: Vec<String>,
    #[serde(default)]
    pub enable: Vec<String>,
    #[serde(default)]
    pub mask: Vec<String>,
    pub user: User,
    pub source: Vec<Source>,
    pub kernel: Vec<Kernel>,
    #[serde(default)]
    pub link: Vec<Link>,
    #[serde(default)]
    pub file: Vec<GuestFile>,
}

/// A recipe that says `extends`: what it adds to another of the same folder, and what it has instead.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extension {
    #[serde(rename = "extends")]
    _extends: String,
    name: String,
    description: String,
    disk_size_mib: Option<u64>,
    /// Names of the kernels it keeps; all if left out.
    kernels: Option<Vec<String>>,
    #[serde(default)]
    packages: Vec<String>,
    #[serde(default)]
    enable: Vec<String>,
    #[serde(default)]
    mask: Vec<String>,
    #[serde(default)]
    link: Vec<Link>,
    #[serde(default)]
    file: Vec<GuestFile>,
}

/// What tells the two kinds of recipe apart.
#[derive(Deserialize)]
struct Kind {
    extends: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    pub name: String,
    pub id: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    pub url: String,
    pub suites: Vec<String>,
    pub components: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kernel {
    pub name: String,
    pub package: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    pub path: String,
    pub target: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GuestFile {
    pub path: String,
    pub content: String,
    /// It is a program.
    #[serde(default)]
    pub executable: bool,
}

/// Why a recipe can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// A file could not be read.
    #[error("{path} could not be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Not the TOML we expect; the message has line, column and the line itself.
    #[error("{path}: {source}correct the recipe there; images/debian-bookworm.toml shows every key")]
    Parse {
        /// The recipe.
        path: PathBuf,
        /// The reason, with its place.
        source: Box<toml::de::Error>,
    },
    /// A value that can't be used.
    #[error("{path}: `{key}` is {value:?}: {rule}")]
    Value {
        /// The recipe.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it says.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
}

impl Recipe {
    /// Reads and checks a recipe. The launcher's directory is relative to the recipe's own.
    pub fn load(path: &Path) -> Result<Self, RecipeError> {
        let mut hash = Sha256::new();
        hash.update(format!("lava-image {BUILDER_VERSION}\n"));
        let body = read(path, GENERATIONS, &mut hash)?;
        check(path, &body)?;
        let launcher = path.parent().unwrap_or(Path::new(".")).join(&body.launcher);
        hash_sources(&launcher, &mut hash)?;
        let id = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { body, launcher, id })
    }

    /// The image's identifier: SHA-256, in hexadecimal, of builder version, recipe and launcher sources.
    ///
    /// The sources and not the binary, so that an image is found without compiling anything.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The recipe's name.
    pub fn name(&self) -> &str {
        &self.body.name
    }

    /// What the image is for.
    pub fn description(&self) -> &str {
        &self.body.description
    }

    /// The names of its kernels, such as `6.1`, in the recipe's order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.body.kernel.iter().map(|kernel| kernel.name.as_str())
    }
}

/// Reads a recipe with what it extends, `generations` at most.
fn read(path: &Path, generations: u32, hash: &mut Sha256) -> Result<Body, RecipeError> {
    let text = fs::read_to_string(path).map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
    hash.update(&text);
    let kind: Kind = parse(path, &text)?;
    let Some(base) = kind.extends else { return parse(path, &text) };
    if !is_plain(&base) || generations == 0 {
        let rule = "name another recipe of the folder, without .toml; no recipe may extend itself";
        return Err(RecipeError::Value { path: path.to_owned(), key: "extends", value: base, rule });
    }
    let extension: Extension = parse(path, &text)?;
    let body = read(&path.with_file_name(format!("{base}.toml")), generations - 1, hash)?;
    Ok(extension.over(body))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, RecipeError> {
    toml::from_str(text).map_err(|source| RecipeError::Parse { path: path.to_owned(), source: Box::new(source) })
}

impl Extension {
    fn over(self, mut body: Body) -> Body {
        (body.name, body.description) = (self.name, self.description);
        body.disk_size_mib = self.disk_size_mib.unwrap_or(body.disk_size_mib);
        if let Some(kept) = self.kernels {
            body.kernel.retain(|kernel| kept.contains(&kernel.name));
        }
        body.packages.extend(self.packages);
        body.enable.extend(self.enable);
        body.mask.extend(self.mask);
        body.link.extend(self.link);
        body.file.extend(self.file);
        body
    }
}

fn hash_sources(launcher: &Path, hash: &mut Sha256) -> Result<(), RecipeError> {
    let read_error = |path: &Path| {
        let path = path.to_owned();
        move |source| RecipeError::Read { path, source }
    };
    let sources = launcher.join("src");
    let mut files = vec![launcher.join("Cargo.toml")];
    for entry in fs::read_dir(&sources).map_err(read_error(&sources))? {
        let path = entry.map_err(read_error(&sources))?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    for file in files {
        let bytes = fs::read(&file).map_err(read_error(&file))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        hash.update(format!("{name} {}\n", bytes.len()));
        hash.update(bytes);
    }
    Ok(())
}

/// Letters, digits and what Debian's names need; nothing a shell or a command line would take for its own.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:_@".contains(c))
}

fn is_guest_path(text: &str) -> bool {
    text.starts_with('/') && text.split('/').skip(1).all(|part| is_plain(part) && part != "..")
}

fn check(path: &Path, body: &Body) -> Result<(), RecipeError> {
    let refuse =
        |key, value: &str, rule| RecipeError::Value { path: path.to_owned(), key, value: value.to_owned(), rule };
    let require = |key, good: bool, value: &str, rule| if good { Ok(()) } else { Err(refuse(key, value, rule)) };
    let plain = |key, value: &str| require(key, is_plain(value), value, "use letters, digits and + - . : _ @ only");
    let single = |key, value: &str| {
        let good = !value.is_empty()
            && value.chars().all(|c| c.is_ascii_graphic() || c == ' ')
            && !value.contains(['\'', '"']);
        require(key, good, value, "use one line of printable characters, without quotes")
    };
    for (key, value) in [("name", &body.name), ("hostname", &body.hostname), ("user.name", &body.user.name)] {
        plain(key, value)?;
    }
    plain("filesystem_uuid", &body.filesystem_uuid)?;
    plain("disk_signature", &body.disk_signature)?;
    single("command_line", &body.command_line)?;
    for (key, list) in
        [("packages", &body.packages), ("modules", &body.modules), ("enable", &body.enable), ("mask", &body.mask)]
    {
        list.iter().try_for_each(|value| plain(key, value))?;
    }
    body.exclude.iter().try_for_each(|value| single("exclude", value))?;
    for kernel in &body.kernel {
        plain("kernel.name", &kernel.name)?;
        plain("kernel.package", &kernel.package)?;
    }
    require("kernel", !body.kernel.is_empty(), "", "name at least one kernel")?;
    require("source", !body.source.is_empty(), "", "name at least one package source")?;
    for source in &body.source {
        let good = !source.url.contains(' ') && source.url.contains("://");
        require("source.url", good, &source.url, "give the address of a Debian mirror")?;
        source.suites.iter().try_for_each(|value| plain("source.suites", value))?;
        source.components.iter().try_for_each(|value| plain("source.components", value))?;
    }
    for guest_path in body.file.iter().map(|file| &file.path).chain(body.link.iter().map(|link| &link.path)) {
        require("path", is_guest_path(guest_path), guest_path, "give an absolute path of plain names")?;
    }
    body.link.iter().try_for_each(|link| {
        let good = link.target.trim_start_matches('/').split('/').all(is_plain);
        require("link.target", good, &link.target, "give a path of plain names")
    })?;
    let size = body.disk_size_mib;
    require("disk_size_mib", (512..=65536).contains(&size), &size.to_string(), "choose 512 to 65536")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../images/debian-bookworm.toml");

    /// Loads the shipped recipe with one change, from a directory of its own.
    fn changed(from: &str, to: &str) -> Result<Recipe, RecipeError> {
        let place = tempfile::tempdir().expect("temporary directory");
        let launcher = place.path().join("launcher");
        fs::create_dir_all(launcher.join("src")).expect("launcher");
        fs::write(launcher.join("Cargo.toml"), "[package]").expect("manifest");
        fs::write(launcher.join("src/main.rs"), "fn main() {}").expect("source");
        let text = fs::read_to_string(SHIPPED).expect("shipped recipe");
        assert!(text.contains(from), "the shipped recipe has no {from:?}");
        let path = place.path().join("recipe.toml");
        fs::write(&path, text.replacen(from, to, 1)).expect("recipe");
        Recipe::load(&path)
    }

    #[test]
    fn the_shipped_recipe_loads() {
        let recipe = Recipe::load(Path::new(SHIPPED)).expect("recipe");
        assert_eq!(recipe.name(), "debian-bookworm");
        assert_eq!(recipe.kernels().collect::<Vec<_>>(), ["6.1", "6.12"]);
        assert_eq!(recipe.id().len(), 64);
    }

    #[test]
    fn the_identifier_follows_the_recipe_and_nothing_else() {
        let (one, two) = (changed("3072", "3072").expect("one"), changed("3072", "3072").expect("two"));
        assert_eq!(one.id(), two.id());
        assert_ne!(one.id(), changed("3072", "4096").expect("other").id());
    }

    #[test]
    fn a_recipe_extends_another() {
        let place = tempfile::tempdir().expect("temporary directory");
        let images = Path::new(SHIPPED).parent().expect("folder");
        std::os::unix::fs::symlink(images.join("launcher"), place.path().join("launcher")).expect("launcher");
        fs::copy(SHIPPED, place.path().join("debian-bookworm.toml")).expect("base");
        let load = |text: &str| {
            let path = place.path().join("more.toml");
            fs::write(&path, text).expect("recipe");
            Recipe::load(&path)
        };
        let good = "extends='debian-bookworm'\nname='more'\ndescription='d'\nkernels=['6.1']\npackages=['hello']\n";
        let more = load(good).expect("recipe");
        let base = Recipe::load(Path::new(SHIPPED)).expect("base");
        assert_eq!((more.name(), more.kernels().collect::<Vec<_>>()), ("more", vec!["6.1"]));
        assert_eq!(
            more.body.packages.split_last().map(|(last, rest)| (last.as_str(), rest)),
            Some(("hello", &*base.body.packages))
        );
        let with_this_base = more.id().to_owned();
        fs::write(place.path().join("debian-bookworm.toml"), fs::read_to_string(SHIPPED).expect("base") + "# other\n")
            .expect("base");
        assert_ne!(load(good).expect("recipe").id(), with_this_base);
        for (text, expected) in [
            (good.replace("debian-bookworm", "more"), "no recipe may extend itself"),
            (good.replace("debian-bookworm", "../x"), "no recipe may extend itself"),
            (good.replace("debian-bookworm", "none"), "none.toml could not be read"),
            (good.replace("'6.1'", "'5.0'"), "name at least one kernel"),
            (good.replace("'hello'", "'a b'"), "`packages` is \"a b\""),
            (good.replace("kernels", "hostname"), "unknown field `hostname`"),
        ] {
            let error = load(&text).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn every_shipped_recipe_loads() {
        let folder = Path::new(SHIPPED).parent().expect("folder");
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).expect("images").flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let recipe = Recipe::load(&path).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(
                    path.file_stem().and_then(|stem| stem.to_str()),
                    Some(recipe.name()),
                    "the file's name is the recipe's"
                );
                names.push(recipe.name().to_owned());
            }
        }
        names.sort();
        assert_eq!(names, ["browser", "debian-bookworm", "display", "office"]);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (from, to, expected) in [
            ("disk_size_mib = 3072", "disk_size_mib = \"3\"", "invalid type"),
            ("hostname =", "hostnam =", "unknown field `hostnam`"),
            ("disk_size_mib = 3072", "disk_size_mib = 3", "choose 512 to 65536"),
            ("\"strace\"", "\"strace; rm\"", "`packages` is \"strace; rm\""),
            ("/etc/hosts", "/etc/../hosts x", "absolute path of plain names"),
            ("quiet", "quiet\\n", "one line of printable"),
        ] {
            let error = changed(from, to).expect_err("refused").to_string();
            assert!(error.contains(expected) && error.contains("recipe.toml"), "{error}");
        }
        let error = changed("hostname =", "hostnam =").expect_err("refused").to_string();
        assert!(error.contains("line 6, column 1"), "{error}");
    }
}
