//! What `debugfs` is told to do.
//!
//! One command a line. Words in quotation marks; one within is doubled (e2fsprogs, lib/ss/parse.c). Paths are absolute and lead through folders only:
//! deletions come from the deepest up, so that a link that stands where a folder was is gone before anything is made below.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use lava_event::FileType;

use super::plan::{Step, parents};
use crate::inode::Inode;
use crate::tree::Tree;

/// `debugfs` reads lines of so many bytes (debugfs.c: `BUFSIZ`, 8192), and a command has other words too.
const LONGEST: usize = 4096;
/// Where contents lie for it, beside the image.
const CONTENTS: &str = "contents";

/// Commands, and what they can't do.
#[derive(Default)]
pub(super) struct Script {
    /// What is deleted by its inode, as its name can't be written.
    pub(super) by_inode: Vec<u8>,
    pub(super) commands: Vec<u8>,
    pub(super) problems: Vec<String>,
}

struct Writer<'a> {
    before: &'a Tree,
    now: &'a Tree,
    folder: &'a Path,
    script: Script,
    /// Files written beside the image.
    files: usize,
    /// The name under which an inode of several names was put back, and how many it has now.
    names: BTreeMap<u32, (Vec<u8>, u16)>,
}

/// Writes the commands, and beside the image in `folder` the contents they need.
pub(super) fn write(steps: &[Step], before: &Tree, now: &Tree, folder: &Path) -> Result<Script, String> {
    fs::create_dir(folder.join(CONTENTS)).map_err(|error| error.to_string())?;
    let mut writer = Writer { before, now, folder, script: Script::default(), files: 0, names: BTreeMap::new() };
    for step in steps.iter().rev().filter(|step| step.takes_out()) {
        writer.take_out(step);
    }
    for step in steps.iter().filter(|step| step.entry.before.is_some()) {
        if let Err(why) = writer.make(step) {
            writer.problem(step, &why);
        }
    }
    // Last, as what is done in a folder changes its times.
    let mut folders: Vec<&[u8]> = steps.iter().flat_map(|step| parents(step.path())).collect();
    folders.sort_unstable();
    folders.dedup();
    let own = |path: &&[u8]| steps.iter().any(|step| step.path() == *path);
    for path in folders.into_iter().filter(|path| !own(path)) {
        writer.times_of_folder(path);
    }
    for step in steps.iter().rev().filter(|step| step.entry.before.is_some()) {
        if let Err(why) = writer.fields(step) {
            writer.problem(step, &why);
        }
    }
    Ok(writer.script)
}

impl Writer<'_> {
    fn problem(&mut self, step: &Step, why: &str) {
        self.script.problems.push(format!("{}: {why}", step.entry.path));
    }

    fn command(&mut self, words: &[&[u8]]) {
        self.script.commands.extend(words.join(&b' '));
        self.script.commands.push(b'\n');
    }

    fn take_out(&mut self, step: &Step) {
        let is_folder = step.entry.after.as_ref().is_some_and(|state| state.what == FileType::Directory);
        match (quoted(step.path()), is_folder) {
            (Ok(path), true) => self.command(&[b"rmdir", &path]),
            (Ok(path), false) => self.command(&[b"rm", &path]),
            (Err(_), true) => self.problem(step, "a folder whose name debugfs can't be told stays"),
            (Err(why), false) => match self.now.inode(step.path()) {
                Ok((inode, _)) if inode.links() == 1 => {
                    self.script.by_inode.extend(format!("clri <{}>\n", inode.number).into_bytes());
                }
                Ok(_) => self.problem(step, &format!("{why}, and its inode has other names")),
                Err(unread) => self.problem(step, &format!("{why}, and its inode: {unread}")),
            },
        }
    }

    /// Makes what was there, without its rights and times.
    fn make(&mut self, step: &Step) -> Result<(), String> {
        if !step.makes() {
            return Ok(());
        }
        let (path, quoted) = (step.path(), quoted(step.path())?);
        let (inode, _) = self.before.inode(path)?;
        let Some(state) = &step.entry.before else { return Ok(()) };
        if state.what != FileType::Directory && inode.links() > 1 {
            if let Some((first, names)) = self.names.get_mut(&inode.number) {
                *names += 1;
                let (first, names) = (self::quoted(first)?, names.to_string());
                self.command(&[b"ln", &first, &quoted]);
                self.field(&first, "links_count", &names);
                return Ok(());
            }
            self.names.insert(inode.number, (path.to_vec(), 1));
        }
        match state.what {
            FileType::Regular => {
                let file = self.content(path)?;
                self.command(&[b"write", file.as_bytes(), &quoted]);
            }
            FileType::Directory => self.command(&[b"mkdir", &quoted]),
            FileType::Symlink => {
                let target = state.target.as_ref().ok_or("where it pointed is not known")?;
                let target = self::quoted(target.bytes())?;
                self.command(&[b"symlink", &quoted, &target]);
            }
            FileType::CharacterDevice => self.device(path, "c", inode.device())?,
            FileType::BlockDevice => self.device(path, "b", inode.device())?,
            FileType::Fifo => self.node(path, b"p")?,
            FileType::Socket | FileType::Other => return Err("a socket is not put back".to_owned()),
        }
        Ok(())
    }

    fn device(&mut self, path: &[u8], kind: &str, (major, minor): (u32, u32)) -> Result<(), String> {
        self.node(path, format!("{kind} {major} {minor}").as_bytes())
    }

    /// `mknod` takes a name, not a path.
    fn node(&mut self, path: &[u8], what: &[u8]) -> Result<(), String> {
        let end = path.iter().rposition(|byte| *byte == b'/').ok_or("no path")?;
        let (folder, name) = (quoted(if end == 0 { b"/" } else { &path[..end] })?, quoted(&path[end + 1..])?);
        self.command(&[b"cd", &folder]);
        self.command(&[b"mknod", &name, what]);
        self.command(&[b"cd", b"/"]);
        Ok(())
    }

    /// Copies a file's content as it was; returns where it lies.
    fn content(&mut self, path: &[u8]) -> Result<String, String> {
        let metadata = self.before.find(path)?.ok_or("it is not there any more")?;
        let (name, mut file) = self.new_file()?;
        self.before.copy(path, &metadata, |piece| file.write_all(piece))?;
        Ok(name)
    }

    /// A file beside the image; its name is from the folder that `debugfs` runs in.
    fn new_file(&mut self) -> Result<(String, File), String> {
        self.files += 1;
        let name = format!("{CONTENTS}/{}", self.files);
        let file = File::create_new(self.folder.join(&name)).map_err(|error| format!("{name}: {error}"))?;
        Ok((name, file))
    }

    fn field(&mut self, path: &[u8], field: &str, value: &str) {
        self.command(&[b"set_inode_field", path, field.as_bytes(), value.as_bytes()]);
    }

    /// Rights, owner, extended attributes, flags, times, as they were.
    fn fields(&mut self, step: &Step) -> Result<(), String> {
        let (inode, xattrs) = self.before.inode(step.path())?;
        let path = quoted(step.path())?;
        if !step.makes() {
            // A folder that stays: what it has now and had not.
            let (_, now) = self.now.inode(step.path())?;
            for (name, _) in now.iter().filter(|(name, _)| !xattrs.iter().any(|(known, _)| known == name)) {
                let name = quoted(name)?;
                self.command(&[b"ea_rm", &path, &name]);
            }
        }
        for (name, value) in &xattrs {
            let (file, mut content) = self.new_file()?;
            content.write_all(value).map_err(|error| format!("{file}: {error}"))?;
            let name = quoted(name)?;
            self.command(&[b"ea_set", b"-f", file.as_bytes(), b"-r", &path, &name]);
        }
        self.field(&path, "mode", &format!("0{:o}", inode.mode()));
        self.field(&path, "uid", &inode.uid().to_string());
        self.field(&path, "gid", &inode.gid().to_string());
        // Made anew it has none but the one that says how its content lies.
        let flags = if step.makes() { inode.how_it_lies() } else { self.now.inode(step.path())?.0.other_flags() };
        if inode.user_flags() != 0 || !step.makes() {
            self.field(&path, "flags", &format!("{:#x}", flags | inode.user_flags()));
        }
        self.times(&path, &inode);
        Ok(())
    }

    /// What is done in a folder changes its times: if it is one that was there, they are set as they were.
    fn times_of_folder(&mut self, path: &[u8]) {
        if let (Ok((inode, _)), Ok(path)) = (self.before.inode(path), quoted(path)) {
            self.times(&path, &inode);
        }
    }

    fn times(&mut self, path: &[u8], inode: &Inode) {
        for (name, (seconds, extra)) in ["atime", "ctime", "mtime", "crtime"].into_iter().zip(inode.times()) {
            // An inode of 128 bytes has no time of creation.
            if name == "crtime" && seconds == 0 {
                continue;
            }
            self.field(path, name, &format!("@{seconds}"));
            self.field(path, &format!("{name}_extra"), &extra.to_string());
        }
    }
}

/// As a word of a command.
fn quoted(text: &[u8]) -> Result<Vec<u8>, String> {
    if text.len() > LONGEST || text.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)) {
        return Err("debugfs can't be told this name".to_owned());
    }
    let mut word = vec![b'"'];
    for &byte in text {
        word.extend(if byte == b'"' { &b"\"\""[..] } else { std::slice::from_ref(&byte) });
    }
    word.push(b'"');
    Ok(word)
}
