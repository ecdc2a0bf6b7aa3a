//! What a task does to the machine it is on, act by act: discovery, credentials, hiding, disabling, collecting, sending away.
//!
//! The acts stand in `data/acts.toml`, which explains its keys. An act is one event of a process that descends from the task. What was
//! done to a file is *observed*; what a program was run for is *inferred* from its name and its arguments.
//!
//! Limits: a program under another name than its own, and what a program does without being asked on its command line, is seen
//! only where it touches files that are watched. What a shell does by itself (`history -c`, `ulimit`) makes no event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use lava_event::{Access, Event, FileType, Grade, GuestText, Kind, Severity, Stage};
use serde::Deserialize;

use super::{Behaviour, Context, Hit};
use crate::{About, glob, path};

/// Most arguments and variables of a program that are looked at.
const MAX_WORDS: usize = 1024;

#[derive(Deserialize, Default)]
struct File {
    lists: BTreeMap<String, Vec<String>>,
    act: Vec<Row>,
}

/// Patterns, or `@` and the name of a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    List(String),
    Words(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    technique: String,
    stage: Stage,
    severity: Severity,
    what: String,
    why: String,
    false_positives: String,
    run: Option<Words>,
    path: Option<Words>,
    #[serde(default)]
    arguments: Vec<Words>,
    #[serde(default)]
    bare: bool,
    environment: Option<Words>,
    read: Option<Words>,
    write: Option<Words>,
    cut: Option<Words>,
    remove: Option<Words>,
    by: Option<Words>,
    not_by: Option<Words>,
    #[serde(default)]
    packages: bool,
    mode: Option<String>,
    xattr: Option<Words>,
}

type Patterns = Vec<String>;

/// What an act is known by.
enum What {
    Run { names: Patterns, path: Patterns, arguments: Vec<Patterns>, bare: bool, environment: Patterns },
    File { how: How, paths: Patterns },
    Mode { bits: u32 },
    Xattr { names: Patterns },
}

/// What was done to a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Read,
    Write,
    Cut,
    Remove,
}

struct Act {
    about: &'static About,
    title: String,
    what: What,
    by: Patterns,
    not_by: Patterns,
    packages: bool,
}

// As in `asep.rs`: parsed once, and a table that does not parse is found by the test below.
static ACTS: LazyLock<Vec<Act>> = LazyLock::new(|| read(include_str!("../../data/acts.toml")).unwrap_or_default());

fn read(text: &str) -> Result<Vec<Act>, String> {
    let File { lists, act } = toml::from_str(text).map_err(|error| error.to_string())?;
    act.into_iter().map(|row| compile(row, &lists)).collect()
}

fn compile(row: Row, lists: &BTreeMap<String, Patterns>) -> Result<Act, String> {
    let wrong = |what: &str| format!("{}: {what}", row.id);
    let list = |words: &Words| match words {
        Words::Words(words) => Ok(words.clone()),
        Words::List(name) => {
            let known = name.strip_prefix('@').and_then(|name| lists.get(name));
            known.cloned().ok_or_else(|| wrong(&format!("no list {name}")))
        }
    };
    let optional = |words: &Option<Words>| words.as_ref().map_or(Ok(Vec::new()), list);
    let runs = row.run.is_some() || row.path.is_some() || row.environment.is_some();
    let files = [(How::Read, &row.read), (How::Write, &row.write), (How::Cut, &row.cut), (How::Remove, &row.remove)];
    let mut known = Vec::new();
    if runs {
        known.push(What::Run {
            names: optional(&row.run)?,
            path: optional(&row.path)?,
            arguments: row.arguments.iter().map(list).collect::<Result<_, _>>()?,
            bare: row.bare,
            environment: optional(&row.environment)?,
        });
    }
    for (how, words) in files {
        if let Some(words) = words {
            known.push(What::File { how, paths: list(words)? });
        }
    }
    if let Some(mode) = &row.mode {
        known.push(What::Mode { bits: u32::from_str_radix(mode, 8).map_err(|_| wrong("mode is no octal number"))? });
    }
    if let Some(names) = &row.xattr {
        known.push(What::Xattr { names: list(names)? });
    }
    let (by, not_by) = (optional(&row.by)?, optional(&row.not_by)?);
    let (1, Some(what)) = (known.len(), known.pop()) else { return Err(wrong("an act is known by one kind of thing")) };
    let about = Box::leak(Box::new(About {
        id: row.id.leak(),
        technique: row.technique.leak(),
        stage: row.stage,
        severity: row.severity,
        why: row.why.leak(),
        false_positives: row.false_positives.leak(),
    }));
    Ok(Act { about, title: row.what, what, by, not_by, packages: row.packages })
}

/// A program's names: the last part of its path, and that without the digits of a version (`python3.11`, `python`).
fn names(path: &[u8]) -> [&[u8]; 2] {
    let base = path::base_name(path);
    let end = base.iter().rposition(|b| !b.is_ascii_digit() && *b != b'.').map_or(0, |last| last + 1);
    [base, base.get(..end).unwrap_or(base)]
}

fn any(patterns: &[String], text: &[u8]) -> bool {
    patterns.iter().any(|pattern| glob::matches(pattern, text))
}

/// True if nothing is asked for, or one of it fits.
fn fits(patterns: &[String], text: &[u8]) -> bool {
    patterns.is_empty() || any(patterns, text)
}

/// What of an event the acts are held against.
struct Seen<'a> {
    event: &'a Event,
    /// Names of the acting program; for an exec, of the new one: as it was asked for, and as the kernel loaded it.
    names: [[&'a [u8]; 2]; 2],
    file: Option<(How, &'a [u8])>,
}

impl<'a> Seen<'a> {
    fn of(event: &'a Event) -> Option<Self> {
        let exe = event.process.as_ref().map(|process| names(process.exe.bytes())).unwrap_or_default();
        let file = |how, path: &'a GuestText| Some((how, path.bytes()));
        let (asked, file) = match &event.kind {
            Kind::ProcessExec { path, .. } => (names(path.bytes()), None),
            Kind::FileOpen { path, access: Access::Read | Access::ReadWrite, .. } => (exe, file(How::Read, path)),
            Kind::FileCreate { path, what: FileType::Regular | FileType::Symlink, .. } => (exe, file(How::Write, path)),
            // Kernel settings and the like are written to, and have no type of their own.
            Kind::FileWrite { path, .. } => (exe, file(How::Write, path)),
            Kind::FileRename { to, .. } => (exe, file(How::Write, to)),
            Kind::FileTruncate { path, size: 0, .. } => (exe, file(How::Cut, path)),
            Kind::FileUnlink { path, .. } => (exe, file(How::Remove, path)),
            Kind::FileAttributes { .. } | Kind::FileXattr { removed: false, .. } => (exe, None),
            _ => return None,
        };
        Some(Self { event, names: [asked, exe], file })
    }

    /// What it was done with, as a title's end.
    fn shown(&self) -> String {
        let what = match &self.event.kind {
            Kind::ProcessExec { argv, .. } => {
                argv.iter().take(MAX_WORDS).map(GuestText::bytes).collect::<Vec<_>>().join(&b' ')
            }
            Kind::FileAttributes { path, .. } | Kind::FileXattr { path, .. } => path.bytes().to_vec(),
            _ => self.file.map_or_else(Vec::new, |(_, path)| path.to_vec()),
        };
        if what.is_empty() { String::new() } else { format!(": {}", path::shown(&what)) }
    }

    fn named(&self, patterns: &[String]) -> bool {
        patterns.is_empty() || self.names.iter().flatten().any(|name| any(patterns, name))
    }

    /// True if the act is this event's.
    fn is(&self, act: &Act) -> bool {
        match (&act.what, &self.event.kind) {
            (
                What::Run { names, path, arguments, bare, environment },
                Kind::ProcessExec { path: asked, argv, envp, cwd, .. },
            ) => {
                let words =
                    |group: &Patterns| argv.iter().skip(1).take(MAX_WORDS).any(|argument| any(group, argument.bytes()));
                self.named(names)
                    && (path.is_empty() || any(path, &path::resolve(cwd, asked)))
                    && arguments.iter().all(words)
                    && (!bare || argv.len() <= 1)
                    && (environment.is_empty()
                        || envp.iter().take(MAX_WORDS).any(|variable| any(environment, variable.bytes())))
            }
            (What::File { how, paths }, _) => {
                self.file.is_some_and(|(done, path)| done == *how && fits(paths, path))
                    && self.named(&act.by)
                    && (act.not_by.is_empty() || !self.named(&act.not_by))
            }
            (What::Mode { bits }, Kind::FileAttributes { file, mode: Some(mode), .. }) => {
                file.file_type() == FileType::Regular && mode & bits & !file.mode != 0
            }
            (What::Xattr { names }, Kind::FileXattr { name, .. }) => any(names, name.bytes()),
            _ => false,
        }
    }
}

/// The acts that were not seen yet, by their place in the table: each is told once, or a listing of every file would be told file by
/// file.
pub(super) struct Acts(BTreeSet<usize>);

impl Default for Acts {
    fn default() -> Self {
        Self((0..ACTS.len()).collect())
    }
}

impl Behaviour for Acts {
    fn about(&self) -> Vec<&'static About> {
        ACTS.iter().map(|act| act.about).collect()
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        if context.tainted_actor().is_none() {
            return;
        }
        let Some(seen) = Seen::of(context.event) else { return };
        let done: Vec<usize> =
            self.0.iter().copied().filter(|&at| ACTS.get(at).is_some_and(|act| seen.is(act))).collect();
        for at in done {
            let Some(act) = ACTS.get(at) else { continue };
            let title = format!("{} {}{}", context.program(), act.title, seen.shown());
            let mut hit = Hit::new(act.about, context, title, Vec::new());
            if matches!(act.what, What::Run { .. }) {
                hit.grade = Grade::Inferred;
            }
            // Done by a package, it may still be done by hand.
            if !(act.packages && hit.lower_if_packaged(context)) {
                self.0.remove(&at);
            }
            hits.push(hit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mode: u32) -> lava_event::FileId {
        lava_event::FileId { device: (254, 1), inode: 7, mode, uid: 0, gid: 0, size: 1, node: None }
    }

    fn event(exe: &str, kind: Kind) -> Event {
        let mut event = Event::new(1, lava_event::Source::Tap, kind);
        event.process = Some(lava_event::Process {
            pid: 9,
            tid: 9,
            start_ns: 9,
            ppid: 1,
            uid: 0,
            comm: "x".into(),
            exe: exe.into(),
        });
        event
    }

    fn run(exe: &str, argv: &[&str]) -> Event {
        let argv = argv.iter().map(|&word| word.into()).collect();
        let (path, cwd, file) = (exe.into(), "/tmp".into(), file(0o100_755));
        event(exe, Kind::ProcessExec { path, argv, envp: vec![], truncated: false, cwd, file, interpreter: None })
    }

    fn check(event: &Event, expect: &[&str]) {
        let seen = Seen::of(event).unwrap();
        let found: Vec<&str> = ACTS.iter().filter(|act| seen.is(act)).map(|act| act.about.id).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn the_table_is_whole() {
        let acts = read(include_str!("../../data/acts.toml")).unwrap();
        let mut techniques: Vec<_> = acts.iter().map(|act| act.about.technique).collect();
        techniques.sort_unstable();
        techniques.dedup();
        assert!(techniques.len() >= 60, "{}", techniques.len());
        let mut ids: Vec<_> = acts.iter().map(|act| act.about.id).collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|two| two[0] != two[1]), "two acts have the same id");
    }

    #[test]
    fn programs_by_name_and_arguments() {
        check(&run("/usr/bin/whoami", &["whoami"]), &["discovery.user"]);
        check(&run("/usr/bin/python3.11", &["python3", "/home/user/a.py"]), &[]);
        check(&run("/usr/bin/base64", &["base64", "-d"]), &["stealth.decode", "stealth.encode", "stealth.obfuscated"]);
        check(&run("/usr/sbin/auditctl", &["auditctl", "-D"]), &["impair.audit"]);
        check(&run("/usr/sbin/auditctl", &["auditctl", "-l"]), &[]);
        check(&run("/usr/bin/make", &["make", "-j2"]), &[]);
        let stop = ["systemctl", "stop", "rsyslog.service"];
        check(&run("/usr/bin/systemctl", &stop), &["impair.guards_stopped", "impact.stop_service"]);
        check(&run("/usr/bin/find", &["find", "/", "-perm", "-4000"]), &["discovery.files", "discovery.setuid_files"]);
        check(&run("/tmp/report.pdf.sh", &["/tmp/report.pdf.sh"]), &["stealth.name_double"]);
    }

    #[test]
    fn files_by_what_is_done_to_them() {
        let open = |path: &str| Kind::FileOpen { path: path.into(), file: file(0o100_644), access: Access::Read };
        check(&event("/usr/bin/cat", open("/etc/shadow")), &["discovery.accounts", "credentials.shadow"]);
        check(&event("/usr/sbin/cron", open("/etc/shadow")), &[]);
        check(&event("/usr/bin/ls", open("/etc/passwd")), &[]);
        let gone = |path: &str| Kind::FileUnlink { path: path.into(), file: file(0o100_644) };
        check(&event("/usr/bin/rm", gone("/home/user/.bash_history")), &["stealth.history_cleared"]);
        check(&event("/usr/bin/rm", gone("/home/user/notes")), &[]);
        let mode = |old, new| Kind::FileAttributes {
            path: "/tmp/a".into(),
            file: file(old),
            mode: Some(new),
            uid: None,
            gid: None,
        };
        let both = ["escalate.setuid_bit"];
        check(&event("/usr/bin/chmod", mode(0o100_755, 0o104_755)), &both);
        check(&event("/usr/bin/chmod", mode(0o104_755, 0o104_755)), &[]);
    }

    #[test]
    fn a_program_has_a_name_with_and_without_its_version() {
        for (path, expect) in [
            ("/usr/bin/python3.11", ["python3.11", "python"]),
            ("/usr/bin/7z", ["7z", "7z"]),
            ("/usr/bin/base64", ["base64", "base"]),
            ("", ["", ""]),
        ] {
            assert_eq!(names(path.as_bytes()), expect.map(str::as_bytes), "{path}");
        }
    }
}
