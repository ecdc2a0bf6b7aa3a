//! Blocks set on pages: lines broken where there is room, tables with columns as wide as what stands in them.

use super::font::{Face, Fonts};
use super::html::{Block, Colour, Run};
use super::page::{COLUMN, MARGIN, Pages};

/// Height of a line for a size of 1.
const LEADING: f32 = 1.35;
/// Between two columns of a table, points.
const GUTTER: f32 = 8.0;
/// No column is narrower, points.
const NARROW: f32 = 24.0;

/// A part of a line, of one look.
struct Piece {
    text: String,
    face: Face,
    size: f32,
    colour: Colour,
    x: f32,
}

#[derive(Default)]
struct Line {
    pieces: Vec<Piece>,
    width: f32,
    size: f32,
}

impl Line {
    fn height(&self) -> f32 {
        self.size.max(6.0) * LEADING
    }

    fn add(&mut self, text: &str, width: f32, run: &Run) {
        self.size = self.size.max(run.size);
        match self.pieces.last_mut() {
            Some(last) if (last.face, last.size, last.colour) == (run.face, run.size, run.colour) => {
                last.text.push_str(text);
            }
            _ => {
                let Run { face, size, colour, .. } = *run;
                self.pieces.push(Piece { text: text.to_owned(), face, size, colour, x: self.width });
            }
        }
        self.width += width;
    }
}

/// Sets a block; the graph is somebody else's.
pub(super) fn set(pages: &mut Pages, block: Block) {
    match block {
        Block::Heading(level, runs) => heading(pages, level, &runs),
        Block::Text(runs, indent) => {
            let indent = indent.min(COLUMN / 2.0);
            pages.gap(2.0);
            for line in lines(&mut pages.fonts, &runs, COLUMN - indent) {
                let bottom = pages.take(line.height());
                place(pages, &line, MARGIN + indent, bottom);
            }
        }
        Block::Table(rows) => table(pages, &rows),
        Block::Graph => {}
    }
}

fn heading(pages: &mut Pages, level: u8, runs: &[Run]) {
    let lines = lines(&mut pages.fonts, runs, COLUMN);
    let height: f32 = lines.iter().map(Line::height).sum();
    pages.gap(if level == 2 { 14.0 } else { 6.0 });
    // With some lines of what it is about.
    pages.keep(height + 40.0);
    if level == 2 {
        pages.mark(runs.iter().map(|run| run.text.as_str()).collect());
    }
    for line in lines {
        let bottom = pages.take(line.height());
        place(pages, &line, MARGIN, bottom);
        if level == 2 {
            pages.rule(bottom - 1.0, 0.6);
        }
    }
    pages.gap(2.0);
}

fn place(pages: &mut Pages, line: &Line, left: f32, bottom: f32) {
    // What hangs below the baseline is about a fifth of the size.
    let base = bottom + line.height() - line.size * 1.1;
    for piece in &line.pieces {
        pages.set(&piece.text, piece.face, piece.size, piece.colour, (left + piece.x, base));
    }
}

/// Breaks text into lines: at blanks, and within a word that is longer than a line.
fn lines(fonts: &mut Fonts, runs: &[Run], width: f32) -> Vec<Line> {
    let mut all = vec![Line::default()];
    for run in runs {
        let text = fonts.shown(run.face, &run.text);
        for part in text.split_inclusive('\n') {
            for word in part.trim_end_matches('\n').split_inclusive(' ') {
                add_word(fonts, &mut all, word, run, width);
            }
            if part.ends_with('\n') {
                all.push(Line { size: run.size, ..Line::default() });
            }
        }
    }
    if all.len() > 1 && all.last().is_some_and(|line| line.pieces.is_empty()) {
        all.pop();
    }
    all
}

fn add_word(fonts: &mut Fonts, all: &mut Vec<Line>, word: &str, run: &Run, width: f32) {
    let mut measure = |text: &str| fonts.width(run.face, text) * run.size / 1000.0;
    let whole = measure(word);
    let visible = whole - if word.ends_with(' ') { measure(" ") } else { 0.0 };
    let Some(line) = all.last_mut() else { return };
    if line.width + visible <= width {
        return line.add(word, whole, run);
    }
    let mut line = Line::default();
    if visible <= width {
        line.add(word, whole, run);
        return all.push(line);
    }
    for c in word.chars() {
        let mut buffer = [0; 4];
        let c = &*c.encode_utf8(&mut buffer);
        let wide = measure(c);
        if line.width + wide > width && !line.pieces.is_empty() {
            all.push(std::mem::take(&mut line));
        }
        line.add(c, wide, run);
    }
    all.push(line);
}

fn table(pages: &mut Pages, rows: &[(bool, Vec<Vec<Run>>)]) {
    let widths = columns(&mut pages.fonts, rows);
    pages.gap(3.0);
    for (heading, cells) in rows {
        let set: Vec<Vec<Line>> =
            cells.iter().zip(&widths).map(|(cell, width)| lines(&mut pages.fonts, cell, *width)).collect();
        let tall = set.iter().map(Vec::len).max().unwrap_or(0);
        for at in 0..tall {
            let height = set.iter().filter_map(|cell| cell.get(at)).map(Line::height).fold(0.0, f32::max);
            let bottom = pages.take(height);
            let mut left = MARGIN;
            for (cell, width) in set.iter().zip(&widths) {
                if let Some(line) = cell.get(at) {
                    // All first lines of a row stand on one line.
                    place(pages, line, left, bottom + height - line.height());
                }
                left += width + GUTTER;
            }
        }
        let bottom = pages.take(2.0);
        pages.rule(bottom, if *heading { 0.4 } else { 0.85 });
    }
    pages.gap(4.0);
}

/// Widths of the columns: as much as the widest cell needs; if that is too much in all, the wide ones share what the narrow ones leave.
fn columns(fonts: &mut Fonts, rows: &[(bool, Vec<Vec<Run>>)]) -> Vec<f32> {
    let count = rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
    let mut needed = vec![NARROW; count];
    for (_, cells) in rows {
        for (cell, needed) in cells.iter().zip(&mut needed) {
            let widest = lines(fonts, cell, COLUMN).iter().map(|line| line.width).fold(0.0, f32::max);
            *needed = needed.max(widest + 1.0);
        }
    }
    let mut free = GUTTER.mul_add(-(count.saturating_sub(1) as f32), COLUMN);
    if needed.iter().sum::<f32>() <= free {
        return needed;
    }
    let mut widths = vec![0.0; count];
    let mut open: Vec<usize> = (0..count).collect();
    open.sort_by(|&a, &b| needed[a].total_cmp(&needed[b]));
    for (n, &column) in open.iter().enumerate() {
        widths[column] = needed[column].min(free / (count - n) as f32);
        free -= widths[column];
    }
    widths
}
