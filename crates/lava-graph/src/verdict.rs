//! The kill chain, the score, the verdict and the sentence that explains it, from the findings.
//!
//! **Score**, 0 to 100: the strongest finding of each stage of the kill chain counts: critical 80, high 40, medium 10, the others
//! nothing; their sum, at most 100. Many findings of one stage are not more than one.
//!
//! **Verdict**, by the score:
//! * **malicious**, from 80: a critical finding, or high ones in two or more stages, or all five stages and one of them high;
//! * **suspicious**, from 10: any finding of severity medium or high;
//! * **clean**: none of these. Findings of severity low and info are listed, and change neither verdict nor kill chain: a stage is
//!   reached by what honest tasks do not do.
//!
//! All findings of a session count together, whether they are known to rest on each other ([`crate::Incident`]) or not: an attacker
//! who hides the connection gains nothing.
//!
//! One high finding alone is not enough: installers drop and run programs, administration tools write crontabs. An attack
//! that does only one of these things is shown as suspicious with its finding; that is the rule's limit.

use lava_event::{Finding, Severity, Stage, Verdict};

use crate::{Incident, StageSummary};

/// Score from which on a session is malicious.
const MALICIOUS: u8 = 80;
/// Score from which on it is suspicious.
const SUSPICIOUS: u8 = 10;
/// The highest score.
const MOST: u8 = 100;
/// Findings that the sentence quotes.
const QUOTED: usize = 2;

const fn weight(severity: Severity) -> u8 {
    match severity {
        Severity::Critical => 80,
        Severity::High => 40,
        Severity::Medium => 10,
        Severity::Low | Severity::Info => 0,
    }
}

/// The severity of the strongest finding of each stage.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Strengths([Option<Severity>; Stage::ALL.len()]);

impl Strengths {
    pub(crate) fn of<'a>(findings: impl Iterator<Item = &'a Finding>) -> Self {
        let mut strengths = Self::default();
        findings.for_each(|finding| strengths.add(finding));
        strengths
    }

    pub(crate) fn add(&mut self, finding: &Finding) {
        let place = &mut self.0[finding.stage as usize];
        *place = (*place).max(Some(finding.severity));
    }

    fn each(self) -> impl Iterator<Item = (Stage, Severity)> {
        Stage::ALL.into_iter().zip(self.0).filter_map(|(stage, severity)| Some((stage, severity?)))
    }

    pub(crate) fn score(self) -> u8 {
        self.each().fold(0u8, |sum, (_, severity)| sum.saturating_add(weight(severity))).min(MOST)
    }

    pub(crate) fn verdict(self) -> Verdict {
        match self.score() {
            MALICIOUS.. => Verdict::Malicious,
            SUSPICIOUS.. => Verdict::Suspicious,
            _ => Verdict::Clean,
        }
    }

    /// The stages that were reached.
    pub(crate) fn stages(self) -> Vec<Stage> {
        self.each().filter(|(_, severity)| severity.counts()).map(|(stage, _)| stage).collect()
    }
}

pub(crate) fn kill_chain(findings: &[Finding]) -> Vec<StageSummary> {
    Strengths::of(findings.iter())
        .stages()
        .into_iter()
        .map(|stage| {
            let of: Vec<usize> =
                (0..findings.len()).filter(|&i| findings[i].stage == stage && findings[i].severity.counts()).collect();
            let first_ns = of.iter().map(|&i| findings[i].time_ns).min().unwrap_or_default();
            StageSummary { stage, findings: of, first_ns }
        })
        .collect()
}

/// One sentence: which rule, on which evidence, and what would change it. Guest text in it is escaped, as in the titles.
pub(crate) fn explanation(findings: &[Finding], incidents: &[Incident]) -> String {
    let strengths = Strengths::of(findings.iter());
    let (score, verdict) = (strengths.score(), strengths.verdict());
    // Strongest first; of equal ones in the order of the kill chain, then of time.
    let mut ranked: Vec<&Finding> = findings.iter().filter(|finding| finding.severity.counts()).collect();
    ranked.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.stage, finding.time_ns));
    let head = format!("{} (score {score} of {MOST})", capital(verdict));
    let noticed = findings.len() - ranked.len();
    if ranked.is_empty() {
        let seen = match noticed {
            0 => "nothing that is looked for was seen".to_owned(),
            n => format!(
                "{n} thing{} noticed that honest tasks do too, and nothing else",
                if n == 1 { " was" } else { "s were" }
            ),
        };
        return format!("{head}: {seen}; one finding of severity medium or more would make it suspicious.");
    }
    let quoted: Vec<String> = ranked.iter().take(QUOTED).map(|finding| quote(finding)).collect();
    let more = match ranked.len() - quoted.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let apart = match incidents.len() {
        0 | 1 => String::new(),
        n => format!(", in {n} incidents that are not seen to rest on each other"),
    };
    let rule = rule(strengths);
    format!("{head}: {rule}{apart}: {}{more}; {}.", quoted.join(", "), change(&ranked, verdict))
}

fn capital(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clean => "Clean",
        Verdict::Suspicious => "Suspicious",
        Verdict::Malicious => "Malicious",
    }
}

fn rule(strengths: Strengths) -> String {
    let in_stages = |least: Severity| strengths.each().filter(|(_, severity)| *severity >= least).count();
    match (in_stages(Severity::Critical), in_stages(Severity::High), in_stages(Severity::Medium)) {
        (1.., _, _) => "a critical finding".to_owned(),
        (_, high @ 2.., _) => format!("findings of severity high in {high} stages"),
        (_, 1, all) if all == Stage::ALL.len() => "findings in all stages, of severity high in one".to_owned(),
        (_, 1, _) => "findings of severity high in one stage only".to_owned(),
        _ => "findings of severity medium at most".to_owned(),
    }
}

fn quote(finding: &Finding) -> String {
    let event = finding.events.last().copied().unwrap_or_default();
    format!(
        "\u{201c}{}\u{201d} ({}, {}, {}, event {event})",
        finding.title, finding.detector, finding.technique.id, finding.grade
    )
}

/// What would make the verdict milder, and what worse. `ranked` is strongest first.
fn change(ranked: &[&Finding], verdict: Verdict) -> String {
    let without = |n: usize| Strengths::of(ranked.iter().skip(n).copied()).verdict();
    let n = (1..=ranked.len()).find(|&n| without(n) < verdict).unwrap_or(ranked.len());
    let of = match (n, ranked.len()) {
        (1, 1) => "if that has an honest reason".to_owned(),
        (1, _) => "if the first of them has an honest reason".to_owned(),
        (n, all) if n == all => format!("if all {n} have an honest reason"),
        (n, _) => format!("if the {n} strongest of them have an honest reason"),
    };
    let milder = format!("{of}, it is {}", without(n));
    match verdict {
        Verdict::Suspicious => {
            let high = ranked.first().is_some_and(|finding| finding.severity >= Severity::High);
            let worse =
                if high { "one of severity high in another stage" } else { "two of severity high in two stages" };
            format!("{milder}; a critical finding, or {worse}, would make it malicious")
        }
        Verdict::Malicious | Verdict::Clean => milder,
    }
}

#[cfg(test)]
mod tests {
    use lava_event::{Grade, Technique};

    use super::*;

    fn finding(stage: Stage, severity: Severity) -> Finding {
        Finding {
            detector: format!("{stage}.x"),
            title: format!("{stage} was seen"),
            why: String::new(),
            stage,
            technique: Technique { id: "T1".into(), name: String::new() },
            severity,
            grade: Grade::Observed,
            time_ns: stage as u64,
            process: None,
            events: vec![7],
            distance: None,
        }
    }

    #[test]
    fn every_combination_follows_the_rule() {
        use Severity::{Critical, High, Info, Low, Medium};
        let choices = [None, Some(Info), Some(Low), Some(Medium), Some(High), Some(Critical)];
        for n in 0..choices.len().pow(5) {
            let of = |stage: Stage| choices[n / choices.len().pow(stage as u32) % choices.len()];
            let findings: Vec<Finding> =
                Stage::ALL.into_iter().filter_map(|stage| Some(finding(stage, of(stage)?))).collect();
            let at_least = |least: Severity| findings.iter().filter(|f| f.severity >= least).count();
            let expect = match (at_least(Critical), at_least(High), at_least(Medium)) {
                (1.., _, _) | (_, 2.., _) | (_, 1, 5) => Verdict::Malicious,
                (_, _, 1..) => Verdict::Suspicious,
                _ => Verdict::Clean,
            };
            let strengths = Strengths::of(findings.iter());
            assert_eq!(strengths.verdict(), expect, "{findings:#?}");
            assert_eq!(strengths.stages().len(), at_least(Medium));
            // The sentence keeps its word: without as many of the strongest as it says, the verdict is milder.
            let sentence = explanation(&findings, &[]);
            assert!(sentence.starts_with(capital(expect)) && sentence.ends_with('.'), "{sentence}");
        }
    }

    #[test]
    fn the_sentence_says_what_would_change_it() {
        use Severity::{Critical, High, Low, Medium};
        use Stage::{Escalate, Execute, Persist};
        for (findings, expect) in [
            (
                vec![],
                "Clean (score 0 of 100): nothing that is looked for was seen; one finding of severity medium or more would make it suspicious.",
            ),
            (
                vec![(Execute, Low)],
                "Clean (score 0 of 100): 1 thing was noticed that honest tasks do too, and nothing else; one finding of severity medium or more would make it suspicious.",
            ),
            (
                vec![(Execute, Medium)],
                "Suspicious (score 10 of 100): findings of severity medium at most: \u{201c}execute was seen\u{201d} (execute.x, T1, observed, event 7); if that has an honest reason, it is clean; a critical finding, or two of severity high in two stages, would make it malicious.",
            ),
            (
                vec![(Execute, High), (Persist, High), (Persist, High), (Escalate, Medium)],
                "Malicious (score 90 of 100): findings of severity high in 2 stages: \u{201c}execute was seen\u{201d} (execute.x, T1, observed, event 7), \u{201c}persist was seen\u{201d} (persist.x, T1, observed, event 7) and 2 more; if the first of them has an honest reason, it is suspicious.",
            ),
            (
                vec![(Persist, Critical), (Persist, Critical)],
                "Malicious (score 80 of 100): a critical finding: \u{201c}persist was seen\u{201d} (persist.x, T1, observed, event 7), \u{201c}persist was seen\u{201d} (persist.x, T1, observed, event 7); if all 2 have an honest reason, it is clean.",
            ),
        ] {
            let findings: Vec<Finding> =
                findings.into_iter().map(|(stage, severity)| finding(stage, severity)).collect();
            assert_eq!(explanation(&findings, &[]), expect);
        }
    }
}
