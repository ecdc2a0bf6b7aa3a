//! Making a bundle.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use lava_event::Sha256;
use sha2::Digest;
use tempfile::NamedTempFile;

use super::key::Signer;
use super::layout::{self, Member};
use super::list::{List, Listed, MAX_LIST, MAX_TOTAL, is_plain};
use super::{LIST, SIGNATURE, head};
use crate::{Error, Session, files};

/// Ends of names that are no part of a session: what is being written, and a running guest's disk.
const NOT_TAKEN: [&str; 2] = [".part", ".overlay"];

/// What was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Its Merkle root.
    pub root: Sha256,
    /// Number of its members.
    pub members: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Files that were not taken: links, devices, and names with other characters than letters, digits, `-`, `_` and `.`.
    pub left_out: Vec<String>,
}

/// Writes everything in a session's folder into one signed file. `out` must not exist; it is there when it is whole.
///
/// # Errors
/// If the session was changed after it was written (a signature would hide that), or the system refuses.
pub fn write(session: &Session, signer: &Signer, out: &Path) -> Result<Written, Error> {
    let report = session.verify_chain()?;
    if let Some(problem) = report.problems.iter().find(|problem| problem.tampering) {
        return Err(Error::Tampered { path: session.dir().to_path_buf(), problem: problem.to_string() });
    }
    if out.symlink_metadata().is_ok() {
        return Err(Error::Exists(out.to_path_buf()));
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = || NamedTempFile::new_in(folder).map_err(|error| Error::io("create", out, error));
    let (names, left_out) = names(session.dir())?;
    let mut packed = temporary()?;
    let members = pack(session, &names, packed.as_file_mut(), out)?;
    let written_by = concat!("lava ", env!("CARGO_PKG_VERSION")).to_owned();
    let list = List::new(session.manifest().session.clone(), written_by, signer.public().base64(), members);
    let mut whole = temporary()?;
    let bytes = assemble(&list, signer, session, packed.as_file_mut(), whole.as_file_mut(), out)?;
    let kept = whole.persist_noclobber(out).map_err(|error| Error::io("create", out, error.error))?;
    kept.sync_all().map_err(|error| Error::io("write", out, error))?;
    Ok(Written { root: list.root, members: list.members.len() as u64, bytes, left_out })
}

/// The names of a folder's files, sorted; and those that are not taken.
fn names(dir: &Path) -> Result<(Vec<String>, Vec<String>), Error> {
    let (mut taken, mut left_out, mut folders) = (Vec::new(), Vec::new(), vec![String::new()]);
    while let Some(below) = folders.pop() {
        let path = dir.join(&below);
        for entry in fs::read_dir(&path).map_err(|error| Error::io("read", &path, error))? {
            let entry = entry.map_err(|error| Error::io("read", &path, error))?;
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(|error| Error::io("read", &entry.path(), error))?;
            let ours = [LIST, SIGNATURE].contains(&name.as_str()) || NOT_TAKEN.iter().any(|end| name.ends_with(end));
            match () {
                () if kind.is_dir() && is_plain(&name) => folders.push(format!("{name}/")),
                () if kind.is_file() && is_plain(&name) && !ours => taken.push(name),
                () if ours => {}
                () => left_out.push(name),
            }
        }
    }
    taken.sort();
    left_out.sort();
    Ok((taken, left_out))
}

/// Counts and hashes what goes through.
struct Measured<W> {
    to: W,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.to.write_all(bytes)?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// Deflates each file into `to`, one behind the other.
fn pack(session: &Session, names: &[String], to: &mut File, out: &Path) -> Result<Vec<Listed>, Error> {
    let mut to = BufWriter::new(to);
    let mut members = Vec::new();
    let (mut length, mut total) = (0, 0u64);
    for name in names {
        // Gone since the folder was listed: it was none that stays.
        let Some(mut file) = session.place().open(name)? else { continue };
        let listed =
            pack_one(name, &mut file, &mut to).map_err(|error| Error::io("pack", &session.dir().join(name), error))?;
        total = total.saturating_add(listed.member.size);
        // Two lines: hashes, name, numbers.
        length += name.len() + 220;
        if length > MAX_LIST || total > MAX_TOTAL {
            let problem = format!("too much for one bundle: {} files, {total} bytes", members.len());
            return Err(Error::Malformed { path: session.dir().to_path_buf(), problem });
        }
        members.push(listed);
    }
    to.flush().map_err(|error| Error::io("write", out, error))?;
    Ok(members)
}

fn pack_one(name: &str, file: &mut dyn Read, to: &mut impl Write) -> std::io::Result<Listed> {
    let measured = Measured { to, hasher: sha2::Sha256::new(), bytes: 0 };
    let mut encoder = DeflateEncoder::new(measured, Compression::default());
    let (mut hasher, mut crc, mut size, mut failed) = (sha2::Sha256::new(), Crc::new(), 0u64, Ok(()));
    files::pieces(file, |piece| {
        hasher.update(piece);
        crc.update(piece);
        size += piece.len() as u64;
        if failed.is_ok() {
            failed = encoder.write_all(piece);
        }
    })?;
    failed?;
    let measured = encoder.finish()?;
    Ok(Listed {
        member: Member {
            name: name.to_owned(),
            method: layout::Method::Deflated,
            size,
            packed: measured.bytes,
            crc: crc.sum(),
        },
        sha256: Sha256(hasher.finalize().into()),
        packed_sha256: Sha256(measured.hasher.finalize().into()),
    })
}

/// List, signature, members, directory. Returns the bytes written.
fn assemble(
    list: &List,
    signer: &Signer,
    session: &Session,
    packed: &mut File,
    to: &mut File,
    out: &Path,
) -> Result<u64, Error> {
    let text = list.text();
    let trusted = head::trusted_comment(list, session.manifest().ended.as_deref());
    let refused = || Error::io("sign", out, std::io::Error::other("the key does not sign"));
    let signature = signer.sign(text.as_bytes(), &trusted).ok_or_else(refused)?;
    let write = || -> std::io::Result<u64> {
        packed.seek(SeekFrom::Start(0))?;
        let mut to = BufWriter::new(to);
        let heads = head::members(&text, &signature);
        for (member, content) in heads.iter().zip([&text, &signature]) {
            to.write_all(&member.local())?;
            to.write_all(content.as_bytes())?;
        }
        for listed in &list.members {
            to.write_all(&listed.member.local())?;
            std::io::copy(&mut Read::by_ref(packed).take(listed.member.packed), &mut to)?;
        }
        let members = || heads.iter().chain(list.members.iter().map(|listed| &listed.member));
        let tail = layout::tail(members());
        to.write_all(&tail)?;
        to.flush()?;
        Ok(members().map(Member::span).sum::<u64>() + tail.len() as u64)
    };
    write().map_err(|error| Error::io("write", out, error))
}
