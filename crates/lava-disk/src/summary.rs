//! Writes that nobody has to be asked about, summed up: at most one event a second.

use lava_event::{DiskRegion, Kind, Range};

use crate::ranges::Ranges;

/// How long is summed up at least, ns.
const PERIOD_NS: u64 = 1_000_000_000;

#[derive(Debug, Default)]
pub(crate) struct Summary {
    since_ns: u64,
    ranges: Ranges,
    bytes: u64,
    count: u64,
}

impl Summary {
    /// Adds one request's ranges at `now_ns`; what was summed up before is given out if it is a second old.
    pub(crate) fn add(&mut self, now_ns: u64, ranges: &[Range], disk: &str) -> Option<Kind> {
        let due = self.due(now_ns, disk);
        if self.count == 0 {
            self.since_ns = now_ns;
        }
        for range in ranges {
            self.ranges.add(*range);
            self.bytes += range.len();
        }
        self.count += 1;
        due
    }

    /// What was summed up, if it is a second old.
    pub(crate) fn due(&mut self, now_ns: u64, disk: &str) -> Option<Kind> {
        if now_ns.saturating_sub(self.since_ns) >= PERIOD_NS { self.take(disk) } else { None }
    }

    /// What was summed up, if anything.
    pub(crate) fn take(&mut self, disk: &str) -> Option<Kind> {
        let Self { ranges, bytes, count, .. } = std::mem::take(self);
        (count > 0).then(|| Kind::DiskWrite {
            disk: disk.to_owned(),
            region: DiskRegion::Data,
            ranges: ranges.into_vec(),
            bytes,
            count,
            changed: Vec::new(),
            before: None,
            after: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_a_second() {
        let mut summary = Summary::default();
        let range = Range { start: 0, end: 4096 };
        assert!(summary.due(u64::MAX, "vda").is_none());
        assert!(summary.add(5, &[range], "vda").is_none());
        assert!(summary.add(PERIOD_NS + 4, &[range], "vda").is_none());
        let Some(Kind::DiskWrite { ranges, bytes, count, .. }) = summary.add(PERIOD_NS + 5, &[range], "vda") else {
            panic!("a second has passed");
        };
        assert_eq!((ranges, bytes, count), (vec![range], 8192, 2));
        assert!(summary.take("vda").is_some());
        assert!(summary.take("vda").is_none());
    }
}
