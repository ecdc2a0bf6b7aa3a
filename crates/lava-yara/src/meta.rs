//! What a rule says of itself. YARA has no fixed names for it: read are those that the public collections use (YARA-Forge, signature-base,
//! Elastic's protections-artifacts, ReversingLabs).

use lava_detect::{technique, unnamed_technique};
use lava_event::{Severity, Stage, Technique};
use yara_x::{MetaValue, Rule};

/// How much of a text is kept, characters.
const MAX_TEXT: usize = 500;

pub(crate) struct About {
    pub(crate) why: String,
    pub(crate) stage: Stage,
    pub(crate) technique: Technique,
    pub(crate) severity: Severity,
}

pub(crate) fn of(rule: &Rule<'_, '_>) -> About {
    let meta: Vec<(String, String)> =
        rule.metadata().map(|(name, value)| (name.to_ascii_lowercase(), text(&value))).collect();
    let one = |names: &[&str]| {
        names.iter().find_map(|wanted| meta.iter().find(|(name, _)| name == wanted)).map(|(_, value)| value.as_str())
    };
    let tags = rule.tags().map(|tag| tag.identifier().to_owned());
    let named = meta.iter().filter(|(name, _)| TECHNIQUE.iter().any(|part| name.contains(part)));
    let id = named.map(|(_, value)| value.clone()).chain(tags).find_map(|value| technique_in(&value));
    About {
        why: why(rule.identifier(), &one),
        // A content says what it is, not what it did: that it is there is the first stage but one.
        stage: Stage::Execute,
        technique: id.map_or_else(unnamed_technique, |id| technique(&id)),
        severity: severity(one(&["severity", "threat_level"]), one(&["score", "threat_score"])),
    }
}

const TECHNIQUE: [&str; 3] = ["attack", "mitre", "technique"];

fn text(value: &MetaValue<'_>) -> String {
    match value {
        MetaValue::Integer(number) => number.to_string(),
        MetaValue::Float(number) => number.to_string(),
        MetaValue::Bool(is) => is.to_string(),
        MetaValue::String(text) => (*text).to_owned(),
        MetaValue::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// The first `T1234` or `T1234.001` in a text; `t1234_001` in a tag.
fn technique_in(text: &str) -> Option<String> {
    let text = text.to_ascii_uppercase().replace('_', ".");
    let bytes = text.as_bytes();
    let digits = |at: usize, count: usize| {
        let digits = bytes.get(at..at + count)?;
        let ends = !bytes.get(at + count).is_some_and(u8::is_ascii_digit);
        (ends && digits.iter().all(u8::is_ascii_digit)).then_some(())
    };
    let begins = |at: usize| at == 0 || !bytes.get(at - 1).is_some_and(u8::is_ascii_alphanumeric);
    let at = (0..bytes.len()).find(|&at| bytes.get(at) == Some(&b'T') && begins(at) && digits(at + 1, 4).is_some())?;
    let sub = bytes.get(at + 5) == Some(&b'.') && digits(at + 6, 3).is_some();
    text.get(at..at + if sub { 9 } else { 5 }).map(str::to_owned)
}

/// A rule that says nothing is one of malware: high. Scores are as signature-base's README has them: 75 and more is an alert.
fn severity(word: Option<&str>, score: Option<&str>) -> Severity {
    if let Some(score) = score.and_then(|score| score.parse::<i64>().ok()) {
        return match score {
            90.. => Severity::Critical,
            75.. => Severity::High,
            60.. => Severity::Medium,
            40.. => Severity::Low,
            _ => Severity::Info,
        };
    }
    match word.map(str::to_ascii_lowercase).as_deref() {
        Some("critical") => Severity::Critical,
        Some("medium" | "moderate" | "50") => Severity::Medium,
        Some("low" | "25") => Severity::Low,
        Some("info" | "informational" | "none" | "0") => Severity::Info,
        _ => Severity::High,
    }
}

fn why<'a>(rule: &str, one: &dyn Fn(&[&str]) -> Option<&'a str>) -> String {
    let cut = |text: &str| text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect::<String>();
    let mut out = one(&["description", "desc", "info"]).map_or_else(|| "A YARA rule matches.".to_owned(), cut);
    let author = one(&["author"]).map_or_else(|| "an author it does not name".to_owned(), cut);
    out.push_str(&format!(" [YARA rule {rule}, by {author}"));
    if let Some(reference) = one(&["reference", "references", "reference_url", "source_url"]) {
        out.push_str(&format!("; see {}", cut(reference)));
    }
    if let Some(license) = one(&["license", "licence", "license_url"]) {
        out.push_str(&format!("; licence {}", cut(license)));
    }
    out.push(']');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn techniques_are_found_in_what_people_write() {
        for (text, expect) in [
            ("T1059.004", Some("T1059.004")),
            ("attack.t1486", Some("T1486")),
            ("t1059_004", Some("T1059.004")),
            ("Execution, T1204 (User Execution)", Some("T1204")),
            ("AT1204", None),
            ("T12045", None),
            ("TA0002", None),
            ("", None),
        ] {
            assert_eq!(technique_in(text).as_deref(), expect, "{text}");
        }
    }

    #[test]
    fn severities() {
        assert_eq!(severity(None, None), Severity::High);
        assert_eq!(severity(Some("Medium"), None), Severity::Medium);
        assert_eq!(severity(Some("critical"), Some("40")), Severity::Low);
        assert_eq!(severity(None, Some("80")), Severity::High);
        assert_eq!(severity(None, Some("many")), Severity::High);
    }
}
