//! What to do on a machine where the same task was opened: steps that follow from what findings rest on.

use lava_event::{DiskRegion, Verdict};

use crate::summary::{About, Key, Summary, Thing, is_outside, names_outside};

/// Things named in one step.
const NAMED: usize = 200;

/// A step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// A word for it, fit for an identifier.
    pub(crate) id: &'static str,
    /// What to do.
    pub(crate) title: &'static str,
    /// With what: one line each.
    pub(crate) on: Vec<String>,
}

/// The steps, in the order in which to take them. None if nothing was found.
pub(crate) fn steps(summary: &Summary) -> Vec<Step> {
    if summary.trace.verdict == Verdict::Clean {
        return Vec::new();
    }
    let task = &summary.manifest.task;
    let sample = vec![format!("sha256 {} ({} bytes)", task.sha256, task.size)];
    let all = [
        ("find-sample", "Find and isolate machines that hold or have opened this file", sample),
        (
            "block-addresses",
            "Block these addresses, and look in flow logs for who has spoken to them",
            of(summary, address),
        ),
        (
            "block-names",
            "Block these names, and look in the resolver's logs for who has asked for them",
            of(summary, name),
        ),
        ("block-urls", "Block these URLs, and look in the proxy's logs for who has asked for them", of(summary, url)),
        ("remove-modules", "Restart without these kernel modules, and remove them", of(summary, module)),
        (
            "remove-files",
            "Remove these files, or restore them from a backup, after a copy was taken as evidence",
            of(summary, file),
        ),
        (
            "restore-boot",
            "Boot from a trusted medium and restore what starts the machine; reinstall if in doubt",
            of(summary, area),
        ),
    ];
    all.into_iter().filter(|(_, _, on)| !on.is_empty()).map(|(id, title, on)| Step { id, title, on }).collect()
}

fn of(summary: &Summary, describe: fn(&Key, &Thing) -> Option<String>) -> Vec<String> {
    let confirmed = summary.things.iter().filter(|(_, thing)| summary.weight(thing).is_some());
    let mut lines: Vec<String> = confirmed.filter_map(|(key, thing)| describe(key, thing)).collect();
    if lines.len() > NAMED {
        let more = lines.len() - NAMED;
        lines.truncate(NAMED);
        lines.push(format!("and {more} more: see the indicators"));
    }
    lines
}

fn address(key: &Key, thing: &Thing) -> Option<String> {
    match (key, &thing.about) {
        (Key::Address(ip, port, protocol), About::Address { made_up: false, .. }) if is_outside(*ip) => {
            Some(format!("{ip} port {port}/{protocol}"))
        }
        _ => None,
    }
}

fn name(key: &Key, _: &Thing) -> Option<String> {
    if let Key::Name(name) = key { Some(name.clone()) } else { None }
}

fn url(key: &Key, thing: &Thing) -> Option<String> {
    match (key, &thing.about) {
        (Key::Url(full), About::Url { made_up, url, .. }) if names_outside(url, *made_up) => Some(full.clone()),
        _ => None,
    }
}

fn module(key: &Key, _: &Thing) -> Option<String> {
    if let Key::Module(name) = key { Some(name.clone()) } else { None }
}

fn file(key: &Key, thing: &Thing) -> Option<String> {
    let (Key::File(path), About::File { contents, deleted: false, .. }) = (key, &thing.about) else { return None };
    let hashes: String = contents.iter().map(|content| format!(", sha256 {}", content.sha256)).collect();
    Some(format!("{path}{hashes}"))
}

fn area(key: &Key, thing: &Thing) -> Option<String> {
    let (Key::Area(disk, region), About::Area { before, .. }) = (key, &thing.about) else { return None };
    let was = before.map_or(String::new(), |hash| format!(", sha256 before {hash}"));
    Some(format!("{} of {disk}{was}", region_name(*region)))
}

/// A region in words.
pub(crate) const fn region_name(region: DiskRegion) -> &'static str {
    match region {
        DiskRegion::MbrBootCode => "MBR boot code",
        DiskRegion::MbrSignature => "MBR disk signature",
        DiskRegion::PartitionTable => "partition table",
        DiskRegion::PostMbrGap => "gap behind the MBR",
        DiskRegion::Gpt => "GPT",
        DiskRegion::BootSector => "boot sector",
        DiskRegion::Data => "data",
    }
}
