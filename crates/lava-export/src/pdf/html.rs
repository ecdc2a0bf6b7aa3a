//! The report's HTML, read as what is to be set on paper. It is LAVA's own HTML: no style sheet is applied and no other page understood.

use html5gum::{StartTag, Token, Tokenizer};

use super::font::Face;

/// Red, green, blue.
pub(super) type Colour = [u8; 3];
pub(super) const INK: Colour = [0x1a, 0x22, 0x30];
pub(super) const MUTED: Colour = [0x53, 0x60, 0x74];
const BAD: Colour = [0xb4, 0x12, 0x3c];
const GOOD: Colour = [0x0b, 0x64, 0x59];
const WARN: Colour = [0x8f, 0x4a, 0x00];
/// Of the kill chain's stages, as `style.css` has them.
const STAGES: [Colour; 5] =
    [[0x6d, 0x3f, 0xc4], [0x15, 0x57, 0xb8], [0x8f, 0x4a, 0x00], [0xb4, 0x12, 0x3c], [0x0b, 0x64, 0x59]];

/// Sizes, points.
const BODY: f32 = 8.5;
const SMALL: f32 = 7.5;
const CELL: f32 = 7.5;
/// Of code, as a part of the size around it: the letters of such a font are wide.
const CODE: f32 = 0.88;
/// Sixteen bytes twice, and as text, fit into the column.
const HEX: f32 = 6.2;
/// One step to the right, points.
const STEP: f32 = 10.0;

/// Text of one look. A line feed ends a line.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Run {
    pub(super) text: String,
    pub(super) face: Face,
    pub(super) size: f32,
    pub(super) colour: Colour,
}

/// A piece of the page, from top to bottom.
#[derive(Debug)]
pub(super) enum Block {
    /// A heading and its level.
    Heading(u8, Vec<Run>),
    /// Text, and how far to the right it begins, points.
    Text(Vec<Run>, f32),
    /// A table's rows of cells; true: they are headings.
    Table(Vec<(bool, Vec<Vec<Run>>)>),
    /// Where the drawn graph belongs.
    Graph,
}

#[derive(Clone, Copy)]
struct Style {
    face: Face,
    size: f32,
    colour: Colour,
    stage: Option<Colour>,
    keep_space: bool,
    indent: f32,
}

#[derive(Default)]
struct Table {
    rows: Vec<(bool, Vec<Vec<Run>>)>,
    heading: bool,
}

struct Reader<'a> {
    see: &'a mut dyn FnMut(Block),
    stack: Vec<(String, Style)>,
    style: Style,
    runs: Vec<Run>,
    heading: Option<u8>,
    table: Option<Table>,
    /// An element whose content is not shown, and how many of its name are open.
    skipped: Option<(String, u32)>,
}

/// Gives the blocks of a page, one after the other.
pub(super) fn blocks(page: &str, see: &mut dyn FnMut(Block)) {
    let style = Style { face: Face::Sans, size: BODY, colour: INK, stage: None, keep_space: false, indent: 0.0 };
    let mut reader =
        Reader { see, stack: Vec::new(), style, runs: Vec::new(), heading: None, table: None, skipped: None };
    for Ok(token) in Tokenizer::new(page) {
        match token {
            Token::StartTag(tag) => reader.start(&tag),
            Token::EndTag(tag) => reader.end(&word(&tag.name)),
            Token::String(text) => reader.text(&word(&text)),
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
    }
    reader.flush();
}

fn word(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Elements that have no end.
fn is_void(name: &str) -> bool {
    matches!(name, "br" | "meta" | "hr" | "link" | "img" | "input")
}

/// Elements that begin on a line of their own.
fn is_block(name: &str) -> bool {
    matches!(
        name,
        "p" | "div"
            | "section"
            | "header"
            | "main"
            | "ul"
            | "ol"
            | "li"
            | "details"
            | "summary"
            | "small"
            | "pre"
            | "h1"
            | "h2"
            | "h3"
    )
}

impl Reader<'_> {
    fn start(&mut self, tag: &StartTag<()>) {
        let name = word(&tag.name);
        if let Some((skipped, depth)) = &mut self.skipped {
            *depth += u32::from(*skipped == name && !tag.self_closing);
            return;
        }
        let attribute = |wanted: &str| {
            tag.attributes.iter().find(|(name, _)| name.as_slice() == wanted.as_bytes()).map(|(_, value)| word(value))
        };
        let class = attribute("class").unwrap_or_default();
        if name == "svg" {
            self.flush();
            (self.see)(Block::Graph);
        }
        if matches!(name.as_str(), "svg" | "nav" | "style" | "title" | "head") || class == "skip" {
            self.skipped = Some((name, 1));
            return;
        }
        if is_void(&name) {
            if name == "br" {
                self.push("\n");
            }
            return;
        }
        if is_block(&name) {
            self.line();
        }
        self.stack.push((name.clone(), self.style));
        self.restyle(&name, &class, attribute("style").as_deref());
        self.open(&name);
    }

    fn restyle(&mut self, name: &str, class: &str, css: Option<&str>) {
        let style = &mut self.style;
        for class in class.split_ascii_whitespace() {
            let number = class.strip_prefix('g').and_then(|number| number.parse::<usize>().ok());
            if let Some(stage) = number.and_then(|number| STAGES.get(number)) {
                style.stage = Some(*stage);
            }
            match class {
                "mut" => style.colour = MUTED,
                "malicious" => style.colour = BAD,
                "suspicious" => style.colour = WARN,
                "clean" => style.colour = GOOD,
                "chip" => (style.face, style.colour) = (Face::Bold, style.stage.unwrap_or(style.colour)),
                "v" | "t" => style.face = Face::Bold,
                "hex" => (style.face, style.size) = (Face::Mono, HEX),
                _ => {}
            }
        }
        match name {
            "h1" => (style.face, style.size) = (Face::Bold, 15.0),
            "h2" => (style.face, style.size) = (Face::Bold, 12.0),
            "h3" => (style.face, style.size, style.colour) = (Face::Bold, 9.5, style.stage.unwrap_or(style.colour)),
            "strong" | "b" | "th" | "summary" => style.face = Face::Bold,
            "small" => (style.size, style.colour) = (style.size.min(SMALL), MUTED),
            "code" | "pre" => (style.face, style.size) = (Face::Mono, style.size * CODE),
            "del" => style.colour = BAD,
            "ins" => (style.face, style.colour) = (Face::Mono, GOOD),
            "table" | "dl" => style.size = style.size.min(CELL),
            "dt" => style.colour = MUTED,
            "li" => style.indent += STEP,
            _ => {}
        }
        style.keep_space |= name == "pre";
        // The tree of processes says its depth as a margin in the page's pixels.
        let margin = css.and_then(|css| css.strip_prefix("margin-left:")?.strip_suffix("px")?.parse::<f32>().ok());
        style.indent += margin.map_or(0.0, |pixels| pixels.clamp(0.0, 400.0) / 2.0);
    }

    fn open(&mut self, name: &str) {
        match name {
            "h1" => self.heading = Some(1),
            "h2" => self.heading = Some(2),
            "h3" => self.heading = Some(3),
            "li" => self.push("• "),
            "table" | "dl" => {
                self.flush();
                self.table = Some(Table::default());
            }
            "thead" => self.in_table(|table| table.heading = true),
            "tr" | "dt" => self.in_table(|table| table.rows.push((table.heading, Vec::new()))),
            _ => {}
        }
    }

    fn in_table(&mut self, change: impl FnOnce(&mut Table)) {
        if let Some(table) = &mut self.table {
            change(table);
        }
    }

    fn end(&mut self, name: &str) {
        if let Some((skipped, depth)) = &mut self.skipped {
            *depth -= u32::from(skipped == name);
            if *depth == 0 {
                self.skipped = None;
            }
            return;
        }
        // An end without its begin is none of LAVA's.
        let Some(at) = self.stack.iter().rposition(|(open, _)| open == name) else { return };
        match name {
            "td" | "th" | "dt" | "dd" => {
                let cell = std::mem::take(&mut self.runs);
                self.in_table(|table| {
                    if let Some((_, cells)) = table.rows.last_mut() {
                        cells.push(cell);
                    }
                });
            }
            "thead" => self.in_table(|table| table.heading = false),
            "table" | "dl" => {
                self.runs.clear();
                if let Some(table) = self.table.take() {
                    (self.see)(Block::Table(table.rows));
                }
            }
            _ if is_block(name) => self.line(),
            _ => {}
        }
        self.style = self.stack[at].1;
        self.stack.truncate(at);
    }

    fn text(&mut self, text: &str) {
        if self.skipped.is_some() {
            return;
        }
        if self.style.keep_space {
            return self.push(text);
        }
        let mut collapsed = String::with_capacity(text.len());
        for c in text.chars() {
            let c = if c.is_ascii_whitespace() { ' ' } else { c };
            if c != ' ' || !collapsed.ends_with(' ') {
                collapsed.push(c);
            }
        }
        self.push(&collapsed);
    }

    fn push(&mut self, text: &str) {
        if !text.is_empty() {
            let Style { face, size, colour, .. } = self.style;
            self.runs.push(Run { text: text.to_owned(), face, size, colour });
        }
    }

    /// Ends the line: within a cell that is a line feed, else a block.
    fn line(&mut self) {
        if self.table.is_none() {
            return self.flush();
        }
        if self.runs.last().is_some_and(|run| !run.text.ends_with('\n')) {
            self.push("\n");
        }
    }

    fn flush(&mut self) {
        let heading = self.heading.take();
        let mut runs = std::mem::take(&mut self.runs);
        while runs.last().is_some_and(|run| run.text == "\n") {
            runs.pop();
        }
        if runs.iter().all(|run| matches!(run.text.trim(), "" | "•")) {
            return;
        }
        (self.see)(match heading {
            Some(level) => Block::Heading(level, runs),
            None => Block::Text(runs, self.style.indent),
        });
    }
}
