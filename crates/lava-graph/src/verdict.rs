//! The kill chain and the verdict, from the findings.
//!
//! The rule:
//! * **malicious**: a finding of severity critical, or findings of severity high in two or more stages;
//! * **suspicious**: any finding of severity medium or high;
//! * **clean**: none of these. Findings of severity low and info are listed, and change neither verdict nor kill chain: a stage is
//!   reached by what honest tasks do not do.
//!
//! One high finding alone is not enough: installers drop and run programs, administration tools write crontabs. An attack
//! that does only one of these things is shown as suspicious with its finding; that is the rule's limit.

use lava_event::{Finding, Severity, Stage, Verdict};

use crate::StageSummary;

pub(crate) fn verdict(findings: &[Finding]) -> Verdict {
    let worst = findings.iter().map(|finding| finding.severity).max();
    let high = |stage: Stage| findings.iter().any(|f| f.stage == stage && f.severity >= Severity::High);
    let high_stages = Stage::ALL.into_iter().filter(|&stage| high(stage)).count();
    match worst {
        Some(Severity::Critical) => Verdict::Malicious,
        Some(Severity::High) if high_stages >= 2 => Verdict::Malicious,
        Some(Severity::High | Severity::Medium) => Verdict::Suspicious,
        Some(Severity::Low | Severity::Info) | None => Verdict::Clean,
    }
}

pub(crate) fn stages(findings: &[Finding]) -> Vec<Stage> {
    let reached = |stage: &Stage| findings.iter().any(|finding| finding.stage == *stage && finding.severity.counts());
    Stage::ALL.into_iter().filter(reached).collect()
}

pub(crate) fn kill_chain(findings: &[Finding]) -> Vec<StageSummary> {
    stages(findings)
        .into_iter()
        .map(|stage| {
            let of: Vec<usize> =
                (0..findings.len()).filter(|&i| findings[i].stage == stage && findings[i].severity.counts()).collect();
            let first_ns = of.iter().map(|&i| findings[i].time_ns).min().unwrap_or_default();
            StageSummary { stage, findings: of, first_ns }
        })
        .collect()
}
