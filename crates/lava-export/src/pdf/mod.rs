//! The report on paper: `report.html`'s facts as PDF, with nothing but LAVA: a server has no browser.
//!
//! The report is made anew from the log as HTML (`lava-evidence`), read (`html.rs`), set (`flow.rs`) on pages (`page.rs`) with fonts of our own
//! (`font.rs`); the graph is drawn (`drawing.rs`). So it says what the page says, and a section that comes to the page comes to the paper.
//!
//! *Invariants:* no script, no link, no form, no file within. Text can be searched and copied, and is then what is seen.
//! *Memory:* the report's, which is bounded; pages are packed as they are full.

mod drawing;
mod flow;
mod font;
mod html;
mod page;

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use lava_evidence::{Session, report};

use crate::summary::Summary;
use crate::{Error, picture};

/// Writes it.
pub(crate) fn write(session: &Session, summary: &Summary, out: &mut dyn Write) -> Result<(), Error> {
    let manifest = &summary.manifest;
    let title = format!("{}: {} — LAVA report", summary.trace.verdict, manifest.task.name);
    let mut pages = page::Pages::new(&format!("LAVA {} · session {}", manifest.lava, manifest.session))?;
    let tree = picture::tree(&summary.trace)?;
    html::blocks(&report::render(session, &summary.trace)?, &mut |block| match block {
        html::Block::Graph => drawing::draw(&mut pages, &tree),
        block => flow::set(&mut pages, block),
    });
    out.write_all(&pages.finish(&title)?)?;
    Ok(())
}

/// Packed as PDF's FlateDecode unpacks it.
fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
    // Memory takes whatever is written.
    let packed = packer.write_all(bytes).and_then(|()| packer.finish());
    packed.unwrap_or_default()
}
