//! The session against its profile's baseline: how far a finding is from what opening honest tasks leads to.
//!
//! The detectors know nothing of it. What they found is kept, and each finding says how far it is. One of ours of severity medium or low
//! whose every event is in the baseline becomes one of severity info, which does not count for the verdict, and its reasons say so. High
//! and critical stay what they are, and so do the findings of the user's own rules.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use lava_baseline::{Act, Baseline, Done, Names};
use lava_detect::MAX_EVENTS_OF_FINDING;
use lava_event::{Distance, Event, EventSeq, Finding, GuestText, Kind, Severity};
use lava_graph::Graph;

/// Events whose distance is remembered, a byte each: more than a session of days. What is beyond is never usual.
const MAX_EVENTS: usize = 256 << 20;
/// Files of the task's making that are remembered, 8 bytes each. If there are more, nothing is usual any more.
const MAX_MADE: usize = 1 << 20;
/// The detectors that are the user's own rules begin so.
const RULES: [&str; 2] = ["sigma.", "yara."];

/// What events are as acts. Code that the task made is known as such: what it does is never usual, under whatever name.
#[derive(Debug, Default)]
struct Acts {
    names: Names,
    /// Paths that tainted processes wrote to or renamed to, hashed. Two that share a hash make one more thing unusual, none less.
    made: HashSet<u64>,
}

impl Acts {
    /// Takes the next event, which the graph has.
    fn observe(&mut self, event: &Event, graph: &Graph) {
        self.names.observe(event);
        let path = match &event.kind {
            Kind::FileWrite { path, .. } | Kind::FileMapWrite { path, .. } | Kind::FileRename { to: path, .. } => path,
            _ => return,
        };
        let theirs = event.actor().is_some_and(|actor| graph.is_tainted(actor));
        if theirs && self.made.len() <= MAX_MADE {
            self.made.insert(hash(path));
        }
    }

    /// The event as an act that a baseline could hold.
    fn of(&self, event: &Event, graph: &Graph) -> Option<Done> {
        // What an archive held was written too, to be opened: it is content, once that is told.
        let is_made = |path: &GuestText| self.made.len() > MAX_MADE || self.made.contains(&hash(path));
        let made = |path: &GuestText| is_made(path) && !graph.is_task_file(path);
        let library = match &event.kind {
            Kind::MemoryMap { protection, path: Some(path), .. } if protection.executes() => made(path),
            _ => false,
        };
        let program = event.process.as_ref().is_some_and(|process| made(&process.exe));
        Done::of(event, &self.names).filter(|_| !program && !library)
    }
}

fn hash(path: &GuestText) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.bytes().hash(&mut hasher);
    hasher.finish()
}

#[derive(Debug)]
pub(crate) struct Usual {
    baseline: Baseline,
    acts: Acts,
    /// Of each event since the first that was observed.
    distances: Vec<Distance>,
    first: EventSeq,
}

impl Usual {
    pub(crate) fn new(baseline: Baseline) -> Self {
        Self { baseline, acts: Acts::default(), distances: Vec::new(), first: 0 }
    }

    /// Takes the next event, which the graph has.
    pub(crate) fn observe(&mut self, event: &Event, graph: &Graph) {
        self.acts.observe(event, graph);
        if self.distances.is_empty() {
            self.first = event.seq;
        }
        // A log with a hole, which somebody made, is remembered up to there: no memory for what its numbers only claim.
        if self.at(event.seq) == Some(self.distances.len()) && self.distances.len() < MAX_EVENTS {
            let distance = self.distance(event, graph);
            self.distances.push(distance);
        }
    }

    fn at(&self, seq: EventSeq) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.first)?).ok()
    }

    fn distance(&self, event: &Event, graph: &Graph) -> Distance {
        self.acts.of(event, graph).map_or(Distance::Never, |done| self.baseline.distance(&done))
    }

    pub(crate) fn holds(&self, event: &Event, graph: &Graph) -> bool {
        self.distance(event, graph) == Distance::Usual
    }

    /// Says how far it is, and lowers what is usual.
    pub(crate) fn rank(&self, finding: &mut Finding) {
        let of = |&seq: &EventSeq| self.at(seq).and_then(|at| self.distances.get(at)).copied();
        let distances = finding.events.iter().map(|seq| of(seq).unwrap_or(Distance::Never));
        let distance = distances.max().unwrap_or(Distance::Never);
        finding.distance = Some(distance);
        // With so many events, some it rests on can be missing.
        let whole = finding.events.len() < MAX_EVENTS_OF_FINDING;
        let rule = RULES.iter().any(|rules| finding.detector.starts_with(rules));
        if distance > Distance::Usual || !whole || rule {
            return;
        }
        let else_of = match finding.severity {
            Severity::Medium => "medium",
            Severity::Low => "low",
            Severity::Info | Severity::High | Severity::Critical => return,
        };
        finding.why += &format!(
            " Usual for tasks of the profile {}: all it rests on is in the baseline, so it does not count (severity {else_of} else).",
            self.baseline.profile().escape_debug(),
        );
        finding.severity = Severity::Info;
    }
}

/// A session held against a baseline.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compared {
    /// What the task's processes did that the baseline does not know: distance, and the first event of each.
    pub unknown: BTreeMap<Done, (Distance, EventSeq)>,
    /// Every act of theirs that a baseline could hold.
    pub acts: BTreeSet<Done>,
}

/// Acts that are kept of one session.
const MAX_DONE: usize = lava_baseline::MAX_ACTS;

/// Holds a session against a baseline; with an empty one it says what the session did.
#[must_use]
pub fn compare(baseline: &Baseline, events: impl Iterator<Item = Event>) -> Compared {
    let (mut graph, mut acts, mut compared) = (Graph::new(), Acts::default(), Compared::default());
    for event in events {
        graph.apply(&event);
        acts.observe(&event, &graph);
        let theirs = event.actor().is_some_and(|actor| graph.is_tainted(actor));
        if !theirs || compared.acts.len() > MAX_DONE {
            continue;
        }
        let Some(done) = acts.of(&event, &graph) else { continue };
        let distance = baseline.distance(&done);
        if distance > Distance::Usual {
            compared.unknown.entry(done.clone()).or_insert((distance, event.seq));
        }
        compared.acts.insert(done);
    }
    compared
}

/// An act that the baseline does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unknown<'a> {
    /// How far it is from what is usual.
    pub distance: Distance,
    /// What was done.
    pub act: Act,
    /// To what.
    pub object: &'a str,
    /// The first event of it.
    pub seq: EventSeq,
}

impl Compared {
    /// What is unknown, grouped by program: the programs with the most distant acts first, and these first within each.
    #[must_use]
    pub fn by_program(&self) -> Vec<(&str, Vec<Unknown<'_>>)> {
        let mut programs: BTreeMap<&str, Vec<Unknown<'_>>> = BTreeMap::new();
        for (done, &(distance, seq)) in &self.unknown {
            let unknown = Unknown { distance, act: done.act, object: &done.object, seq };
            programs.entry(&done.program).or_default().push(unknown);
        }
        let farthest = |acts: &[Unknown<'_>]| acts.iter().map(|unknown| unknown.distance).max();
        let mut programs: Vec<_> = programs.into_iter().collect();
        for (_, acts) in &mut programs {
            acts.sort_by_key(|unknown| (std::cmp::Reverse(unknown.distance), unknown.act, unknown.object));
        }
        programs.sort_by_key(|(program, acts)| (std::cmp::Reverse(farthest(acts)), *program));
        programs
    }
}

#[cfg(test)]
mod tests {
    use lava_event::{
        Access, FileId, Grade, Process, ProcessRef, Protection, Sha256, Source, Stage, Technique, Verdict,
    };

    use super::*;
    use crate::Analysis;

    const FILE: FileId = FileId { device: (8, 1), inode: 7, mode: 0o100_755, uid: 0, gid: 0, size: 0, node: None };

    fn by(seq: u64, program: &str, kind: Kind) -> Event {
        let mut event = Event::new(seq, Source::Tap, kind);
        event.seq = seq;
        event.process =
            Some(Process { pid: 9, tid: 9, start_ns: 1, ppid: 1, uid: 1000, comm: "sh".into(), exe: program.into() });
        event
    }

    fn opens(seq: u64, path: &str) -> Event {
        by(seq, "/usr/bin/dash", Kind::FileOpen { path: path.into(), file: FILE, access: Access::Write })
    }

    fn finding(severity: Severity, events: Vec<EventSeq>) -> Finding {
        Finding {
            detector: "x".into(),
            title: "x".into(),
            why: "Because.".into(),
            stage: Stage::Execute,
            technique: Technique { id: "T1".into(), name: String::new() },
            severity,
            grade: Grade::Observed,
            time_ns: 0,
            process: None,
            events,
            distance: None,
        }
    }

    fn usual(events: &[Event]) -> Usual {
        let mut baseline = Baseline::new("script", "");
        let done = Done::of(&opens(1, "/tmp/list"), &Names::default()).unwrap();
        baseline.learn("1", None, "a", [done]).unwrap();
        let mut usual = Usual::new(baseline);
        events.iter().for_each(|event| usual.observe(event, &Graph::new()));
        usual
    }

    #[test]
    fn only_what_is_wholly_usual_and_not_severe_is_lowered() {
        let usual =
            usual(&[opens(5, "/tmp/list"), opens(6, "/tmp/list"), opens(7, "/tmp/other"), opens(99, "/tmp/list")]);
        use Distance::{Near, Never, Usual};
        for (severity, events, distance) in [
            (Severity::Medium, vec![5, 6], Usual),
            (Severity::Low, vec![5], Usual),
            (Severity::Info, vec![5], Usual),
            (Severity::Medium, vec![5, 7], Near),
            (Severity::High, vec![5], Usual),
            (Severity::Critical, vec![5], Usual),
            (Severity::Medium, vec![], Never),
            (Severity::Medium, vec![4], Never),
            (Severity::Medium, vec![99], Never),
            (Severity::Medium, vec![u64::MAX], Never),
        ] {
            let mut ranked = finding(severity, events.clone());
            usual.rank(&mut ranked);
            assert_eq!(ranked.distance, Some(distance), "{severity:?} {events:?}");
            let lowered = distance == Usual && [Severity::Low, Severity::Medium].contains(&severity);
            assert_eq!(ranked.severity, if lowered { Severity::Info } else { severity }, "{severity:?} {events:?}");
            assert_eq!(ranked.why.contains("Usual"), lowered);
        }
        // The user's own rules, and a finding that names as many events as one can.
        let of_rule = Finding { detector: "sigma.1".into(), ..finding(Severity::Medium, vec![5]) };
        for mut ranked in [of_rule, finding(Severity::Medium, vec![5; MAX_EVENTS_OF_FINDING])] {
            usual.rank(&mut ranked);
            assert_eq!((ranked.distance, ranked.severity), (Some(Usual), Severity::Medium));
        }
    }

    /// A task that overwrites a program and a library that the baseline knows, and has both run.
    #[test]
    fn code_that_the_task_made_is_never_usual() {
        let (cat, library) = ("/usr/bin/cat", "/usr/lib/x.so");
        let read = |seq, program| {
            by(seq, program, Kind::FileOpen { path: "/etc/hostname".into(), file: FILE, access: Access::Read })
        };
        let map = |seq| {
            let (address, length, shared) = (0, 4096, false);
            let protection = Protection::from_bits(5);
            let path = Some(library.into());
            by(seq, "/usr/bin/dash", Kind::MemoryMap { address, length, protection, shared, path, file: None })
        };
        let mut baseline = Baseline::new("script", "");
        let done = [read(1, cat), map(1)].map(|event| Done::of(&event, &Names::default()).unwrap());
        baseline.learn("1", None, "a", done).unwrap();
        let writes = |seq, path: &str| {
            let (ranges, bytes, count) = (vec![], 9, 1);
            by(seq, "/usr/bin/dash", Kind::FileWrite { path: path.into(), file: FILE, ranges, bytes, count })
        };
        let task = Kind::VmTask {
            name: "t".into(),
            path: "/home/user/t".into(),
            sha256: Sha256::default(),
            profile: "script".into(),
            command: vec![],
            launcher: "/usr/lib/lava/launcher".into(),
            hosts: vec![],
            jit: vec![],
            unpacks: None,
        };
        let mut opened = by(1, "", task);
        opened.process = None;
        let child = ProcessRef { pid: 9, tid: 9, start_ns: 1, comm: "sh".into() };
        let mut forks = by(2, "/usr/lib/lava/launcher", Kind::ProcessFork { child, thread: false, flags: 0 });
        forks.process.as_mut().unwrap().pid = 1;
        let log = |made: bool| {
            let (over, beside) = if made { (cat, library) } else { ("/tmp/a", "/tmp/b") };
            [opened.clone(), forks.clone(), writes(3, over), writes(4, beside), read(5, cat), map(6)]
        };
        for made in [false, true] {
            let compared = compare(&baseline, log(made).into_iter());
            let known = compared.acts.iter().filter(|act| !compared.unknown.contains_key(act)).count();
            assert_eq!(known, if made { 0 } else { 2 }, "{compared:?}");
            assert!(compared.acts.iter().all(|act| !made || act.act == Act::Write), "nor is it learned: {compared:?}");
            let mut analysis = Analysis::new().with_baseline(Some(baseline.clone()));
            for event in log(made) {
                analysis.observe(&event);
                assert_eq!(analysis.view(&event).in_baseline, event.seq >= 5 && !made, "{event:?}");
            }
        }
    }

    #[test]
    fn the_policy_is_told() {
        let baseline = || usual(&[]).baseline;
        let mut analysis = Analysis::new().with_baseline(Some(baseline()));
        for (seq, path, expect) in [(1, "/tmp/list", true), (2, "/etc/passwd", false)] {
            let event = opens(seq, path);
            analysis.observe(&event);
            assert_eq!(analysis.view(&event).in_baseline, expect, "{path}");
            assert!(!Analysis::new().view(&event).in_baseline, "nothing is, without one");
        }
        assert_eq!(analysis.graph().verdict(), Verdict::Clean);
    }
}
