//! A layer for MITRE's ATT&CK Navigator (layer format 4.5): the techniques that were found.

use std::collections::BTreeMap;
use std::io::Write;

use lava_event::Finding;
use serde_json::{Value, json};

use crate::lines::level;
use crate::summary::Summary;
use crate::{Error, attack};

/// Writes the layer.
pub(crate) fn write(summary: &Summary, out: &mut dyn Write) -> Result<(), Error> {
    let mut of: BTreeMap<&str, Vec<&Finding>> = BTreeMap::new();
    for finding in summary.findings.iter().filter(|finding| attack::is_technique(&finding.technique.id)) {
        of.entry(&finding.technique.id).or_default().push(finding);
    }
    let techniques: Vec<Value> = of.iter().map(|(id, findings)| technique(id, findings)).collect();
    let manifest = &summary.manifest;
    let meta = |name: &str, value: String| json!({"name": name, "value": value});
    let layer = json!({
        "name": format!("LAVA: {}", manifest.task.name),
        "versions": {"layer": "4.5", "navigator": "5.1.0"},
        "domain": "enterprise-attack",
        "description": format!("Verdict {}, LAVA session {}", summary.trace.verdict, manifest.session),
        "filters": {"platforms": ["Linux"]},
        "sorting": 3,
        "hideDisabled": false,
        "techniques": techniques,
        "gradient": {"colors": ["#fff7b3ff", "#ff6666ff"], "minValue": 0, "maxValue": 100},
        "metadata": [
            meta("session", manifest.session.to_string()),
            meta("task sha256", manifest.task.sha256.to_string()),
            meta("verdict", summary.trace.verdict.to_string()),
        ],
    });
    serde_json::to_writer_pretty(&mut *out, &layer)?;
    writeln!(out)?;
    Ok(())
}

/// Scored by the worst finding: 20 for info to 100 for critical.
fn technique(id: &str, findings: &[&Finding]) -> Value {
    let score = findings.iter().map(|finding| u32::from(level(finding.severity)) * 20).max();
    let titles: Vec<String> =
        findings.iter().take(20).map(|finding| format!("{} ({})", finding.title, finding.grade)).collect();
    let metadata: Vec<Value> =
        findings.iter().take(20).map(|finding| json!({"name": "detector", "value": finding.detector})).collect();
    json!({
        "techniqueID": id, "score": score, "comment": titles.join("\n"), "enabled": true, "metadata": metadata,
        "showSubtechniques": true,
    })
}
