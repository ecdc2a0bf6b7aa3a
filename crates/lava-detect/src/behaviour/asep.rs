//! Persist: the task writes where Linux starts programs from by itself, or where access is granted.
//!
//! The places stand in `data/asep.toml`. Creating, writing to, linking or renaming to such a path counts; opening it does
//! not. A path is taken as the kernel names it, so a symbolic link on the way hides nothing.

use std::sync::LazyLock;

use lava_event::{FileType, GuestText, Kind, Severity, Stage};
use serde::Deserialize;

use super::{Behaviour, Context, Hit};
use crate::{About, glob, path};

#[derive(Deserialize, Default)]
struct File {
    place: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    paths: Vec<String>,
    technique: String,
    severity: Severity,
    #[serde(default)]
    packages: bool,
    what: String,
}

struct Place {
    about: &'static About,
    paths: Vec<String>,
    /// Packages bring such files by right.
    packages: bool,
    what: String,
}

// Parsed once for the life of the program, so the rows' texts may as well live as long. A table that does not parse is
// found by the test below.
static PLACES: LazyLock<Vec<Place>> = LazyLock::new(|| {
    let file: File = toml::from_str(include_str!("../../data/asep.toml")).unwrap_or_default();
    file.place
        .into_iter()
        .map(|row| Place {
            about: Box::leak(Box::new(About {
                id: row.id.leak(),
                technique: row.technique.leak(),
                stage: Stage::Persist,
                severity: row.severity,
                why: "What is written there acts again after the task has ended, without anybody opening it.",
                false_positives: "Installers and administration tools.",
            })),
            paths: row.paths,
            packages: row.packages,
            what: row.what,
        })
        .collect()
});

fn place(path: &[u8]) -> Option<&'static Place> {
    PLACES.iter().find(|place| place.paths.iter().any(|pattern| glob::matches(pattern, path)))
}

/// What makes programs start by themselves from there, or grants access (`a cron job`...), if the path is such a place.
#[must_use]
pub fn autostart(path: &GuestText) -> Option<&'static str> {
    place(path.bytes()).map(|place| place.what.as_str())
}

pub(super) struct Asep;

impl Behaviour for Asep {
    fn about(&self) -> Vec<&'static About> {
        PLACES.iter().map(|place| place.about).collect()
    }

    fn observe(&mut self, context: &Context<'_>, hits: &mut Vec<Hit>) {
        let (path, verb) = match &context.event.kind {
            Kind::FileCreate { path, what: FileType::Regular | FileType::Symlink, .. } => (path, "created"),
            Kind::FileWrite { path, file, .. } if file.file_type() == FileType::Regular => (path, "wrote"),
            Kind::FileRename { to, .. } => (to, "moved a file to"),
            _ => return,
        };
        if context.tainted_actor().is_none() {
            return;
        }
        let bytes = path.bytes();
        let Some(place) = place(bytes) else { return };
        let title = format!("{} {verb} {}: {}", context.program(), path::shown(bytes), place.what);
        let mut hit = Hit::new(place.about, context, title, bytes.to_vec());
        if place.packages {
            hit.lower_if_packaged(context);
        }
        if let Some(dropped) = context.memory.by_path(bytes) {
            hit.events.extend(&dropped.events);
        }
        hits.push(hit);
    }
}

#[cfg(test)]
pub(crate) fn techniques() -> Vec<&'static str> {
    assert!(PLACES.len() > 10, "data/asep.toml does not parse");
    PLACES.iter().map(|place| place.about.technique).collect()
}
