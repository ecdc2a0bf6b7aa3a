//! Undoing what a session changed in a file system: on a copy of the disk that it left, path by path.
//!
//! The tools of e2fsprogs do it, as no reader of ext4 writes: `e2fsck` replays the journal and makes the copy sound, `debugfs` takes out what
//! was added and puts back what was there before (`script`). What was changed and is no folder is taken out and written anew from the
//! disk as the session found it, so that nothing of the changed inode is left. Then `proof` reads the copy with a reader that shares no code
//! with these tools, and compares what is at each path with what was there before. What is outside the file system (boot code, partition
//! table, the gaps) is compared and put back byte by byte.
//!
//! # Limits
//! * What `inode` can't read (a kind of file system that our images do not have) can't be undone.
//! * A file that had several names gets those back as one file again that are undone together; others become files of their own.
//! * `debugfs` reads a line a command: a name with a line end in it can be deleted (by its inode, if that has no other name), not put back.
//! * A socket's name is not put back.
//!
//! *Invariants:* the copy is the only thing that is changed. The copy's file system is hostile: the caller runs the tools in a cage
//! ([`Tools`]). What they say is told and not believed.

mod plan;
mod proof;
mod script;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

pub use plan::{Action, action};
pub use proof::Proof;

use crate::disk::{self, Disk, NotRead, Place};
use crate::tree::Tree;
use crate::{Entry, Limits, compare};

/// The result's name in the folder that the work is done in: the whole disk.
pub const IMAGE: &str = "disk.raw";
/// The file system alone, on which the tools work: told of an offset, `e2fsck` forgets it after it has replayed a journal (1.47.0).
const FILE_SYSTEM: &str = "filesystem.raw";
/// Bytes copied or compared at once.
const PIECE: u64 = 1 << 20;
/// What is all zeroes in such a piece is left out of a copy.
const BLOCK: usize = 4096;
/// Bytes before a superblock: boot code may lie there.
const BOOT_BLOCK: u64 = 1024;

/// Runs the tools, in a cage.
pub trait Tools {
    /// Runs `program` (`e2fsck`, `debugfs`) with the folder that the work is done in as its current one, and `input` on its standard input. Returns its exit code,
    /// and what it said.
    ///
    /// # Errors
    /// If it did not run to its end.
    fn run(&self, program: &str, arguments: &[String], input: &[u8]) -> io::Result<(i32, String)>;
}

/// Why nothing was undone, or not all.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// A file of the host's.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A file system that can't be read.
    #[error("the file system {0}: {1}")]
    NotRead(&'static str, NotRead),
    /// One that can't be compared, or put back.
    #[error("{0}")]
    NotKnown(String),
    /// `e2fsck` can't make it sound.
    #[error("e2fsck could not make the file system sound (exit code {code}): {said}")]
    Unsound {
        /// Its exit code.
        code: i32,
        /// The end of what it said.
        said: String,
    },
}

/// What was done.
#[derive(Debug)]
pub struct Undone {
    /// Path by path, what is there now and what was there before.
    pub proofs: Vec<Proof>,
    /// Ranges outside the file system that were put back: start, bytes.
    pub outside: Vec<(u64, u64)>,
    /// What was not compared, and what the tools complained of.
    pub problems: Vec<String>,
}

/// Undoes, on a copy of the disk `after` the session, what `chosen` says of what is otherwise than `before` it; with `outside`, what is otherwise
/// outside the file system too. The result is [`IMAGE`] in `folder`, which is empty before.
///
/// # Errors
/// [`UndoError`]: there is no result then, or none of use.
pub fn undo<D: Disk + Clone + 'static>(
    (before, after): (&D, &D),
    folder: &Path,
    chosen: impl Fn(&Entry) -> bool,
    outside: bool,
    limits: Limits,
    tools: &dyn Tools,
) -> Result<Undone, UndoError> {
    let place = disk::find(before).map_err(|error| UndoError::NotRead("before the session", error))?;
    let work = Work { folder, place, tools, until: Instant::now() + limits.time };
    work.copy_out(after)?;
    // What the guest left may be in the middle of something: from here on it is sound, and what is told is what is there now.
    work.check("-fy", 1)?;
    let changes = compare(before.clone(), work.copy()?, Limits { kept: 0, ..limits }, |_| {});
    if changes.looked_at == 0 {
        return Err(UndoError::NotKnown(changes.problems.join("; ")));
    }
    let tree = |disk, when| Tree::open(disk, place, work.until).map_err(|error| UndoError::NotRead(when, error));
    let found = tree(before.clone().into(), "before the session")?;
    let steps = plan::steps(&changes, chosen);
    let mut problems = changes.problems;
    let script = script::write(&steps, &found, &tree(work.copy()?.into(), "after the session")?, folder);
    let script = script.map_err(UndoError::NotKnown)?;
    work.apply(&script)?;
    problems.extend(script.problems);
    work.check("-fy", 1)?;
    work.check("-fn", 0)?;
    let now = tree(work.copy()?.into(), "after undoing")?;
    let proofs = steps.iter().map(|step| proof::of(step, &found, &now)).collect();
    let outside = work.assemble(before, after, outside)?;
    Ok(Undone { proofs, outside, problems })
}

/// The copy of the file system, at the place where it has it on its disk.
struct Copy {
    file: File,
    start: u64,
}

impl Disk for Copy {
    fn size(&self) -> io::Result<u64> {
        Ok(self.start + self.file.metadata()?.len())
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let within = offset.checked_sub(self.start).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.file.read_exact_at(buffer, within)
    }
}

/// Where it is done.
struct Work<'a> {
    folder: &'a Path,
    place: Place,
    tools: &'a dyn Tools,
    until: Instant,
}

impl Work<'_> {
    fn copy(&self) -> Result<Copy, UndoError> {
        let file = File::open(self.folder.join(FILE_SYSTEM)).map_err(|error| io_error("opening the copy", error))?;
        Ok(Copy { file, start: self.place.start })
    }

    fn create(&self, name: &str, size: u64) -> Result<File, UndoError> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(self.folder.join(name));
        let sized = file.and_then(|file| file.set_len(size).map(|()| file));
        sized.map_err(|error| io_error("making the copy", error))
    }

    /// Copies the file system.
    fn copy_out(&self, after: &dyn Disk) -> Result<(), UndoError> {
        let file = self.create(FILE_SYSTEM, self.place.len)?;
        copy(after, self.place.start..self.place.start + self.place.len, &file, 0)
            .map_err(|error| io_error("making the copy", error))
    }

    fn tool(&self, program: &str, arguments: &[&str], input: &[u8]) -> Result<(i32, String), UndoError> {
        // From the folder, so that no name of the host's can mean something to them.
        let arguments: Vec<String> = arguments.iter().chain([&FILE_SYSTEM]).map(|one| (*one).to_owned()).collect();
        self.tools.run(program, &arguments, input).map_err(|error| io_error(program, error))
    }

    /// Runs `e2fsck`, which may answer up to `most`: 1 is that it has corrected something (e2fsck(8)).
    fn check(&self, how: &str, most: i32) -> Result<(), UndoError> {
        let (code, said) = self.tool("e2fsck", &[how], b"")?;
        if (0..=most).contains(&code) { Ok(()) } else { Err(UndoError::Unsound { code, said: tail(&said) }) }
    }

    fn apply(&self, script: &script::Script) -> Result<(), UndoError> {
        if !script.by_inode.is_empty() {
            self.tool("debugfs", &["-w", "-f", "-"], &script.by_inode)?;
            // It takes out names that lead to no inode any more.
            self.check("-fy", 1)?;
        }
        // What it complains of shows in what is there afterwards.
        self.tool("debugfs", &["-w", "-f", "-"], &script.commands)?;
        Ok(())
    }

    /// Puts the whole disk together. With `put_back`, what lies outside the file system is as before; returns what of it was otherwise.
    fn assemble(&self, before: &dyn Disk, after: &dyn Disk, put_back: bool) -> Result<Vec<(u64, u64)>, UndoError> {
        let failed = |error| io_error("putting the disk together", error);
        let size = after.size().map_err(failed)?;
        let file = self.create(IMAGE, size)?;
        let (start, end) = (self.place.start, self.place.start + self.place.len);
        copy(&self.copy()?, start..end, &file, start).map_err(failed)?;
        for part in [0..start, end..size] {
            copy(after, part.clone(), &file, part.start).map_err(failed)?;
        }
        if !put_back {
            return Ok(Vec::new());
        }
        let mut differing = Vec::new();
        for part in [0..start + BOOT_BLOCK.min(self.place.len), end..size] {
            put_back_part(before, part, &file, &mut differing).map_err(failed)?;
        }
        Ok(differing)
    }
}

/// Copies a range of a disk to a place in a new file; blocks of zeroes are holes.
fn copy(disk: &dyn Disk, range: Range<u64>, file: &File, to: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE as usize];
    let mut at = range.start;
    while at < range.end {
        let piece = &mut buffer[..PIECE.min(range.end - at) as usize];
        disk.read_at(at, piece)?;
        for (number, block) in piece.chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                file.write_all_at(block, to + (at - range.start) + (number * BLOCK) as u64)?;
            }
        }
        at += piece.len() as u64;
    }
    Ok(())
}

/// Puts a range back as it was; adds what was otherwise, one range for each piece, to `differing`.
fn put_back_part(before: &dyn Disk, range: Range<u64>, file: &File, differing: &mut Vec<(u64, u64)>) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let long = PIECE.min(range.end - at);
        let (mut old, mut new) = (vec![0; long as usize], vec![0; long as usize]);
        before.read_at(at, &mut old)?;
        file.read_exact_at(&mut new, at)?;
        let differ = |index: &usize| old.get(*index) != new.get(*index);
        if let (Some(first), Some(last)) = ((0..old.len()).find(differ), (0..old.len()).rfind(differ)) {
            file.write_all_at(&old, at)?;
            differing.push((at + first as u64, (last - first + 1) as u64));
        }
        at += long;
    }
    Ok(())
}

fn io_error(what: &str, source: io::Error) -> UndoError {
    UndoError::Io { what: what.to_owned(), source }
}

/// The last lines of what a tool said, in which there may be names of the guest's.
fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let text = lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join("; ");
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}
