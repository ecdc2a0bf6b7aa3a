//! The host at a glance, searching, and what only admins see.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::account::checked_name;
use crate::app::App;
use crate::auth::{Client, Who, password};
use crate::error::{Answer, ApiError, ErrorBody};
use crate::retention;
use crate::sessions::facts::SessionFacts;
use crate::sessions::folder;
use crate::store::index::{Hit, SHORTEST, What};
use crate::store::{AuditEntry, JobState, Role, User};

/// Sessions that the overview counts: the newest ones.
const MAX_COUNTED: usize = 1_000;
/// Hits, and entries of the audit log, in one answer.
const MAX_LIST: u32 = 500;

/// A task that waits.
#[derive(Serialize, ToSchema)]
pub struct Waiting {
    id: String,
    name: String,
    /// From 1.
    position: usize,
}

/// What the host has left.
#[derive(Serialize, ToSchema)]
pub struct Host {
    /// Load of the last minute.
    load1: f64,
    cpus: usize,
    /// Bytes.
    memory_total: u64,
    /// Bytes.
    memory_available: u64,
    /// Bytes, where sessions are kept.
    disk_free: u64,
}

/// The host at a glance. Counted are the newest sessions.
#[derive(Serialize, ToSchema)]
pub struct Overview {
    running: Vec<SessionFacts>,
    queued: Vec<Waiting>,
    /// Sessions by verdict.
    verdicts: BTreeMap<String, u64>,
    /// Sessions that reached each stage.
    stages: BTreeMap<String, u64>,
    /// Sessions by their worst finding.
    severities: BTreeMap<String, u64>,
    /// How many were counted.
    counted: u64,
    host: Host,
}

/// What runs, what waits, what was found.
#[utoipa::path(get, path = "/api/overview", responses((status = 200, body = Overview)))]
pub async fn overview(State(app): State<Arc<App>>) -> Answer<Json<Overview>> {
    app.heavy(|app| {
        let queued = app.store.jobs(JobState::Queued)?.into_iter().enumerate();
        let queued = queued.map(|(at, job)| Waiting { id: job.id, name: job.name, position: at + 1 }).collect();
        let (mut verdicts, mut stages, mut severities) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (mut running, mut counted) = (Vec::new(), 0);
        for id in folder::list(&app.config.sessions, MAX_COUNTED, None) {
            let Ok(facts) = app.session(&id) else { continue };
            counted += 1;
            let count = |into: &mut BTreeMap<String, u64>, what: String| *into.entry(what).or_default() += 1;
            facts.verdict.iter().for_each(|verdict| count(&mut verdicts, verdict.to_string()));
            facts.stages.iter().for_each(|stage| count(&mut stages, stage.to_string()));
            facts.severity.iter().for_each(|severity| count(&mut severities, format!("{severity:?}").to_lowercase()));
            if !facts.is_over() {
                running.push(SessionFacts::clone(&facts));
            }
        }
        Ok(Json(Overview { running, queued, verdicts, stages, severities, counted, host: host(app) }))
    })
    .await
}

fn host(app: &App) -> Host {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let of = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim_start_matches(':').trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
            * 1024
    };
    Host {
        load1: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_total: of("MemTotal"),
        memory_available: of("MemAvailable"),
        disk_free: retention::free(&app.config.sessions),
    }
}

/// What to look for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Sought {
    /// A part of it, three characters or more.
    q: String,
    /// Only of this kind; `text`: all.
    #[param(inline)]
    kind: Option<What>,
    /// How many at most; 100 if not given, 500 at most.
    limit: Option<u32>,
}

/// What was found.
#[derive(Serialize, ToSchema)]
pub struct Hits {
    hits: Vec<Hit>,
    /// Sessions that were not searched: they run, or ended just now.
    not_searched: usize,
}

/// A text that can be looked for.
///
/// # Errors
/// If it is too short, too long, or no text.
pub fn checked_text(text: &str) -> Answer<()> {
    if !(SHORTEST..=1024).contains(&text.chars().count()) || text.contains('\0') {
        return Err(ApiError::bad(format!("what is looked for has {SHORTEST} to 1024 characters")));
    }
    Ok(())
}

/// Looks through all sessions that are over.
#[utoipa::path(get, path = "/api/search", params(Sought), responses((status = 200, body = Hits), (status = 400, body = ErrorBody)))]
pub async fn search(State(app): State<Arc<App>>, Query(sought): Query<Sought>) -> Answer<Json<Hits>> {
    checked_text(&sought.q)?;
    app.heavy(move |app| {
        let limit = sought.limit.unwrap_or(100).clamp(1, MAX_LIST);
        let hits = app.index.find(&sought.q, sought.kind.unwrap_or(What::Text), limit)?;
        let done = app.index.done()?;
        let all = folder::list(&app.config.sessions, usize::MAX, None);
        Ok(Json(Hits { hits, not_searched: all.iter().filter(|id| !done.contains(*id)).count() }))
    })
    .await
}

/// How much of the audit log.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Newest {
    /// How many at most; 100 if not given, 500 at most.
    limit: Option<u32>,
}

/// The audit log.
#[derive(Serialize, ToSchema)]
pub struct AuditLog {
    /// The newest first.
    entries: Vec<AuditEntry>,
}

/// Who did what.
#[utoipa::path(get, path = "/api/audit", params(Newest), responses((status = 200, body = AuditLog), (status = 403, body = ErrorBody)))]
pub async fn audit(State(app): State<Arc<App>>, Query(newest): Query<Newest>) -> Answer<Json<AuditLog>> {
    let limit = newest.limit.unwrap_or(100).clamp(1, MAX_LIST);
    Ok(Json(AuditLog { entries: app.store.audit(limit)? }))
}

/// Users.
#[derive(Serialize, ToSchema)]
pub struct UserList {
    users: Vec<User>,
}

/// All users.
#[utoipa::path(get, path = "/api/users", responses((status = 200, body = UserList), (status = 403, body = ErrorBody)))]
pub async fn users(State(app): State<Arc<App>>) -> Answer<Json<UserList>> {
    Ok(Json(UserList { users: app.store.users()? }))
}

/// Role and password.
#[derive(Deserialize, ToSchema)]
pub struct UserForm {
    role: Role,
    /// Keeps the old one if not given.
    password: Option<String>,
}

/// Adds a user, or gives one another role and password. That user is logged out.
#[utoipa::path(put, path = "/api/users/{name}", params(("name" = String, Path)), request_body = UserForm,
    responses((status = 204), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn put_user(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Path(name): Path<String>,
    Json(form): Json<UserForm>,
) -> Answer<StatusCode> {
    app.heavy(move |app| {
        let name = checked_name(&name)?;
        let hash = form.password.as_deref().map(password::hash).transpose()?;
        app.store.put_user(name, form.role, hash.as_deref())?;
        app.store.note(&who.user.name, "user.put", &format!("{name} {}", form.role.name()), &from.to_string())?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Removes a user, with their logins and tokens.
#[utoipa::path(delete, path = "/api/users/{name}", params(("name" = String, Path)), responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn remove_user(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    if name == who.user.name {
        return Err(ApiError::conflict("nobody removes themselves: let another admin do it"));
    }
    if !app.store.remove_user(&name)? {
        return Err(ApiError::not_found("such user"));
    }
    app.store.note(&who.user.name, "user.remove", &name, &from.to_string())?;
    Ok(StatusCode::NO_CONTENT)
}
