//! The marks of an attack that are fit to be looked for on other machines.
//!
//! Fit is what a finding that counts rests on, and what honest machines do not have: no address of a local network or made up by the
//! simulated one, no file that was there before the task, no place that programs customarily use, no service that everybody uses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lava_event::{DiskRegion, Sha256, Verdict};

use crate::stix::confidence;
use crate::stix::objects::is_domain;
use crate::summary::{About, Key, Summary, Thing, Weight, is_outside};

/// Marks of one kind.
const MANY: usize = 500;
/// A content of fewer bytes says nothing: others have the same.
const SMALL: u64 = 16;

/// A mark and what it rests on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mark<T> {
    pub(super) value: T,
    /// 0 to 100, as in STIX.
    pub(super) confidence: u8,
    /// The detectors whose findings rest on it, and their events; or why else.
    pub(super) why: String,
    /// The findings, by number.
    pub(super) findings: BTreeSet<usize>,
}

/// A content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sample {
    pub(super) sha256: Sha256,
    pub(super) size: u64,
    /// Where it lay, or how it was called.
    pub(super) path: String,
}

/// Boot code that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Boot {
    pub(super) region: DiskRegion,
    pub(super) before: Option<Sha256>,
    pub(super) after: Option<Sha256>,
}

/// All marks of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    pub(super) samples: Vec<Mark<Sample>>,
    /// Paths that the task made; `/home/*/` stands for any home.
    pub(super) paths: Vec<Mark<String>>,
    /// Those of them that were run.
    pub(super) programs: Vec<Mark<String>>,
    pub(super) addresses: Vec<Mark<IpAddr>>,
    pub(super) names: Vec<Mark<String>>,
    pub(super) modules: Vec<Mark<String>>,
    pub(super) boot: Vec<Mark<Boot>>,
    /// What an attack did, but is not fit to be looked for: to be looked at.
    pub(super) unfit: Vec<(String, &'static str)>,
}

impl Marks {
    /// The marks of a session with a threat.
    pub(super) fn of(summary: &Summary) -> Self {
        let mut marks = Self::default();
        let task = &summary.manifest.task;
        if summary.trace.verdict != Verdict::Clean {
            let sample = Sample { sha256: task.sha256, size: task.size, path: task.name.clone() };
            let why = format!("the file that was opened; verdict {}", crate::text::word(&summary.trace.verdict));
            marks.samples.push(Mark { value: sample, confidence: 80, why, findings: BTreeSet::new() });
        }
        for (key, thing) in &summary.things {
            let weight = summary.weight(thing);
            match (key, &thing.about) {
                (Key::File(path), About::File { .. }) if weight.is_some() => marks.file(summary, path, thing),
                (Key::Address(ip, ..), About::Address { made_up, .. }) if !made_up && is_outside(*ip) => {
                    marks.address(summary, *ip, thing);
                }
                (Key::Name(name), About::Name { by_task: true, .. }) if is_domain(name) => {
                    marks.name(summary, name, thing);
                }
                (Key::Module(name), _) if weight.is_some() && is_plain(name) => {
                    push(&mut marks.modules, mark(summary, thing, name.clone()));
                }
                (Key::Area(_, region), About::Area { before, after }) if weight.is_some() => {
                    let boot = Boot { region: *region, before: *before, after: *after };
                    push(&mut marks.boot, mark(summary, thing, boot));
                }
                _ => {}
            }
        }
        marks
    }

    fn file(&mut self, summary: &Summary, path: &str, thing: &Thing) {
        let About::File { contents, created, executed, .. } = &thing.about else { return };
        if !created {
            self.unfit.push((path.to_owned(), "was there before the task changed it"));
            return;
        }
        for content in contents.iter().filter(|content| content.size >= SMALL) {
            let sample = Sample { sha256: content.sha256, size: content.size, path: path.to_owned() };
            push(&mut self.samples, mark(summary, thing, sample));
        }
        let general = any_home(path);
        match unfit(&general) {
            Some(why) => self.unfit.push((path.to_owned(), why)),
            None => {
                push(&mut self.paths, mark(summary, thing, general.clone()));
                if *executed {
                    push(&mut self.programs, mark(summary, thing, general));
                }
            }
        }
    }

    fn address(&mut self, summary: &Summary, ip: IpAddr, thing: &Thing) {
        if RESOLVERS.contains(&ip.to_string().as_str()) {
            self.unfit.push((ip.to_string(), "a public resolver that everybody uses"));
        } else if !self.addresses.iter().any(|known| known.value == ip) {
            push(&mut self.addresses, mark(summary, thing, ip));
        }
    }

    fn name(&mut self, summary: &Summary, name: &str, thing: &Thing) {
        let name = name.to_ascii_lowercase();
        let below = |domain: &&str| name == **domain || name.ends_with(&format!(".{domain}"));
        if EVERYBODYS.iter().any(&below) {
            self.unfit.push((name, "a service that everybody uses: look who asked for it, do not block it"));
        } else if LOCAL.iter().any(below) {
            self.unfit.push((name, "a name of a local network"));
        } else {
            push(&mut self.names, mark(summary, thing, name));
        }
    }
}

fn push<T: PartialEq>(to: &mut Vec<Mark<T>>, mark: Mark<T>) {
    if to.len() < MANY && !to.iter().any(|known| known.value == mark.value) {
        to.push(mark);
    }
}

fn mark<T>(summary: &Summary, thing: &Thing, value: T) -> Mark<T> {
    let weight: Option<Weight> = summary.weight(thing);
    let counting = |n: &&usize| summary.findings.get(**n).is_some_and(|finding| finding.severity.counts());
    let findings: BTreeSet<usize> = thing.findings.iter().filter(counting).copied().collect();
    let said: BTreeSet<String> = findings
        .iter()
        .filter_map(|&n| summary.findings.get(n))
        .map(|finding| {
            let events: Vec<String> = finding.events.iter().take(3).map(ToString::to_string).collect();
            format!("{} (events {})", finding.detector, events.join(", "))
        })
        .collect();
    let why = match said.is_empty() {
        true => "the task of a session with a threat reached for it; no finding rests on it".to_owned(),
        false => said.into_iter().collect::<Vec<_>>().join("; "),
    };
    Mark { value, confidence: confidence(weight), why, findings }
}

/// `/home/user/x` is `/home/*/x` on other machines.
fn any_home(path: &str) -> String {
    match path.strip_prefix("/home/").and_then(|rest| rest.split_once('/')) {
        Some((_, rest)) => format!("/home/*/{rest}"),
        None => path.to_owned(),
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Why a path that the task made is not one to look for.
fn unfit(path: &str) -> Option<&'static str> {
    let rest = path.strip_prefix("/home/*").unwrap_or(path);
    let name = path.rsplit('/').next().unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+@,=: ".contains(&b);
    if !rest.starts_with('/') || !rest.bytes().all(plain) || rest.len() > 500 {
        return Some("has characters that rules of some tools can't hold");
    }
    if name.len() < 3 || path.matches('/').count() < 2 {
        return Some("too short to mean anything");
    }
    if PROGRAMS.iter().any(|folder| path.starts_with(folder)) {
        return Some("lies where distributions put programs: the hash tells, the name does not");
    }
    if TRANSIENT.iter().any(|folder| path.starts_with(folder)) {
        return Some("lies where honest programs make files of any name");
    }
    if CUSTOMARY.contains(&path) || CUSTOMARY_NAMES.contains(&name) {
        return Some("a file that honest machines have too: look at what is in it");
    }
    let random = name.strip_prefix("tmp").map(|rest| rest.trim_start_matches(['.', '_', '-']));
    if random.is_some_and(|rest| rest.len() >= 6 && rest.bytes().all(|b| b.is_ascii_alphanumeric())) {
        return Some("looks like a temporary name, another one each time");
    }
    None
}

const PROGRAMS: &[&str] = &["/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/lib", "/usr/lib", "/usr/share/"];
const TRANSIENT: &[&str] = &[
    "/proc/",
    "/sys/",
    "/dev/pts/",
    "/run/user/",
    "/run/systemd/",
    "/var/log/",
    "/var/cache/",
    "/tmp/hsperfdata_",
    "/tmp/.X11-unix",
];
/// Files of `base-files`, `passwd`, `cron`, `systemd`, `sudo`, `openssh-server` and their like.
const CUSTOMARY: &[&str] = &[
    "/etc/passwd",
    "/etc/passwd-",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/group",
    "/etc/group-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/fstab",
    "/etc/crontab",
    "/etc/anacrontab",
    "/etc/profile",
    "/etc/bash.bashrc",
    "/etc/environment",
    "/etc/rc.local",
    "/etc/ld.so.preload",
    "/etc/ld.so.conf",
    "/etc/ld.so.cache",
    "/etc/ssh/sshd_config",
    "/etc/ssh/ssh_config",
    "/etc/motd",
    "/etc/issue",
    "/etc/modules",
    "/etc/sysctl.conf",
    "/etc/inittab",
    "/etc/selinux/config",
    "/etc/machine-id",
    "/etc/.pwd.lock",
    "/var/spool/cron/crontabs/root",
    "/var/run/utmp",
    "/run/utmp",
];
/// Files that homes have.
const CUSTOMARY_NAMES: &[&str] = &[
    "authorized_keys",
    "known_hosts",
    "id_rsa",
    "id_rsa.pub",
    "id_ed25519",
    "id_ed25519.pub",
    "config",
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".bash_history",
    ".profile",
    ".zshrc",
    ".zsh_history",
    ".viminfo",
    ".wget-hsts",
    ".lesshst",
    ".gitconfig",
    ".netrc",
    ".Xauthority",
    ".ICEauthority",
    ".xsession-errors",
    "recently-used.xbel",
    "mimeapps.list",
];
/// Services that honest machines speak to all day, and malware too.
const EVERYBODYS: &[&str] = &[
    "google.com",
    "googleapis.com",
    "gstatic.com",
    "youtube.com",
    "microsoft.com",
    "windows.com",
    "office.com",
    "live.com",
    "apple.com",
    "icloud.com",
    "amazonaws.com",
    "amazon.com",
    "cloudfront.net",
    "cloudflare.com",
    "akamai.net",
    "fastly.net",
    "github.com",
    "githubusercontent.com",
    "gitlab.com",
    "bitbucket.org",
    "debian.org",
    "ubuntu.com",
    "fedoraproject.org",
    "redhat.com",
    "kernel.org",
    "gnu.org",
    "python.org",
    "pypi.org",
    "pythonhosted.org",
    "npmjs.org",
    "npmjs.com",
    "docker.com",
    "docker.io",
    "wikipedia.org",
    "mozilla.org",
    "mozilla.com",
    "ntp.org",
    "letsencrypt.org",
    "digicert.com",
    "dropbox.com",
    "telegram.org",
    "discord.com",
    "slack.com",
    "pastebin.com",
    "ipify.org",
];
const LOCAL: &[&str] = &[
    "local",
    "localdomain",
    "internal",
    "lan",
    "home.arpa",
    "in-addr.arpa",
    "ip6.arpa",
    "localhost",
    "test",
    "invalid",
];
const RESOLVERS: &[&str] = &[
    "1.1.1.1",
    "1.0.0.1",
    "8.8.8.8",
    "8.8.4.4",
    "9.9.9.9",
    "149.112.112.112",
    "208.67.222.222",
    "208.67.220.220",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "2620:fe::fe",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn honest_machines_are_not_matched() {
        for path in [
            "/etc/passwd",
            "/usr/bin/ls",
            "/home/*/.bashrc",
            "/root/.ssh/authorized_keys",
            "/tmp/tmp.Xy12ab",
            "/tmp/tmpab12cd34",
            "/x",
            "/tmp/hsperfdata_user/320",
            "/tmp/a'b c",
            "/tmp/new\\u{a}line",
            "relative/path",
            "/proc/1/mem",
        ] {
            assert!(unfit(path).is_some(), "{path}");
        }
        for path in [
            "/tmp/.cache-drive-by",
            "/etc/cron.d/drive-by",
            "/home/*/.config/autostart/x11.desktop",
            "/opt/upd/tmpfiled",
        ] {
            assert_eq!(unfit(path), None, "{path}");
        }
        assert_eq!(any_home("/home/user/.x/y"), "/home/*/.x/y");
    }
}
