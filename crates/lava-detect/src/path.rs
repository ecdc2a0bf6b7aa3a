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

/// True for places that anybody may write to, and homes: where dropped programs lie.
pub(crate) fn is_drop_place(path: &[u8]) -> bool {
    [&b"/tmp/"[..], b"/dev/shm/", b"/var/tmp/", b"/home/", b"/root/", b"/run/user/", b"/memfd:"]
        .iter()
        .any(|place| path.starts_with(place))
}
