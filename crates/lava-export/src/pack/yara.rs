//! YARA rules: one for each content by its hash, and one for each dropped program by the marks that stand in it, which also finds other
//! builds of the same. And one for boot code, for images of disks.

use std::fmt::Write as _;

use lava_event::DiskRegion;
use lava_evidence::Session;

use super::marks::{Mark, Marks, Sample};
use super::{double, name, origin};
use crate::Error;
use crate::summary::Summary;

/// Bytes of the MBR that are boot code.
const BOOT_CODE: usize = 440;
/// A mark of fewer characters is no string to look for.
const SHORT: usize = 8;
/// Characters that the marks in one file must have together.
const TELLING: usize = 16;
/// Strings of one rule.
const STRINGS: usize = 20;

/// All rules; `None` if there is nothing to write one of.
pub(super) fn rules(session: &Session, summary: &Summary, marks: &Marks) -> Result<Option<String>, Error> {
    let mut out = format!("// {}\nimport \"hash\"\n", origin(summary));
    let mut count = 0;
    for (n, mark) in marks.samples.iter().enumerate() {
        let id = if n == 0 { "task".to_owned() } else { format!("dropped_{n}") };
        out.push_str(&exact(summary, &id, mark));
        count += 1;
        if let Some(bytes) = session.artifact(&mark.value.sha256)?
            && n > 0
        {
            let found = strings(marks, &bytes, &mark.value);
            out.push_str(&alike(summary, &id, mark, &found));
        }
    }
    for (n, mark) in marks.boot.iter().enumerate().filter(|(_, mark)| mark.value.region == DiskRegion::MbrBootCode) {
        let Some(after) = mark.value.after else { continue };
        if session.artifact(&after)?.is_some_and(|bytes| bytes.len() == BOOT_CODE) {
            let _ = write!(
                out,
                "\nrule lava_{}_boot_code_{n} {{\n  meta:\n    description = \"boot code that was written to the MBR: for images of disks\"\n{}  condition:\n    filesize >= {BOOT_CODE} and hash.sha256(0, {BOOT_CODE}) == \"{after}\"\n}}\n",
                name(summary),
                meta(mark.confidence, &mark.why)
            );
            count += 1;
        }
    }
    Ok((count > 0).then_some(out))
}

fn meta(confidence: u8, why: &str) -> String {
    format!("    confidence = {confidence}\n    rests_on = {}\n", double(why))
}

fn exact(summary: &Summary, id: &str, mark: &Mark<Sample>) -> String {
    let Sample { sha256, size, path } = &mark.value;
    format!(
        "\nrule lava_{}_{id} {{\n  meta:\n    description = {}\n{}  condition:\n    filesize == {size} and hash.sha256(0, filesize) == \"{sha256}\"\n}}\n",
        name(summary),
        double(&format!("the very bytes of {path}")),
        meta(mark.confidence, &mark.why)
    )
}

/// The marks that stand in a content.
fn strings(marks: &Marks, bytes: &[u8], sample: &Sample) -> Vec<String> {
    let paths = marks.paths.iter().filter(|mark| !mark.value.contains('*')).map(|mark| mark.value.clone());
    let names = marks.names.iter().map(|mark| mark.value.clone());
    let addresses = marks.addresses.iter().map(|mark| mark.value.to_string());
    let all = paths.chain(names).chain(addresses).filter(|text| text.len() >= SHORT && *text != sample.path);
    let inside = |text: &String| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let mut found: Vec<String> = all.filter(inside).take(STRINGS).collect();
    // Its own path is no proof of itself in a script that names it, but of a program that does it is.
    if bytes.windows(sample.path.len().max(1)).any(|window| window == sample.path.as_bytes())
        && sample.path.len() >= SHORT
    {
        found.push(sample.path.clone());
    }
    found
}

/// Other builds of a dropped file; empty if too little of it is telling.
fn alike(summary: &Summary, id: &str, mark: &Mark<Sample>, strings: &[String]) -> String {
    if strings.iter().map(String::len).sum::<usize>() < TELLING {
        return String::new();
    }
    let mut out = format!(
        "\nrule lava_{}_{id}_alike {{\n  meta:\n    description = {}\n{}  strings:\n",
        name(summary),
        double(&format!("names the same marks as {}", mark.value.path)),
        meta(mark.confidence.min(50), &mark.why)
    );
    for (n, text) in strings.iter().enumerate() {
        let _ = writeln!(out, "    $s{n} = {} ascii", double(text));
    }
    let _ = write!(
        out,
        "  condition:\n    filesize < {} and all of them\n}}\n",
        mark.value.size.max(4096).saturating_mul(4)
    );
    out
}
