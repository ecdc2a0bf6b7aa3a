//! Text that a stranger chose, made fit for every format: one line, bounded, without characters that deceive.
//!
//! Controls, bidirectional marks and bytes that are no UTF-8 stand there as `\u{202e}` and `\xff`. Each format escapes what has
//! a meaning in it in a second step.

use lava_event::{Finding, GuestText, SessionId};
use lava_evidence::Manifest;
use lava_evidence::text::line;

/// Longest name or path, characters: more than Linux's PATH_MAX allows is no path. The middle of a longer one is left out.
pub(crate) const NAME: usize = 4096;
/// Longest command line, characters.
const COMMAND: usize = 8192;
/// Arguments of a command line that are looked at.
const ARGUMENTS: usize = 512;

/// A name or path of the guest's.
pub(crate) fn name(text: &GuestText) -> String {
    line(&text.matchable(), NAME)
}

/// A sentence, or text of a folder that a stranger may have made.
pub(crate) fn plain(text: &str) -> String {
    line(text, NAME)
}

/// The manifest with harmless texts; its session's id is one that names nothing else.
pub(crate) fn manifest(from: &Manifest) -> Manifest {
    let mut to = from.clone();
    let plain_id = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    to.session = SessionId(to.session.0.chars().take(64).map(plain_id).collect());
    for text in [
        &mut to.lava,
        &mut to.task.name,
        &mut to.profile,
        &mut to.image.kernel,
        &mut to.qemu,
        &mut to.policy.name,
        &mut to.host,
    ] {
        *text = line(text, 256);
    }
    to
}

/// A finding with harmless texts.
pub(crate) fn finding(mut from: Finding) -> Finding {
    for text in [&mut from.detector, &mut from.title, &mut from.why, &mut from.technique.id, &mut from.technique.name] {
        *text = line(text, NAME);
    }
    from
}

/// Arguments as one line; those with blanks or quotes in quotes, so that they can be told apart.
pub(crate) fn command(argv: &[GuestText]) -> String {
    let words: Vec<String> = argv.iter().take(ARGUMENTS).map(|word| quoted(&word.matchable())).collect();
    line(&words.join(" "), COMMAND)
}

/// An enum's name as in JSON.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    serde_json::json!(value).as_str().unwrap_or_default().to_owned()
}

fn quoted(word: &str) -> String {
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '\\' | '$' | '`')) {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_can_be_told_apart() {
        let argv = ["sh", "-c", "echo 'a' b", ""].map(GuestText::from);
        assert_eq!(command(&argv), r"sh -c 'echo '\''a'\'' b' ''");
    }

    #[test]
    fn long_names_are_cut_and_say_so() {
        let long = name(&GuestText::from(vec![b'x'; 10_000]));
        assert!(long.chars().count() < 4200 && long.contains("5905 characters"), "{}", long.len());
        assert_eq!(name(&GuestText::from(b"a\x1b\xffb".to_vec())), r"a\u{1b}\xffb");
    }
}
