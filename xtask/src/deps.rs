//! `cargo xtask deps`: the crates' dependency directions, held against the list in ARCHITECTURE.md.
//!
//! The list stands in the fenced block marked `deps`, a line per crate: `name: dependency dependency`. Dependencies of
//! tests are free. A crate or an edge that the list does not have is an error, and so is one that only the list has.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell;

type Edges = BTreeMap<String, BTreeSet<String>>;

/// Compares the two.
pub fn run() -> Result<()> {
    let path = shell::root().join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let allowed = listed(&text).with_context(|| format!("{}: no fenced block marked `deps`", path.display()))?;
    let metadata =
        shell::output(shell::command("cargo", ["metadata", "--no-deps", "--format-version", "1", "--locked"]))?;
    let found = actual(&serde_json::from_str(&metadata)?);
    let wrong = differences(&allowed, &found);
    if wrong.is_empty() {
        eprintln!("xtask: {} crates keep the dependency directions of ARCHITECTURE.md", found.len());
        return Ok(());
    }
    bail!("dependencies and ARCHITECTURE.md disagree:\n  {}", wrong.join("\n  "))
}

fn listed(text: &str) -> Option<Edges> {
    let block = text.split("```deps\n").nth(1)?.split("```").next()?;
    let line = |line: &str| {
        let (name, needs) = line.split_once(':')?;
        Some((name.trim().to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
    };
    Some(block.lines().filter_map(line).collect())
}

fn actual(metadata: &Value) -> Edges {
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let ours: BTreeSet<_> = packages.iter().filter_map(|package| package["name"].as_str()).map(str::to_owned).collect();
    let needs = |package: &Value| {
        let all = package["dependencies"].as_array().cloned().unwrap_or_default();
        let normal = all.iter().filter(|need| need["kind"].is_null());
        normal.filter_map(|need| need["name"].as_str()).filter(|name| ours.contains(*name)).map(str::to_owned).collect()
    };
    packages.iter().filter_map(|package| Some((package["name"].as_str()?.to_owned(), needs(package)))).collect()
}

fn differences(allowed: &Edges, found: &Edges) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, needs) in found {
        match allowed.get(name) {
            None => wrong.push(format!("{name} is not in the list")),
            Some(may) => {
                wrong.extend(needs.difference(may).map(|need| format!("{name} must not depend on {need}")));
                wrong.extend(may.difference(needs).map(|need| format!("{name} does not depend on {need} any more")));
            }
        }
    }
    wrong.extend(
        allowed.keys().filter(|name| !found.contains_key(*name)).map(|name| format!("there is no crate {name}")),
    );
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_seen() {
        let allowed = listed("x\n```deps\na: b c\nb:\nd:\n```\n").unwrap();
        let found = listed("```deps\na: b e\nb:\nc:\n```").unwrap();
        assert_eq!(
            differences(&allowed, &found),
            [
                "a must not depend on e",
                "a does not depend on c any more",
                "c is not in the list",
                "there is no crate d",
            ]
        );
    }
}
