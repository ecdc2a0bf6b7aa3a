//! What is built: LAVA, the guest image, the scenarios.

use std::path::PathBuf;

use anyhow::{Context, Result};
use lava_image::{Image, ImageStore, Lines, Recipe};

use crate::{setup, shell, web};

/// LAVA, release, with the console's page in it. Returns the folder with `lava` and `liblava_tap.so`.
pub fn lava() -> Result<PathBuf> {
    programs(&["-p", "lava", "-p", "lava-tap"])
}

/// The same, with the tests. Built together they share the crates they rest on; one after the other cargo would compile half of these
/// twice, because tests ask for other features of them.
pub fn lava_with_tests() -> Result<PathBuf> {
    programs(&["--workspace", "--lib", "--bins", "--tests"])
}

fn programs(what: &[&str]) -> Result<PathBuf> {
    web::build()?;
    let arguments = ["build", "--release", "--locked"].iter().chain(what);
    shell::run("build lava and the tap", shell::command("cargo", arguments))?;
    Ok(shell::target().join("release"))
}

/// What it takes to run a micro-VM: the host, LAVA, the guest image. Returns LAVA's folder, and the image.
pub fn ready() -> Result<(PathBuf, Image)> {
    setup::run()?;
    Ok((lava()?, image()?))
}

/// The same to measure with: LAVA as the tests build it, which is what who measures has.
pub fn as_tested() -> Result<(PathBuf, Image)> {
    setup::run()?;
    Ok((lava_with_tests()?, image()?))
}

/// The guest image, from the cache or new.
pub fn image() -> Result<Image> {
    let recipe = Recipe::load(&shell::root().join("images/debian-bookworm.toml"))?;
    let cache = ImageStore::user_cache().context("neither XDG_CACHE_HOME nor HOME is set: nowhere to keep images")?;
    let store = ImageStore::new(&cache);
    if let Some(image) = store.find(&recipe) {
        return Ok(image);
    }
    eprintln!("xtask: building the guest image (some minutes; kept in {})", cache.join("lava/images").display());
    Ok(store.build(&recipe, &mut Lines(std::io::stderr()))?)
}

/// The scenarios. Returns their folder.
pub fn scenarios() -> Result<PathBuf> {
    let out = shell::target().join("scenarios");
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let mut command = shell::command("sh", ["scenarios/drive-by/build.sh"]);
    command.arg(&out).env("CARGO_TARGET_DIR", shell::target().join("scenario-native"));
    shell::run("build the scenarios", command)?;
    let mut command = shell::command("sh", ["scenarios/known-count/build.sh"]);
    command.arg(&out);
    shell::run("build the known-count programs", command)?;
    Ok(out)
}

/// The watcher scenario, its modules compiled for the image's kernels. Into the scenarios' folder.
pub fn watcher(image: &Image) -> Result<()> {
    let out = shell::target().join("scenarios");
    let mut command = shell::command("sh", ["scenarios/watcher/build.sh"]);
    command.arg(&out).args(image.manifest.kernels.values().map(|kernel| &kernel.release));
    shell::run("build the watcher scenario", command)
}
