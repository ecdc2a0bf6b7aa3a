//! Who is behind a write to the disk.
//!
//! A request at the disk has no process: the kernel writes its cache back whenever it likes. So writes to block-device
//! files are remembered, and a `disk.write` is attributed to the latest one that overlaps it on the same disk.
//!
//! *Grade:* observed, if the whole disk's device was written and the byte ranges overlap: both ends were seen at their
//! hooks, and the cache can carry those bytes nowhere else. Inferred, for watched regions only, if a process wrote to the
//! disk or one of its partitions and the ranges are no help (partition offsets and summed-up writes are not known here).
//! Never proven: the bytes themselves are not compared.

use std::collections::BTreeMap;

use lava_event::{DiskRegion, EventSeq, Grade, ProcessKey, Range};
use serde::{Deserialize, Serialize};

use crate::NodeId;

/// Writes to devices that are remembered.
const MAX_WRITES: usize = 4096;
/// Attributions that are remembered.
const MAX_ATTRIBUTIONS: usize = 65_536;

/// Who is behind a write to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attribution {
    /// The process.
    pub process: ProcessKey,
    /// Its `file.write` to the block device.
    pub by: EventSeq,
    /// How we know.
    pub grade: Grade,
}

#[derive(Clone, Debug)]
struct DeviceWrite {
    disk: String,
    whole: bool,
    ranges: Vec<Range>,
    process: ProcessKey,
    event: EventSeq,
    node: NodeId,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Disks {
    writes: std::collections::VecDeque<DeviceWrite>,
    attributions: BTreeMap<EventSeq, Attribution>,
}

/// The disk's name and whether all of it is meant, by the device number (Linux: 16 minors to a disk; virtio's major is
/// given out at boot, from 254 down).
fn disk_of((major, minor): (u32, u32)) -> Option<(String, bool)> {
    let prefix = match major {
        8 => "sd",
        240..=254 => "vd",
        _ => return None,
    };
    let letter = u8::try_from(minor / 16).ok().filter(|n| *n < 26)?;
    Some((format!("{prefix}{}", char::from(b'a' + letter)), minor % 16 == 0))
}

impl Disks {
    /// A process wrote to a block-device file; `node` is the file's.
    pub(crate) fn device_written(
        &mut self,
        device: Option<(u32, u32)>,
        ranges: &[Range],
        process: ProcessKey,
        event: EventSeq,
        node: NodeId,
    ) {
        let Some((disk, whole)) = device.and_then(disk_of) else { return };
        if self.writes.len() >= MAX_WRITES {
            self.writes.pop_front();
        }
        let ranges = ranges.iter().take(64).copied().collect();
        self.writes.push_back(DeviceWrite { disk, whole, ranges, process, event, node });
    }

    /// Attributes a write to the disk; also gives the device file's node.
    pub(crate) fn attribute(
        &mut self,
        event: EventSeq,
        disk: &str,
        region: DiskRegion,
        ranges: &[Range],
    ) -> Option<(Attribution, NodeId)> {
        let overlaps = |write: &DeviceWrite| write.ranges.iter().any(|a| ranges.iter().any(|b| a.overlaps(b)));
        let same = || self.writes.iter().rev().filter(|write| write.disk == disk);
        let (write, grade) = match same().find(|write| write.whole && overlaps(write)) {
            Some(write) => (write, Grade::Observed),
            None if region == DiskRegion::Data => return None,
            None => (same().next()?, Grade::Inferred),
        };
        let attribution = Attribution { process: write.process, by: write.event, grade };
        let node = write.node;
        if self.attributions.len() < MAX_ATTRIBUTIONS {
            self.attributions.insert(event, attribution);
        }
        Some((attribution, node))
    }

    pub(crate) fn attribution(&self, event: EventSeq) -> Option<Attribution> {
        self.attributions.get(&event).copied()
    }

    /// The guest restarted: what was not written back by then never will be.
    pub(crate) fn reset(&mut self) {
        self.writes.clear();
    }
}
