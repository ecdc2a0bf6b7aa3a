//! A MISP event: indicators as attributes and file objects, techniques as tags.
//!
//! `to_ids` is set for what is fit to block (see `indicators.rs`). It is made to be imported for your organisation only, and not
//! published: distribution is the analyst's to choose.

use std::collections::BTreeSet;
use std::io::Write;

use lava_event::Verdict;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::indicators::{Kind, Row, rows};
use crate::stix::objects::is_domain;
use crate::summary::Summary;
use crate::{Error, attack, ids};

/// MISP's template of a file object, and its version (misp-objects).
const FILE_OBJECT: (&str, &str) = ("688c46fb-5edb-40a3-8273-1af7923e2215", "25");

/// Writes the event.
pub(crate) fn write(summary: &Summary, out: &mut dyn Write) -> Result<(), Error> {
    let manifest = &summary.manifest;
    let seconds = summary.clock.end().as_second().max(0).to_string();
    let (threat, verdict) = match summary.trace.verdict {
        Verdict::Malicious => ("1", "malicious"),
        Verdict::Suspicious => ("2", "suspicious"),
        Verdict::Clean => ("4", "clean"),
    };
    let mut attributes = Vec::new();
    let mut objects = Vec::new();
    let mut known = BTreeSet::new();
    for row in rows(summary) {
        // The same address on another port is the same attribute.
        if !known.insert((row.kind.name(), row.value.clone(), row.detail.clone())) {
            continue;
        }
        match row.kind {
            Kind::Sha256 => objects.push(file(summary, &row, &seconds)),
            _ => attributes.extend(attribute(summary, &row, &seconds)),
        }
    }
    let techniques: BTreeSet<(&str, &str)> = summary
        .findings
        .iter()
        .filter(|finding| finding.severity.counts() && attack::is_technique(&finding.technique.id))
        .map(|finding| (finding.technique.id.as_str(), finding.technique.name.as_str()))
        .collect();
    let mut tags = vec![json!({"name": format!("lava:verdict=\"{verdict}\"")})];
    // The tag is quoted: a name with a quote would end it.
    let tag =
        |(id, name): &(&str, &str)| format!("misp-galaxy:mitre-attack-pattern=\"{} - {id}\"", name.replace('"', "'"));
    tags.extend(techniques.iter().map(|technique| json!({"name": tag(technique)})));
    let event = json!({"Event": {
        "uuid": ids::within(&manifest.session, "misp event", ""),
        "info": format!("LAVA: {} is {verdict} (session {})", manifest.task.name, manifest.session),
        "date": summary.clock.end().strftime("%Y-%m-%d").to_string(),
        "timestamp": seconds, "threat_level_id": threat, "analysis": "2", "distribution": "0", "published": false,
        "Attribute": attributes, "Object": objects, "Tag": tags,
    }});
    serde_json::to_writer(&mut *out, &event)?;
    writeln!(out)?;
    Ok(())
}

fn id(summary: &Summary, row: &Row, what: &str) -> Uuid {
    ids::within(&summary.manifest.session, what, &format!("{}\0{}\0{}", row.kind.name(), row.value, row.detail))
}

fn comment(row: &Row) -> String {
    let mut said = Vec::new();
    if !row.detail.is_empty() {
        said.push(row.detail.clone());
    }
    match row.weight {
        Some(weight) => said.push(format!("{}: {}", weight.grade, row.detectors.join(", "))),
        None => said.push("no finding rests on it".to_owned()),
    }
    said.join("; ")
}

fn attribute(summary: &Summary, row: &Row, seconds: &str) -> Option<Value> {
    let (kind, category) = match row.kind {
        Kind::Sha256 => return None,
        Kind::Path => ("filename", "Artifacts dropped"),
        Kind::Address => ("ip-dst", "Network activity"),
        Kind::Domain if is_domain(&row.value) => ("domain", "Network activity"),
        Kind::Domain => ("text", "Network activity"),
        Kind::Url => ("url", "Network activity"),
        Kind::Command | Kind::Module => ("text", "Artifacts dropped"),
        Kind::BootArea => ("text", "Persistence mechanism"),
    };
    let value = row.value.trim();
    (!value.is_empty()).then(|| {
        json!({
            "uuid": id(summary, row, "misp attribute"), "type": kind, "category": category, "value": value, "to_ids": row.fit,
            "comment": comment(row), "timestamp": seconds, "distribution": "5", "disable_correlation": !row.fit,
        })
    })
}

fn file(summary: &Summary, row: &Row, seconds: &str) -> Value {
    let part = |relation: &str, kind: &str, value: &str, to_ids: bool| {
        json!({
            "uuid": id(summary, row, &format!("misp {relation}")), "object_relation": relation, "type": kind, "category": "Payload delivery",
            "value": value, "to_ids": to_ids, "timestamp": seconds, "distribution": "5", "comment": "",
        })
    };
    let mut parts = vec![part("sha256", "sha256", &row.value, row.fit)];
    let name = crate::lines::base(&row.detail).trim();
    let own = row.value == summary.manifest.task.sha256.to_string();
    let name = if own { summary.manifest.task.name.trim() } else { name };
    if !name.is_empty() {
        parts.push(part("filename", "filename", name, false));
    }
    if !own && !row.detail.trim().is_empty() {
        parts.push(part("fullpath", "text", row.detail.trim(), false));
    }
    if let Some(size) = row.size {
        parts.push(part("size-in-bytes", "size-in-bytes", &size.to_string(), false));
    }
    json!({
        "uuid": id(summary, row, "misp object"), "name": "file", "meta-category": "file",
        "description": "File object describing a file with meta-information",
        "template_uuid": FILE_OBJECT.0, "template_version": FILE_OBJECT.1,
        "timestamp": seconds, "distribution": "5", "comment": comment(row), "Attribute": parts,
    })
}
