//! Answers: what was decided, what waits for the analyst, and commands to a session that runs.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use lava_control::Command;
use lava_event::{Action, Event, Kind, SessionId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::{Client, Who};
use crate::error::{Answer, ApiError, ErrorBody};
use crate::sessions::folder;
use crate::sessions::pending::{Pending, ask, event, pending};

/// Decisions.
#[derive(Serialize, ToSchema)]
pub struct DecisionList {
    /// The `vm.decision` events, in order.
    #[schema(value_type = Vec<Object>)]
    decisions: Vec<Event>,
    /// What waits for the analyst.
    pending: Vec<Pending>,
}

/// What was decided, and what waits for the analyst.
#[utoipa::path(get, path = "/api/sessions/{id}/decisions", params(("id" = String, Path)), responses((status = 200, body = DecisionList), (status = 404, body = ErrorBody)))]
pub async fn decisions(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Json<DecisionList>> {
    app.heavy(move |app| {
        let Some(session) = app.begun(&id)? else {
            return Ok(Json(DecisionList { decisions: Vec::new(), pending: Vec::new() }));
        };
        let moment = app.histories.at(session.dir(), u64::MAX)?;
        let mut decisions = Vec::new();
        for decision in moment.graph.decisions() {
            let event = event(&session, decision.event)?;
            decisions.extend(event.filter(|event| matches!(event.kind, Kind::VmDecision { .. })));
        }
        Ok(Json(DecisionList { decisions, pending: pending(&session)? }))
    })
    .await
}

/// The analyst's answer.
#[derive(Deserialize, ToSchema)]
pub struct Decide {
    /// The event that waits.
    seq: u64,
    /// `allow`, `deny` or `remediate`.
    #[schema(value_type = String)]
    action: Action,
}

/// Answers what waits for the analyst.
#[utoipa::path(post, path = "/api/sessions/{id}/decide", params(("id" = String, Path)), request_body = Decide, responses((status = 200, body = Responded), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn decide(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Path(id): Path<String>,
    Json(Decide { seq, action }): Json<Decide>,
) -> Answer<Json<Responded>> {
    app.read(move |app| {
        let session = folder::open(&app.config.sessions, &id)?;
        let answer = ask(&session.manifest().session, Command::Decide { seq, action })?;
        app.store.note(&who.user.name, "session.decide", &format!("{id} event {seq}: {action}"), &from.to_string())?;
        Ok(Json(Responded { answer }))
    })
    .await
}

/// What a running session is told to do.
#[derive(Deserialize, ToSchema)]
pub struct Respond {
    /// `status`, `pause`, `resume`, `stop`, `discard`, `registers`, `snapshot`, `questions` or `kill`.
    command: String,
    /// `kill`: the process in the guest.
    #[serde(default)]
    pid: Option<u32>,
}

impl Respond {
    fn command(&self) -> Option<Command> {
        match self.pid {
            None => Command::named(&self.command),
            Some(pid) => Some(Command::Kill { pid }).filter(|command| command.name() == self.command),
        }
    }
}

/// What came of it.
#[derive(Serialize, ToSchema)]
pub struct Responded {
    /// In the session's words.
    answer: String,
}

/// Pauses, resumes, stops or discards a running session, reads its registers, or kills one of its guest's processes. A task that still waits is taken from the queue
/// by `stop` and `discard`.
#[utoipa::path(post, path = "/api/sessions/{id}/respond", params(("id" = String, Path)), request_body = Respond, responses((status = 200, body = Responded), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn respond(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Path(id): Path<String>,
    Json(wanted): Json<Respond>,
) -> Answer<Json<Responded>> {
    let command = wanted.command().ok_or_else(|| {
        let known = Command::WORDS.map(|command| command.name()).join(", ");
        ApiError::bad("there is no such command").help(format!("there is: {known}; and kill, with a pid"))
    })?;
    app.read(move |app| {
        let facts = app.session(&id)?;
        let about = wanted.pid.map_or_else(|| id.clone(), |pid| format!("{id} process {pid}"));
        app.store.note(&who.user.name, &format!("session.{}", command.name()), &about, &from.to_string())?;
        if facts.state == "queued" && matches!(command, Command::Stop | Command::Discard) {
            app.queue.cancel(app, &id, &who.user.name)?;
            return Ok(Json(Responded { answer: "it will not be started".into() }));
        }
        Ok(Json(Responded { answer: ask(&SessionId(id), command)? }))
    })
    .await
}
