//! Pages: a column of text that grows downwards, a foot line, and what a PDF needs around them. A page that is full is packed at once.

use pdf_writer::{Content, Filter, Finish, Pdf, Rect, Ref, Str, TextStr};

use super::deflated;
use super::font::{Face, Fonts};
use super::html::{Colour, MUTED};
use crate::Error;

/// A4, points.
pub(super) const WIDTH: f32 = 595.0;
const HEIGHT: f32 = 842.0;
pub(super) const MARGIN: f32 = 42.0;
/// Of the column.
pub(super) const COLUMN: f32 = WIDTH - 2.0 * MARGIN;
pub(super) const TALL: f32 = HEIGHT - 2.0 * MARGIN;
/// Where the foot line stands, points from below.
const FOOT: f32 = 24.0;

/// A heading that the outline names.
struct Mark {
    title: String,
    page: Ref,
    y: f32,
}

pub(super) struct Pages {
    pdf: Pdf,
    last: i32,
    tree: Ref,
    fonts_at: [Ref; 3],
    pub(super) fonts: Fonts,
    done: Vec<Ref>,
    current: Ref,
    content: Content,
    /// The rest of the column begins here, points from below.
    y: f32,
    foot: String,
    marks: Vec<Mark>,
}

impl Pages {
    /// Begins with an empty page; `foot` stands below each.
    pub(super) fn new(foot: &str) -> Result<Self, Error> {
        let mut fonts = Fonts::new()?;
        let foot = fonts.shown(Face::Sans, foot);
        let [tree, current, a, b, c] = [2, 3, 4, 5, 6].map(Ref::new);
        Ok(Self {
            pdf: Pdf::new(),
            last: 6,
            tree,
            fonts_at: [a, b, c],
            fonts,
            done: Vec::new(),
            current,
            content: Content::new(),
            y: HEIGHT - MARGIN,
            foot,
            marks: Vec::new(),
        })
    }

    fn next(last: &mut i32) -> Ref {
        *last += 1;
        Ref::new(*last)
    }

    /// Takes so many points of the column, on the next page if this one has no more; returns the bottom of what was taken.
    pub(super) fn take(&mut self, height: f32) -> f32 {
        if self.y - height < MARGIN && self.y < HEIGHT - MARGIN {
            self.turn();
        }
        self.y -= height;
        self.y
    }

    /// Leaves a gap, if the page goes on.
    pub(super) fn gap(&mut self, height: f32) {
        if self.y < HEIGHT - MARGIN {
            self.y -= height;
        }
    }

    /// Turns the page, unless there is as much left.
    pub(super) fn keep(&mut self, height: f32) {
        if self.y - height < MARGIN {
            self.turn();
        }
    }

    /// The content of the page, to draw on.
    pub(super) fn content(&mut self) -> &mut Content {
        &mut self.content
    }

    /// Sets a text that was [`Fonts::shown`], its baseline at `y`.
    pub(super) fn set(&mut self, text: &str, face: Face, size: f32, colour: Colour, at: (f32, f32)) {
        let encoded = self.fonts.encoded(face, text);
        if encoded.is_empty() {
            return;
        }
        ink(&mut self.content, colour);
        self.content.begin_text().set_font(face.resource(), size).next_line(at.0, at.1);
        self.content.show(Str(&encoded)).end_text();
    }

    /// A thin line across the column.
    pub(super) fn rule(&mut self, y: f32, grey: f32) {
        self.content.set_stroke_gray(grey).set_line_width(0.5);
        self.content.move_to(MARGIN, y).line_to(WIDTH - MARGIN, y).stroke();
    }

    /// Has the outline name this place.
    pub(super) fn mark(&mut self, title: String) {
        self.marks.push(Mark { title, page: self.current, y: self.y });
    }

    fn turn(&mut self) {
        let number = format!("{} · page {}", self.foot, self.done.len() + 1);
        self.set(&number, Face::Sans, 7.0, MUTED, (MARGIN, FOOT));
        let content = std::mem::replace(&mut self.content, Content::new()).finish();
        let (page, stream) = (self.current, Self::next(&mut self.last));
        self.pdf.stream(stream, &deflated(&content)).filter(Filter::FlateDecode);
        let mut entry = self.pdf.page(page);
        entry.parent(self.tree).media_box(Rect::new(0.0, 0.0, WIDTH, HEIGHT)).contents(stream);
        let mut resources = entry.resources();
        let mut fonts = resources.fonts();
        for (face, id) in Face::ALL.into_iter().zip(self.fonts_at) {
            fonts.pair(face.resource(), id);
        }
        fonts.finish();
        resources.finish();
        entry.finish();
        self.done.push(page);
        self.current = Self::next(&mut self.last);
        self.y = HEIGHT - MARGIN;
    }

    /// The whole file.
    pub(super) fn finish(mut self, title: &str) -> Result<Vec<u8>, Error> {
        self.turn();
        let outline = self.outline();
        let mut catalog = self.pdf.catalog(Ref::new(1));
        catalog.pages(self.tree).lang(TextStr("en")).outlines(outline);
        catalog.viewer_preferences().display_doc_title(true);
        catalog.finish();
        let count = i32::try_from(self.done.len()).unwrap_or(i32::MAX);
        self.pdf.pages(self.tree).kids(self.done.iter().copied()).count(count);
        let info = Self::next(&mut self.last);
        self.pdf.document_info(info).title(TextStr(title)).producer(TextStr("LAVA"));
        let last = &mut self.last;
        self.fonts.write(&mut self.pdf, self.fonts_at, || Self::next(last))?;
        Ok(self.pdf.finish())
    }

    fn outline(&mut self) -> Ref {
        let root = Self::next(&mut self.last);
        let items: Vec<Ref> = self.marks.iter().map(|_| Self::next(&mut self.last)).collect();
        let mut outline = self.pdf.outline(root);
        if let (Some(&first), Some(&last)) = (items.first(), items.last()) {
            outline.first(first).last(last).count(i32::try_from(items.len()).unwrap_or(i32::MAX));
        }
        outline.finish();
        for (n, mark) in self.marks.iter().enumerate() {
            let mut item = self.pdf.outline_item(items[n]);
            item.title(TextStr(&mark.title)).parent(root);
            if let Some(before) = n.checked_sub(1) {
                item.prev(items[before]);
            }
            if let Some(&behind) = items.get(n + 1) {
                item.next(behind);
            }
            item.dest().page(mark.page).xyz(MARGIN, mark.y, None);
        }
        root
    }
}

/// The colour of what is filled next.
pub(super) fn ink(content: &mut Content, colour: Colour) {
    let [red, green, blue] = colour.map(|part| f32::from(part) / 255.0);
    content.set_fill_rgb(red, green, blue);
}
