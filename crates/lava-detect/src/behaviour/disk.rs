//! Persist: the parts of a disk that run, or rule, before the operating system does.
//!
//! A `disk.write` that changes a watched region. Who is behind it is the graph's attribution; a clean process's write is
//! no finding. Where nobody is known, a change of the boot code, the partition table or GPT is still said (no honest work
//! in the micro-VM is expected to change them), one severity lower.
//!
//! *Grade:* inferred: that this request carries what that process wrote follows from matching ranges, the bytes were not
//! followed.

use std::collections::BTreeMap;

use lava_event::{DiskRegion, EventSeq, FileType, Grade, Kind, ProcessKey, Range, Severity, Stage};

use super::{Behaviour, Context, Hit};
use crate::{About, path};

/// Processes of which writes to disks are remembered.
const MAX_WRITERS: usize = 4096;
/// Writes remembered of each.
const MAX_WRITES: usize = 8;

static MBR: About = About {
    id: "persist.mbr_boot_code",
    technique: "T1542.003",
    stage: Stage::Persist,
    severity: Severity::Critical,
    why: "The BIOS runs this code before any operating system: whoever owns it owns the machine, through reinstallation.",
    false_positives: "Boot loader installation (grub-install, extlinux).",
};
static BOOT_SECTOR: About = About {
    id: "persist.boot_sector",
    technique: "T1542.003",
    stage: Stage::Persist,
    severity: Severity::High,
    why: "Code that is read and run while the machine starts, before the operating system's own protection.",
    false_positives: "Boot loader installation; making a file system.",
};
static TABLE: About = About {
    id: "persist.partition_table",
    technique: "T1561.002",
    stage: Stage::Persist,
    severity: Severity::High,
    why: "Changing where partitions lie redirects the boot, hides space, or makes the machine unusable.",
    false_positives: "Partitioning tools.",
};

#[derive(Default)]
pub(super) struct Disk {
    writes: BTreeMap<ProcessKey, (String, Vec<EventSeq>)>,
}

impl Behaviour for Disk {
    fn about(&self) -> Vec<&'static About> {
        vec![&MBR, &BOOT_SECTOR, &TABLE]
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        match &context.event.kind {
            Kind::FileWrite { file, .. } if file.file_type() == FileType::BlockDevice => self.remember(context),
            Kind::DiskWrite { disk, region, changed, .. } if !changed.is_empty() => {
                hits.extend(self.judge(context, disk, *region, changed));
            }
            _ => {}
        }
    }
}

impl Disk {
    fn remember(&mut self, context: &Context<'_>) {
        let Some(actor) = context.tainted_actor() else { return };
        if self.writes.len() >= MAX_WRITERS && !self.writes.contains_key(&actor) {
            return;
        }
        let (program, events) = self.writes.entry(actor).or_default();
        *program = context.program();
        if events.len() >= MAX_WRITES {
            events.remove(0);
        }
        events.push(context.event.seq);
    }

    fn judge(&self, context: &Context<'_>, disk: &str, region: DiskRegion, changed: &[Range]) -> Option<Hit> {
        let (about, name, anybody) = match region {
            DiskRegion::MbrBootCode => (&MBR, "the MBR boot code", true),
            DiskRegion::PostMbrGap => (&BOOT_SECTOR, "the gap behind the MBR", false),
            DiskRegion::BootSector => (&BOOT_SECTOR, "a boot sector", false),
            DiskRegion::PartitionTable => (&TABLE, "the partition table", true),
            DiskRegion::Gpt => (&TABLE, "the GPT", true),
            DiskRegion::MbrSignature | DiskRegion::Data => return None,
        };
        let who = context.taint.attributed(context.event.seq);
        let known = who.and_then(|who| self.writes.get(&who));
        let (severity, program) = match who {
            Some(who) if !context.taint.is_tainted(who) => return None,
            Some(_) => (about.severity, known.map_or("a process of the task", |(program, _)| program.as_str())),
            None if anybody => (lower(about.severity), "nobody known"),
            None => return None,
        };
        let disk = path::shown(disk.as_bytes());
        let start = changed.iter().map(|range| range.start).min().unwrap_or_default();
        let end = changed.iter().map(|range| range.end).max().unwrap_or_default();
        let title = format!("{program} wrote {name} of {disk} (bytes {start}-{end})");
        let mut hit = Hit::new(about, context, title, format!("{disk} {name} {who:?}").into_bytes());
        hit.severity = severity;
        hit.grade = Grade::Inferred;
        hit.process = who;
        hit.events.extend(known.into_iter().flat_map(|(_, events)| events));
        Some(hit)
    }
}

const fn lower(severity: Severity) -> Severity {
    match severity {
        Severity::Critical => Severity::High,
        _ => Severity::Medium,
    }
}
