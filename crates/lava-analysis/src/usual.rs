//! The session against its profile's baseline: how far a finding is from what opening honest tasks leads to.
//!
//! The detectors know nothing of it. What they found is kept; a finding of severity medium or low whose every event is in the baseline
//! becomes one of severity info, which does not count for the verdict, and its reasons say so. High and critical stay what they are.

use std::collections::{BTreeMap, BTreeSet};

use lava_baseline::{Act, Baseline, Distance, Done, Names};
use lava_event::{Event, EventSeq, Finding, Severity};

/// Events whose distance is remembered, a byte each: more than a session of days. What is beyond is never usual.
const MAX_EVENTS: usize = 256 << 20;

#[derive(Debug)]
pub(crate) struct Usual {
    baseline: Baseline,
    names: Names,
    /// Of each event since the first that was observed, whether the baseline has it.
    holds: Vec<bool>,
    first: EventSeq,
}

impl Usual {
    pub(crate) fn new(baseline: Baseline) -> Self {
        Self { baseline, names: Names::default(), holds: Vec::new(), first: 0 }
    }

    pub(crate) fn observe(&mut self, event: &Event) {
        self.names.observe(event);
        if self.holds.is_empty() {
            self.first = event.seq;
        }
        // A log with a hole, which somebody made, is remembered up to there: no memory for what its numbers only claim.
        if self.at(event.seq) == Some(self.holds.len()) && self.holds.len() < MAX_EVENTS {
            let holds = self.holds(event);
            self.holds.push(holds);
        }
    }

    fn at(&self, seq: EventSeq) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.first)?).ok()
    }

    pub(crate) fn holds(&self, event: &Event) -> bool {
        self.baseline.distance_of(event, &self.names) == Distance::Usual
    }

    /// Lowers what is usual.
    pub(crate) fn rank(&self, finding: &mut Finding) {
        let holds = |&seq: &EventSeq| self.at(seq).and_then(|at| self.holds.get(at)).copied().unwrap_or_default();
        if finding.severity > Severity::Medium || finding.events.is_empty() || !finding.events.iter().all(holds) {
            return;
        }
        finding.why += &format!(
            " Usual for tasks of the profile {}: all it rests on is in the baseline, so it does not count (severity {} else).",
            self.baseline.profile().escape_debug(),
            match finding.severity {
                Severity::Medium => "medium",
                _ => "low or info",
            }
        );
        finding.severity = Severity::Info;
    }
}

/// A session held against a baseline.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compared {
    /// What the task's processes did that the baseline does not know: distance, and the first event of each.
    pub unknown: BTreeMap<Done, (Distance, EventSeq)>,
    /// Every act of theirs.
    pub acts: BTreeSet<Done>,
    /// How far each of the given findings is, in their order: as far as the farthest event it rests on.
    pub findings: Vec<Distance>,
}

/// Acts that are kept of one session.
const MAX_DONE: usize = lava_baseline::MAX_ACTS;

/// Holds a session against a baseline; with an empty one it says what the session did. `findings` are those of the session.
#[must_use]
pub fn compare(baseline: &Baseline, findings: &[Finding], events: impl Iterator<Item = Event>) -> Compared {
    let mut wanted: BTreeMap<EventSeq, Distance> =
        findings.iter().flat_map(|finding| &finding.events).map(|&seq| (seq, Distance::Never)).collect();
    let (mut graph, mut names, mut compared) = (lava_graph::Graph::new(), Names::default(), Compared::default());
    for event in events {
        graph.apply(&event);
        names.observe(&event);
        let done = Done::of(&event, &names);
        if let (Some(distance), Some(done)) = (wanted.get_mut(&event.seq), &done) {
            *distance = baseline.distance(done);
        }
        let theirs = event.actor().is_some_and(|actor| graph.is_tainted(actor));
        let Some(done) = done.filter(|_| theirs && compared.acts.len() <= MAX_DONE) else { continue };
        let distance = baseline.distance(&done);
        if distance > Distance::Usual {
            compared.unknown.entry(done.clone()).or_insert((distance, event.seq));
        }
        compared.acts.insert(done);
    }
    let far = |finding: &Finding| finding.events.iter().map(|seq| wanted[seq]).max().unwrap_or(Distance::Never);
    compared.findings = findings.iter().map(far).collect();
    compared
}

impl Compared {
    /// What is unknown, grouped by program: the programs with the most distant acts first, and these first within each.
    #[must_use]
    pub fn by_program(&self) -> Vec<(&str, Vec<(Distance, Act, &str, EventSeq)>)> {
        let mut programs: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (done, &(distance, seq)) in &self.unknown {
            programs.entry(&done.program).or_default().push((distance, done.act, done.object.as_str(), seq));
        }
        let farthest = |acts: &[(Distance, Act, &str, EventSeq)]| acts.iter().map(|act| act.0).max();
        let mut programs: Vec<_> = programs.into_iter().collect();
        for (_, acts) in &mut programs {
            acts.sort_by_key(|&(distance, act, object, _)| (std::cmp::Reverse(distance), act, object));
        }
        programs.sort_by_key(|(program, acts)| (std::cmp::Reverse(farthest(acts)), *program));
        programs
    }
}

#[cfg(test)]
mod tests {
    use lava_event::{Access, FileId, Grade, Kind, Process, Source, Stage, Technique, Verdict};

    use super::*;
    use crate::Analysis;

    fn opens(seq: u64, path: &str) -> Event {
        let file = FileId { device: (8, 1), inode: 7, mode: 0o100_644, uid: 0, gid: 0, size: 0, node: None };
        let kind = Kind::FileOpen { path: path.into(), file, access: Access::Write };
        let mut event = Event::new(seq, Source::Tap, kind);
        event.seq = seq;
        event.process = Some(Process {
            pid: 9,
            tid: 9,
            start_ns: 1,
            ppid: 1,
            uid: 1000,
            comm: "sh".into(),
            exe: "/usr/bin/dash".into(),
        });
        event
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
        }
    }

    fn usual(events: &[Event]) -> Usual {
        let mut baseline = Baseline::new("script", "");
        let done = Done::of(&opens(1, "/tmp/list"), &Names::default()).unwrap();
        baseline.learn("1", None, "a", [done]).unwrap();
        let mut usual = Usual::new(baseline);
        events.iter().for_each(|event| usual.observe(event));
        usual
    }

    #[test]
    fn only_what_is_wholly_usual_and_not_severe_is_lowered() {
        let usual =
            usual(&[opens(5, "/tmp/list"), opens(6, "/tmp/list"), opens(7, "/tmp/other"), opens(99, "/tmp/list")]);
        for (severity, events, lowered) in [
            (Severity::Medium, vec![5, 6], true),
            (Severity::Low, vec![5], true),
            (Severity::Medium, vec![5, 7], false),
            (Severity::High, vec![5], false),
            (Severity::Critical, vec![5], false),
            (Severity::Medium, vec![], false),
            (Severity::Medium, vec![4], false),
            (Severity::Medium, vec![99], false),
            (Severity::Medium, vec![u64::MAX], false),
        ] {
            let mut ranked = finding(severity, events.clone());
            usual.rank(&mut ranked);
            let expect = if lowered { Severity::Info } else { severity };
            assert_eq!(ranked.severity, expect, "{severity:?} {events:?}");
            assert_eq!(ranked.why.contains("Usual"), lowered);
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

    #[test]
    fn distances_of_findings_are_those_of_their_farthest_event() {
        let baseline = usual(&[]).baseline;
        let events = [opens(1, "/tmp/list"), opens(2, "/tmp/other"), opens(3, "/etc/passwd")];
        let findings = [vec![1], vec![1, 2], vec![2, 3], vec![1, 9]].map(|seqs| finding(Severity::Medium, seqs));
        let compared = compare(&baseline, &findings, events.into_iter());
        assert_eq!(compared.findings, [Distance::Usual, Distance::Near, Distance::OtherObject, Distance::Never]);
        assert!(compared.acts.is_empty(), "no process of the task's did anything");
    }
}
