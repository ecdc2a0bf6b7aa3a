//! Where things are: LAVA's own files, the user's sessions, the images.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lava_evidence::{Manifest, State};
use lava_image::ImageStore;
use lava_microvisor::machine::{Swept, is_running};

/// The ordinary guest image: every host has it, the others extend it.
pub const ORDINARY: &str = "debian-bookworm";
/// Recipes of images, below the share folder.
const RECIPES: &str = "images";
/// The tap's file name.
const TAP: &str = "liblava_tap.so";

/// The folder that holds `images/` and `rules/`: `$LAVA_SHARE`, or the nearest one above the program or the current
/// directory.
pub fn share() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("LAVA_SHARE") {
        return Ok(folder.into());
    }
    let starts = [std::env::current_exe().ok(), std::env::current_dir().ok()];
    let above = starts.iter().flatten().flat_map(|start| start.ancestors());
    let found = above
        .map(Path::to_path_buf)
        .chain([PathBuf::from("/usr/share/lava")])
        .find(|f| f.join(RECIPES).join(format!("{ORDINARY}.toml")).is_file());
    found
        .context("LAVA's own files (images/, rules/) are not to be found: set LAVA_SHARE to the folder that holds them")
}

/// The folder of the images' recipes.
pub fn recipes() -> Result<PathBuf> {
    Ok(share()?.join(RECIPES))
}

/// The tap: `$LAVA_TAP`, or beside the program.
pub fn tap() -> Result<PathBuf> {
    if let Some(file) = std::env::var_os("LAVA_TAP").map(PathBuf::from) {
        if !file.is_file() {
            bail!("LAVA_TAP={}: no such file", file.display());
        }
        return Ok(file);
    }
    let program = std::env::current_exe().context("the program's own path")?;
    let near = program.ancestors().skip(1).take(2).map(|folder| folder.join(TAP)).find(|file| file.is_file());
    near.with_context(|| {
        format!("{TAP} is not beside {}: run `cargo xtask build`, or set LAVA_TAP to it", program.display())
    })
}

/// The user's cache of images.
pub fn images() -> Result<ImageStore> {
    let cache = ImageStore::user_cache().context("neither XDG_CACHE_HOME nor HOME is set: nowhere to keep images")?;
    Ok(ImageStore::new(&cache))
}

/// Removes what sessions left behind whose `lava` was killed.
pub fn sweep() -> Vec<Swept> {
    lava_microvisor::machine::sweep(Path::new(lava_control::RUNTIME))
}

/// What has become of a session, in a word.
pub fn state(manifest: &Manifest) -> &'static str {
    let here = manifest.host == host();
    match manifest.state {
        State::Open if here && !is_running(&lava_control::runtime(&manifest.session)) => "interrupted",
        state => state.name(),
    }
}

/// This machine's name.
pub fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// The user's own key that signs bundles: `evidence.key` among LAVA's configuration.
pub fn key() -> Result<PathBuf> {
    configuration()
        .map(|folder| folder.join("evidence.key"))
        .context("neither XDG_CONFIG_HOME nor HOME is set: give a key with --key")
}

/// The user's configuration of LAVA: `lava` among the user's configuration.
pub fn configuration() -> Option<PathBuf> {
    let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    config.map(|config| config.join("lava"))
}

/// An absolute path in the environment; others are ignored, as the XDG specification wants.
fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The folder of sessions: the given one, `$LAVA_SESSIONS`, or `lava/sessions` among the user's data.
pub fn sessions(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(folder) = given {
        return Ok(folder.to_path_buf());
    }
    absolute("LAVA_SESSIONS")
        .or_else(|| absolute("XDG_DATA_HOME").map(|data| data.join("lava/sessions")))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share/lava/sessions")))
        .context("neither XDG_DATA_HOME nor HOME is set: say with --out where sessions are kept")
}
