//! How much is kept, what would go, and sessions that are held.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::auth::{Client, Who};
use crate::error::{Answer, ApiError, ErrorBody};
use crate::lock;
use crate::retention::{self, Plan};
use crate::sessions::folder;
use crate::store::{Hold, Retention};

/// Longest time that can be asked for, days.
const MAX_DAYS: u32 = 36_500;
/// Longest reason, characters.
const MAX_REASON: usize = 200;

/// The rule, and what it leaves alone.
#[derive(Serialize, ToSchema)]
pub struct Kept {
    rule: Retention,
    /// Sessions that are held, by id.
    holds: BTreeMap<String, Hold>,
}

/// How much is kept, and which sessions are held.
#[utoipa::path(get, path = "/api/retention", operation_id = "retention", responses((status = 200, body = Kept)))]
pub async fn get(State(app): State<Arc<App>>) -> Answer<Json<Kept>> {
    Ok(Json(Kept { rule: app.store.retention()?, holds: app.store.holds()? }))
}

fn checked(rule: Retention) -> Answer<Retention> {
    // What SQLite can hold.
    let bytes = |number: Option<u64>| number.is_none_or(|number| (1..=i64::MAX.unsigned_abs()).contains(&number));
    if !rule.days.is_none_or(|days| (1..=MAX_DAYS).contains(&days)) || !bytes(rule.bytes) || !bytes(rule.free) {
        return Err(ApiError::bad(format!("days are 1 to {MAX_DAYS}, bytes 1 to 2^63-1; what is null bounds nothing")));
    }
    Ok(rule)
}

/// Sets how much is kept. What the rule takes is removed within a minute: ask for a preview first.
#[utoipa::path(put, path = "/api/retention", operation_id = "set_retention", request_body = Retention,
    responses((status = 204), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn set(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Json(rule): Json<Retention>,
) -> Answer<StatusCode> {
    app.store.set_retention(&checked(rule)?)?;
    let shown = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let rule =
        format!("days {}, bytes {}, free {}", shown(rule.days.map(u64::from)), shown(rule.bytes), shown(rule.free));
    app.store.note(&who.user.name, "retention.set", &rule, &from.to_string())?;
    app.queue.keeping.ring();
    Ok(StatusCode::NO_CONTENT)
}

/// A rule to try.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Tried {
    /// Days.
    #[param(minimum = 1, maximum = 36_500)]
    days: Option<u32>,
    /// Bytes that all sessions may take.
    #[param(minimum = 1)]
    bytes: Option<u64>,
    /// Bytes that stay free.
    #[param(minimum = 1)]
    free: Option<u64>,
}

/// What such a rule would remove now; nothing is removed.
#[utoipa::path(get, path = "/api/retention/preview", operation_id = "preview_retention", params(Tried),
    responses((status = 200, body = Plan), (status = 400, body = ErrorBody)))]
pub async fn preview(State(app): State<Arc<App>>, Query(tried): Query<Tried>) -> Answer<Json<Plan>> {
    let rule = checked(Retention { days: tried.days, bytes: tried.bytes, free: tried.free })?;
    app.heavy(move |app| retention::look(app, &rule).map(Json)).await
}

/// Why a session is held.
#[derive(Deserialize, ToSchema)]
pub struct HoldForm {
    /// A case's number, a request: 1 to 200 characters.
    reason: String,
}

/// Holds a session: no rule removes it.
#[utoipa::path(put, path = "/api/sessions/{id}/hold", operation_id = "hold", params(("id" = String, Path)), request_body = HoldForm,
    responses((status = 204), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn hold(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Path(id): Path<String>,
    Json(form): Json<HoldForm>,
) -> Answer<StatusCode> {
    let reason = form.reason.trim().to_owned();
    if reason.is_empty() || reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
        return Err(ApiError::bad(format!("a reason has 1 to {MAX_REASON} characters, in one line")));
    }
    app.read(move |app| {
        let _doors = lock(&app.keeper.doors);
        folder::find(&app.config.sessions, &id).ok_or_else(|| ApiError::not_found("such session"))?;
        app.store.hold(&id, &who.user.name, &reason)?;
        app.store.note(&who.user.name, "session.hold", &format!("{id}: {reason}"), &from.to_string())?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Holds a session no more.
#[utoipa::path(delete, path = "/api/sessions/{id}/hold", operation_id = "release", params(("id" = String, Path)),
    responses((status = 204), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn release(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    app.read(move |app| {
        let _doors = lock(&app.keeper.doors);
        if !app.store.release(&id)? {
            return Err(ApiError::not_found("hold on such a session"));
        }
        app.store.note(&who.user.name, "session.release", &id, &from.to_string())?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
