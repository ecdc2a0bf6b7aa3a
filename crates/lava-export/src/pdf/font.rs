//! The fonts of a PDF: what a character is in them, and embedding of what was used.
//!
//! *Invariant:* what is shown is what is copied: a glyph stands for one text. A character that the font lacks, that looks exactly like
//! another, or that is read from right to left, is written out as `\u{4e2d}`.

use std::collections::BTreeMap;

use pdf_writer::types::{CidFontType, FontFlags, SystemInfo, UnicodeCmap};
use pdf_writer::{Filter, Finish, Name, Pdf, Rect, Ref, Str};
use skrifa::instance::{LocationRef, Size};
use skrifa::metrics::GlyphMetrics;
use skrifa::{FontRef, MetadataProvider};
use subsetter::GlyphRemapper;

use super::deflated;
use crate::Error;

/// Which font.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Face {
    Sans,
    Bold,
    Mono,
}

impl Face {
    pub(super) const ALL: [Self; 3] = [Self::Sans, Self::Bold, Self::Mono];

    /// Its name in a page's resources.
    pub(super) const fn resource(self) -> Name<'static> {
        match self {
            Self::Sans => Name(b"F0"),
            Self::Bold => Name(b"F1"),
            Self::Mono => Name(b"F2"),
        }
    }

    /// Its PostScript name, behind the tag that subsets have.
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Sans => b"LAVAAA+DejaVuSans",
            Self::Bold => b"LAVAAA+DejaVuSans-Bold",
            Self::Mono => b"LAVAAA+DejaVuSansMono",
        }
    }

    fn data(self) -> &'static [u8] {
        match self {
            Self::Sans => dejavu::sans::regular(),
            Self::Bold => dejavu::sans::bold(),
            Self::Mono => dejavu::sans_mono::regular(),
        }
    }
}

/// A font in use.
struct Used {
    face: Face,
    font: FontRef<'static>,
    metrics: GlyphMetrics<'static>,
    /// Units of the font's for 1000 of PDF's.
    unit: f32,
    glyphs: GlyphRemapper,
    /// Glyphs as they are embedded: what each stands for, and its width in thousandths.
    texts: BTreeMap<u16, (String, f32)>,
}

/// All of them.
pub(super) struct Fonts([Used; 3]);

impl Fonts {
    pub(super) fn new() -> Result<Self, Error> {
        let used = |face: Face| {
            let font = FontRef::new(face.data()).map_err(|error| Error::Font(error.to_string()))?;
            let metrics = font.glyph_metrics(Size::unscaled(), LocationRef::default());
            let unit = 1000.0 / f32::from(font.metrics(Size::unscaled(), LocationRef::default()).units_per_em);
            Ok::<_, Error>(Used { face, font, metrics, unit, glyphs: GlyphRemapper::new(), texts: BTreeMap::new() })
        };
        Ok(Self([used(Face::Sans)?, used(Face::Bold)?, used(Face::Mono)?]))
    }

    fn of(&mut self, face: Face) -> &mut Used {
        &mut self.0[face as usize]
    }

    /// The text in characters that the font has, each of its own looks.
    pub(super) fn shown(&mut self, face: Face, text: &str) -> String {
        let used = self.of(face);
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            if c == '\n' || used.character(c).is_some() { out.push(c) } else { out.extend(c.escape_unicode()) }
        }
        out
    }

    /// The width of a text that was [`Fonts::shown`], in thousandths of the font's size.
    pub(super) fn width(&mut self, face: Face, text: &str) -> f32 {
        let used = self.of(face);
        text.chars().filter_map(|c| used.character(c)).map(|(_, width)| width).sum()
    }

    /// The same text as a string of the PDF's.
    pub(super) fn encoded(&mut self, face: Face, text: &str) -> Vec<u8> {
        let used = self.of(face);
        text.chars().filter_map(|c| used.character(c)).flat_map(|(glyph, _)| glyph.to_be_bytes()).collect()
    }

    /// A glyph that a shaper chose, as a string of the PDF's.
    pub(super) fn glyph(&mut self, face: Face, id: u16, text: &str) -> Vec<u8> {
        self.of(face).glyph(id, text).0.to_be_bytes().to_vec()
    }

    /// Writes the fonts, each below its reference.
    pub(super) fn write(&self, pdf: &mut Pdf, refs: [Ref; 3], mut next: impl FnMut() -> Ref) -> Result<(), Error> {
        for (used, id) in self.0.iter().zip(refs) {
            used.write(pdf, id, &mut next)?;
        }
        Ok(())
    }
}

impl Used {
    /// The glyph that stands for this character and for no other, and its width.
    fn character(&mut self, c: char) -> Option<(u16, f32)> {
        if is_right_to_left(c) {
            return None;
        }
        let id = self.font.charmap().map(c).filter(|id| id.to_u32() != 0)?;
        let (glyph, width) = self.glyph(u16::try_from(id.to_u32()).ok()?, c.encode_utf8(&mut [0; 4]));
        let alone = self.texts.get(&glyph).is_some_and(|(text, _)| text.chars().eq([c]));
        alone.then_some((glyph, width))
    }

    fn glyph(&mut self, id: u16, text: &str) -> (u16, f32) {
        let glyph = self.glyphs.remap(id);
        let known = self.texts.entry(glyph).or_insert_with(|| {
            let advance = self.metrics.advance_width(skrifa::GlyphId::new(u32::from(id))).unwrap_or_default();
            (text.to_owned(), advance * self.unit)
        });
        (glyph, known.1)
    }

    fn write(&self, pdf: &mut Pdf, id: Ref, next: &mut impl FnMut() -> Ref) -> Result<(), Error> {
        let (name, system) = (Name(self.face.name()), system());
        let [cid, descriptor, cmap, file] = [next(), next(), next(), next()];
        pdf.type0_font(id)
            .base_font(name)
            .encoding_predefined(Name(b"Identity-H"))
            .descendant_font(cid)
            .to_unicode(cmap);
        let mut font = pdf.cid_font(cid);
        font.subtype(CidFontType::Type2).base_font(name).system_info(system).font_descriptor(descriptor);
        font.default_width(0.0).cid_to_gid_map_predefined(Name(b"Identity"));
        let mut widths = font.widths();
        for (&glyph, (_, width)) in &self.texts {
            widths.consecutive(glyph, [*width]);
        }
        widths.finish();
        font.finish();
        let metrics = self.font.metrics(Size::unscaled(), LocationRef::default());
        let bounds = metrics.bounds.unwrap_or_default();
        let [left, bottom, right, top] =
            [bounds.x_min, bounds.y_min, bounds.x_max, bounds.y_max].map(|at| at * self.unit);
        pdf.font_descriptor(descriptor)
            .name(name)
            .flags(FontFlags::NON_SYMBOLIC)
            .bbox(Rect::new(left, bottom, right, top))
            .italic_angle(0.0)
            .ascent(metrics.ascent * self.unit)
            .descent(metrics.descent * self.unit)
            .cap_height(metrics.cap_height.unwrap_or(metrics.ascent) * self.unit)
            .stem_v(80.0)
            .font_file2(file);
        let mut unicode = UnicodeCmap::new(Name(b"LAVA"), system);
        for (&glyph, (text, _)) in self.texts.iter().filter(|(_, (text, _))| !text.is_empty()) {
            unicode.pair_with_multiple(glyph, text.chars());
        }
        let unicode = deflated(&unicode.finish());
        pdf.stream(cmap, &unicode).filter(Filter::FlateDecode);
        let subset = subsetter::subset(self.face.data(), 0, &self.glyphs);
        let subset = subset.map_err(|error| Error::Font(error.to_string()))?;
        let packed = deflated(&subset);
        let length = i32::try_from(subset.len()).unwrap_or(i32::MAX);
        pdf.stream(file, &packed).filter(Filter::FlateDecode).pair(Name(b"Length1"), length);
        Ok(())
    }
}

/// Blocks of scripts that are read so (Unicode's `DerivedBidiClass.txt`): they would have to be turned.
const fn is_right_to_left(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefe}' | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
}

const fn system() -> SystemInfo<'static> {
    SystemInfo { registry: Str(b"Adobe"), ordering: Str(b"Identity"), supplement: 0 }
}
