//! A bounded set of byte ranges.
//!
//! Sorted, merged where they touch. When there would be more than [`MOST`], the two with the smallest gap between them
//! become one: the set then covers more than was added, never less.

use lava_event::Range;

/// How many ranges an event carries at most (`disk.write`).
pub(crate) const MOST: usize = 64;

/// The set.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ranges(Vec<Range>);

impl Ranges {
    /// Adds a range; an empty one changes nothing.
    pub(crate) fn add(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|known| known.end < range.start);
        let behind = self.0.partition_point(|known| known.start <= range.end);
        let Some(touching) = self.0.get(first..behind).filter(|touching| !touching.is_empty()) else {
            self.0.insert(first, range);
            if self.0.len() > MOST {
                self.close_smallest_gap();
            }
            return;
        };
        let start = touching.first().map_or(range.start, |known| known.start.min(range.start));
        let end = touching.last().map_or(range.end, |known| known.end.max(range.end));
        self.0[first] = Range { start, end };
        self.0.drain(first + 1..behind);
    }

    fn close_smallest_gap(&mut self) {
        let gap = |at: &usize| self.0[at + 1].start - self.0[*at].end;
        if let Some(at) = (0..self.0.len().saturating_sub(1)).min_by_key(gap) {
            let behind = self.0.remove(at + 1);
            self.0[at].end = behind.end;
        }
    }

    pub(crate) fn first(&self) -> Option<Range> {
        self.0.first().copied()
    }

    pub(crate) fn into_vec(self) -> Vec<Range> {
        self.0
    }
}

/// What is left of `range` without `holes` (sorted, disjoint).
pub(crate) fn without(range: Range, holes: impl IntoIterator<Item = Range>) -> Vec<Range> {
    let mut left = Vec::new();
    let mut at = range.start;
    for hole in holes {
        if hole.start >= range.end {
            break;
        }
        if hole.end <= at {
            continue;
        }
        if hole.start > at {
            left.push(Range { start: at, end: hole.start });
        }
        at = hole.end;
    }
    if at < range.end {
        left.push(Range { start: at, end: range.end });
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(of: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::default();
        of.iter().for_each(|&(start, end)| ranges.add(Range { start, end }));
        ranges
    }

    #[test]
    fn neighbours_become_one() {
        assert_eq!(set(&[(0, 4), (8, 12), (4, 8)]).into_vec(), [Range { start: 0, end: 12 }]);
        assert_eq!(set(&[(5, 5)]).first(), None);
    }

    #[test]
    fn cuts_holes() {
        let holes = [Range { start: 0, end: 2 }, Range { start: 4, end: 6 }, Range { start: 9, end: 20 }];
        let left = without(Range { start: 1, end: 10 }, holes);
        assert_eq!(left, [Range { start: 2, end: 4 }, Range { start: 6, end: 9 }]);
    }

    proptest! {
        #[test]
        fn covers_all_and_stays_bounded(of in prop::collection::vec((0u64..5_000, 0u64..40), 0..300)) {
            let mut ranges = Ranges::default();
            for &(start, len) in &of {
                ranges.add(Range { start, end: start + len });
            }
            let ranges = ranges.into_vec();
            prop_assert!(ranges.len() <= MOST);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            for &(start, len) in of.iter().filter(|(_, len)| *len > 0) {
                prop_assert!(ranges.iter().any(|known| known.start <= start && start + len <= known.end));
            }
        }
    }
}
