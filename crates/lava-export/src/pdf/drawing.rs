//! The drawn graph on pages: lines and boxes as paths, words as text. A tall graph goes over several pages, cut between rows of boxes.

use lava_evidence::svg;
use pdf_writer::{Content, Str};
use resvg::usvg::tiny_skia_path::{PathSegment, Point, Transform};
use resvg::usvg::{FillRule, Group, Node, Paint, Path, Stroke, Text, Tree};

use super::font::{Face, Fonts};
use super::html::Colour;
use super::page::{COLUMN, MARGIN, Pages, TALL};

/// Points of paper for a point of the drawing, at most.
const SCALE: f32 = 0.7;

/// Draws it.
pub(super) fn draw(pages: &mut Pages, tree: &Tree) {
    let (width, height) = (tree.size().width(), tree.size().height());
    let scale = SCALE.min(COLUMN / width);
    let row = svg::ROW as f32;
    let rows = (TALL / scale / row).floor().max(1.0);
    let mut top = 0.0;
    while top < height {
        // The first row stands a little below the top.
        let bottom = if height - top <= TALL / scale { height } else { top + rows * row };
        let taken = (bottom - top) * scale;
        let low = pages.take(taken);
        part(pages, tree, &Slice { top, bottom }, [scale, low + taken]);
        top = bottom;
    }
}

/// The part of the drawing that goes onto one page.
struct Slice {
    top: f32,
    bottom: f32,
}

fn part(pages: &mut Pages, tree: &Tree, slice: &Slice, [scale, high]: [f32; 2]) {
    let mut content = std::mem::replace(pages.content(), Content::new());
    content.save_state();
    content.transform([scale, 0.0, 0.0, -scale, MARGIN, high + slice.top * scale]);
    content.rect(0.0, slice.top, tree.size().width(), slice.bottom - slice.top).clip_nonzero().end_path();
    group(&mut content, &mut pages.fonts, tree, tree.root(), slice);
    content.restore_state();
    *pages.content() = content;
}

fn group(content: &mut Content, fonts: &mut Fonts, tree: &Tree, of: &Group, slice: &Slice) {
    for node in of.children() {
        let bounds = node.abs_stroke_bounding_box();
        if bounds.bottom() < slice.top || bounds.top() > slice.bottom {
            continue;
        }
        match node {
            Node::Group(inner) => group(content, fonts, tree, inner, slice),
            Node::Path(drawn) => path(content, drawn),
            Node::Text(said) => text(content, fonts, tree, said),
            Node::Image(_) => {}
        }
    }
}

fn matrix(of: Transform) -> [f32; 6] {
    [of.sx, of.ky, of.kx, of.sy, of.tx, of.ty]
}

const fn colour(paint: &Paint) -> Option<Colour> {
    match paint {
        Paint::Color(colour) => Some([colour.red, colour.green, colour.blue]),
        _ => None,
    }
}

fn path(content: &mut Content, drawn: &Path) {
    let fill = drawn.fill().and_then(|fill| Some((colour(fill.paint())?, fill.rule())));
    let stroke = drawn.stroke().and_then(|stroke| Some((colour(stroke.paint())?, stroke)));
    if !drawn.is_visible() || (fill.is_none() && stroke.is_none()) {
        return;
    }
    content.save_state().transform(matrix(drawn.abs_transform()));
    if let Some((colour, rule)) = fill {
        super::page::ink(content, colour);
        outline(content, drawn);
        match rule {
            FillRule::NonZero => content.fill_nonzero(),
            FillRule::EvenOdd => content.fill_even_odd(),
        };
    }
    if let Some((colour, stroke)) = stroke {
        pen(content, colour, stroke);
        outline(content, drawn);
        content.stroke();
    }
    content.restore_state();
}

fn pen(content: &mut Content, colour: Colour, stroke: &Stroke) {
    let [red, green, blue] = colour.map(|part| f32::from(part) / 255.0);
    content.set_stroke_rgb(red, green, blue).set_line_width(stroke.width().get());
    if let Some(dashes) = stroke.dasharray() {
        content.set_dash_pattern(dashes.iter().copied(), stroke.dashoffset());
    }
}

fn outline(content: &mut Content, drawn: &Path) {
    let mut at = Point::zero();
    for segment in drawn.data().segments() {
        match segment {
            PathSegment::MoveTo(to) => content.move_to(to.x, to.y),
            PathSegment::LineTo(to) => content.line_to(to.x, to.y),
            PathSegment::QuadTo(c, to) => {
                // The same curve with two control points.
                let third = |end: f32, control: f32| end + (control - end) * 2.0 / 3.0;
                content.cubic_to(third(at.x, c.x), third(at.y, c.y), third(to.x, c.x), third(to.y, c.y), to.x, to.y)
            }
            PathSegment::CubicTo(a, b, to) => content.cubic_to(a.x, a.y, b.x, b.y, to.x, to.y),
            PathSegment::Close => content.close_path(),
        };
        at = match segment {
            PathSegment::MoveTo(to)
            | PathSegment::LineTo(to)
            | PathSegment::QuadTo(_, to)
            | PathSegment::CubicTo(_, _, to) => to,
            PathSegment::Close => at,
        };
    }
}

/// Words as text, so that they can be searched; each letter where the shaper put it.
fn text(content: &mut Content, fonts: &mut Fonts, tree: &Tree, said: &Text) {
    content.save_state().transform(matrix(said.abs_transform()));
    for span in said.layouted().iter().filter(|span| span.visible) {
        let Some(ink) = span.fill.as_ref().and_then(|fill| colour(fill.paint())) else { continue };
        super::page::ink(content, ink);
        content.begin_text();
        for glyph in &span.positioned_glyphs {
            let bold = tree.fontdb().face(glyph.font).is_some_and(|face| face.post_script_name.ends_with("Bold"));
            let face = if bold { Face::Bold } else { Face::Sans };
            let at = glyph.transform();
            content.set_font(face.resource(), glyph.font_size()).set_text_matrix([1.0, 0.0, 0.0, -1.0, at.tx, at.ty]);
            let id = u16::try_from(glyph.id.0).unwrap_or_default();
            content.show(Str(&fonts.glyph(face, id, &glyph.text)));
        }
        content.end_text();
    }
    content.restore_state();
}
