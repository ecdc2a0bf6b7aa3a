//! From a profile's file to a [`Profile`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::recognise::Condition;
use super::{Network, Profile};

const FILE_LIMIT: u64 = 64 << 10;
const FILES_LIMIT: usize = 256;

/// Why profiles could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file system said no.
    #[error("cannot read the profile {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too long, or too many.
    #[error("{} is more than LAVA reads (64 KiB per profile, 256 profiles): is it a folder of profiles?", path.display())]
    TooMuch {
        /// The file or folder.
        path: PathBuf,
    },
    /// No TOML, or a key that is unknown, missing or of another type.
    #[error("the profile {} is malformed: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be meant.
    #[error("the profile {}: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Nothing there.
    #[error("no profile (*.toml) in {}", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    description: String,
    #[serde(default)]
    recognise: Vec<RawCondition>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    extension: String,
    directory: String,
    mode: String,
    memory_mib: u32,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    jit: Vec<String>,
    #[serde(default)]
    warm: Vec<String>,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    scenario_disk: bool,
    unpacks: Option<String>,
    image: Option<String>,
    #[serde(default)]
    display: bool,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    network: Option<Network>,
    #[serde(default)]
    variant: Vec<RawVariant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVariant {
    recognise: Vec<RawCondition>,
    command: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCondition {
    magic: Option<String>,
    offset: Option<usize>,
    shebang: Option<Vec<String>>,
    zip_entry: Option<String>,
    #[serde(default)]
    text: bool,
    extension: Option<Vec<String>>,
}

pub(super) fn folder(folder: &Path) -> Result<Vec<Profile>, ProfileError> {
    let failed = |source| ProfileError::Read { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
        if paths.len() > FILES_LIMIT {
            return Err(ProfileError::TooMuch { path: folder.to_owned() });
        }
    }
    paths.sort();
    let mut profiles = Vec::new();
    for path in paths {
        profiles.extend(parse(&path, &read(&path)?)?);
    }
    Ok(profiles)
}

/// Loads one file: a profile that belongs to a scenario, say. One [`Profile`] per variant.
///
/// # Errors
/// [`ProfileError`] names the file and what to change in it.
pub fn file(path: &Path) -> Result<Vec<Profile>, ProfileError> {
    parse(path, &read(path)?)
}

fn read(path: &Path) -> Result<String, ProfileError> {
    let mut text = String::new();
    let count = File::open(path).and_then(|file| file.take(FILE_LIMIT + 1).read_to_string(&mut text));
    let count = count.map_err(|source| ProfileError::Read { path: path.to_owned(), source })?;
    if count as u64 > FILE_LIMIT {
        return Err(ProfileError::TooMuch { path: path.to_owned() });
    }
    Ok(text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Profile>, ProfileError> {
    let raw: Raw = toml::from_str(text)
        .map_err(|source| ProfileError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
    build(raw).map_err(|problem| ProfileError::Value { path: path.to_owned(), problem })
}

fn build(mut raw: Raw) -> Result<Vec<Profile>, String> {
    let mode = u32::from_str_radix(&raw.mode, 8).ok().filter(|mode| *mode <= 0o7777);
    let mode = mode.ok_or_else(|| format!("mode = {:?} is no octal file mode such as \"0755\"", raw.mode))?;
    if !raw.directory.starts_with('/') {
        return Err(format!("directory = {:?} must begin with /", raw.directory));
    }
    if !(128..=65536).contains(&raw.memory_mib) {
        return Err(format!("memory_mib = {} is not within 128..65536", raw.memory_mib));
    }
    if raw.unpacks.as_ref().is_some_and(|directory| !directory.contains("{task}")) {
        return Err("unpacks must name \"{task}\": each archive has a directory of its own".to_owned());
    }
    if raw.extension.contains(['/', '\0']) {
        return Err(format!("extension = {:?} cannot be part of a file name", raw.extension));
    }
    let mut variants = std::mem::take(&mut raw.variant);
    if !raw.command.is_empty() || variants.is_empty() {
        variants.insert(0, RawVariant { recognise: raw.recognise, command: raw.command });
    } else if !raw.recognise.is_empty() {
        return Err("recognise without a command: move it into a [[variant]]".to_owned());
    }
    let mut profiles = Vec::new();
    for variant in variants {
        if !variant.command.iter().any(|word| word.contains("{task}")) {
            return Err("a command must name \"{task}\" once".to_owned());
        }
        let recognise = variant.recognise.into_iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        if recognise.is_empty() {
            return Err("recognise has no condition".to_owned());
        }
        profiles.push(Profile {
            name: raw.name.clone(),
            description: raw.description.clone(),
            command: variant.command,
            extension: raw.extension.clone(),
            directory: raw.directory.clone(),
            mode,
            memory_mib: raw.memory_mib,
            hosts: raw.hosts.clone(),
            jit: raw.jit.clone(),
            warm: raw.warm.clone(),
            priority: raw.priority,
            scenario_disk: raw.scenario_disk,
            unpacks: raw.unpacks.clone(),
            image: raw.image.clone(),
            display: raw.display,
            environment: raw.environment.clone(),
            network: raw.network,
            recognise,
        });
    }
    Ok(profiles)
}

fn condition(raw: RawCondition) -> Result<Condition, String> {
    if raw.magic.is_none() && raw.shebang.is_none() && raw.zip_entry.is_none() && !raw.text {
        return Err(
            "a condition needs one of magic, shebang, zip_entry, text: no file is known by its name alone".into()
        );
    }
    if raw.offset.is_some() && raw.magic.is_none() {
        return Err("offset without magic".to_owned());
    }
    let magic =
        raw.magic.map(|hex| bytes(&hex).ok_or_else(|| format!("magic = {hex:?} is no hexadecimal"))).transpose()?;
    Ok(Condition {
        magic,
        offset: raw.offset.unwrap_or(0),
        shebang: raw.shebang,
        zip_entry: raw.zip_entry,
        text: raw.text,
        extension: raw.extension,
    })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if hex.is_empty() || !hex.len().is_multiple_of(2) || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name='x'\ndescription='d'\nrecognise=[{magic='7f45'}]\ncommand=['{task}']\ndirectory='/d'\nmode='0755'\nmemory_mib=512\n";

    fn check(from: &str, to: &str, expected: &str) {
        assert!(GOOD.contains(from));
        let error = parse(Path::new("p.toml"), &GOOD.replace(from, to)).expect_err(to).to_string();
        assert!(error.contains("p.toml") && error.contains(expected), "{error}");
    }

    #[test]
    fn errors_name_the_file_and_the_problem() {
        assert_eq!(parse(Path::new("p.toml"), GOOD).expect("good")[0].mode, 0o755);
        check("'0755'", "'rwx'", "octal");
        check("'/d'", "'d'", "begin with /");
        check("512", "1", "memory_mib");
        check("{magic='7f45'}", "{extension=['py']}", "by its name alone");
        check("{magic='7f45'}", "{text=true, offset=1}", "offset");
        check("7f45", "7f4", "hexadecimal");
        check("{task}", "x", "{task}");
        check("mode=", "mood=", "mood");
        check("mode=", "unpacks='/d'\nmode=", "{task}");
    }
}
