//! What an unpacked archive held: every regular file below a directory, told to the host with its bytes.
//!
//! The host decides by them which are opened, and how; this program understands none of it. Links are not followed and special
//! files are passed over.
//!
//! Limits: [`MAX_FILES`] files, [`MAX_DEPTH`] directories deep; of a file that is larger than [`WHOLE`], or comes when [`TOTAL`]
//! bytes were sent, the first [`HEAD`] bytes. A name that is no UTF-8 is left out, and counted.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

/// Files told; the host's reader knows the same figure.
const MAX_FILES: usize = 256;
/// Directories within directories that are gone through.
const MAX_DEPTH: usize = 16;
/// The largest file that is sent whole, bytes.
const WHOLE: u64 = 32 << 20;
/// Bytes sent of all files together before only heads are.
const TOTAL: u64 = 64 << 20;
/// What is sent of the others, bytes.
const HEAD: u64 = 64 << 10;

/// For each file, in the order of the paths, a line `{"member":PATH,"size":N,"sent":M}` and M bytes; then `{"members":LEFT_OUT}`.
pub fn tell(directory: &Path, to: &mut dyn Write) -> io::Result<()> {
    let (mut files, mut left_out) = (Vec::new(), 0);
    collect(directory, MAX_DEPTH, &mut files, &mut left_out);
    files.sort();
    let mut budget = TOTAL;
    for path in files {
        // Another process of the guest may have taken it away, or made a link of it.
        let Some((name, size, bytes)) = path.to_str().and_then(|name| read(&path, budget).map(|(s, b)| (name, s, b)))
        else {
            left_out += 1;
            continue;
        };
        budget = budget.saturating_sub(bytes.len() as u64);
        writeln!(to, "{}", json!({ "member": name, "sent": bytes.len(), "size": size }))?;
        to.write_all(&bytes)?;
    }
    writeln!(to, "{}", json!({ "members": left_out }))
}

/// A directory that can't be read has nothing: the host sees that nothing was told.
fn collect(directory: &Path, depth: usize, files: &mut Vec<PathBuf>, left_out: &mut usize) {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        match () {
            () if found.is_dir() && depth > 0 => collect(&path, depth - 1, files, left_out),
            () if found.is_file() && files.len() < MAX_FILES => files.push(path),
            () if found.is_dir() || found.is_file() => *left_out += 1,
            () => {}
        }
    }
}

/// The file's size, and its bytes as far as they are sent.
fn read(path: &Path, budget: u64) -> Option<(u64, Vec<u8>)> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let file = File::options().read(true).custom_flags(i32::try_from(flags).ok()?).open(path).ok()?;
    let size = file.metadata().ok().filter(fs::Metadata::is_file)?.len();
    let limit = if size <= WHOLE.min(budget) { size } else { HEAD };
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some((size, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_with_their_bytes_and_links_are_not_followed() {
        let place = tempfile::tempdir().expect("temporary directory");
        let (secret, folder) = (place.path().join("secret"), place.path().join("x.d"));
        fs::create_dir_all(folder.join("deep")).expect("folder");
        fs::write(&secret, "secret").expect("secret");
        fs::write(folder.join("deep/b\n.sh"), "{\"ready\":1}\n").expect("file");
        fs::write(folder.join("a"), "aa").expect("file");
        std::os::unix::fs::symlink(&secret, folder.join("link")).expect("link");
        let mut told = Vec::new();
        tell(&folder, &mut told).expect("told");
        let at = folder.display();
        let expected = format!(
            "{{\"member\":\"{at}/a\",\"sent\":2,\"size\":2}}\naa{{\"member\":\"{at}/deep/b\\n.sh\",\"sent\":12,\"size\":12}}\n\
             {{\"ready\":1}}\n{{\"members\":0}}\n"
        );
        assert_eq!(String::from_utf8(told).expect("text"), expected);
        let mut told = Vec::new();
        tell(&place.path().join("none"), &mut told).expect("told");
        assert_eq!(told, b"{\"members\":0}\n");
    }

    #[test]
    fn what_is_too_much_is_cut_and_counted() {
        let place = tempfile::tempdir().expect("temporary directory");
        let large = File::create(place.path().join("large")).expect("file");
        large.set_len(WHOLE + 1).expect("sparse");
        assert_eq!(read(&place.path().join("large"), TOTAL).map(|(s, b)| (s, b.len() as u64)), Some((WHOLE + 1, HEAD)));
        for number in 0..MAX_FILES + 3 {
            fs::write(place.path().join(format!("n{number}")), "").expect("file");
        }
        let mut told = Vec::new();
        tell(place.path(), &mut told).expect("told");
        assert!(told.ends_with(b"{\"members\":4}\n"), "one of the many and the large one make four too many");
    }
}
