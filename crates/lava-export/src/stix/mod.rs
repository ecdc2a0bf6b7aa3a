//! STIX 2.1: what was found as a bundle for threat-intelligence platforms.
//!
//! * what was seen: observables (files, processes, traffic, names, URLs, accounts), one `observed-data` for each finding and one for
//!   everything the task did;
//! * what it was: `malware-analysis` with the verdict; if there is a threat, `malware`, with the techniques (`attack-pattern`),
//!   `indicator`s and `course-of-action`s; `sighting`s of the techniques; a `report` that holds it together.
//!
//! A clean verdict makes no `malware` and no indicator, and its result is `unknown`: that nothing was found is not that it is benign.
//! Confidence follows the findings' grade: see [`confidence`].
//!
//! *Limits:* names that are no host names, kernel modules and disk areas have no observable in STIX; they stand in the
//! texts. Addresses that our simulated network made up make no indicator.

pub(crate) mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use lava_event::{Finding, Grade, Severity, Verdict};
use serde_json::{Value, json};

use crate::clock::{micros, millis};
use crate::remedy;
use crate::summary::{About, Content, Key, Summary, Weight, is_outside, names_outside};
use crate::{Error, attack, ids, text};
use objects::{Observables, is_domain};

/// Most objects of one `object_refs`.
const REFS: usize = 10_000;

/// Writes the bundle, an object a line.
pub(crate) fn write(summary: &Summary, out: &mut dyn Write) -> Result<(), Error> {
    let objects = Bundle::new(summary).build();
    let id = ids::as_v4(ids::within(&summary.manifest.session, "bundle", ""));
    writeln!(out, "{{\"type\":\"bundle\",\"id\":\"bundle--{id}\",\"objects\":[")?;
    for (n, object) in objects.iter().enumerate() {
        let end = if n + 1 == objects.len() { "" } else { "," };
        writeln!(out, "{object}{end}")?;
    }
    writeln!(out, "]}}")?;
    Ok(())
}

struct Bundle<'a> {
    summary: &'a Summary,
    observables: Observables<'a>,
    /// Domain and relationship objects.
    made: Vec<Value>,
    created: String,
    identity: String,
    malware: Option<String>,
    /// Indicators that are there already.
    indicated: BTreeSet<String>,
    /// Relationships: from, how, to.
    related: BTreeSet<(String, String, String)>,
}

/// How sure, in percent, as STIX counts it. `None`: seen, but no finding rests on it.
pub(crate) const fn confidence(weight: Option<Weight>) -> u8 {
    match weight {
        None => 30,
        Some(Weight { grade, .. }) => graded(grade),
    }
}

const fn graded(grade: Grade) -> u8 {
    match grade {
        Grade::Inferred => 50,
        Grade::Observed => 80,
        Grade::Proven => 95,
    }
}

impl<'a> Bundle<'a> {
    fn new(summary: &'a Summary) -> Self {
        let observables = Observables::new(&summary.manifest.session, summary.clock.clone(), &summary.things);
        let created = millis(summary.clock.end());
        let identity = format!("identity--{}", ids::as_v4(ids::of("identity", "lava")));
        Self {
            summary,
            observables,
            made: Vec::new(),
            created,
            identity,
            malware: None,
            indicated: BTreeSet::new(),
            related: BTreeSet::new(),
        }
    }

    fn build(mut self) -> Vec<Value> {
        let summary = self.summary;
        self.made.push(json!({
            "type": "identity", "spec_version": "2.1", "id": self.identity,
            "created": "2026-01-01T00:00:00.000Z", "modified": "2026-01-01T00:00:00.000Z",
            "name": "LAVA", "identity_class": "system",
            "description": "LAVA: Live Attack Visualization & Analysis, a sandbox",
        }));
        let sample = self.sample();
        let analysis = self.analysis(&sample);
        if summary.trace.verdict != Verdict::Clean {
            let malware = self.malware(&sample);
            self.relate(&analysis, "dynamic-analysis-of", &malware, None);
            self.malware = Some(malware);
        }
        self.everything(&sample);
        let seen = self.observed(&sample);
        self.techniques(&seen);
        if let Some(malware) = self.malware.clone() {
            self.indicators(&malware);
            self.courses(&malware);
        }
        self.report();
        let mut objects = self.made;
        objects.append(&mut self.observables.made);
        objects
    }

    /// A domain object of this session's; `name` tells it from others of its kind.
    fn object(&mut self, kind: &str, name: &str, properties: Value) -> String {
        let id = format!("{kind}--{}", ids::as_v4(ids::within(&self.summary.manifest.session, kind, name)));
        self.object_as(kind, id, properties)
    }

    fn object_as(&mut self, kind: &str, id: String, properties: Value) -> String {
        let mut object = json!({
            "type": kind, "spec_version": "2.1", "id": id, "created_by_ref": self.identity,
            "created": self.created, "modified": self.created,
        });
        if let Value::Object(properties) = properties {
            for (name, value) in properties {
                object[&name] = value;
            }
        }
        self.made.push(object);
        id
    }

    fn relate(&mut self, from: &str, how: &str, to: &str, confidence: Option<u8>) {
        let mut properties = json!({"relationship_type": how, "source_ref": from, "target_ref": to});
        if let Some(confidence) = confidence {
            properties["confidence"] = confidence.into();
        }
        if self.related.insert((from.to_owned(), how.to_owned(), to.to_owned())) {
            self.object("relationship", &format!("{from}\0{how}\0{to}"), properties);
        }
    }

    /// The file that was opened.
    fn sample(&mut self) -> String {
        let task = &self.summary.manifest.task;
        let content = Content { sha256: task.sha256, size: task.size };
        let name = task.name.clone();
        self.observables.file(self.summary.task_path.as_deref().unwrap_or(&name), Some(&content))
    }

    fn analysis(&mut self, sample: &str) -> String {
        let summary = self.summary;
        let manifest = &summary.manifest;
        let result = match summary.trace.verdict {
            Verdict::Clean => "unknown",
            Verdict::Suspicious => "suspicious",
            Verdict::Malicious => "malicious",
        };
        let kernel = self.observables.kernel(&manifest.image.kernel);
        let properties = json!({
            "product": "lava",
            "version": manifest.lava,
            "configuration_version": text::plain(&format!("profile {}, policy {}", manifest.profile, manifest.policy.name)),
            "analysis_started": micros(summary.clock.start()),
            "analysis_ended": micros(summary.clock.end()),
            "result_name": format!("session {}", manifest.session),
            "result": result,
            "operating_system_ref": kernel,
            "sample_ref": sample,
        });
        self.object("malware-analysis", "", properties)
    }

    fn malware(&mut self, sample: &str) -> String {
        let summary = self.summary;
        let (first, last) =
            (summary.findings.iter().map(|f| f.time_ns).min(), summary.findings.iter().map(|f| f.time_ns).max());
        let properties = json!({
            "name": summary.manifest.task.name,
            "description": format!("Verdict: {}. What it did is in the techniques and what was observed.", summary.trace.verdict),
            "malware_types": ["unknown"],
            "is_family": false,
            "operating_system_refs": [self.observables.kernel(&summary.manifest.image.kernel)],
            "first_seen": micros(summary.clock.at(first.unwrap_or_default())),
            "last_seen": micros(summary.clock.at(last.unwrap_or_default())),
            "sample_refs": [sample],
        });
        self.object("malware", "", properties)
    }

    /// One `observed-data` for all that the task did.
    fn everything(&mut self, sample: &str) {
        let mut refs = vec![sample.to_owned()];
        let (mut first, mut last, mut count) = (u64::MAX, 0, 0u64);
        for (key, thing) in &self.summary.things {
            refs.extend(self.observables.thing(key));
            (first, last) = (first.min(thing.first_ns), last.max(thing.last_ns));
            count = count.saturating_add(thing.count);
        }
        if count > 0 {
            self.seen_at("task", refs, (first, last), count);
        }
    }

    /// One for each finding; their ids.
    fn observed(&mut self, sample: &str) -> Vec<String> {
        let summary = self.summary;
        let mut of_finding: Vec<(Vec<String>, u64)> = vec![(Vec::new(), u64::MAX); summary.findings.len()];
        for (key, thing) in &summary.things {
            let refs = if thing.findings.is_empty() { Vec::new() } else { self.observables.thing(key) };
            for &n in &thing.findings {
                if let Some((of, first)) = of_finding.get_mut(n) {
                    of.extend(refs.iter().cloned());
                    // A thing may have been there long before: the finding's own time bounds it.
                    *first = (*first).min(thing.first_ns);
                }
            }
        }
        let mut ids = Vec::new();
        for (n, (finding, (mut refs, first))) in summary.findings.iter().zip(of_finding).enumerate() {
            if refs.is_empty() {
                refs.push(sample.to_owned());
            }
            let times = (first.min(finding.time_ns), finding.time_ns);
            ids.push(self.seen_at(&format!("finding {n}"), refs, times, finding.events.len() as u64));
        }
        ids
    }

    fn seen_at(&mut self, name: &str, mut refs: Vec<String>, (first, last): (u64, u64), count: u64) -> String {
        let clock = &self.summary.clock;
        let mut known = BTreeSet::new();
        refs.retain(|id| known.insert(id.clone()));
        refs.truncate(REFS);
        let properties = json!({
            "first_observed": micros(clock.at(first)),
            "last_observed": micros(clock.at(last)),
            "number_observed": count.clamp(1, 999_999_999),
            "object_refs": refs,
        });
        self.object("observed-data", name, properties)
    }

    /// The techniques of ATT&CK, each with a sighting of what was seen of it.
    fn techniques(&mut self, seen: &[String]) {
        let summary = self.summary;
        let mut of: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (n, finding) in summary.findings.iter().enumerate().filter(|(_, f)| attack::is_technique(&f.technique.id)) {
            of.entry(&finding.technique.id).or_default().push(n);
        }
        for (id, numbers) in of {
            let findings: Vec<&Finding> = numbers.iter().map(|&n| &summary.findings[n]).collect();
            let pattern = self.attack_pattern(id, &findings);
            if let Some(malware) = self.malware.clone() {
                let grade = findings.iter().map(|f| f.grade).max().unwrap_or(Grade::Inferred);
                self.relate(&malware, "uses", &pattern, Some(graded(grade)));
            }
            let times = || findings.iter().map(|f| summary.clock.at(f.time_ns));
            let description: Vec<String> =
                findings.iter().take(50).map(|f| format!("{} ({})", f.title, f.grade)).collect();
            let properties = json!({
                "first_seen": times().min().map(micros),
                "last_seen": times().max().map(micros),
                "count": findings.len().min(999_999_999),
                "description": description.join("\n"),
                "sighting_of_ref": pattern,
                "observed_data_refs": numbers.iter().filter_map(|&n| seen.get(n)).collect::<Vec<_>>(),
                "where_sighted_refs": [self.identity],
            });
            self.object("sighting", id, properties);
        }
    }

    fn attack_pattern(&mut self, id: &str, findings: &[&Finding]) -> String {
        let mut stages: Vec<_> = findings.iter().map(|f| f.stage).collect();
        stages.sort_unstable();
        stages.dedup();
        let phases: Vec<Value> =
            stages.iter().map(|stage| json!({"kill_chain_name": "lava", "phase_name": stage.name()})).collect();
        let properties = json!({
            "name": findings[0].technique.name,
            "external_references": [{"source_name": "mitre-attack", "external_id": id}],
            "kill_chain_phases": phases,
        });
        let own = format!(
            "attack-pattern--{}",
            ids::as_v4(ids::within(&self.summary.manifest.session, "attack-pattern", id))
        );
        self.object_as("attack-pattern", own, properties)
    }

    fn indicators(&mut self, malware: &str) {
        let summary = self.summary;
        let task = &summary.manifest.task;
        let hash = format!("[file:hashes.'SHA-256' = '{}']", task.sha256);
        let opened = Weight { severity: Severity::High, grade: Grade::Observed };
        self.indicator(malware, &task.name, "The file that was opened", &hash, Some(opened), 0);
        for (key, thing) in &summary.things {
            let (weight, first) = (summary.weight(thing), thing.first_ns);
            match (key, &thing.about) {
                (Key::File(path), About::File { contents, .. }) if weight.is_some() => {
                    self.indicator(malware, path, "A file that the task changed", &file_pattern(path), weight, first);
                    for content in contents {
                        let pattern = format!("[file:hashes.'SHA-256' = '{}']", content.sha256);
                        self.indicator(malware, path, "What the task wrote there", &pattern, weight, first);
                        let file = self.observables.file(path, Some(content));
                        self.relate(malware, "drops", &file, Some(confidence(weight)));
                    }
                }
                (Key::Address(address, ..), About::Address { made_up: false, .. }) if is_outside(*address) => {
                    let kind = if address.is_ipv4() { "ipv4" } else { "ipv6" };
                    let pattern = format!("[{kind}-addr:value = '{address}']");
                    self.indicator(malware, &address.to_string(), "The task reached for it", &pattern, weight, first);
                    let to = self.observables.address(*address);
                    self.relate(malware, "communicates-with", &to, Some(confidence(weight)));
                }
                (Key::Name(name), About::Name { by_task: true, .. }) if is_domain(name) => {
                    let pattern = format!("[domain-name:value = '{name}']");
                    self.indicator(malware, name, "The task asked for it", &pattern, weight, first);
                    for to in self.observables.thing(key) {
                        self.relate(malware, "communicates-with", &to, Some(confidence(weight)));
                    }
                }
                (Key::Url(full), About::Url { made_up, url, .. }) if names_outside(url, *made_up) => {
                    let pattern = format!("[url:value = '{}']", quoted(full));
                    self.indicator(malware, full, "The task asked for it by HTTP", &pattern, weight, first);
                    if let Some(to) = self.observables.thing(key).first() {
                        self.relate(malware, "communicates-with", to, Some(confidence(weight)));
                    }
                }
                _ => {}
            }
        }
    }

    fn indicator(
        &mut self,
        malware: &str,
        name: &str,
        about: &str,
        pattern: &str,
        weight: Option<Weight>,
        first_ns: u64,
    ) {
        let session = &self.summary.manifest.session;
        let id = format!("indicator--{}", ids::as_v4(ids::within(session, "indicator", pattern)));
        // The same address on another port, or the same content at another path, is the same indicator.
        if !self.indicated.insert(id.clone()) {
            return;
        }
        let kind = if weight.is_some() { "malicious-activity" } else { "anomalous-activity" };
        let name = if name.trim().is_empty() { "(no name)" } else { name };
        let properties = json!({
            "name": name,
            "description": about,
            "indicator_types": [kind],
            "pattern": pattern, "pattern_type": "stix", "pattern_version": "2.1",
            "valid_from": micros(self.summary.clock.at(first_ns)),
            "confidence": confidence(weight),
        });
        self.object_as("indicator", id.clone(), properties);
        self.relate(&id, "indicates", malware, Some(confidence(weight)));
    }

    fn courses(&mut self, malware: &str) {
        for step in remedy::steps(self.summary) {
            let properties = json!({"name": step.title, "description": step.on.join("\n")});
            let course = self.object("course-of-action", step.id, properties);
            self.relate(&course, "mitigates", malware, None);
        }
    }

    fn report(&mut self) {
        let summary = self.summary;
        let refs: Vec<Value> = self.made.iter().take(REFS).map(|object| object["id"].clone()).collect();
        let manifest = &summary.manifest;
        let mut description = format!(
            "LAVA session {}, {} events, evidence chain {}.",
            manifest.session,
            manifest.events,
            manifest.chain_head.map_or("not closed".to_owned(), |head| head.to_string()),
        );
        if summary.left_out > 0 {
            description +=
                &format!(" {} more mentions of things did not fit and are only in the event log.", summary.left_out);
        }
        let properties = json!({
            "name": format!("{}: {}", manifest.task.name, summary.trace.verdict),
            "description": description,
            "report_types": ["malware"],
            "published": self.created,
            "object_refs": refs,
        });
        self.object("report", "", properties);
    }
}

/// Text within the quotes of a pattern.
fn quoted(text: &str) -> String {
    text.replace('\\', r"\\").replace('\'', r"\'")
}

/// A file by its place.
fn file_pattern(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((folder, name)) => {
            let folder = if folder.is_empty() { "/" } else { folder };
            format!("[file:name = '{}' AND file:parent_directory_ref.path = '{}']", quoted(name), quoted(folder))
        }
        None => format!("[file:name = '{}']", quoted(path)),
    }
}
