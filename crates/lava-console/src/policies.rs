//! Policies: those that come with LAVA, and the host's own, which are files in the console's folder.

use std::path::PathBuf;

use lava_policy::{BUILTIN, MAX_FILE, Policy, builtin};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::error::{Answer, ApiError};
use crate::sessions::folder::{is_id, open_file};

/// Policies of the host's own.
const MAX_OWN: usize = 200;

/// A policy.
#[derive(Serialize, ToSchema)]
pub struct PolicyFacts {
    /// The name it is chosen by.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// Its text.
    pub text: String,
    /// It comes with LAVA and cannot be changed.
    pub shipped: bool,
    /// SHA-256 of its text: what stands in a session's manifest.
    pub sha256: String,
}

/// A mistake in a policy, and where it is: lines and columns from 1, columns in characters.
#[derive(Serialize, ToSchema)]
pub struct Diagnostic {
    /// Stable: `lava::policy::E0003`.
    code: &'static str,
    /// What is wrong.
    message: String,
    /// What stands beside the underlined place.
    label: String,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
    /// What to do about it.
    help: Option<String>,
}

fn file(app: &App, name: &str) -> PathBuf {
    app.config.state.join("policies").join(format!("{name}.yaml"))
}

/// All of them: shipped ones first.
///
/// # Errors
/// If the folder cannot be read.
pub fn all(app: &App) -> Answer<Vec<PolicyFacts>> {
    let shipped = BUILTIN.iter().filter_map(|name| Some((*name, builtin(name)?)));
    let mut all: Vec<PolicyFacts> = shipped.map(|(name, text)| facts(name, text.to_owned(), true)).collect();
    for name in own(app) {
        if let Some(text) = read(app, &name)? {
            all.push(facts(&name, text, false));
        }
    }
    Ok(all)
}

fn own(app: &App) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(app.config.state.join("policies")) else { return Vec::new() };
    let name = |entry: std::fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(".yaml")?.to_owned());
    let mut names: Vec<String> = entries.flatten().filter_map(name).filter(|name| is_id(name)).collect();
    names.sort();
    names.truncate(MAX_OWN);
    names
}

fn read(app: &App, name: &str) -> Answer<Option<String>> {
    use std::io::Read;
    let file = match open_file(&file(app, name)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = String::new();
    file.take(MAX_FILE as u64).read_to_string(&mut text)?;
    Ok(Some(text))
}

fn facts(name: &str, text: String, shipped: bool) -> PolicyFacts {
    let description = Policy::compile(name, &text).map(|policy| policy.description().to_owned()).unwrap_or_default();
    let sha256 = lava_event::Sha256::of(text.as_bytes()).to_string();
    PolicyFacts { name: name.to_owned(), description, text, shipped, sha256 }
}

/// What `lava run` is given for the policy of this name.
///
/// # Errors
/// If there is none.
pub fn argument(app: &App, name: &str) -> Answer<String> {
    if builtin(name).is_some() {
        return Ok(name.to_owned());
    }
    let missing = || ApiError::bad("there is no such policy").help("GET /api/policies lists them");
    if !is_id(name) || read(app, name)?.is_none() {
        return Err(missing());
    }
    file(app, name).to_str().map(str::to_owned).ok_or_else(missing)
}

/// Keeps a policy of the host's own. Sessions that wait or run keep what they were given.
///
/// # Errors
/// If it has mistakes, or its name is none or a shipped one's.
pub fn keep(app: &App, name: &str, text: &str) -> Answer<()> {
    if !is_id(name) {
        return Err(ApiError::bad("a policy's name has 1 to 64 letters, digits, - or _"));
    }
    if builtin(name).is_some() {
        return Err(ApiError::conflict("that is a shipped policy: choose another name"));
    }
    if let Some(first) = check(name, text).first() {
        return Err(ApiError::bad(format!("line {}: {}", first.line, first.message))
            .help("POST /api/policies/check says everything that is wrong"));
    }
    let new = !own(app).iter().any(|known| known == name);
    if new && own(app).len() >= MAX_OWN {
        return Err(ApiError::conflict(format!("there are {MAX_OWN} policies already: remove one")));
    }
    let path = file(app, name);
    std::fs::create_dir_all(app.config.state.join("policies"))?;
    let part = path.with_extension("part");
    std::fs::write(&part, text)?;
    Ok(std::fs::rename(part, path)?)
}

/// Removes a policy of the host's own.
///
/// # Errors
/// If there is none.
pub fn remove(app: &App, name: &str) -> Answer<()> {
    if !is_id(name) || builtin(name).is_some() {
        return Err(ApiError::not_found("such policy of this host's own"));
    }
    Ok(std::fs::remove_file(file(app, name))?)
}

/// What is wrong with a policy's text.
pub fn check(name: &str, text: &str) -> Vec<Diagnostic> {
    let Err(errors) = Policy::compile(name, text) else { return Vec::new() };
    let diagnostic = |error: lava_policy::PolicyError| {
        let (line, column) = place(text, error.span.offset());
        let (end_line, end_column) = place(text, error.span.offset() + error.span.len());
        let code = error.code.name();
        Diagnostic {
            code,
            message: error.message,
            label: error.label,
            line,
            column,
            end_line,
            end_column,
            help: error.help,
        }
    };
    errors.into_iter().map(diagnostic).collect()
}

/// Line and column of a byte.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_has_its_place() {
        let text =
            "policy: x\ndefault: allow\nrules:\n  - name: r\n    when: evnt.kind == \"disk.write\"\n    action: deny\n";
        let found = check("x", text);
        let first = found.first().expect("a mistake");
        assert_eq!((first.code, first.line), ("lava::policy::E0005", 5), "{}", first.message);
        assert!(first.column >= 11 && first.end_column > first.column);
        assert!(check("x", &text.replace("evnt", "event")).is_empty());
    }
}
