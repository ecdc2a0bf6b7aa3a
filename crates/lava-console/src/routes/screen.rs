//! The task's screen, live: RFB over a WebSocket. Whoever may look has one path, whoever may touch another, so that the table of roles
//! (`auth/mod.rs`) tells them apart.
//!
//! *Boundary:* QEMU → browser. What QEMU says goes on in bounded pieces, at the browser's pace, and is not understood here.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::Response;
use lava_control::Command;
use lava_event::SessionId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{interval, timeout};

use crate::app::App;
use crate::auth::{Client, Who};
use crate::error::{Answer, ApiError, ErrorBody};
use crate::sessions::pending;
use crate::sessions::rfb::Filter;

/// Bytes of the picture in one message.
const PIECE: usize = 64 << 10;
/// Longest message of the browser, bytes.
const MAX_MESSAGE: usize = 64 << 10;
/// For either end to take what it is sent.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks whether the browser is still there, and may still look.
const ALIVE: Duration = Duration::from_secs(15);

/// Codes of a WebSocket's end (RFC 6455, 7.4): ours are of the private range.
const OVER: u16 = 1000;
const UNEXPECTED: u16 = 1002;
const NOT_ALLOWED: u16 = 1008;
/// The session says no.
const NO_SCREEN: u16 = 4409;
/// Nobody answers for it: it has not begun to run, or does no more.
const NO_ANSWER: u16 = 4503;
/// Longest reason of a WebSocket's end, bytes.
const REASON: usize = 120;

/// The guest's screen as it is now, to look at: a WebSocket that speaks RFB 3.8 (RFC 6143) without authentication. Keys and the pointer's
/// moves do not reach the guest. If there is nothing to see it ends at once, with the reason
/// and the code 4409 (no screen) or 4503 (it does not run).
#[utoipa::path(get, path = "/api/sessions/{id}/screen", params(("id" = String, Path)),
    responses((status = 101, description = "RFB over a WebSocket"), (status = 404, body = ErrorBody), (status = 426, body = ErrorBody), (status = 429, body = ErrorBody)))]
pub async fn watch(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Path(id): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Answer<Response> {
    open(app, View { id, who, from: from.to_string(), control: false }, upgrade).await
}

/// The same with the guest's keyboard and pointer in the viewer's hand; the audit log and the session's own tell from when to when.
#[utoipa::path(get, path = "/api/sessions/{id}/screen/control", params(("id" = String, Path)),
    responses((status = 101, description = "RFB over a WebSocket"), (status = 404, body = ErrorBody), (status = 426, body = ErrorBody), (status = 429, body = ErrorBody)))]
pub async fn control(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Path(id): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Answer<Response> {
    open(app, View { id, who, from: from.to_string(), control: true }, upgrade).await
}

/// Who looks at what.
struct View {
    id: String,
    who: Who,
    from: String,
    control: bool,
}

async fn open(app: Arc<App>, view: View, upgrade: WebSocketUpgrade) -> Answer<Response> {
    let place = Arc::clone(&app.screens).try_acquire_owned();
    let place = place.map_err(|_| ApiError::too_many("too many look at screens already"))?;
    let id = view.id.clone();
    Arc::clone(&app).read(move |app| app.session(&id)).await?;
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    Ok(upgrade.on_upgrade(move |browser| serve(app, view, browser, place)))
}

async fn serve(app: Arc<App>, view: View, mut browser: WebSocket, _place: OwnedSemaphorePermit) {
    let (code, reason) = match dial(&app, &view).await {
        Ok(guest) => {
            let end = relay(&app, &view, &mut browser, guest).await;
            if view.control {
                tell(&app, &view, false).await;
            }
            end
        }
        Err(why) => why,
    };
    let end = reason.char_indices().take_while(|(at, c)| at + c.len_utf8() <= REASON).count();
    let reason: String = reason.chars().take(end).collect();
    let frame = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
    // The browser may be gone.
    let _ = timeout(PATIENCE, browser.send(frame)).await;
}

/// Asks the session for a view of its screen.
async fn dial(app: &Arc<App>, view: &View) -> Result<UnixStream, (u16, String)> {
    let runtime = lava_control::runtime(&SessionId(view.id.clone()));
    let silent = || (NO_ANSWER, "the session does not answer: only one that runs can be looked at".to_owned());
    let asked = Arc::clone(app).read(move |_| Ok(lava_control::watch(&runtime))).await;
    let socket = match asked {
        Ok(Ok(Ok(socket))) => socket,
        Ok(Ok(Err(why))) => return Err((NO_SCREEN, why)),
        Ok(Err(_)) | Err(_) => return Err(silent()),
    };
    let socket = socket.set_nonblocking(true).and_then(|()| UnixStream::from_std(socket)).map_err(|_| silent())?;
    if view.control {
        tell(app, view, true).await;
    }
    Ok(socket)
}

/// Tells in both logs that control is taken or given back.
async fn tell(app: &Arc<App>, view: &View, taken: bool) {
    let (id, user, from) = (view.id.clone(), view.who.user.name.clone(), view.from.clone());
    let what = if taken { "session.control" } else { "session.control.given_back" };
    let told = Arc::clone(app).read(move |app| {
        app.store.note(&user, what, &id, &from)?;
        // Given back because the session is over: there is nobody to tell.
        let told = pending::ask(&SessionId(id), Command::Control { taken });
        if taken { told.map(drop) } else { Ok(()) }
    });
    if let Err(error) = told.await {
        eprintln!("lava serve: control of a screen: {}", error.message());
    }
}

/// Between the two until one of them is gone; why it ended.
async fn relay(app: &Arc<App>, view: &View, browser: &mut WebSocket, guest: UnixStream) -> (u16, String) {
    let (mut from_guest, mut to_guest) = guest.into_split();
    let mut filter = Filter::new(view.control);
    let mut alive = interval(ALIVE);
    let mut piece = vec![0; PIECE];
    loop {
        tokio::select! {
            read = from_guest.read(&mut piece) => {
                let count = read.unwrap_or(0);
                if count == 0 {
                    return (OVER, "the micro-VM shows no screen any more".to_owned());
                }
                let bytes = Bytes::copy_from_slice(piece.get(..count).unwrap_or_default());
                if !matches!(timeout(PATIENCE, browser.send(Message::Binary(bytes))).await, Ok(Ok(()))) {
                    return (OVER, "the browser takes nothing".to_owned());
                }
            }
            said = browser.recv() => {
                let bytes = match said {
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Text(_))) => return (UNEXPECTED, "RFB is binary".to_owned()),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return (OVER, String::new()),
                };
                let on = match filter.take(&bytes) {
                    Ok(on) => on,
                    Err(refused) => return (UNEXPECTED, refused.to_string()),
                };
                if !matches!(timeout(PATIENCE, to_guest.write_all(&on)).await, Ok(Ok(()))) {
                    return (OVER, "the micro-VM takes nothing".to_owned());
                }
            }
            _ = alive.tick() => {
                let who = view.who.clone();
                if !matches!(Arc::clone(app).read(move |app| who.still(app)).await, Ok(true)) {
                    return (NOT_ALLOWED, "you are logged out, or your role is another one now".to_owned());
                }
                if !matches!(timeout(PATIENCE, browser.send(Message::Ping(Bytes::new()))).await, Ok(Ok(()))) {
                    return (OVER, "the browser takes nothing".to_owned());
                }
            }
        }
    }
}
