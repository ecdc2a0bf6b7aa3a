//! The trace drawn: one self-contained SVG, no script, no font from elsewhere.
//!
//! Boxes stand below what caused them; a file that was written and then run stands between writer and runner. The stage
//! of the kill chain is said by colour *and* in words; how we know an edge by its line: solid observed, double proven,
//! dashed inferred. Follows the reader's light or dark scheme.
//!
//! *Limits:* edges between the same two nodes are drawn as one, with the weakest grade among them. Beyond
//! [`MAX_DRAWN`] nodes the rest is left out, and the picture says so.

mod layout;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use lava_event::{Grade, Stage};
use lava_graph::{NodeKind, Trace, TraceEdge, TraceNode, Verb};

use crate::text;
use layout::{H, Placed, W};

/// Nodes drawn at most; a trace has fewer.
pub const MAX_DRAWN: usize = 120;
const LEGEND: i64 = 64;
/// From one row of boxes to the next, points.
pub const ROW: i64 = layout::ROW_STEP;

const NAMESPACE: &str = " xmlns=\"http://www.w3.org/2000/svg\"";
const STYLE: &str = include_str!("style.css");

/// The trace as an SVG file.
#[must_use]
pub fn render(trace: &Trace) -> String {
    draw(trace, NAMESPACE, STYLE)
}

/// The trace as an `svg` element inside HTML.
#[must_use]
pub fn inline(trace: &Trace) -> String {
    draw(trace, "", STYLE)
}

/// The trace as an SVG file of light colours, for programs that know neither custom properties of CSS nor media queries.
#[must_use]
pub fn light(trace: &Trace) -> String {
    draw(trace, NAMESPACE, &light_style())
}

/// The style with its first rule's colours in place. What is inherited as `--c` is so as `color`.
fn light_style() -> String {
    let mut rules = STYLE.lines().filter(|line| !line.starts_with('@'));
    let first = rules.next().unwrap_or_default();
    let inner = first.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'));
    let (colours, others): (Vec<&str>, Vec<&str>) = inner.split(';').partition(|each| each.starts_with("--"));
    let others = others.join(";");
    let mut style = format!(".lg{{color:var(--line);{others}}}\n{}", rules.collect::<Vec<_>>().join("\n"));
    for (from, to) in [("var(--c,var(--line))", "currentColor"), ("var(--c)", "currentColor"), ("{--c:", "{color:")] {
        style = style.replace(from, to);
    }
    for (name, value) in colours.iter().filter_map(|each| each.split_once(':')) {
        style = style.replace(&format!("var({name})"), value);
    }
    style
}

/// Several edges drawn as one.
struct Wire<'a> {
    from: usize,
    to: usize,
    edges: Vec<&'a TraceEdge>,
}

impl Wire<'_> {
    fn grade(&self) -> Grade {
        self.edges.iter().map(|edge| edge.grade).min().unwrap_or(Grade::Inferred)
    }

    fn stage(&self) -> Option<Stage> {
        self.edges.iter().filter_map(|edge| edge.stage).min()
    }

    fn label(&self) -> String {
        let mut parts = Vec::new();
        for edge in self.edges.iter().take(3) {
            let times = if edge.count > 1 { format!(" ×{}", edge.count) } else { String::new() };
            let done = edge.decision.as_ref().map_or(String::new(), |decision| format!(" [{}]", decision.action));
            parts.push(format!("{}{times}{done}", edge.verb.name()));
        }
        if self.edges.len() > 3 {
            parts.push(format!("+{}", self.edges.len() - 3));
        }
        parts.join(" · ")
    }
}

fn draw(trace: &Trace, namespace: &str, style: &str) -> String {
    let nodes = &trace.nodes[..trace.nodes.len().min(MAX_DRAWN)];
    let wires = wires(nodes, &trace.edges);
    let placed = layout::place(nodes.len(), &causes(&wires));
    let width = placed.width.max(640);
    let shift = (width - placed.width) / 2;
    let height = placed.height + LEGEND;
    let mut out = String::new();
    let title = format!("Trace of the task: {} nodes, {} edges, verdict {}", nodes.len(), wires.len(), trace.verdict);
    let _ = write!(
        out,
        "<svg{namespace} class=\"lg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n<style>{style}</style>\n<rect class=\"bg\" width=\"{width}\" height=\"{height}\"/>\n<g transform=\"translate({shift} 0)\">\n"
    );
    let mut taken: Vec<(i64, i64, i64)> = Vec::new();
    let mut labels = String::new();
    for (wire, points) in wires.iter().zip(&placed.wires) {
        path(&mut out, wire, points);
        label(&mut labels, wire, points, &mut taken, &placed);
    }
    for (node, at) in nodes.iter().zip(&placed.boxes) {
        boxed(&mut out, node, *at);
    }
    out.push_str(&labels);
    out.push_str("</g>\n");
    legend(&mut out, placed.height, trace.nodes.len() - nodes.len());
    out.push_str("</svg>\n");
    out
}

fn wires<'a>(nodes: &[TraceNode], edges: &'a [TraceEdge]) -> Vec<Wire<'a>> {
    let index: BTreeMap<&str, usize> = nodes.iter().enumerate().map(|(i, node)| (node.id.as_str(), i)).collect();
    let mut wires: Vec<Wire<'a>> = Vec::new();
    for edge in edges {
        let (Some(&from), Some(&to)) = (index.get(edge.from.as_str()), index.get(edge.to.as_str())) else { continue };
        if from == to {
            continue;
        }
        match wires.iter_mut().find(|wire| (wire.from, wire.to) == (from, to)) {
            Some(wire) => wire.edges.push(edge),
            None => wires.push(Wire { from, to, edges: vec![edge] }),
        }
    }
    wires
}

/// The wires from cause to effect: what somebody else wrote is a cause of who runs or reads it.
fn causes(wires: &[Wire<'_>]) -> Vec<(usize, usize)> {
    let takes =
        |wire: &Wire<'_>| wire.edges.iter().all(|edge| matches!(edge.verb, Verb::Runs | Verb::Reads | Verb::Follows));
    let made: BTreeSet<usize> = wires.iter().filter(|wire| !takes(wire)).map(|wire| wire.to).collect();
    wires.iter().map(|w| if takes(w) && made.contains(&w.to) { (w.to, w.from) } else { (w.from, w.to) }).collect()
}

const fn class(stage: Option<Stage>) -> &'static str {
    match stage {
        Some(Stage::Exploit) => "g0",
        Some(Stage::Execute) => "g1",
        Some(Stage::Escalate) => "g2",
        Some(Stage::Persist) => "g3",
        Some(Stage::Propagate) => "g4",
        None => "",
    }
}

fn path(out: &mut String, wire: &Wire<'_>, points: &[(i64, i64)]) {
    let Some(&(x, y)) = points.first() else { return };
    let mut d = format!("M{x} {y}");
    let mut before = (x, y);
    for (i, &(x, y)) in points.iter().enumerate().skip(1) {
        if i % 2 == 1 {
            let middle = i64::midpoint(before.1, y);
            let _ = write!(d, "C{} {middle} {x} {middle} {x} {y}", before.0);
        } else {
            let _ = write!(d, "L{x} {y}");
        }
        before = (x, y);
    }
    let grade = wire.grade();
    let _ = write!(out, "<g class=\"{}\"><path class=\"{grade}\" d=\"{d}\"/>", class(wire.stage()));
    if grade == Grade::Proven {
        let _ = write!(out, "<path class=\"core\" d=\"{d}\"/>");
    }
    // The head points the way of the last leg, which always arrives vertically.
    let (x, y) = before;
    let down = points.len() < 2 || points[points.len() - 2].1 < y;
    let back = if down { y - 9 } else { y + 9 };
    let _ = writeln!(out, "<path class=\"hd\" d=\"M{x} {y}L{} {back}L{} {back}Z\"/></g>", x - 5, x + 5);
}

/// Puts the label where it covers no other one: in the space between two rows.
fn label(out: &mut String, wire: &Wire<'_>, points: &[(i64, i64)], taken: &mut Vec<(i64, i64, i64)>, placed: &Placed) {
    let words = wire.label();
    let half = i64::try_from(words.chars().count()).unwrap_or(0) * 3 + 4;
    let spots = points.chunks_exact(2).flat_map(|leg| {
        [50, 66, 34, 80, 24].map(|at| {
            let (a, b) = (leg[0], leg[1]);
            // Along the S-shaped leg: x eases, y is nearly even.
            let ease = at * at * (300 - 2 * at) / 10_000;
            (a.0 + (b.0 - a.0) * ease / 100, a.1 + (b.1 - a.1) * at / 100 + 4)
        })
    });
    let spots: Vec<(i64, i64)> = spots.collect();
    let inside = |x: i64| x.clamp(half.min(placed.width / 2), (placed.width - half).max(placed.width / 2));
    let free = |&&(x, y): &&(i64, i64)| {
        taken.iter().all(|&(ox, oy, ohalf)| (oy - y).abs() >= 13 || (ox - inside(x)).abs() >= half + ohalf)
    };
    let Some(&(x, y)) = spots.iter().find(free).or(spots.first()) else { return };
    let x = inside(x);
    taken.push((x, y, half));
    let _ = writeln!(
        out,
        "<rect class=\"bg\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"14\"/><text class=\"vb\" x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>",
        x - half,
        y - 11,
        2 * half,
        text::xml(&words)
    );
}

const fn kind(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Task => "TASK",
        NodeKind::Process => "PROCESS",
        NodeKind::File => "FILE",
        NodeKind::Endpoint => "NETWORK",
        NodeKind::DiskArea => "DISK",
        NodeKind::Module => "KERNEL MODULE",
        NodeKind::Credential => "RIGHTS",
        NodeKind::Kernel => "KERNEL",
        NodeKind::Fold => "SUMMARY",
    }
}

fn boxed(out: &mut String, node: &TraceNode, (x, y): (i64, i64)) {
    let stage = if node.stage.is_some() { " st" } else { "" };
    let clean = if node.tainted { "" } else { " clean" };
    let hover: Vec<String> =
        std::iter::once(&node.label).chain(&node.detail).map(|line| text::line(line, 300)).collect();
    let _ = write!(
        out,
        "<g class=\"{}{stage}{clean}\"><title>{}</title><rect class=\"bx\" x=\"{x}\" y=\"{y}\" width=\"{W}\" height=\"{H}\" rx=\"8\"/><rect class=\"bar\" x=\"{x}\" y=\"{}\" width=\"5\" height=\"{}\" rx=\"2\"/><text class=\"tag\" x=\"{}\" y=\"{}\">{}</text>",
        class(node.stage),
        text::xml(&hover.join(" — ")),
        y + 8,
        H - 16,
        x + 14,
        y + 17,
        kind(node.kind),
    );
    if let Some(stage) = node.stage {
        let _ = write!(
            out,
            "<text class=\"sg\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            x + W - 10,
            y + 17,
            stage.name().to_uppercase()
        );
    }
    for (i, part) in wrap(&node.label).iter().enumerate() {
        let dy = y + 35 + 16 * i64::try_from(i).unwrap_or(0);
        let _ = write!(out, "<text class=\"lb\" x=\"{}\" y=\"{dy}\">{}</text>", x + 14, text::xml(part));
    }
    out.push_str("</g>\n");
}

/// At most two lines that fit the box; a longer label loses its middle, because names differ at both ends.
fn wrap(label: &str) -> Vec<String> {
    const FIT: usize = 26;
    let mut chars: Vec<char> = text::line(label, 4096).chars().collect();
    if chars.len() > 2 * FIT {
        let tail = chars.split_off(chars.len() - FIT);
        chars.truncate(FIT - 1);
        chars.push('…');
        chars.extend(tail);
    }
    if chars.len() <= FIT {
        return vec![chars.into_iter().collect()];
    }
    let at = (chars.len().saturating_sub(FIT)..=FIT)
        .rev()
        .find(|&i| matches!(chars[i - usize::from(i > 0)], ' ' | '/' | ','))
        .unwrap_or(FIT);
    let (a, b) = chars.split_at(at.max(1));
    vec![a.iter().collect(), b.iter().collect::<String>().trim_start().to_owned()]
}

fn legend(out: &mut String, top: i64, left_out: usize) {
    let _ = write!(out, "<g transform=\"translate(16 {top})\"><text class=\"tag\" x=\"0\" y=\"14\">HOW WE KNOW</text>");
    for (i, (class, words)) in [
        ("observed", "observed at the hook"),
        ("proven", "proven: bytes followed"),
        ("inferred", "inferred from order"),
    ]
    .iter()
    .enumerate()
    {
        let x = 100 + i * 175;
        let d = format!("M{x} 10H{}", x + 30);
        let _ = write!(out, "<path class=\"{class}\" d=\"{d}\"/>");
        if *class == "proven" {
            let _ = write!(out, "<path class=\"core\" d=\"{d}\"/>");
        }
        let _ = write!(out, "<text class=\"vb\" x=\"{}\" y=\"14\">{words}</text>", x + 36);
    }
    out.push_str("<text class=\"tag\" x=\"0\" y=\"38\">KILL CHAIN</text>");
    for (i, stage) in Stage::ALL.iter().enumerate() {
        let x = 100 + i * 95;
        let _ = write!(
            out,
            "<g class=\"{}\"><rect class=\"bar\" x=\"{x}\" y=\"29\" width=\"10\" height=\"10\" rx=\"2\"/><text class=\"vb\" x=\"{}\" y=\"38\">{stage}</text></g>",
            class(Some(*stage)),
            x + 15
        );
    }
    if left_out > 0 {
        let _ = write!(out, "<text class=\"vb\" x=\"0\" y=\"56\">{left_out} more nodes are not drawn</text>");
    }
    out.push_str("</g>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_light_style_needs_no_variables() {
        let style = light_style();
        assert!(!style.contains("--") && !style.contains("var(") && !style.contains('@'), "{style}");
        assert!(style.contains(".lg .g3{color:#b4123c}") && style.contains("stroke:currentColor"), "{style}");
    }
}
