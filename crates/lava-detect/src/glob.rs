//! Path patterns of the data tables: `*` is anything but a slash, `**` is anything, `~` in front is a home directory.
//!
//! Linear in the text for each star (the last one only is retried), so a hostile path costs no more than its length.

/// True if `pattern` matches all of `path`.
#[inline]
pub(crate) fn matches(pattern: &str, path: &[u8]) -> bool {
    may_match(pattern.as_bytes(), path) && matches_whole(pattern, path)
}

/// False only if it does not match. Hundreds of patterns are held against every file that a task opens, and nearly all differ at
/// an end already.
#[inline]
fn may_match(pattern: &[u8], path: &[u8]) -> bool {
    let end = pattern.last() == Some(&b'*') || pattern.last() == path.last();
    // Every path begins with a slash: the byte behind it tells more. No look behind a star.
    let second = match pattern {
        [b'~' | b'*', ..] | [_, b'*', ..] => true,
        _ => pattern.get(1) == path.get(1),
    };
    end && second
}

fn matches_whole(pattern: &str, path: &[u8]) -> bool {
    match pattern.strip_prefix('~') {
        Some(rest) => home_of(path).is_some_and(|below| glob(rest.as_bytes(), below)),
        None => glob(pattern.as_bytes(), path),
    }
}

/// What comes behind the home directory, if the path is in one.
fn home_of(path: &[u8]) -> Option<&[u8]> {
    if let Some(rest) = path.strip_prefix(b"/root") {
        return rest.starts_with(b"/").then_some(rest);
    }
    let rest = path.strip_prefix(b"/home/")?;
    let slash = rest.iter().position(|&b| b == b'/')?;
    rest.get(slash..)
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when the part behind the last star does not fit: pattern, text, whether slashes are allowed.
    let mut retry: Option<(usize, usize, bool)> = None;
    loop {
        match (pattern.get(p), text.get(t)) {
            (Some(b'*'), _) => {
                let double = pattern.get(p + 1) == Some(&b'*');
                p += if double { 2 } else { 1 };
                retry = Some((p, t, double));
            }
            (Some(a), Some(b)) if a == b => (p, t) = (p + 1, t + 1),
            (None, None) => return true,
            _ => match retry {
                Some((behind, from, slashes)) if text.get(from).is_some_and(|&b| slashes || b != b'/') => {
                    (p, t) = (behind, from + 1);
                    retry = Some((behind, from + 1, slashes));
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, path, expect) in [
            ("/etc/cron.*/**", "/etc/cron.d/job", true),
            ("/etc/cron.*/**", "/etc/cron.d", false),
            ("/etc/crontab", "/etc/crontab2", false),
            ("~/.bashrc", "/home/eve/.bashrc", true),
            ("~/.bashrc", "/root/.bashrc", true),
            ("~/.bashrc", "/rootkit/.bashrc", false),
            ("~/.bashrc", "/home/eve/x/.bashrc", false),
            ("/usr/lib/*/security/pam_*", "/usr/lib/x/security/pam_unix.so", true),
            ("/usr/lib/*/security/pam_*", "/usr/lib/x/y/security/pam_unix.so", false),
        ] {
            assert_eq!(matches(pattern, path.as_bytes()), expect, "{pattern} {path}");
        }
    }
}
