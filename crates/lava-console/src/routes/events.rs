//! Events, page by page, with a filter.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use lava_event::{Event, Kind};
use lava_evidence::{Error, Follow};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::error::{Answer, ApiError, ErrorBody};

/// Events in one answer, and bytes of their lines.
const MAX_EVENTS: usize = 1_000;
const MAX_BYTES: usize = 8 << 20;
/// Bytes of the log that one request looks through.
const MAX_SCANNED: u64 = 256 << 20;
/// Longest text to look for, bytes.
const MAX_TEXT: usize = 1024;

/// Which events.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// From this event on; 1 if not given.
    from: Option<u64>,
    /// How many at most; 200 if not given, 1000 at most.
    limit: Option<usize>,
    /// Only of kinds that begin so: `process.`, `file.open`.
    kind: Option<String>,
    /// Only what this process did, or what was done to it.
    pid: Option<u32>,
    /// Only those in whose JSON this text stands; upper and lower case of ASCII letters are the same.
    q: Option<String>,
}

/// Events, in order.
#[derive(Default, Serialize, ToSchema)]
pub struct EventList {
    /// As in `events.jsonl`.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Event>,
    /// Where to go on (`from`); null if the log's end was reached.
    next: Option<u64>,
    /// The last event there is.
    total_seen: u64,
    /// Lines on the way that are no event: the log is damaged.
    unreadable: u64,
}

/// The session's events.
#[utoipa::path(get, path = "/api/sessions/{id}/events", params(("id" = String, Path), Wanted), responses((status = 200, body = EventList), (status = 404, body = ErrorBody)))]
pub async fn events(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Answer<Json<EventList>> {
    if wanted.q.as_ref().is_some_and(|text| text.len() > MAX_TEXT) {
        return Err(ApiError::bad(format!("the text to look for has at most {MAX_TEXT} bytes")));
    }
    app.heavy(move |app| {
        let Some(session) = app.begun(&id)? else { return Ok(Json(EventList::default())) };
        let path = session.dir().join("events.jsonl");
        let mut log = Follow::from_seq(&path, wanted.from.unwrap_or(1))?;
        let found = look(&mut log, &wanted)?;
        Ok(Json(EventList { total_seen: Follow::last_seq(&path)?, ..found }))
    })
    .await
}

fn look(log: &mut Follow, wanted: &Wanted) -> Answer<EventList> {
    let limit = wanted.limit.unwrap_or(200).clamp(1, MAX_EVENTS);
    let filter = Filter::new(wanted);
    let mut list = EventList::default();
    let (begin, mut bytes) = (log.offset(), 0);
    loop {
        let line = match log.next_line() {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(list),
            Err(Error::Line { .. }) => {
                list.unreadable += 1;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let full = list.events.len() >= limit || bytes > MAX_BYTES || log.offset() - begin > MAX_SCANNED;
        if !full && !filter.may_match(&line) {
            continue;
        }
        let Ok(event) = serde_json::from_slice::<Event>(&line) else {
            list.unreadable += 1;
            continue;
        };
        if full {
            list.next = Some(event.seq);
            return Ok(list);
        }
        if filter.matches(&event) {
            bytes += line.len();
            list.events.push(event);
        }
    }
}

/// The filter, in a form that looks at lines before they are understood: most are not wanted.
struct Filter {
    kind: Option<String>,
    kind_json: Option<Vec<u8>>,
    pid: Option<u32>,
    pid_json: Option<Vec<u8>>,
    text_json: Option<Vec<u8>>,
}

impl Filter {
    fn new(wanted: &Wanted) -> Self {
        let text = wanted.q.as_deref().filter(|text| !text.is_empty());
        // As it stands between the quotes of a JSON string.
        let in_json = |text: &str| {
            let quoted = serde_json::to_string(text).unwrap_or_default();
            quoted[1..quoted.len().max(2) - 1].to_ascii_lowercase().into_bytes()
        };
        let kind = wanted.kind.clone().filter(|kind| !kind.is_empty());
        Self {
            kind_json: kind.as_ref().map(|kind| format!("\"kind\":\"{kind}").into_bytes()),
            kind,
            pid: wanted.pid,
            pid_json: wanted.pid.map(|pid| format!("\"pid\":{pid},").into_bytes()),
            text_json: text.map(in_json),
        }
    }

    fn may_match(&self, line: &[u8]) -> bool {
        let has = |part: &Option<Vec<u8>>| part.as_ref().is_none_or(|part| contains(line, part));
        has(&self.kind_json)
            && has(&self.pid_json)
            && self.text_json.as_ref().is_none_or(|text| contains(&line.to_ascii_lowercase(), text))
    }

    fn matches(&self, event: &Event) -> bool {
        self.kind.as_ref().is_none_or(|kind| event.kind.name().starts_with(kind.as_str()))
            && self.pid.is_none_or(|pid| concerns(event, pid))
    }
}

fn contains(line: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(line, part).is_some()
}

/// The process did it, or it was done to the process.
fn concerns(event: &Event, pid: u32) -> bool {
    let other = match &event.kind {
        Kind::ProcessFork { child, .. } => Some(child),
        Kind::ProcessPtrace { target, .. }
        | Kind::ProcessSignal { target, .. }
        | Kind::MemoryRemoteWrite { target, .. } => Some(target),
        Kind::KernelHiddenTask { task, .. } => Some(task),
        _ => None,
    };
    event.process.as_ref().is_some_and(|process| process.pid == pid) || other.is_some_and(|other| other.pid == pid)
}
