//! Policies and profiles.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::{App, ProfileFacts};
use crate::auth::{Client, Who};
use crate::error::{Answer, ErrorBody};
use crate::policies::{self, Diagnostic, PolicyFacts};

/// Policies.
#[derive(Serialize, ToSchema)]
pub struct PolicyList {
    /// Shipped ones first.
    policies: Vec<PolicyFacts>,
}

/// The policies that can be chosen.
#[utoipa::path(get, path = "/api/policies", responses((status = 200, body = PolicyList)))]
pub async fn list(State(app): State<Arc<App>>) -> Answer<Json<PolicyList>> {
    app.read(|app| Ok(Json(PolicyList { policies: policies::all(app)? }))).await
}

/// A policy's text.
#[derive(Deserialize, ToSchema)]
pub struct PolicyText {
    /// YAML.
    text: String,
}

/// What is wrong with it.
#[derive(Serialize, ToSchema)]
pub struct Checked {
    /// Nothing.
    ok: bool,
    /// Every mistake, in the text's order.
    diagnostics: Vec<Diagnostic>,
}

/// Checks a policy's text.
#[utoipa::path(post, path = "/api/policies/check", request_body = PolicyText, responses((status = 200, body = Checked), (status = 400, body = ErrorBody)))]
pub async fn check(State(app): State<Arc<App>>, Json(policy): Json<PolicyText>) -> Answer<Json<Checked>> {
    app.heavy(move |_| {
        let diagnostics = policies::check("policy", &policy.text);
        Ok(Json(Checked { ok: diagnostics.is_empty(), diagnostics }))
    })
    .await
}

/// Keeps a policy of the host's own under this name.
#[utoipa::path(put, path = "/api/policies/{name}", params(("name" = String, Path)), request_body = PolicyText,
    responses((status = 204), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn keep(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Path(name): Path<String>,
    Json(policy): Json<PolicyText>,
) -> Answer<StatusCode> {
    app.heavy(move |app| {
        policies::keep(app, &name, &policy.text)?;
        let hash = lava_event::Sha256::of(policy.text.as_bytes());
        app.store.note(&who.user.name, "policy.keep", &format!("{name} sha256 {hash}"), &from.to_string())?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Removes a policy of the host's own.
#[utoipa::path(delete, path = "/api/policies/{name}", params(("name" = String, Path)), responses((status = 204), (status = 404, body = ErrorBody)))]
pub async fn remove(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    app.read(move |app| {
        policies::remove(app, &name)?;
        app.store.note(&who.user.name, "policy.remove", &name, &from.to_string())?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Profiles.
#[derive(Serialize, ToSchema)]
pub struct ProfileList {
    /// The ways to open a task.
    profiles: Vec<ProfileFacts>,
}

/// The ways to open a task.
#[utoipa::path(get, path = "/api/profiles", responses((status = 200, body = ProfileList)))]
pub async fn profiles(State(app): State<Arc<App>>) -> Json<ProfileList> {
    Json(ProfileList { profiles: app.config.profiles.clone() })
}
