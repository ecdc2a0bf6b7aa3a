//! The live stream of a session, as server-sent events.
//!
//! A viewer takes what is new when it can; nothing is kept for it but its place. A lost connection goes on behind the last `id`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event as Sse, KeepAlive, Sse as Stream};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until};
use utoipa::IntoParams;

use crate::app::App;
use crate::error::{Answer, ApiError, ErrorBody};
use crate::sessions::folder;
use crate::sessions::live::{Followed, Latest};

/// Between two batches to one viewer.
const APART: Duration = Duration::from_millis(25);
/// Events in one batch.
const BATCH: usize = 500;
/// Between two looks at a task that waits in the queue.
const QUEUED: Duration = Duration::from_millis(500);

/// Where to go on.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct From {
    /// Events behind this one are told; the header `Last-Event-ID` goes before.
    from: Option<u64>,
}

/// What happens in a session, as it happens: `events`, `finding`, `trace`, `session`, `pending` (what waits for the
/// analyst), and `end` when nothing more is to come. Events
/// are those that matter (the task's doings, and what the machine tells); `left_out` says how many others there were.
#[utoipa::path(get, path = "/api/sessions/{id}/stream", params(("id" = String, Path), From),
    responses((status = 200, description = "server-sent events (text/event-stream)"), (status = 404, body = ErrorBody), (status = 429, body = ErrorBody)))]
pub async fn stream(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(place): Query<From>,
    headers: HeaderMap,
) -> Answer<Stream<impl stream::Stream<Item = Result<Sse, Infallible>>>> {
    let resumed = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    let viewer = Arc::clone(&app.viewers).try_acquire_owned();
    let viewer = viewer.map_err(|_| ApiError::too_many("too many look at live sessions already"))?;
    let known = id.clone();
    Arc::clone(&app).read(move |app| app.session(&known)).await?;
    let viewer = Viewer {
        app,
        id,
        followed: None,
        ready: VecDeque::new(),
        seq: resumed.or(place.from).unwrap_or(0),
        findings: 0,
        trace: 0,
        session: 0,
        pending: 0,
        next: Instant::now(),
        over: false,
        _place: viewer,
    };
    let events = stream::unfold(viewer, |mut viewer| async move {
        let event = viewer.next().await?;
        Some((Ok(event), viewer))
    });
    Ok(Stream::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

/// One viewer: what it has been sent.
struct Viewer {
    app: Arc<App>,
    id: String,
    followed: Option<(Arc<Followed>, watch::Receiver<u64>)>,
    ready: VecDeque<Sse>,
    seq: u64,
    findings: usize,
    trace: u64,
    session: u64,
    pending: u64,
    next: Instant,
    over: bool,
    _place: OwnedSemaphorePermit,
}

impl Viewer {
    /// The next thing to send; `None` when nothing more is to come.
    async fn next(&mut self) -> Option<Sse> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            let Some((followed, mut news)) = self.followed.take() else {
                self.begin().await?;
                continue;
            };
            sleep_until(self.next).await;
            self.next = Instant::now() + APART;
            news.mark_unchanged();
            followed.look(|latest| self.take(latest));
            if self.ready.is_empty() && !self.over {
                // Fails when the follower is gone, which says so before.
                let _ = news.changed().await;
            }
            self.followed = Some((followed, news));
        }
    }

    /// Begins to follow, once the session has its folder; until then its place in the queue is told.
    async fn begin(&mut self) -> Option<()> {
        let id = self.id.clone();
        let begun = Arc::clone(&self.app)
            .read(move |app| {
                let has_folder = folder::open(&app.config.sessions, &id).is_ok();
                let facts = if has_folder { None } else { Some(app.session(&id)?) };
                let followed = has_folder.then(|| app.hub.follow(&app.config.sessions, &id, &app.facts));
                Ok((facts, followed))
            })
            .await
            .ok()?;
        match begun {
            (_, Some(followed)) => {
                let followed = followed?;
                let news = followed.news();
                self.followed = Some((followed, news));
            }
            (Some(facts), None) => {
                let text = serde_json::to_string(&*facts).ok()?;
                self.over = facts.is_over();
                let kind = if self.over { "end" } else { "session" };
                self.ready.push_back(Sse::default().event(kind).data(text));
                sleep(QUEUED).await;
            }
            (None, None) => return None,
        }
        Some(())
    }

    /// Takes what is new.
    fn take(&mut self, latest: &Latest) {
        let mut put = |kind: &str, seq: u64, data: &str| {
            self.ready.push_back(Sse::default().id(seq.to_string()).event(kind).data(data));
        };
        let mut whole = true;
        if latest.session.0 > self.session {
            self.session = latest.session.0;
            put("session", self.seq, &latest.session.1);
        }
        if latest.seq > self.seq {
            let events = latest.events_behind(self.seq, BATCH);
            whole = events.len() < BATCH;
            let until = if whole { latest.seq } else { events.last().map_or(latest.seq, |(seq, _)| *seq) };
            let lines: Vec<&str> = events.iter().map(|(_, json)| &**json).collect();
            let left_out = (until - self.seq).saturating_sub(events.len() as u64);
            self.seq = until;
            put("events", until, &format!("{{\"events\":[{}],\"left_out\":{left_out}}}", lines.join(",")));
        }
        for finding in latest.findings.iter().skip(self.findings) {
            put("finding", self.seq, finding);
        }
        self.findings = latest.findings.len();
        if latest.trace.0 > self.trace {
            self.trace = latest.trace.0;
            put("trace", self.seq, &latest.trace.1);
        }
        if latest.pending.0 > self.pending {
            self.pending = latest.pending.0;
            put("pending", self.seq, &latest.pending.1);
        }
        if latest.over && whole {
            self.over = true;
            put("end", self.seq, &latest.session.1);
        }
    }
}
