//! Making names general: what differs from run to run becomes `*`, the task's own files `{task}` and `{member}`, a home folder `~`.
//!
//! The rules, in their order; they are applied until nothing changes any more, so making general twice changes nothing:
//! 1. the paths of the archive's members are `{member}`, the task's path is `{task}`, also where more follows: `{task}.png`; what an
//!    archive unpacks is `{task}.d/*`;
//! 2. `/home/NAME` at the beginning of a word is `~`;
//! 3. a part of a path that is a number is `*` (`/proc/71`), and so is a number in brackets (`pipe:[9]`);
//! 4. of what stands between other characters than ASCII letters and digits:
//!    * hexadecimal digits, 8 or more with a number among them;
//!    * 6 or more that mix lower case, upper case and numbers (`R4nd0mXyZ`; not `Module1`), and a UUID; what `sed -i` draws
//!      is `sed*`, a profile's folder of Firefox `*.default`;
//!    * a whole name of 6 letters of mixed case (`FhCYJr`), as mkstemp(3) draws, and any 6 behind `tmp` or `temp` in the same name;
//!    * in a folder for temporary files, and behind `tmp` or `temp` in the same name, also: 6 or more that mix two of these (`TMP-Lvwbae`);
//!    * in a folder for temporary files what begins with `tmp`;
//! 5. numbers within a name, of 5 digits or more, and of 3 or more in a folder for temporary files;
//! 6. a word that follows itself is said once.
//!
//! *Limit:* a random name of lower case letters alone is not told from a word.

use lava_event::{Event, GuestText, Kind};

/// Longest text that is kept, characters; the rest is `…`.
pub(crate) const MAX_TEXT: usize = 400;
/// Characters that are looked at: what is general is much shorter than what it was.
const MAX_INPUT: usize = 4096;
/// Content files that are known by name: the task, and of an archive those that are opened.
const MAX_CONTENTS: usize = 257;
/// Where an archive is unpacked.
const UNPACKED: [&str; 2] = ["{task}.d/", "{member}.d/"];
/// What a UUID looks like.
const UUID: &[u8; 36] = b"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
/// Folders of temporary files.
const TEMPORARY: [&str; 4] = ["/tmp/", "/var/tmp/", "/dev/shm/", "/run/"];

/// Makes the names of one session general. It learns the task's from the session's events.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Path, and what stands for it; the longest first, so that a member below the task's name is a member.
    contents: Vec<(String, &'static str)>,
}

impl Names {
    /// Takes the next event: it may tell what the task is called.
    pub fn observe(&mut self, event: &Event) {
        match &event.kind {
            Kind::VmTask { path, .. } => self.add(path.clone(), "{task}"),
            Kind::VmMember { path, .. } => self.add(path.to_string(), "{member}"),
            _ => {}
        }
    }

    fn add(&mut self, path: String, word: &'static str) {
        // Without a slash a name could be part of the word that stands for it.
        if path.starts_with('/') && path.len() > 1 && self.contents.len() < MAX_CONTENTS {
            self.contents.push((path, word));
            self.contents.sort_by(|(a, _), (b, _)| (b.len(), a).cmp(&(a.len(), b)));
        }
    }

    /// The general form of what the guest named.
    #[must_use]
    pub fn generalise(&self, text: &GuestText) -> String {
        self.generalise_text(&text.to_string())
    }

    /// The same of text that is fit for display.
    #[must_use]
    pub fn generalise_text(&self, text: &str) -> String {
        let mut now = cut(text, MAX_INPUT);
        // Each round leaves fewer letters and digits outside of `{}`, or ends.
        loop {
            let next = self.round(&now);
            if next == now {
                let short = cut(&now, MAX_TEXT);
                if short == now {
                    return now;
                }
                now = short;
                continue;
            }
            now = next;
        }
    }

    fn round(&self, text: &str) -> String {
        let named = self.contents.iter().fold(text.to_owned(), |text, (path, word)| text.replace(path, word));
        let mut out = String::with_capacity(named.len());
        let mut last = String::new();
        for word in named.split_inclusive(ends_word) {
            let mut general = String::with_capacity(word.len());
            general_word(word, &mut general);
            let again = last.ends_with(char::is_whitespace) && general.trim_end_matches(ends_word) == last.trim_end();
            if !again || general.chars().all(ends_word) {
                out.push_str(&general);
                last = general;
            }
        }
        out.truncate(out.trim_end().len());
        out
    }
}

/// What stands between the words of a command line.
fn ends_word(c: char) -> bool {
    c.is_whitespace() || "=:,;\"'()".contains(c)
}

fn cut(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((at, _)) if !text[at..].starts_with('…') || text[at..].chars().count() > 1 => {
            format!("{}…", &text[..at])
        }
        _ => text.to_owned(),
    }
}

/// One word, with what ends it.
fn general_word(word: &str, out: &mut String) {
    if let Some((at, folder)) = UNPACKED.iter().find_map(|folder| Some((word.find(folder)?, folder))) {
        let end = word.find(ends_word).unwrap_or(word.len()).max(at + folder.len());
        out.push_str(&word[..at + folder.len()]);
        out.push_str(if end > at + folder.len() { "*" } else { "" });
        return out.push_str(&word[end..]);
    }
    let temporary = TEMPORARY.iter().any(|folder| word.starts_with(folder));
    let rest = match word.strip_prefix("/home/") {
        Some(below) => {
            out.push('~');
            below.find(|c| c == '/' || ends_word(c)).map_or("", |at| &below[at..])
        }
        None => word,
    };
    let (mut before, mut behind_tmp) = ('\0', false);
    let mut at = 0;
    while at < rest.len() {
        let from = &rest[at..];
        let length = from.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(from.len());
        if length == 0 {
            before = from.chars().next().unwrap_or('\0');
            out.push(before);
            behind_tmp &= before != '/';
            at += before.len_utf8();
            continue;
        }
        if from.len() >= UUID.len() && is_uuid(&from.as_bytes()[..UUID.len()]) {
            out.push('*');
            at += UUID.len();
            continue;
        }
        let after = from[length..].chars().next();
        let run = &from[..length];
        let alone =
            before == '/' && after.is_none_or(|c| c == '/' || ends_word(c)) || before == '[' && after == Some(']');
        let of_mkstemp = run.len() == 6 && (behind_tmp || alone && is_mixed(run));
        let number = alone && run.bytes().all(|b| b.is_ascii_digit());
        let of_firefox = before == '/' && run.len() == 8 && from[length..].starts_with(".default");
        if run.len() == 9 && run.starts_with("sed") && run.bytes().skip(3).any(|b| !b.is_ascii_lowercase()) {
            out.push_str("sed*");
        } else if number || of_firefox || of_mkstemp || is_random(run, temporary, temporary || behind_tmp) {
            out.push('*');
        } else {
            without_numbers(run, if temporary { 3 } else { 5 }, out);
        }
        behind_tmp |= run.eq_ignore_ascii_case("tmp") || run.eq_ignore_ascii_case("temp");
        at += length;
    }
}

/// Whether letters and digits look as if a program had drawn them.
fn is_random(run: &str, temporary: bool, drawn: bool) -> bool {
    let has = |class: fn(&u8) -> bool| run.bytes().any(|b| class(&b));
    let digits = has(u8::is_ascii_digit);
    let classes =
        [digits, has(u8::is_ascii_lowercase), has(u8::is_ascii_uppercase)].into_iter().filter(|&is| is).count();
    let hexadecimal = run.len() >= 8 && digits && run.bytes().all(|b| b.is_ascii_hexdigit());
    // `Module1` is a name with a number.
    let numbered = !run.trim_end_matches(|c: char| c.is_ascii_digit()).bytes().any(|b| b.is_ascii_digit());
    hexadecimal
        || run.len() >= 6 && (classes >= 3 && !numbered || classes >= 2 && drawn)
        || temporary && run.len() > 3 && run.starts_with("tmp")
}

fn is_uuid(bytes: &[u8]) -> bool {
    bytes.iter().zip(UUID).all(|(byte, like)| if *like == b'-' { byte == like } else { byte.is_ascii_hexdigit() })
}

/// Whether upper and lower case letters are mixed, not only at the beginning.
fn is_mixed(run: &str) -> bool {
    let upper = run.bytes().skip(1).any(|b| b.is_ascii_uppercase());
    upper && run.bytes().any(|b| b.is_ascii_lowercase())
}

/// Numbers of so many digits become `*`.
pub(crate) fn without_numbers(run: &str, digits: usize, out: &mut String) {
    let mut rest = run;
    while let Some(first) = rest.chars().next() {
        let is_digit = first.is_ascii_digit();
        let length = rest.find(|c: char| c.is_ascii_digit() != is_digit).unwrap_or(rest.len());
        let (part, behind) = rest.split_at(length);
        out.push_str(if is_digit && length >= digits { "*" } else { part });
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> Names {
        let mut names = Names::default();
        names.add("/home/user/mail.zip".into(), "{task}");
        names.add("/home/user/mail.zip.d/run.sh".into(), "{member}");
        names
    }

    #[test]
    fn what_differs_from_run_to_run_goes() {
        for (text, expect) in [
            ("/proc/71/status", "/proc/*/status"),
            ("/proc/self/maps", "/proc/self/maps"),
            ("pipe:[4711]", "pipe:[*]"),
            ("/tmp/hsperfdata_user/412", "/tmp/hsperfdata_user/*"),
            ("/tmp/tmp.R4nd0mXyZ/20", "/tmp/tmp.*/*"),
            ("/tmp/tmpabcdefgh", "/tmp/*"),
            ("/tmp/list", "/tmp/list"),
            ("/tmp/.update", "/tmp/.update"),
            ("/home/user/.profile", "~/.profile"),
            ("/home/user", "~"),
            ("/root/.ssh/authorized_keys", "/root/.ssh/authorized_keys"),
            ("/home/user/sedK3yQ9z", "~/sed*"),
            ("/etc/ld.so.preload", "/etc/ld.so.preload"),
            ("/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libc.so.6"),
            ("/var/cache/3830d5c3ddfd5cd38a049b759396e72e-le64.cache-8", "/var/cache/*-le64.cache-8"),
            ("sh -c /home/user/mail.zip > /tmp/o123", "sh -c {task} > /tmp/o*"),
            ("/home/user/mail.zip.d/run.sh", "{member}"),
            ("/home/user/mail.zip.d/x/y", "{task}.d/*"),
            ("7zz x -o/home/user/mail.zip.d /home/user/mail.zip", "7zz x -o{task}.d {task}"),
            ("/home/user/.cache/a.TMP-Lvwbae", "~/.cache/a.TMP-*"),
            ("/home/user/templates/Makefile", "~/templates/Makefile"),
            ("cat /tmp/tmp.R4nd0mXyZ/1 /tmp/tmp.R4nd0mXyZ/2 b", "cat /tmp/tmp.*/* b"),
            ("cat /tmp/tmp.R4nd0mXyZ/1 /tmp/tmp.R4nd0mXyZ/2", "cat /tmp/tmp.*/*"),
            ("dd if=a of=a", "dd if=a of=a"),
            ("a=a", "a=a"),
            ("/home/user/sedInorqP", "~/sed*"),
            ("/home/user/x/FhCYJr", "~/x/*"),
            ("/home/user/m/n8yqk4b9.default-esr/a", "~/m/*.default-esr/a"),
            ("-id {01234567-20a8-4a24-a9c2-89abcdef0123}", "-id {*}"),
            ("/home/user/x/Wewruz", "~/x/Wewruz"),
            ("/home/user/x/Module1.xba", "~/x/Module1.xba"),
            ("/home/user/a.TMP-YAFJHU", "~/a.TMP-*"),
        ] {
            assert_eq!(names().generalise_text(text), expect, "{text}");
        }
    }

    proptest! {
        #[test]
        fn twice_is_once(text in "(/home/user/mail.zip|\\.d/|/tmp/|/home/|/proc/|tmp|[a-zA-Z0-9]{0,12}|[/.:= \\[\\]\\-…]|\\PC){0,40}") {
            let once = names().generalise_text(&text);
            prop_assert_eq!(names().generalise_text(&once), once.clone());
            prop_assert!(once.chars().count() <= MAX_TEXT + 1);
        }

        #[test]
        fn long_and_odd_text_is_bounded(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let once = names().generalise(&GuestText::from(bytes));
            prop_assert_eq!(names().generalise_text(&once), once);
        }
    }
}
