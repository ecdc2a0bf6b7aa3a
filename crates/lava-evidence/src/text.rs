//! Text for a reader: nothing that deceives, bounded.
//!
//! Escaping for HTML or XML is a second step (maud, [`xml`]): this one is about what the *characters* do.

/// Controls, bidirectional marks and invisible separators, as in `lava_event::Guest`'s Display.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' | '\u{061c}' | '\u{fffe}' | '\u{ffff}')
}

fn push(out: &mut String, c: char) {
    if deceives(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
}

/// One line of at most `max` characters; the middle of a longer one is left out, and it says how much.
pub fn line(text: &str, max: usize) -> String {
    let clean = |part: &[char]| {
        part.iter().fold(String::new(), |mut out, &c| {
            push(&mut out, c);
            out
        })
    };
    let all: Vec<char> = text.chars().collect();
    if all.len() <= max {
        return clean(&all);
    }
    let (head, tail) = (max * 2 / 3, max / 3);
    format!("{}… {} characters …{}", clean(&all[..head]), all.len() - head - tail, clean(&all[all.len() - tail..]))
}

/// Several lines of at most `max` characters in all; line ends stay.
pub(crate) fn block(text: &str, max: usize) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == max {
            out.push_str("\n… cut here: the whole is in events.jsonl");
            break;
        }
        if c == '\n' { out.push(c) } else { push(&mut out, c) }
    }
    out
}

/// Escapes for XML text and attributes.
pub fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => push(&mut out, c),
        }
    }
    out
}

/// Session time: `12.345 s`.
pub(crate) fn time(ns: u64) -> String {
    format!("{}.{:03} s", ns / 1_000_000_000, ns / 1_000_000 % 1000)
}

/// `440 B`, `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut whole = bytes;
    let mut rest = 0;
    while whole >= 1024 && (unit < UNITS.len()) {
        rest = whole % 1024;
        whole /= 1024;
        unit += 1;
    }
    format!("{whole}.{} {}", rest * 10 / 1024, UNITS[unit - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_clean_and_bounded() {
        assert_eq!(line("a\u{202e}b\n", 10), "a\\u{202e}b\\u{a}");
        let long = line(&"x".repeat(4096), 60);
        assert!(long.chars().count() < 100 && long.contains("4036 characters"), "{long}");
        assert_eq!(xml("<a href='\"&"), "&lt;a href=&#39;&quot;&amp;");
        assert_eq!((size(440), size(1536)), ("440 B".into(), "1.5 KiB".into()));
    }
}
