//! `lava image`: building, listing and removing the guests' disks.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lava_image::{Image, Lines, Recipe};

use crate::places::{self, ORDINARY};

/// `lava image`
#[derive(clap::Subcommand)]
pub enum Command {
    /// Build an image from its recipe, unless it is there.
    Build {
        /// A recipe's name: see `lava image list`.
        #[arg(default_value = ORDINARY)]
        name: String,
    },
    /// List the recipes, and the images that were built.
    List,
    /// Say what an image was built from: kernels, and Debian packages with their versions.
    Show {
        /// A recipe's name, or the beginning of an image's identifier.
        #[arg(default_value = ORDINARY)]
        name: String,
    },
    /// Remove an image; its templates are of no use then (`lava template list`).
    Remove {
        /// A recipe's name, or the beginning of an image's identifier.
        name: String,
    },
}

/// Carries the command out.
pub fn command(command: &Command) -> Result<()> {
    match command {
        Command::Build { name } => {
            let image = places::images()?.build(&recipe(name)?, &mut Lines(std::io::stderr()))?;
            println!("{}", image.dir.display());
        }
        Command::List => list()?,
        Command::Show { name } => println!("{}", serde_json::to_string_pretty(&built(name)?.manifest)?),
        Command::Remove { name } => places::images()?.remove(&built(name)?)?,
    }
    Ok(())
}

/// The recipe of that name.
pub fn recipe(name: &str) -> Result<Recipe> {
    let file = places::recipes()?.join(format!("{name}.toml"));
    if name.contains('/') || !file.is_file() {
        bail!("there is no recipe `{name}` in {}: see `lava image list`", places::recipes()?.display());
    }
    Ok(Recipe::load(&file)?)
}

/// The image that the recipe of that name makes today.
pub fn find(name: &str) -> Result<(Recipe, Image)> {
    let recipe = recipe(name)?;
    let image = places::images()?.find(&recipe).with_context(|| {
        format!("the guest image `{name}` is not built yet, or its recipe has changed: run `lava image build {name}` (some minutes)")
    })?;
    Ok((recipe, image))
}

fn built(name: &str) -> Result<Image> {
    if let Ok(recipe) = recipe(name) {
        return places::images()?.find(&recipe).with_context(|| format!("the image `{name}` is not built"));
    }
    let mut found = places::images()?.list();
    found.retain(|image| !name.is_empty() && image.manifest.recipe.starts_with(name));
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => bail!("there is no image `{name}`: see `lava image list`"),
        many => bail!("`{name}` is the beginning of {many} images: write more of it"),
    }
}

fn list() -> Result<()> {
    let mut others = places::images()?.list();
    let entries = std::fs::read_dir(places::recipes()?)?.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "toml")).collect();
    files.sort();
    for file in files {
        let recipe = Recipe::load(&file)?;
        let at = others.iter().position(|image| image.manifest.recipe == recipe.id());
        let state = at.map(|at| facts(&others.remove(at))).unwrap_or_else(|| "not built".to_owned());
        println!("{:<16} {state:<44} {}", recipe.name(), recipe.description());
    }
    for image in others {
        println!("{:<16} {:<44} of an older recipe", image.manifest.name, facts(&image));
    }
    Ok(())
}

fn facts(image: &Image) -> String {
    let kernels: Vec<&str> = image.manifest.kernels.keys().map(String::as_str).collect();
    let id: String = image.manifest.recipe.chars().take(12).collect();
    format!("{id}, {} MB, kernel {}", image.size() / 1_000_000, kernels.join(" and "))
}
