//! docs/detections.md is written from the code's own tables: this test compares, and with `LAVA_UPDATE_DOCS=1` writes it.

use std::fmt::Write as _;
use std::path::Path;

use lava_detect::sigma::log_sources;
use lava_detect::{About, attack_version, behaviours, technique};
use lava_event::Stage;

const STAGES: [(Stage, &str); 5] = [
    (Stage::Exploit, "Exploit"),
    (Stage::Execute, "Execute"),
    (Stage::Escalate, "Escalate"),
    (Stage::Persist, "Persist"),
    (Stage::Propagate, "Propagate"),
];

fn detector(about: &About, out: &mut String) {
    let technique = technique(about.technique);
    let severity = format!("{:?}", about.severity).to_lowercase();
    writeln!(out, "* **`{}`**: {} {}; {severity}. {}", about.id, technique.id, technique.name, about.why).unwrap();
    writeln!(out, "  *Honest programs that do it:* {}", about.false_positives).unwrap();
}

fn detectors(out: &mut String) {
    let all = behaviours();
    let techniques: std::collections::BTreeSet<_> = all.iter().map(|about| technique(about.technique).id).collect();
    writeln!(
        out,
        "\n## Built-in detectors\n\n{} of them, for {} ATT&CK techniques (names: ATT&CK {}). Severity and technique are what a finding has \
         unless its detector knows better: what a package manager does by right is low, and a place from which programs start has the \
         technique of its kind.",
        all.len(),
        techniques.len(),
        attack_version()
    )
    .unwrap();
    for (stage, name) in STAGES {
        writeln!(out, "\n### {name}\n").unwrap();
        all.iter().filter(|about| about.stage == stage).for_each(|about| detector(about, out));
    }
}

fn sources(out: &mut String) {
    out.push_str(
        "\n## Sigma rules: which log sources and fields are answered\n\n\
         `lava rules check DIR` says of every rule: used, used in part, or why it can't be. A field that is not listed is never there: a \
         selection that asks for it never matches, and a rule whose condition cannot hold without it, or that leaves out what it stands \
         for, is not used. `lava rules fields SESSION --rules DIR` prints what rules see of a recorded session, and which match. Only what \
         descends from the task is looked at, once it has started.\n",
    );
    for source in log_sources() {
        let events: Vec<String> = source.events.iter().map(|event| format!("`{event}`")).collect();
        writeln!(out, "\n### `{}`\n\nFrom {}. {}", source.name, events.join(", "), source.note).unwrap();
        if source.fields.is_empty() {
            continue;
        }
        out.push_str("\n| field | what it holds |\n|---|---|\n");
        source.fields.iter().for_each(|(field, what)| writeln!(out, "| `{field}` | {what} |").unwrap());
    }
}

#[test]
fn the_list_of_detections_is_the_codes_own() {
    let mut text = String::from(
        "# What LAVA detects\n\n\
         Written by `LAVA_UPDATE_DOCS=1 cargo test --release -p lava-detect --test documentation` from the code's own tables; a test \
         compares.\n",
    );
    detectors(&mut text);
    sources(&mut text);
    let text: Vec<&str> = text.lines().map(str::trim_end).collect();
    let text = text.join("\n") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/detections.md");
    if std::env::var_os("LAVA_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(text.lines()).find(|(old, new)| old != new);
    assert!(
        written == text,
        "docs/detections.md is not what the code says; first difference: {differs:#?}. See its first lines"
    );
}
