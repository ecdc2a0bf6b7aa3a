//! Guest paths: resolved by their text alone (symbolic links are the guest's business), and shown.

use lava_event::GuestText;

/// Longest path that is shown, characters.
const SHOWN: usize = 160;

/// `path` seen from `cwd`, without `.`, `..` and doubled slashes.
pub(crate) fn resolve(cwd: &GuestText, path: &GuestText) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let base: &[u8] = if path.bytes().starts_with(b"/") { b"" } else { cwd.bytes() };
    for part in base.split(|&b| b == b'/').chain(path.bytes().split(|&b| b == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let mut out = Vec::with_capacity(path.bytes().len() + 1);
    for part in parts {
        out.push(b'/');
        out.extend_from_slice(part);
    }
    out
}

/// What stands behind the last slash.
pub(crate) fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

/// The text as it stands in a title: escaped and bounded.
pub(crate) fn shown(text: &[u8]) -> String {
    let cut = text.get(..SHOWN * 4).unwrap_or(text);
    let escaped = GuestText::from(cut.to_vec()).to_string();
    match escaped.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &escaped[..at]),
        None => escaped,
    }
}

/// True for a place where somebody who works openly puts no program: straight in a directory that all may write to, under a hidden
/// name, in memory, or among the system's own files.
pub(crate) fn is_covert(path: &[u8]) -> bool {
    let shared = [&b"/tmp/"[..], b"/dev/shm/", b"/var/tmp/"].iter().find_map(|place| path.strip_prefix(*place));
    if let Some(rest) = shared {
        return !rest.contains(&b'/') || is_hidden(rest);
    }
    let own =
        [&b"/home/"[..], b"/root/", b"/opt/", b"/srv/", b"/usr/local/"].iter().any(|place| path.starts_with(place));
    !own || is_hidden(path)
}

/// Hidden by custom: where developers' tools keep programs and scripts.
const CUSTOMARY: [&[u8]; 9] =
    [b".git", b".venv", b".tox", b".local", b".cargo", b".rustup", b".nvm", b".pyenv", b".bin"];

/// True if a part of the path begins with a dot, and not by custom.
fn is_hidden(path: &[u8]) -> bool {
    path.split(|&b| b == b'/').any(|part| part.starts_with(b".") && !CUSTOMARY.contains(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covert_places() {
        for path in ["/tmp/x", "/tmp/.d/x", "/dev/shm/a", "/home/user/.cache/x", "/memfd:x", "/usr/bin/x", "/etc/x", ""]
        {
            assert!(is_covert(path.as_bytes()), "{path}");
        }
        for path in [
            "/home/user/made.sh",
            "/home/user/r/.git/hooks/pre-commit",
            "/tmp/build/prog",
            "/opt/app/bin/app",
            "/root/p/a.out",
        ] {
            assert!(!is_covert(path.as_bytes()), "{path}");
        }
    }
}
