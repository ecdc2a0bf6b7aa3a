//! Where a write waits for the policy.
//!
//! Every change of the disk passes here. What touches no watched region lands at once and is summed up. The rest is
//! compared with the bytes that are there; each watched stretch that would change is asked about, one event each, and
//! only then the request lands: as a whole, without the remediated stretches, or not at all.
//!
//! Comparing, asking and landing happen under one lock per disk: between the question and the answer nobody else
//! changes a watched byte.
//!
//! # Limits
//! Evidence is bounded: of a touched stretch longer than 64 KiB, `before` and `after` are the 64 KiB from the sector of
//! the first changed byte on. For the boot code they are always its 440 bytes.

use std::io;
use std::sync::{Arc, Mutex};

use lava_event::{Action, Artifact, DiskRegion, Event, Kind, Outlet, Produced, Range, Source};

use crate::lock;
use crate::protocol::NbdError;
use crate::ranges::{Ranges, without};
use crate::regions::{Extent, Regions, SECTOR};
use crate::storage::{Fill, Storage};
use crate::summary::Summary;

/// The most of a stretch that is kept as evidence, bytes.
const EVIDENCE: u64 = 64 << 10;

const LANDED: &str = "the write landed";
const REFUSED: &str = "refused: the guest got an I/O error";
const REFUSED_ELSEWHERE: &str =
    "nothing landed: another region of the same request was denied, and the guest got an I/O error";

pub(crate) struct Gate {
    disk: String,
    storage: Arc<Storage>,
    regions: Arc<Regions>,
    outlet: Arc<dyn Outlet>,
    summary: Mutex<Summary>,
    deciding: Mutex<()>,
}

/// A stretch that would change, and what is to become of it.
struct Asked {
    event: Event,
    range: Range,
    action: Action,
}

impl Gate {
    pub(crate) fn new(disk: String, storage: Arc<Storage>, regions: Arc<Regions>, outlet: Arc<dyn Outlet>) -> Self {
        Self { disk, storage, regions, outlet, summary: Mutex::default(), deciding: Mutex::new(()) }
    }

    /// True if a change of `range` may have to wait.
    pub(crate) fn is_watched(&self, range: Range) -> bool {
        self.regions.touched(range).next().is_some()
    }

    /// Changes `range`, which is inside the disk. Waits for the policy if it must.
    pub(crate) fn change(&self, range: Range, fill: Fill<'_>) -> Result<(), NbdError> {
        let touched: Vec<Extent> = self.regions.touched(range).collect();
        if touched.is_empty() {
            self.storage.change(range, fill).map_err(|error| NbdError::from(&error))?;
            self.sum_up(&[range]);
            return Ok(());
        }
        let _deciding = lock(&self.deciding);
        let questions = self.questions(range, fill, &touched).map_err(|error| NbdError::from(&error))?;
        let asked: Vec<Asked> = questions.into_iter().map(|(produced, range)| self.ask(produced, range)).collect();
        if asked.iter().any(|asked| asked.action == Action::Deny) {
            for asked in &asked {
                self.settle(asked, if asked.action == Action::Deny { REFUSED } else { REFUSED_ELSEWHERE });
            }
            return Err(NbdError::Io);
        }
        let landed = self.land(range, fill, &asked);
        for asked in &asked {
            self.settle(asked, &outcome(asked, landed.as_ref().err()));
        }
        landed.map_err(|error| NbdError::from(&error))?;
        let data = without(range, touched.iter().map(|extent| extent.range));
        if !data.is_empty() {
            self.sum_up(&data);
        }
        Ok(())
    }

    /// Tells of a read into memory that may not be written.
    pub(crate) fn read_refused(&self, range: Range) {
        let Range { start, end } = range;
        let kind = Kind::KernelDmaRefused { disk: self.disk.clone(), offset: start, bytes: end.saturating_sub(start) };
        self.emit(self.outlet.now_ns(), Some(kind));
    }

    /// Gives out what was summed up, if it is a second old.
    pub(crate) fn tick(&self) {
        let now = self.outlet.now_ns();
        let due = lock(&self.summary).due(now, &self.disk);
        self.emit(now, due);
    }

    /// Gives out what was summed up.
    pub(crate) fn finish(&self) {
        let due = lock(&self.summary).take(&self.disk);
        self.emit(self.outlet.now_ns(), due);
    }

    fn sum_up(&self, ranges: &[Range]) {
        let now = self.outlet.now_ns();
        let due = lock(&self.summary).add(now, ranges, &self.disk);
        self.emit(now, due);
    }

    /// Not under the summary's lock: it may block.
    fn emit(&self, now: u64, kind: Option<Kind>) {
        if let Some(kind) = kind {
            self.outlet.emit(Event::new(now, Source::Disk, kind).into());
        }
    }

    fn ask(&self, produced: Produced, range: Range) -> Asked {
        let event = produced.event.clone();
        let action = self.outlet.ask(produced);
        Asked { event, range, action }
    }

    fn settle(&self, asked: &Asked, outcome: &str) {
        self.outlet.settle(&asked.event, asked.action, outcome);
    }

    /// All of it but the remediated stretches.
    fn land(&self, range: Range, fill: Fill<'_>, asked: &[Asked]) -> io::Result<()> {
        let kept = asked.iter().filter(|asked| asked.action == Action::Remediate).map(|asked| asked.range);
        without(range, kept).into_iter().try_for_each(|part| self.storage.change(part, fill.part(range, part)))
    }

    fn questions(&self, range: Range, fill: Fill<'_>, touched: &[Extent]) -> io::Result<Vec<(Produced, Range)>> {
        let mut questions = Vec::new();
        for extent in touched {
            let changed = self.changed(range, fill, extent.range)?;
            if let Some(first) = changed.first() {
                questions.push((self.question(range, fill, *extent, first, changed)?, extent.range));
            }
        }
        Ok(questions)
    }

    /// Where the bytes of `part` would differ.
    fn changed(&self, range: Range, fill: Fill<'_>, part: Range) -> io::Result<Ranges> {
        let mut changed = Ranges::default();
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let mut at = part.start;
        while at < part.end {
            let window = Range { start: at, end: part.end.min(at + EVIDENCE) };
            old.resize(window.len() as usize, 0);
            new.resize(window.len() as usize, 0);
            self.storage.read(at, &mut old)?;
            fill.part(range, window).copy_to(&mut new);
            differences(at, &old, &new, &mut changed);
            at = window.end;
        }
        Ok(changed)
    }

    fn question(
        &self,
        range: Range,
        fill: Fill<'_>,
        extent: Extent,
        first: Range,
        changed: Ranges,
    ) -> io::Result<Produced> {
        let evidence = evidence(extent, first);
        let mut before = vec![0; evidence.len() as usize];
        self.storage.read(evidence.start, &mut before)?;
        let mut after = before.clone();
        let new = Range { start: evidence.start.max(range.start), end: evidence.end.min(range.end) };
        let place = (new.start - evidence.start) as usize..(new.end - evidence.start) as usize;
        fill.part(range, new).copy_to(&mut after[place]);
        let (before, after) = (Artifact::new(&before), Artifact::new(&after));
        let kind = Kind::DiskWrite {
            disk: self.disk.clone(),
            region: extent.region,
            ranges: vec![extent.range],
            bytes: extent.range.len(),
            count: 1,
            changed: changed.into_vec(),
            before: Some(before.sha256),
            after: Some(after.sha256),
        };
        Ok(Produced { event: Event::new(self.outlet.now_ns(), Source::Disk, kind), artifacts: vec![before, after] })
    }
}

/// The bytes that are kept, before and after.
fn evidence(touched: Extent, first_changed: Range) -> Range {
    if touched.region == DiskRegion::MbrBootCode {
        return Range { start: 0, end: 440 };
    }
    if touched.range.len() <= EVIDENCE {
        return touched.range;
    }
    let start = touched.range.start.max(first_changed.start - first_changed.start % SECTOR);
    Range { start, end: touched.range.end.min(start + EVIDENCE) }
}

fn differences(offset: u64, old: &[u8], new: &[u8], changed: &mut Ranges) {
    if old == new {
        return;
    }
    let mut from = None;
    for at in 0..=old.len() {
        let differs = at < old.len() && old[at] != new[at];
        match (differs, from) {
            (true, None) => from = Some(at),
            (false, Some(start)) => {
                changed.add(Range { start: offset + start as u64, end: offset + at as u64 });
                from = None;
            }
            _ => {}
        }
    }
}

fn outcome(asked: &Asked, failure: Option<&io::Error>) -> String {
    if let Some(error) = failure {
        return format!("the write failed, a part of it may have landed, and the guest got an error: {error}");
    }
    let Kind::DiskWrite { region, ref changed, .. } = asked.event.kind else { return LANDED.to_owned() };
    match asked.action {
        Action::Remediate if region == DiskRegion::MbrBootCode => {
            "the guest was told it succeeded; the original 440 bytes were put back".to_owned()
        }
        Action::Remediate => {
            let bytes: u64 = changed.iter().map(Range::len).sum();
            format!("the guest was told it succeeded; the {bytes} original bytes were put back")
        }
        Action::Allow | Action::Deny => LANDED.to_owned(),
    }
}
