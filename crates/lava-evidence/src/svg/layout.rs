//! Where the boxes stand: ranks by causality, top to bottom, few crossings, long edges led around boxes.
//!
//! Sugiyama's method made small: longest-path ranks (edges that close a cycle are turned), rows of at most [`ROW`] boxes,
//! barycenter ordering, then coordinates by averaging. Integers only and ties by number, so the same graph gives the same
//! picture.
//!
//! *Limit:* good for some sixty boxes; the cost grows with the square of the edges.

use std::collections::{BTreeMap, BTreeSet};

/// Boxes in a row.
const ROW: usize = 5;
pub(super) const W: i64 = 212;
pub(super) const H: i64 = 62;
const GAP_X: i64 = 26;
const GAP_Y: i64 = 66;
/// From one row to the next.
pub(super) const ROW_STEP: i64 = H + GAP_Y;
const THIN: i64 = 18;

/// The result: top left corners, and for each edge its points (pairs of a leg's start and end).
pub(super) struct Placed {
    pub(super) boxes: Vec<(i64, i64)>,
    pub(super) wires: Vec<Vec<(i64, i64)>>,
    pub(super) width: i64,
    pub(super) height: i64,
}

/// Places `n` boxes; each edge goes from cause to effect.
pub(super) fn place(n: usize, edges: &[(usize, usize)]) -> Placed {
    let turned = acyclic(n, edges);
    let row_of = rows_of(n, &turned);
    let mut grid = Grid::new(n, &row_of, &turned);
    grid.order();
    let x = grid.coordinates();
    finish(&grid, &x, n, edges, &turned)
}

/// Turns each edge that leads back to a box being visited.
fn acyclic(n: usize, edges: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut turned = edges.to_vec();
    let mut state = vec![0u8; n];
    for root in 0..n {
        let mut stack = vec![(root, 0)];
        while let Some(&mut (at, ref mut from)) = stack.last_mut() {
            state[at] = state[at].max(1);
            let next = (*from..edges.len()).find(|&i| turned[i] == edges[i] && edges[i].0 == at && state[at] == 1);
            let Some(i) = next else {
                state[at] = 2;
                stack.pop();
                continue;
            };
            *from = i + 1;
            match state[edges[i].1] {
                0 => stack.push((edges[i].1, 0)),
                1 => turned[i] = (edges[i].1, edges[i].0),
                _ => {}
            }
        }
    }
    turned
}

fn rows_of(n: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut rank = vec![0usize; n];
    for _ in 0..n {
        for &(a, b) in edges.iter().filter(|(a, b)| a != b) {
            rank[b] = rank[b].max(rank[a] + 1);
        }
    }
    let has_in: BTreeSet<usize> = edges.iter().map(|edge| edge.1).collect();
    let has_out: BTreeSet<usize> = edges.iter().map(|edge| edge.0).collect();
    for at in (0..n).filter(|at| !has_in.contains(at)) {
        let below = edges.iter().filter(|edge| edge.0 == at && edge.1 != at).map(|edge| rank[edge.1]).min();
        rank[at] = below.map_or(0, |rank| rank.saturating_sub(1));
    }
    // Rows of bounded width: what nothing hangs on moves down.
    let mut ranks: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, &rank) in rank.iter().enumerate() {
        ranks.entry(rank).or_default().push(at);
    }
    let mut row = vec![0; n];
    let mut next = 0;
    for mut members in ranks.into_values() {
        members.sort_by_key(|at| (!has_out.contains(at), *at));
        for chunk in members.chunks(ROW) {
            chunk.iter().for_each(|&at| row[at] = next);
            next += 1;
        }
    }
    row
}

/// Boxes and, for long edges, thin place holders, in rows.
struct Grid {
    rows: Vec<Vec<usize>>,
    width: Vec<i64>,
    up: Vec<Vec<usize>>,
    down: Vec<Vec<usize>>,
    /// The items each edge leads through, top to bottom.
    paths: Vec<Vec<usize>>,
}

impl Grid {
    fn new(n: usize, row_of: &[usize], edges: &[(usize, usize)]) -> Self {
        let mut rows = vec![Vec::new(); row_of.iter().max().map_or(0, |max| max + 1)];
        for (at, &row) in row_of.iter().enumerate() {
            rows[row].push(at);
        }
        let mut width = vec![W; n];
        let mut paths = Vec::new();
        for &(a, b) in edges {
            let mut path = vec![a];
            for row in &mut rows[(row_of[a] + 1).min(row_of[b])..row_of[b]] {
                let thin = width.len();
                width.push(THIN);
                row.push(thin);
                path.push(thin);
            }
            path.push(b);
            paths.push(path);
        }
        let mut up = vec![Vec::new(); width.len()];
        let mut down = vec![Vec::new(); width.len()];
        for pair in paths.iter().filter(|path| path[0] != path[path.len() - 1]).flat_map(|path| path.windows(2)) {
            down[pair[0]].push(pair[1]);
            up[pair[1]].push(pair[0]);
        }
        Self { rows, width, up, down, paths }
    }

    fn places(&self) -> Vec<i64> {
        let mut place = vec![0; self.width.len()];
        for row in &self.rows {
            let mut x = 0;
            for &at in row {
                place[at] = x + self.width[at] / 2;
                x += self.width[at] + GAP_X;
            }
            row.iter().for_each(|&at| place[at] -= x / 2);
        }
        place
    }

    fn crossings(&self) -> usize {
        let place = self.places();
        let row_edges = |row: &Vec<usize>| -> Vec<(i64, i64)> {
            row.iter()
                .flat_map(|&a| self.down[a].iter().map(move |&b| (a, b)))
                .map(|(a, b)| (place[a], place[b]))
                .collect()
        };
        let count = |edges: Vec<(i64, i64)>| {
            let crossed =
                |i: usize, j: usize| (edges[i].0 - edges[j].0).signum() * (edges[i].1 - edges[j].1).signum() < 0;
            (0..edges.len()).map(|i| (0..i).filter(|&j| crossed(i, j)).count()).sum::<usize>()
        };
        self.rows.iter().map(row_edges).map(count).sum()
    }

    fn order(&mut self) {
        let mut best = (self.crossings(), self.rows.clone());
        for sweep in 0..12 {
            let count = self.rows.len();
            for step in 0..count {
                let row = if sweep % 2 == 0 { step } else { count - 1 - step };
                let place = self.places();
                let near = if sweep % 2 == 0 { &self.up } else { &self.down };
                let mut keyed: Vec<(i64, usize)> = self.rows[row]
                    .iter()
                    .map(|&at| (mean(near[at].iter().map(|&o| place[o])).unwrap_or(place[at]), at))
                    .collect();
                keyed.sort_by_key(|(key, _)| *key);
                self.rows[row] = keyed.into_iter().map(|(_, at)| at).collect();
            }
            let crossings = self.crossings();
            if crossings < best.0 {
                best = (crossings, self.rows.clone());
            }
        }
        self.rows = best.1;
    }

    fn coordinates(&self) -> Vec<i64> {
        let mut x = self.places();
        for round in 0..24 {
            for step in 0..self.rows.len() {
                let row = &self.rows[if round % 2 == 0 { step } else { self.rows.len() - 1 - step }];
                let wish: Vec<i64> = row
                    .iter()
                    .map(|&at| mean(self.up[at].iter().chain(&self.down[at]).map(|&o| x[o])).unwrap_or(x[at]))
                    .collect();
                let apart = |i: usize| i64::midpoint(self.width[row[i - 1]], self.width[row[i]]) + GAP_X;
                let mut right = wish.clone();
                for i in 1..row.len() {
                    right[i] = right[i].max(right[i - 1] + apart(i));
                }
                let mut left = wish;
                for i in (1..row.len()).rev() {
                    left[i - 1] = left[i - 1].min(left[i] - apart(i));
                }
                for (i, &at) in row.iter().enumerate() {
                    x[at] = i64::midpoint(left[i], right[i]);
                }
            }
        }
        // Halves of odd numbers can bring two boxes a point too near: a last pass to the right.
        for row in &self.rows {
            for pair in row.windows(2) {
                x[pair[1]] = x[pair[1]].max(x[pair[0]] + (self.width[pair[0]] + self.width[pair[1]]) / 2 + GAP_X);
            }
        }
        x
    }
}

fn mean(values: impl Iterator<Item = i64>) -> Option<i64> {
    let (sum, count) = values.fold((0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count)
}

fn finish(grid: &Grid, x: &[i64], n: usize, edges: &[(usize, usize)], turned: &[(usize, usize)]) -> Placed {
    let margin = 16;
    let left = (0..x.len()).map(|i| x[i] - grid.width[i] / 2).min().unwrap_or(0) - margin;
    let right = (0..x.len()).map(|i| x[i] + grid.width[i] / 2).max().unwrap_or(0) + margin;
    let mut y = vec![0; x.len()];
    for (i, row) in grid.rows.iter().enumerate() {
        row.iter().for_each(|&at| y[at] = margin + i64::try_from(i).unwrap_or(0) * ROW_STEP);
    }
    // Ports: edges of one side spread out in the order of where they lead.
    let mut sides: BTreeMap<(usize, bool), Vec<(i64, usize)>> = BTreeMap::new();
    for (i, path) in grid.paths.iter().enumerate() {
        sides.entry((path[0], true)).or_default().push((x[path[1]], i));
        sides.entry((path[path.len() - 1], false)).or_default().push((x[path[path.len() - 2]], i));
    }
    let mut port: BTreeMap<(usize, bool), i64> = BTreeMap::new();
    for ((at, below), mut ends) in sides {
        ends.sort_unstable();
        let count = i64::try_from(ends.len()).unwrap_or(1);
        let step = 40.min((W - 40) / count);
        for (k, (_, edge)) in ends.into_iter().enumerate() {
            port.insert((edge, below), x[at] - step * (count - 1) / 2 + step * i64::try_from(k).unwrap_or(0));
        }
    }
    let wires = grid.paths.iter().enumerate().map(|(i, path)| {
        let mut points = Vec::new();
        for (k, pair) in path.windows(2).enumerate() {
            let from = if k == 0 { port[&(i, true)] } else { x[pair[0]] };
            let to = if k + 2 == path.len() { port[&(i, false)] } else { x[pair[1]] };
            points.push((from - left, y[pair[0]] + H));
            points.push((to - left, y[pair[1]]));
        }
        if turned[i] != edges[i] {
            points.reverse();
        }
        points
    });
    let wires = wires.collect();
    let boxes = (0..n).map(|i| (x[i] - W / 2 - left, y[i])).collect();
    let height = y.iter().max().map_or(0, |y| y + H) + margin;
    Placed { boxes, wires, width: right - left, height }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_never_overlap_and_causes_stand_above() {
        // A deterministic tangle with cycles, a self loop and a wide rank.
        let mut edges: Vec<(usize, usize)> = (1..40).map(|i| (i / 3, i)).collect();
        edges.extend((0..40).map(|i| (i, (i * 7 + 3) % 40)));
        edges.push((5, 5));
        let placed = place(40, &edges);
        for (i, a) in placed.boxes.iter().enumerate() {
            for b in &placed.boxes[..i] {
                assert!(a.1 != b.1 || (a.0 - b.0).abs() >= W, "{a:?} {b:?}");
            }
            assert!(a.0 >= 0 && a.0 + W <= placed.width && a.1 + H <= placed.height);
        }
        let tree = place(3, &[(0, 1), (1, 2)]);
        assert!(tree.boxes[0].1 < tree.boxes[1].1 && tree.boxes[1].1 < tree.boxes[2].1);
        assert!(place(0, &[]).boxes.is_empty());
    }
}
