//! Task profiles: how one kind of task is recognised and opened.
//!
//! The files (`images/profiles/*.toml`; `elf.toml` explains every key) are data: a new kind of task needs no code. A file
//! with variants becomes one [`Profile`] per variant, of the same name, in the file's order.
//!
//! *Invariant:* nothing is recognised by its name's extension alone: each condition looks at the content.
//!
//! Limits: a profile's file is at most 64 KiB, a folder at most 256 of them.

mod load;
mod recognise;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use load::ProfileError;
pub use load::file as load_file;
use recognise::Condition;
use serde::Deserialize;

/// The longest name a task's file gets in the guest, bytes (Linux's `NAME_MAX` is 255).
const NAME_LIMIT: usize = 200;

/// What a guest's network answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// There is no network card.
    None,
    /// Names and connections are refused.
    Refused,
    /// The Internet is played.
    #[default]
    Simulated,
    /// The real network, as far as the policy allows. No profile can ask for it.
    #[serde(skip)]
    Egress,
}

impl Network {
    /// As the network is told; none: there is none.
    #[must_use]
    pub const fn mode(self) -> Option<lava_net::Mode> {
        match self {
            Self::None => None,
            Self::Refused => Some(lava_net::Mode::Refuse),
            Self::Simulated => Some(lava_net::Mode::Simulated),
            Self::Egress => Some(lava_net::Mode::Egress),
        }
    }
}

/// How one kind of task is recognised and opened.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name; variants share it.
    pub name: String,
    /// What the analyst sees.
    pub description: String,
    /// Program and arguments; `{task}` stands for the file's path in the guest, `{name}` for its original name,
    /// `{password}` for the one that the user gave, or nothing.
    pub command: Vec<String>,
    /// Given to a file that came without one; may be empty.
    pub extension: String,
    /// The directory in the guest.
    pub directory: String,
    /// Permission bits of the file.
    pub mode: u32,
    /// The micro-VM's memory, MiB.
    pub memory_mib: u32,
    /// Programs that open such content and are not expected to start programs of their own.
    pub hosts: Vec<String>,
    /// Names of the programs that make code as they run (JIT): executing memory without a file is normal for them.
    pub jit: Vec<String>,
    /// A program, with arguments, that is run once in the profile's template, so that what it needs is in memory; may be empty.
    pub warm: Vec<String>,
    /// The content is an archive: the directory that the command unpacks it into, with `{task}` as in the command.
    pub unpacks: Option<String>,
    /// The guest image that has its programs; none: the ordinary one.
    pub image: Option<String>,
    /// It wants a screen.
    pub display: bool,
    /// Added to the environment of its programs.
    pub environment: BTreeMap<String, String>,
    /// What its guest's network answers, if the user does not say.
    pub network: Option<Network>,
    /// The highest wins.
    pub priority: i32,
    /// It opens its tasks with programs that a second disk brings.
    pub scenario_disk: bool,
    pub(crate) recognise: Vec<Condition>,
}

impl Profile {
    /// True if one of the conditions holds for a file of this name and content.
    #[must_use]
    pub fn recognises(&self, name: &str, content: &[u8]) -> bool {
        self.recognise.iter().any(|condition| condition.holds(name, content))
    }

    /// Where a file of this name is put in the guest. The name is reduced to one harmless path component.
    #[must_use]
    pub fn guest_path(&self, name: &str) -> String {
        // An address is opened through a page of ours, whatever it ends with.
        let base = if lava_event::is_address(name) { "address" } else { name.rsplit('/').next().unwrap_or_default() };
        let mut base: String = base.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
        while base.len() > NAME_LIMIT {
            base.pop();
        }
        if matches!(base.as_str(), "" | "." | "..") {
            base = "task".to_owned();
        }
        if !self.extension.is_empty() && Path::new(&base).extension().is_none() {
            base = format!("{base}.{}", self.extension);
        }
        format!("{}/{base}", self.directory.trim_end_matches('/'))
    }

    /// The same with a password in the place of `{password}`.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        for word in &mut self.command {
            *word = word.replace("{password}", password);
        }
        self
    }

    /// The directory that the content of a file at `path` is unpacked into, if it is an archive.
    #[must_use]
    pub fn unpacked(&self, path: &str) -> Option<String> {
        self.unpacks.as_ref().map(|directory| directory.replace("{task}", path))
    }

    /// The command with its placeholders filled in, as the launcher in the guest does it.
    #[must_use]
    pub fn command_for(&self, path: &str, name: &str) -> Vec<String> {
        let fill = |word: &String| if word == "{name}" { name.to_owned() } else { word.replace("{task}", path) };
        self.command.iter().map(fill).collect()
    }
}

/// All profiles, the highest priority first.
#[derive(Clone, Debug, Default)]
pub struct Profiles {
    profiles: Vec<Profile>,
}

impl Profiles {
    /// Reads every `*.toml` of a folder.
    ///
    /// # Errors
    /// [`ProfileError`] names the file and what to change in it; so does a folder without a profile.
    pub fn load(folder: &Path) -> Result<Self, ProfileError> {
        let profiles = load::folder(folder)?;
        if profiles.is_empty() {
            return Err(ProfileError::Empty { path: PathBuf::from(folder) });
        }
        Ok(Self::new(profiles))
    }

    /// The same with a password in the place of `{password}`.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        Self { profiles: self.profiles.into_iter().map(|profile| profile.with_password(password)).collect() }
    }

    fn new(mut profiles: Vec<Profile>) -> Self {
        // Stable: variants stay in their file's order.
        profiles.sort_by_key(|profile| std::cmp::Reverse(profile.priority));
        Self { profiles }
    }

    /// The profile that fits a file. `content` is the whole file (a ZIP archive's directory is at its end).
    #[must_use]
    pub fn recognise(&self, name: &str, content: &[u8]) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.recognises(name, content))
    }

    /// The profile the user asked for by name: of its variants the one that fits, else the first.
    #[must_use]
    pub fn named(&self, profile: &str, name: &str, content: &[u8]) -> Option<&Profile> {
        let mut variants = self.profiles.iter().filter(|known| known.name == profile);
        variants.clone().find(|known| known.recognises(name, content)).or_else(|| variants.next())
    }

    /// All of them, variants too.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.profiles.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Profiles {
        Profiles::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/profiles")).expect("shipped profiles")
    }

    fn zip(entry: &str) -> Vec<u8> {
        let (name, len) = (entry.as_bytes(), u16::try_from(entry.len()).expect("short"));
        let mut out = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        out.extend(len.to_le_bytes());
        out.extend([0; 2]);
        out.extend(name);
        let start = u32::try_from(out.len()).expect("short");
        out.extend(b"PK\x01\x02");
        out.extend([0; 24]);
        out.extend(len.to_le_bytes());
        out.extend([0; 16]);
        out.extend(name);
        let size = u32::try_from(out.len()).expect("short") - start;
        out.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
        out.extend(size.to_le_bytes());
        out.extend(start.to_le_bytes());
        out.extend([0; 2]);
        out
    }

    fn check(name: &str, content: &[u8], expected: Option<(&str, &str)>) {
        let profiles = shipped();
        let found = profiles.recognise(name, content).map(|p| (p.name.as_str(), p.command[0].as_str()));
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn content_decides_and_the_extension_alone_does_not() {
        check("a.jar", b"\x7fELF\x02\x01\x01", Some(("elf", "{task}")));
        check("x", &zip("META-INF/MANIFEST.MF"), Some(("jar", "/usr/bin/java")));
        check("x.jar", &zip("other"), Some(("archive", "/usr/bin/7zz")));
        check("x.jar", b"PK\x03\x04", Some(("archive", "/usr/bin/7zz")));
        check("x", b"#!/usr/bin/env python3\n", Some(("script", "{task}")));
        check("x.py", b"import os\n", Some(("script", "/usr/bin/python3")));
        check("x.py", b"\0\xff", None);
        check("x", b"import os\n", None);
        check("x.pl", b"use strict;\n", Some(("script", "/usr/bin/perl")));
        check("x.exe", b"%PDF-1.7\n", Some(("document", "/usr/bin/pdftoppm")));
        check("x.pdf", b"MZ", None);
        check("x.tar", &[&[0; 257], &b"ustar\x0000"[..]].concat(), Some(("archive", "/usr/bin/7zz")));
        check("x", b"BZh91AY", None);
        check("x.bz2", b"BZh91AY", Some(("archive", "/usr/bin/7zz")));
    }

    #[test]
    fn documents_and_pages_are_known_by_content_and_name_their_image() {
        check("x", &zip("word/document.xml"), Some(("office", "/usr/lib/libreoffice/program/soffice.bin")));
        check("x.zip", &zip("META-INF/manifest.xml"), Some(("office", "/usr/lib/libreoffice/program/soffice.bin")));
        check(
            "x.xls",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
            Some(("office", "/usr/lib/libreoffice/program/soffice.bin")),
        );
        check("x.msi", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", None);
        check("x.doc", b"{\\rtf1 }", Some(("office", "/usr/lib/libreoffice/program/soffice.bin")));
        check("x.docx", b"text", None);
        check("x", b"<!DOCTYPE html><p>", Some(("web", "/usr/lib/firefox-esr/firefox-esr")));
        check("x.htm", b"<p>", Some(("web", "/usr/lib/firefox-esr/firefox-esr")));
        check("x", b"<p>", None);
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images");
        for profile in shipped().iter() {
            if let Some(image) = &profile.image {
                assert!(recipes.join(format!("{image}.toml")).is_file(), "{}: {image}", profile.name);
            }
        }
    }

    #[test]
    fn an_archive_is_unpacked_beside_itself_with_the_password() {
        let archive = shipped().with_password("a b").named("archive", "", b"").expect("archive").clone();
        assert_eq!(archive.command_for("/t", "n"), ["/usr/bin/7zz", "x", "-y", "-bd", "-pa b", "-o/t.d", "/t"]);
        assert_eq!(archive.unpacked("/t").as_deref(), Some("/t.d"));
        assert_eq!(shipped().named("archive", "", b"").expect("archive").clone().with_password("").command[4], "-p");
    }

    #[test]
    fn a_profile_can_say_what_its_network_is() {
        let text = |network: &str| {
            format!(
                "name='x'\ndescription=''\nrecognise=[{{text=true}}]\ncommand=['{{task}}']\ndirectory='/'\nmode='0644'\n\
                 memory_mib=512\n{network}"
            )
        };
        let network = |line| load::parse(Path::new("x.toml"), &text(line)).map(|profiles| profiles[0].network);
        assert_eq!(network("").expect("profile"), None);
        assert_eq!(network("network='none'").expect("profile").map(Network::mode), Some(None));
        assert_eq!(network("network='simulated'").expect("profile"), Some(Network::Simulated));
        assert!(network("network='egress'").is_err());
    }

    #[test]
    fn a_profile_is_had_by_name() {
        let profiles = shipped();
        assert_eq!(profiles.named("script", "x.py", b"1").expect("script").command[0], "/usr/bin/python3");
        assert_eq!(profiles.named("script", "x", b"\0").expect("script").command[0], "{task}");
        assert!(profiles.named("nothing", "x", b"").is_none());
    }

    #[test]
    fn a_name_becomes_one_path_component() {
        let profiles = shipped();
        let jar = profiles.named("jar", "", b"").expect("jar");
        assert_eq!(jar.guest_path("../../etc/x"), "/home/user/x.jar");
        assert_eq!(jar.guest_path(".."), "/home/user/task.jar");
        assert_eq!(
            shipped().named("web", "", b"").expect("web").guest_path("http://x/y.sh"),
            "/home/user/address.html"
        );
        assert_eq!(jar.guest_path("a\nb.jar"), "/home/user/a_b.jar");
        assert!(jar.guest_path(&"ü".repeat(500)).len() < 230);
        assert_eq!(jar.command_for("/t", "n"), ["/usr/bin/java", "-jar", "/t"]);
    }

    proptest::proptest! {
        #[test]
        fn hostile_content_is_looked_at_without_panic(name: String, mut content: Vec<u8>, kind in 0u8..3) {
            if kind == 1 { content.splice(0..0, *b"#!"); }
            if kind == 2 { content.extend(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f\x01\0\0\0\0\0"); content.splice(0..0, *b"PK\x03\x04"); }
            let _ = shipped().recognise(&name, &content);
        }
    }
}
