//! A session in the formats that other tools read, as downloads: what `lava export` writes.

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use lava_export::{Format, Scope};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::artifacts::download;
use crate::app::App;
use crate::error::{Answer, ApiError, ErrorBody};
use crate::sessions::folder;

/// A format.
#[derive(Serialize, ToSchema)]
pub struct FormatFacts {
    /// As it is asked for.
    name: &'static str,
    /// The customary end of a file's name.
    extension: &'static str,
    /// What it is, in a line.
    about: &'static str,
}

/// Formats.
#[derive(Serialize, ToSchema)]
pub struct FormatList {
    /// All that there are.
    formats: Vec<FormatFacts>,
}

/// The formats that sessions are exported in.
#[utoipa::path(get, path = "/api/exports", responses((status = 200, body = FormatList)))]
pub async fn formats() -> Json<FormatList> {
    let facts =
        |format: &Format| FormatFacts { name: format.name(), extension: format.extension(), about: format.about() };
    Json(FormatList { formats: Format::ALL.iter().map(facts).collect() })
}

/// How much.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HowMuch {
    /// Every event of the guest, or the whole graph; without it, what the task did and what findings rest on.
    #[serde(default)]
    all: bool,
}

/// A session in one of these formats.
#[utoipa::path(get, path = "/api/sessions/{id}/exports/{format}", params(("id" = String, Path), ("format" = String, Path), HowMuch),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn export(
    State(app): State<Arc<App>>,
    Path((id, format)): Path<(String, String)>,
    Query(HowMuch { all }): Query<HowMuch>,
) -> Answer<Response> {
    let format =
        Format::named(&format).ok_or_else(|| ApiError::not_found("such format").help("GET /api/exports lists them"))?;
    let scope = if all { Scope::All } else { Scope::Task };
    let name = format!("{id}-{}.{}", format.name(), format.extension());
    let file = app.heavy(move |app| written(app, &id, format, scope)).await?;
    download(file, &name, "application/octet-stream", false)
}

/// A file without a name, which goes when it was sent: an export may be larger than what memory is for.
fn written(app: &App, id: &str, format: Format, scope: Scope) -> Answer<File> {
    let session = folder::open(&app.config.sessions, id)?;
    let mut out = BufWriter::new(tempfile::tempfile_in(&app.config.state)?);
    let exported = lava_export::export(&session, format, scope, &mut out).map_err(|error| match error {
        lava_export::Error::Session(error) => error.into(),
        error @ lava_export::Error::Time { .. } => ApiError::conflict(error.to_string()),
        error => ApiError::internal(error),
    })?;
    if exported.unreadable > 0 {
        let what =
            format!("{} line(s) of the log cannot be read, an export would be without them", exported.unreadable);
        return Err(ApiError::conflict(what).help("`lava verify` tells more, `lava export` writes what there is"));
    }
    out.flush()?;
    let mut file = out.into_inner().map_err(ApiError::internal)?;
    file.rewind()?;
    Ok(file)
}
