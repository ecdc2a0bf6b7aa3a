//! What an archive held, opened: each file that a profile recognises is a task of its own, in the same micro-VM, one after the other.
//!
//! The launcher reads the files for us (`images/launcher/src/members.rs`). It is in the guest: what it says is taken for content to
//! recognise and to keep, and for paths to name in events, and for nothing else.
//!
//! Limits: [`MAX_OPENED`] files are opened, archives within archives [`MAX_DEPTH`] deep. All share the time of the task; one that
//! does not end leaves none to the others, which is told.

use std::collections::VecDeque;
use std::path::Path;

use super::{
    Artifact, Duration, End, Event, Instant, Kind, Life, Next, Options, Outlet, Produced, Said, Source, Task, header,
    json, timeout,
};
use crate::machine::port::{MAX_FILES, Member};
use crate::profile::Profile;

/// Files of archives that are opened.
const MAX_OPENED: usize = 32;
/// Archives within archives.
const MAX_DEPTH: u32 = 4;
/// Bytes of one directory's files that are held; the launcher sends no more (`images/launcher/src/members.rs`: 64 MiB, one file of 32 MiB
/// that begins before, and 64 KiB of each of the others).
const MAX_HELD: usize = 128 << 20;

/// A directory that an archive was unpacked into, and how many archives lie around it.
struct Folder {
    directory: String,
    depth: u32,
}

impl Life {
    /// Opens what the unpacked archive held. `code` is what its program ended with.
    pub(super) fn open_members(
        &mut self,
        task: &Task,
        options: &Options,
        directory: String,
        code: Option<i64>,
        (limit, deadline): (Duration, Instant),
    ) -> Result<(), End> {
        self.judge_unpacking(&task.name, code);
        let mut folders = VecDeque::from([Folder { directory, depth: 1 }]);
        let mut opened = 0;
        while let Some(folder) = folders.pop_front() {
            for member in self.list(&folder.directory, limit, deadline)? {
                let Some(profile) = self.meet(task, &member, &folder, opened) else { continue };
                opened += 1;
                let name = name(&member.path);
                let mut header = header(name, &member.path, &profile, options);
                header["existing"] = true.into();
                let code = self.open(&header, &[], limit, deadline)?;
                if let Some(directory) = profile.unpacked(&member.path) {
                    self.judge_unpacking(name, code);
                    folders.push_back(Folder { directory, depth: folder.depth + 1 });
                }
            }
        }
        if opened == 0 {
            self.machine
                .report
                .unopened
                .get_or_insert_with(|| format!("no profile opens anything of what {} holds", task.name));
        }
        Ok(())
    }

    /// An archive that could not be unpacked hides what is in it.
    fn judge_unpacking(&mut self, name: &str, code: Option<i64>) {
        if code != Some(0) {
            let ended = code.map_or("was killed".to_owned(), |code| format!("ended with {code}"));
            let why = format!(
                "{name} could not be unpacked, or not whole (its program {ended}): a protected one needs --password"
            );
            self.machine.report.unopened.get_or_insert_with(|| why.clone());
            self.fault(why);
        }
    }

    /// Tells the file, and how it is opened or why not.
    fn meet(&mut self, task: &Task, member: &Member, folder: &Folder, opened: usize) -> Option<Profile> {
        let name = name(&member.path);
        let whole = member.content.len() as u64 == member.size;
        let content = whole.then(|| Artifact::new(&member.content));
        let found = match task.members.recognise(name, &member.content) {
            _ if member.size == 0 => Err("it is empty".to_owned()),
            None => Err("no profile recognises it".to_owned()),
            Some(Profile { image: Some(image), .. }) if task.profile.image.as_ref() != Some(image) => Err(format!(
                "its programs are in another image: open it by itself, or the archive with --image {image}"
            )),
            Some(_) if opened >= MAX_OPENED => Err(format!("{MAX_OPENED} files were opened before")),
            Some(profile) if profile.unpacks.is_some() && folder.depth >= MAX_DEPTH => {
                Err(format!("it lies within {MAX_DEPTH} archives"))
            }
            Some(profile) => Ok(profile),
        };
        let profile = found.as_ref().ok();
        let kind = Kind::VmMember {
            path: member.path.as_str().into(),
            size: member.size,
            sha256: content.as_ref().map(|content| content.sha256),
            profile: profile.map(|profile| profile.name.clone()),
            command: profile.map(|profile| profile.command_for(&member.path, name)).unwrap_or_default(),
            hosts: profile.map(|profile| profile.hosts.clone()).unwrap_or_default(),
            jit: profile.map(|profile| profile.jit.clone()).unwrap_or_default(),
            unpacks: profile.and_then(|profile| profile.unpacked(&member.path)),
            skipped: found.as_ref().err().cloned(),
        };
        let event = Event::new(self.machine.feeder.now_ns(), Source::Microvisor, kind);
        self.machine.feeder.emit(Produced { event, artifacts: content.into_iter().collect() });
        found.ok().cloned()
    }

    /// The files below a directory of the guest.
    fn list(&mut self, directory: &str, limit: Duration, deadline: Instant) -> Result<Vec<Member>, End> {
        self.say(&json!({ "members": directory }), &[])?;
        let (mut members, mut held) = (Vec::new(), 0usize);
        loop {
            match self.next(deadline)? {
                // What comes beyond these bounds is not the launcher's.
                Next::Said(Said::Member(member))
                    if Path::new(&member.path).starts_with(directory)
                        && members.len() < MAX_FILES
                        && held.saturating_add(member.content.len()) <= MAX_HELD =>
                {
                    held += member.content.len();
                    members.push(member);
                }
                Next::Said(Said::Members(left_out)) => {
                    if left_out > 0 {
                        self.fault(format!("{left_out} more files in {directory} were not looked at"));
                    }
                    return Ok(members);
                }
                Next::TimeIsUp => return Err(timeout(limit)),
                Next::Said(_) | Next::Reset => {}
            }
        }
    }
}

/// What stands behind the last slash.
fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
