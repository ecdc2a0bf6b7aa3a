//! What each hook costs, where that was asked for (`costs=on`, `cargo xtask bench`): calls and time on the host's clock, printed when
//! QEMU ends. When it was not asked for, none of this is there but one test per call.
//!
//! Limits: time, not CPU time: on a busy host a call that was interrupted counts too long. A wait for a full ring or for the
//! policy's answer is part of the hook's time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::point::Point;

/// Points that are no hooks, behind the hooks.
const OTHERS: [&str; 6] = ["returns", "wrmsr", "control registers", "descriptor tables", "user code", "kernel code"];

struct Cost {
    name: &'static str,
    calls: AtomicU64,
    ns: AtomicU64,
}

/// One row per hook, one per other kind of point.
pub struct Costs {
    rows: Vec<Cost>,
    hooks: usize,
}

impl Costs {
    /// For hooks of these names.
    pub fn new(hooks: impl Iterator<Item = &'static str>) -> Self {
        let row = |name| Cost { name, calls: AtomicU64::new(0), ns: AtomicU64::new(0) };
        let mut rows: Vec<Cost> = hooks.map(row).collect();
        let hooks = rows.len();
        rows.extend(OTHERS.map(row));
        Self { rows, hooks }
    }

    /// Does `body` and counts it for `point`.
    pub fn measure(&self, point: Point, body: impl FnOnce()) {
        let begin = Instant::now();
        body();
        let took = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let row = match point {
            Point::Hook(number) => number.min(self.hooks),
            Point::Return(_) => self.hooks,
            Point::Msr => self.hooks + 1,
            Point::Control { .. } => self.hooks + 2,
            Point::Descriptor(_) => self.hooks + 3,
            Point::User(_) => self.hooks + 4,
            Point::Kernel(_) => self.hooks + 5,
        };
        if let Some(row) = self.rows.get(row) {
            row.calls.fetch_add(1, Ordering::Relaxed);
            row.ns.fetch_add(took, Ordering::Relaxed);
        }
    }

    /// A line per row that was called: name, calls, ms in all, ns per call; the costliest first.
    pub fn table(&self) -> String {
        let read = |cost: &Cost| (cost.ns.load(Ordering::Relaxed), cost.calls.load(Ordering::Relaxed), cost.name);
        let mut rows: Vec<_> = self.rows.iter().map(read).filter(|(_, calls, _)| *calls > 0).collect();
        rows.sort_unstable_by(|a, b| b.cmp(a));
        let line = |(ns, calls, name): &(u64, u64, &str)| {
            format!("lava-tap: cost: {name}: {calls} calls, {} ms, {} ns each\n", ns / 1_000_000, ns / calls)
        };
        rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_point() {
        let costs = Costs::new(["one", "two"].into_iter());
        for point in [Point::Hook(1), Point::Hook(1), Point::Return(9), Point::Kernel(0)] {
            costs.measure(point, || std::thread::sleep(std::time::Duration::from_micros(20)));
        }
        let table = costs.table();
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(table.contains("two: 2 calls") && table.contains("returns: 1 calls") && !table.contains("one:"));
    }
}
