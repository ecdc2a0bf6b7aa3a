//! What is usual: the acts that opening honest tasks of a profile was seen to lead to.
//!
//! [`Names`] makes what is named in events general, [`Done`] is an event in general terms, a [`Baseline`] is a set of these for one
//! profile, which is read from and written to a file that people review. [`Baseline::distance`] says how far from it an act is.
//!
//! *Invariant:* no I/O, no clock; the same events give the same file, byte by byte, in whatever order the sessions are learned.
//!
//! *Limits:* a file has at most [`MAX_FILE`] bytes and [`MAX_ACTS`] acts. A baseline tells what was seen, not what is harmless.
#![forbid(unsafe_code)]

mod act;
mod general;

use std::collections::{BTreeMap, BTreeSet};

use lava_event::Distance;
use serde::{Deserialize, Serialize};

pub use act::{Act, Done};
pub use general::Names;

/// Layout of the files; another is refused.
pub const VERSION: u32 = 1;
/// Longest file, bytes.
pub const MAX_FILE: usize = 4 << 20;
/// Most acts in a baseline.
pub const MAX_ACTS: usize = 50_000;

/// Baselines that come with LAVA: the profile, and the file.
const SHIPPED: [(&str, &str); 7] = [
    ("archive", include_str!("../../../images/baselines/archive.toml")),
    ("document", include_str!("../../../images/baselines/document.toml")),
    ("elf", include_str!("../../../images/baselines/elf.toml")),
    ("jar", include_str!("../../../images/baselines/jar.toml")),
    ("office", include_str!("../../../images/baselines/office.toml")),
    ("script", include_str!("../../../images/baselines/script.toml")),
    ("web", include_str!("../../../images/baselines/web.toml")),
];

/// The baseline that comes with LAVA for a profile: its file's text.
#[must_use]
pub fn shipped(profile: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(name, _)| *name == profile).map(|(_, text)| *text)
}

/// Why a text is no baseline.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// It is too long.
    #[error("it is longer than {MAX_FILE} bytes")]
    TooLong,
    /// It is no TOML, or not of this form; the message has line and column.
    #[error("{0}")]
    Form(Box<toml::de::Error>),
    /// It is for another version.
    #[error("its version is {0}, this LAVA reads version {VERSION}: learn it anew with `lava baseline learn`")]
    Version(u32),
    /// It has too many acts.
    #[error("it has more than {MAX_ACTS} acts: a profile that does so much has no baseline worth the name")]
    TooMany,
    /// It cannot be written as TOML.
    #[error("it cannot be written: {0}")]
    Write(#[from] toml::ser::Error),
}

/// What a baseline was learned from.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learned {
    /// Day or moment, as the caller gives it.
    pub date: String,
    /// Versions of LAVA that recorded the sessions.
    pub lava: BTreeSet<String>,
    /// The recipes (their hashes) of the guest images.
    pub recipes: BTreeSet<String>,
    /// Names of the tasks, once for each time one was opened; sorted.
    pub tasks: Vec<String>,
}

/// What was seen of a program: to what it did each kind of act.
type Acts = BTreeMap<Act, BTreeSet<String>>;

/// The acts that are usual for a profile.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    version: u32,
    profile: String,
    learned: Learned,
    /// By program.
    #[serde(default)]
    programs: BTreeMap<String, Acts>,
}

impl Baseline {
    /// A baseline that knows nothing yet.
    #[must_use]
    pub fn new(profile: &str, date: &str) -> Self {
        let learned = Learned { date: date.to_owned(), ..Learned::default() };
        Self { version: VERSION, profile: profile.to_owned(), learned, programs: BTreeMap::new() }
    }

    /// Reads a baseline file.
    ///
    /// # Errors
    /// If it is none, too large, or of another version.
    pub fn parse(text: &str) -> Result<Self, BaselineError> {
        if text.len() > MAX_FILE {
            return Err(BaselineError::TooLong);
        }
        let baseline: Self = toml::from_str(text).map_err(|error| BaselineError::Form(Box::new(error)))?;
        match (baseline.version, baseline.acts()) {
            (VERSION, ..=MAX_ACTS) => Ok(baseline),
            (VERSION, _) => Err(BaselineError::TooMany),
            (other, _) => Err(BaselineError::Version(other)),
        }
    }

    /// The file's text: sorted, an act a line.
    ///
    /// # Errors
    /// If it has no such form.
    pub fn to_text(&self) -> Result<String, BaselineError> {
        Ok(toml::to_string_pretty(self)?)
    }

    /// The profile that it is for.
    #[must_use]
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// What it was learned from.
    #[must_use]
    pub const fn learned(&self) -> &Learned {
        &self.learned
    }

    /// How many acts it knows.
    #[must_use]
    pub fn acts(&self) -> usize {
        self.programs.values().flat_map(BTreeMap::values).map(BTreeSet::len).sum()
    }

    /// Every act it knows, sorted: program, act, object.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Act, &str)> {
        let acts =
            self.programs.iter().flat_map(|(program, acts)| acts.iter().map(move |(act, of)| (program, act, of)));
        acts.flat_map(|(program, act, of)| of.iter().map(move |object| (program.as_str(), *act, object.as_str())))
    }

    /// Adds a session: where it comes from, and what its task did.
    ///
    /// # Errors
    /// If there are too many acts.
    pub fn learn(
        &mut self,
        lava: &str,
        recipe: Option<String>,
        task: &str,
        done: impl IntoIterator<Item = Done>,
    ) -> Result<(), BaselineError> {
        self.learned.lava.insert(lava.to_owned());
        self.learned.recipes.extend(recipe);
        let at = self.learned.tasks.partition_point(|known| known.as_str() <= task);
        self.learned.tasks.insert(at, task.to_owned());
        let mut acts = self.acts();
        for Done { program, act, object } in done {
            acts += usize::from(self.programs.entry(program).or_default().entry(act).or_default().insert(object));
            if acts > MAX_ACTS {
                return Err(BaselineError::TooMany);
            }
        }
        Ok(())
    }

    /// How far an act is from what is usual.
    #[must_use]
    pub fn distance(&self, done: &Done) -> Distance {
        let objects = |acts: &'_ Acts| acts.get(&done.act).is_some_and(|of| of.contains(&done.object));
        let Some(acts) = self.programs.get(&done.program) else {
            return if self.programs.values().any(objects) { Distance::Near } else { Distance::OtherProgram };
        };
        match acts.get(&done.act) {
            Some(of) if of.contains(&done.object) => Distance::Usual,
            _ if self.programs.values().any(objects) => Distance::Near,
            Some(of) if folder(&done.object).is_some_and(|folder| has_in(of, folder)) => Distance::Near,
            Some(_) => Distance::OtherObject,
            None => Distance::OtherAct,
        }
    }
}

/// The folder of a path, with its slash. A path that is not one alone (a command line, a pair) has none; nor has a hidden name: beside
/// which others it lies says nothing of it (`~/.profile`).
fn folder(object: &str) -> Option<&str> {
    let path = !object.contains(' ') && (object.starts_with('/') || object.starts_with('~'));
    let at = object.rfind('/').filter(|_| path)?;
    (!object[at + 1..].starts_with('.')).then(|| &object[..=at])
}

/// Whether one of them lies directly in that folder.
fn has_in(objects: &BTreeSet<String>, within: &str) -> bool {
    let from = objects.range::<str, _>((std::ops::Bound::Included(within), std::ops::Bound::Unbounded));
    from.take_while(|object| object.starts_with(within)).any(|object| folder(object) == Some(within))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(program: &str, act: Act, object: &str) -> Done {
        Done { program: program.into(), act, object: object.into() }
    }

    fn baseline() -> Baseline {
        let mut baseline = Baseline::new("script", "2026-11-25");
        let acts = [
            done("/usr/bin/dash", Act::Write, "~/checked"),
            done("/usr/bin/dash", Act::Read, "{task}"),
            done("/usr/bin/cat", Act::Read, "/etc/hostname"),
        ];
        baseline.learn("0.1.0", Some("99e7".into()), "check.sh", acts).unwrap();
        baseline
    }

    #[test]
    fn distances_are_those_of_the_document() {
        for (of, expect) in [
            (done("/usr/bin/dash", Act::Write, "~/checked"), Distance::Usual),
            (done("/usr/bin/dash", Act::Write, "~/other"), Distance::Near),
            (done("/usr/bin/dash", Act::Write, "~/.profile"), Distance::OtherObject),
            (done("/usr/bin/dash", Act::Read, "/etc/hostname"), Distance::Near),
            (done("/usr/bin/perl", Act::Read, "/etc/hostname"), Distance::Near),
            (done("/usr/bin/dash", Act::Write, "/etc/cron.d/x"), Distance::OtherObject),
            (done("/usr/bin/dash", Act::Write, "~/deeper/checked"), Distance::OtherObject),
            (done("/usr/bin/dash", Act::Connect, "tcp * 443"), Distance::OtherAct),
            (done("/tmp/.update", Act::Exec, "/tmp/.update"), Distance::OtherProgram),
        ] {
            assert_eq!(baseline().distance(&of), expect, "{of:?}");
        }
    }

    #[test]
    fn a_file_reads_back_and_the_order_of_sessions_does_not_matter() {
        let text = baseline().to_text().unwrap();
        assert_eq!(Baseline::parse(&text).unwrap(), baseline());
        let (mut a, mut b) = (Baseline::new("x", ""), Baseline::new("x", ""));
        let one = || [done("/bin/a", Act::Read, "/1"), done("/bin/b", Act::Exec, "b c")];
        let two = || [done("/bin/a", Act::Read, "/0")];
        a.learn("1", None, "one", one()).unwrap();
        a.learn("1", None, "two", two()).unwrap();
        b.learn("1", None, "two", two()).unwrap();
        b.learn("1", None, "one", one()).unwrap();
        assert_eq!(a.to_text().unwrap(), b.to_text().unwrap());
    }

    #[test]
    fn a_poisoned_file_is_an_error_that_says_where() {
        let good = baseline().to_text().unwrap();
        for (bad, says) in [
            (good.replace("version = 1", "version = 2"), "version is 2"),
            (good.replace("file.read", "file.everything"), "line "),
            (good.replace("profile = ", "profil = "), "line 2"),
            (format!("{good}\n[x"), "line "),
            (" ".repeat(MAX_FILE + 1), "longer than"),
            (String::new(), "version"),
        ] {
            let error = Baseline::parse(&bad).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
        let many: Vec<String> = (0..=MAX_ACTS).map(|n| format!("\"{n}\"")).collect();
        let many = good.replace("[\"/etc/hostname\"]", &format!("[{}]", many.join(",")));
        assert!(matches!(Baseline::parse(&many), Err(BaselineError::TooMany)));
    }
}
