//! Bytes of a session: artifacts and the files of its folder.
//!
//! *Boundary:* artifacts are live malware, files may be anything. All are downloads, but for the report and the picture, which are
//! shown in a sandbox that runs no script and fetches nothing.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use lava_event::{Event, Sha256};
use lava_evidence::Session;
use serde::{Deserialize, Serialize};
use tokio_util::io::ReaderStream;
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::error::{Answer, ApiError, ErrorBody};
use crate::sessions::folder;

/// Artifacts in one answer.
const MAX_ARTIFACTS: usize = 10_000;
/// Bytes in one hex view.
const MAX_VIEW: u64 = 64 << 10;

/// The files of a session's folder that can be fetched, and their types.
const FILES: &[(&str, &str)] = &[
    ("report.html", "text/html; charset=utf-8"),
    ("trace.svg", "image/svg+xml"),
    ("trace.json", "application/json"),
    ("events.jsonl", "application/x-ndjson"),
    ("findings.jsonl", "application/x-ndjson"),
    ("chain.txt", "text/plain; charset=utf-8"),
    ("manifest.json", "application/json"),
    ("filesystem.json", "application/json"),
    ("processes.json", "application/json"),
    ("traffic.pcapng", "application/octet-stream"),
    ("console.log", "application/octet-stream"),
    ("qemu.log", "application/octet-stream"),
];
/// Those that are shown, not saved.
const SHOWN: &[&str] = &["report.html", "trace.svg"];
/// What they may do: be drawn, with their own styles.
const SANDBOX: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'";

/// An artifact.
#[derive(Serialize, ToSchema)]
pub struct ArtifactFacts {
    /// Its name.
    sha256: String,
    /// Bytes.
    size: u64,
    /// What it is: the task's name, or the guest's path of the file it was.
    name: Option<String>,
}

/// Artifacts.
#[derive(Serialize, ToSchema)]
pub struct ArtifactList {
    /// By their names.
    artifacts: Vec<ArtifactFacts>,
}

/// The bytes that events speak of.
#[utoipa::path(get, path = "/api/sessions/{id}/artifacts", params(("id" = String, Path)), responses((status = 200, body = ArtifactList), (status = 404, body = ErrorBody)))]
pub async fn list(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Json<ArtifactList>> {
    app.heavy(move |app| {
        let session = folder::open(&app.config.sessions, &id)?;
        let names = names(&session)?;
        let mut artifacts = Vec::new();
        for entry in std::fs::read_dir(session.dir().join("artifacts"))?.flatten().take(MAX_ARTIFACTS) {
            let hash = entry.file_name().to_str().and_then(|name| name.parse::<Sha256>().ok());
            let (Some(hash), Ok(facts)) = (hash, entry.metadata()) else { continue };
            if facts.is_file() {
                let name = names.get(&hash).cloned();
                artifacts.push(ArtifactFacts { sha256: hash.to_string(), size: facts.len(), name });
            }
        }
        artifacts.sort_by(|a, b| a.sha256.cmp(&b.sha256));
        Ok(Json(ArtifactList { artifacts }))
    })
    .await
}

/// What the events call them.
fn names(session: &Session) -> Answer<std::collections::HashMap<Sha256, String>> {
    use lava_event::Kind;
    let mut names = std::collections::HashMap::new();
    for event in session.events()?.flatten() {
        let Event { kind, .. } = event;
        match kind {
            Kind::VmTask { sha256, name, .. } => drop(names.insert(sha256, name)),
            Kind::FileContent { sha256, path, .. } => drop(names.entry(sha256).or_insert_with(|| path.to_string())),
            Kind::DiskWrite { disk, region, before, after, .. } => {
                for (hash, when) in [(before, "before"), (after, "after")] {
                    if let Some(hash) = hash {
                        names.entry(hash).or_insert_with(|| format!("{disk}: {region:?} {when} a write"));
                    }
                }
            }
            _ => {}
        }
        if names.len() > MAX_ARTIFACTS {
            break;
        }
    }
    Ok(names)
}

/// A part of an artifact, to be looked at.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct View {
    /// `hex`: its bytes as hex digits, not as a download.
    view: Option<String>,
    /// First byte.
    offset: Option<u64>,
    /// How many; 4096 if not given, 65536 at most.
    length: Option<u64>,
}

/// Bytes of an artifact.
#[derive(Serialize, ToSchema)]
pub struct Hex {
    /// The first one's place.
    offset: u64,
    /// Two digits each.
    hex: String,
    /// Bytes of the whole artifact.
    total: u64,
}

/// An artifact's bytes, as a download or in hex digits. **It may be live malware.**
#[utoipa::path(get, path = "/api/sessions/{id}/artifacts/{sha256}", params(("id" = String, Path), ("sha256" = String, Path), View),
    responses((status = 200, description = "the bytes; with view=hex: JSON", content((Hex = "application/json"), (Vec<u8> = "application/octet-stream"))), (status = 404, body = ErrorBody)))]
pub async fn artifact(
    State(app): State<Arc<App>>,
    Path((id, sha256)): Path<(String, String)>,
    Query(view): Query<View>,
) -> Answer<Response> {
    let hash: Sha256 = sha256.parse().map_err(|_| ApiError::bad("an artifact's name is a SHA-256 in hex digits"))?;
    let hex = match view.view.as_deref() {
        None => false,
        Some("hex") => true,
        Some(_) => return Err(ApiError::bad("there is no such view").help("there is: hex")),
    };
    let file = app
        .read(move |app| {
            let session = folder::open(&app.config.sessions, &id)?;
            Ok(folder::open_file(&session.dir().join("artifacts").join(hash.to_string()))?)
        })
        .await?;
    if !hex {
        return download(file, &hash.to_string(), "application/octet-stream", false);
    }
    let part = tokio::task::spawn_blocking(move || part(file, &view)).await.map_err(ApiError::internal)?;
    Ok(Json(part?).into_response())
}

fn part(mut file: std::fs::File, view: &View) -> Answer<Hex> {
    let total = file.metadata()?.len();
    let offset = view.offset.unwrap_or(0).min(total);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.take(view.length.unwrap_or(4096).min(MAX_VIEW)).read_to_end(&mut bytes)?;
    let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Hex { offset, hex, total })
}

/// A file of the session's folder.
#[utoipa::path(get, path = "/api/sessions/{id}/files/{name}", params(("id" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 404, body = ErrorBody)))]
pub async fn file(State(app): State<Arc<App>>, Path((id, name)): Path<(String, String)>) -> Answer<Response> {
    let known = FILES.iter().find(|(known, _)| *known == name);
    let &(name, kind) = known.ok_or_else(|| {
        let names: Vec<_> = FILES.iter().map(|(name, _)| *name).collect();
        ApiError::not_found("such file").help(format!("there is: {}", names.join(", ")))
    })?;
    let (file, id) = app
        .read(move |app| {
            let session = folder::open(&app.config.sessions, &id)?;
            Ok((folder::open_file(&session.dir().join(name))?, id))
        })
        .await?;
    let shown = SHOWN.contains(&name);
    download(file, if shown { name.to_owned() } else { format!("{id}-{name}") }.as_str(), kind, shown)
}

/// Sends a file; `name` is one of ours. It is sent as it was when it was opened, should it grow.
pub fn download(file: std::fs::File, name: &str, kind: &'static str, shown: bool) -> Answer<Response> {
    use tokio::io::AsyncReadExt;
    let size = file.metadata()?.len();
    let body = Body::from_stream(ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(size), 64 << 10));
    let disposition = if shown { "inline".to_owned() } else { format!("attachment; filename=\"{name}\"") };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind.parse().map_err(ApiError::internal)?);
    headers.insert(CONTENT_LENGTH, size.into());
    headers.insert(CONTENT_DISPOSITION, disposition.parse().map_err(ApiError::internal)?);
    headers.insert(CONTENT_SECURITY_POLICY, SANDBOX.parse().map_err(ApiError::internal)?);
    Ok(response)
}
