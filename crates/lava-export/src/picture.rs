//! The trace as a picture: laid out by `lava-evidence`, drawn with a font that LAVA brings, because a server may have none.
//!
//! *Limits:* what the font lacks (Chinese, Japanese, Korean, emoji) is drawn as boxes; `trace.svg` in a browser shows it. A picture has at
//! most [`PIXELS`]: a tall trace is drawn smaller.

use std::io::Write;
use std::sync::Arc;

use lava_evidence::svg;
use lava_graph::Trace;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use crate::Error;

/// Pixels of a picture at most: 64 MiB of memory while it is drawn.
const PIXELS: f32 = 16e6;
/// Pixels for a point of the drawing, if there is room: sharp on paper and on dense screens.
const SCALE: f32 = 2.0;

/// The drawing, understood.
pub(crate) fn tree(trace: &Trace) -> Result<Tree, Error> {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    let options = Options { fontdb: Arc::new(fonts), ..Options::default() };
    Tree::from_str(&svg::light(trace), &options).map_err(|error| Error::Picture(error.to_string()))
}

/// A PNG.
pub(crate) fn png(trace: &Trace, out: &mut dyn Write) -> Result<(), Error> {
    let tree = tree(trace)?;
    let size = tree.size();
    let scale = SCALE.min((PIXELS / (size.width() * size.height())).sqrt());
    let large = || Error::Picture(format!("{} by {} points can't be drawn", size.width(), size.height()));
    let drawn = size.to_int_size().scale_by(scale).ok_or_else(large)?;
    let mut pixels = Pixmap::new(drawn.width(), drawn.height()).ok_or_else(large)?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixels.as_mut());
    out.write_all(&pixels.encode_png().map_err(|error| Error::Picture(error.to_string()))?)?;
    Ok(())
}
