//! Bytes before and after, the rows that differ.

use maud::{Markup, html};

const ROWS: usize = 64;

/// A table of sixteen bytes a row; rows in which nothing changed are left out.
pub(super) fn diff(before: &[u8], after: &[u8]) -> Markup {
    let rows = before.len().max(after.len()).div_ceil(16);
    let row = |bytes: &[u8], i: usize| {
        bytes.get(i * 16..).map(|rest| rest[..rest.len().min(16)].to_vec()).unwrap_or_default()
    };
    let changed: Vec<usize> = (0..rows).filter(|&i| row(before, i) != row(after, i)).collect();
    let bytes = (0..before.len().max(after.len())).filter(|&i| before.get(i) != after.get(i)).count();
    html! {
        p { (bytes) " of " (before.len().max(after.len())) " bytes differ." @if changed.len() > ROWS { " The first " (ROWS) " rows:" } }
        @if !changed.is_empty() {
            div.scroll tabindex="0" role="region" aria-label="Bytes before and after" { table.hex {
                thead { tr { th scope="col" { "Offset" } th scope="col" { "Before" } th scope="col" { "After" } th scope="col" { "After, as text" } } }
                tbody { @for &i in changed.iter().take(ROWS) {
                    @let (old, new) = (row(before, i), row(after, i));
                    tr { th scope="row" { (format!("{:04x}", i * 16)) } td { (cells(&old, &new, false)) } td { (cells(&new, &old, true)) } td { (ascii(&new)) } }
                } }
            } }
        }
    }
}

fn cells(bytes: &[u8], other: &[u8], new: bool) -> Markup {
    html! { @for (i, byte) in bytes.iter().enumerate() {
        @let hex = format!("{byte:02x}");
        @if other.get(i) == Some(byte) { (hex) " " } @else if new { ins { (hex) } " " } @else { del { (hex) } " " }
    } }
}

fn ascii(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| if b.is_ascii_graphic() { b as char } else { '.' }).collect()
}
