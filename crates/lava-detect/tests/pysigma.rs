//! The engine against pySigma and its SQLite backend (`sigma/judge.py`): the same rules over the same records.

mod common;
mod sigma_cases;

use std::io::Write;
use std::process::{Command, Stdio};

use lava_detect::sigma::{Record, Recorder, RuleSet};
use sigma_cases::{all, comments, events, files};

/// The records of every event that a rule's comments speak of.
fn records() -> Vec<Record> {
    let taint = all(true);
    let mut out = Vec::new();
    for (_, text) in files("rules") {
        for line in ["match:", "no match:"].iter().flat_map(|name| comments(&text, name)) {
            let mut recorder = Recorder::default();
            out.extend(events(line).iter().flat_map(|event| recorder.observe(event, &taint)));
        }
    }
    out
}

#[test]
fn every_rule_matches_what_it_matches_in_pysigma() {
    let python = std::env::var("LAVA_TEST_VALIDATORS").expect(
        "LAVA_TEST_VALIDATORS is not set: run `cargo xtask test`, or set it to what `cargo xtask validators` prints",
    );
    let (records, files) = (records(), files("rules"));
    let shown: Vec<_> = records
        .iter()
        .map(|record| {
            let fields: Vec<_> = record.fields().collect();
            let (source, read, text) = (record.log_source(), record.is_read(), record.full_text());
            serde_json::json!({"logsource": source, "read": read, "text": text, "fields": fields})
        })
        .collect();
    let texts: Vec<&String> = files.iter().map(|(_, text)| text).collect();
    let judge = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sigma/judge.py");
    let mut child = Command::new(python).arg(judge).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let given = serde_json::json!({"records": shown, "files": texts}).to_string();
    child.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "judge.py failed");
    let judged: Vec<Vec<(usize, String, Vec<usize>)>> = serde_json::from_slice(&output.stdout).unwrap();

    let (mut compared, mut matched, mut differences) = (0, 0, Vec::new());
    for ((path, text), judged) in files.iter().zip(judged) {
        let mut rules = RuleSet::new();
        rules.add(text);
        assert_eq!(rules.len(), judged.len(), "{path:?}");
        for (place, name, theirs) in judged {
            for (number, record) in records.iter().enumerate() {
                let ours = rules.matching(record).any(|(index, _)| index == place);
                compared += 1;
                matched += usize::from(ours);
                if ours != theirs.contains(&number) {
                    let fields: Vec<_> = record.fields().collect();
                    differences.push(format!("{path:?} `{name}`: we say {ours} of {fields:?}"));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{} of {compared}: {:#?}", differences.len(), differences);
    assert!(compared > 10_000 && matched > 35, "{compared} compared, {matched} matched");
}
