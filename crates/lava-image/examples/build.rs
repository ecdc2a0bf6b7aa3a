//! Builds an image: `cargo run -p lava-image --example build [RECIPE]`.

use std::error::Error;
use std::path::PathBuf;

use lava_image::{ImageStore, Lines, Recipe};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("images/debian-bookworm.toml"), PathBuf::from);
    let recipe = Recipe::load(&path)?;
    let cache = ImageStore::user_cache().ok_or("set HOME or XDG_CACHE_HOME, so that there is a place for images")?;
    let image = ImageStore::new(&cache).build(&recipe, &mut Lines(std::io::stderr()))?;
    println!("{}", image.dir.display());
    Ok(())
}
