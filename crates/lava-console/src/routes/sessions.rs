//! Sessions: the list, one of them, its trace, findings and processes.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use lava_evidence::Manifest;
use lava_graph::{Graph, Lane, Timeline, Unfold};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Until;
use crate::app::App;
use crate::error::{Answer, ApiError, ErrorBody};
use crate::sessions::facts::{self, SessionFacts};
use crate::sessions::folder;
use crate::sessions::moment::{self, TraceFacts};

/// Sessions in one answer.
const MAX_LIST: usize = 200;
/// Folds that are unfolded in one answer.
const MAX_UNFOLDED: usize = 64;
/// Nodes, and edges, of a graph that is told whole: some ten MB of JSON, and more than a page can show.
const MAX_WHOLE: usize = 20_000;

/// Which part of the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// How many at most; 50 if not given, 200 at most.
    limit: Option<usize>,
    /// Only those older than this id.
    before: Option<String>,
}

/// Sessions, the newest first.
#[derive(Serialize, ToSchema)]
pub struct SessionList {
    /// They.
    sessions: Vec<SessionFacts>,
    /// What to give as `before` for the next ones; null if there are none.
    next: Option<String>,
}

/// Lists the sessions, the newest first; those that wait in the queue stand among them.
#[utoipa::path(get, path = "/api/sessions", params(Page), responses((status = 200, body = SessionList), (status = 401, body = ErrorBody)))]
pub async fn list(State(app): State<Arc<App>>, Query(page): Query<Page>) -> Answer<Json<SessionList>> {
    app.read(move |app| {
        let limit = page.limit.unwrap_or(50).clamp(1, MAX_LIST);
        let mut ids = folder::list(&app.config.sessions, limit + 1, page.before.as_deref());
        ids.extend(app.store.jobs_before(page.before.as_deref(), limit + 1)?);
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.dedup();
        let next = ids.get(limit).map(|_| ids[limit - 1].clone());
        ids.truncate(limit);
        let sessions = ids.iter().map(|id| match app.session(id) {
            Ok(facts) => SessionFacts::clone(&facts),
            Err(error) => facts::damaged(id, error.message()),
        });
        Ok(Json(SessionList { sessions: sessions.collect(), next }))
    })
    .await
}

/// A session and its manifest.
#[derive(Serialize, ToSchema)]
pub struct OneSession {
    #[serde(flatten)]
    facts: SessionFacts,
    /// As in `manifest.json`; null while it has none.
    #[schema(value_type = Option<Object>)]
    manifest: Option<Manifest>,
}

/// One session.
#[utoipa::path(get, path = "/api/sessions/{id}", params(("id" = String, Path)), responses((status = 200, body = OneSession), (status = 404, body = ErrorBody)))]
pub async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Json<OneSession>> {
    app.read(move |app| {
        let facts = app.session(&id)?;
        let manifest = folder::open(&app.config.sessions, &id).ok().map(|session| session.manifest().clone());
        Ok(Json(OneSession { facts: SessionFacts::clone(&facts), manifest }))
    })
    .await
}

/// How much of the graph is told.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Unfolding {
    /// The nodes of these folds are drawn for themselves: their ids as the trace has them (`n12.reads`), with commas between, at
    /// most 64. One that is not there is passed over: at an earlier moment it may not have been.
    unfold: Option<String>,
    /// Every node and edge of the graph. Refused above 20,000 of either.
    full: Option<bool>,
}

impl Unfolding {
    fn of(&self) -> Answer<Unfold> {
        let groups: BTreeSet<String> = self
            .unfold
            .iter()
            .flat_map(|list| list.split(','))
            .filter(|id| !id.is_empty())
            .map(str::to_owned)
            .collect();
        if groups.len() > MAX_UNFOLDED {
            return Err(ApiError::bad(format!("{} folds are asked for, {MAX_UNFOLDED} at most", groups.len())));
        }
        Ok(match self.full {
            Some(true) => Unfold::Everything,
            _ if groups.is_empty() => Unfold::Nothing,
            _ => Unfold::Groups(groups),
        })
    }
}

/// The attack graph as it was after an event: simplified, or unfolded.
#[utoipa::path(get, path = "/api/sessions/{id}/trace", params(("id" = String, Path), Until, Unfolding),
    responses((status = 200, body = TraceFacts), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 413, body = ErrorBody)))]
pub async fn trace(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(at): Query<Until>,
    Query(unfolding): Query<Unfolding>,
) -> Answer<Json<TraceFacts>> {
    let unfold = unfolding.of()?;
    app.heavy(move |app| {
        let Some(session) = app.begun(&id)? else { return Ok(Json(TraceFacts::new(0, Graph::new().trace()))) };
        // What a closed session came to was written when it was closed: no need to build it anew.
        if let (None, Unfold::Nothing, Some(_), Ok(trace)) =
            (at.until, &unfold, session.manifest().chain_head, session.trace())
        {
            return Ok(Json(TraceFacts::new(session.manifest().events, trace)));
        }
        let moment = app.histories.at(session.dir(), at.until.unwrap_or(u64::MAX))?;
        let (nodes, edges) = (moment.graph.nodes().len(), moment.graph.edges().len());
        if unfold == Unfold::Everything && nodes.max(edges) > MAX_WHOLE {
            return Err(ApiError::too_large(format!(
                "the whole graph has {nodes} nodes and {edges} edges, more than {MAX_WHOLE}: unfold what you want to see, or use `lava trace --full`"
            )));
        }
        Ok(Json(TraceFacts::new(moment.seq, moment.graph.trace_of(&unfold))))
    })
    .await
}

/// Findings.
#[derive(Serialize, ToSchema)]
pub struct FindingList {
    /// As in `findings.jsonl`, each with its `index`.
    #[schema(value_type = Vec<Object>)]
    findings: Vec<serde_json::Value>,
}

/// What the detectors found so far.
#[utoipa::path(get, path = "/api/sessions/{id}/findings", params(("id" = String, Path)), responses((status = 200, body = FindingList), (status = 404, body = ErrorBody)))]
pub async fn findings(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Json<FindingList>> {
    app.read(move |app| {
        let findings = app.begun(&id)?.map(|session| moment::findings(session.dir())).transpose()?.unwrap_or_default();
        let indexed = findings.iter().enumerate().map(|(index, finding)| moment::Indexed { index, finding });
        let findings = indexed.map(serde_json::to_value).collect::<Result<_, _>>().map_err(ApiError::internal)?;
        Ok(Json(FindingList { findings }))
    })
    .await
}

/// Processes, for a timeline.
#[derive(Serialize, ToSchema)]
pub struct Processes {
    /// As in `processes.json`: those that descend from the task, then their ancestors, then the others, each by their beginning.
    #[schema(value_type = Vec<Object>)]
    processes: Vec<Lane>,
    /// How many there are beside these.
    left_out: u64,
}

impl From<Timeline> for Processes {
    fn from(Timeline { processes, left_out }: Timeline) -> Self {
        Self { processes, left_out }
    }
}

/// The processes, one lane each.
#[utoipa::path(get, path = "/api/sessions/{id}/processes", params(("id" = String, Path), Until), responses((status = 200, body = Processes), (status = 404, body = ErrorBody)))]
pub async fn processes(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(at): Query<Until>,
) -> Answer<Json<Processes>> {
    app.heavy(move |app| {
        let Some(session) = app.begun(&id)? else { return Ok(Json(Timeline::default().into())) };
        // As with the trace: kept when it was closed.
        if let (None, Some(_), Ok(Some(timeline))) = (at.until, session.manifest().chain_head, session.timeline()) {
            return Ok(Json(timeline.into()));
        }
        let moment = app.histories.at(session.dir(), at.until.unwrap_or(u64::MAX))?;
        Ok(Json(moment.graph.timeline().into()))
    })
    .await
}
