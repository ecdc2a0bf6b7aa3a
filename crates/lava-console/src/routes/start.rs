//! Starting a task: an upload, or an address, that becomes a job. An address is opened by the guest's browser in the guest's network; the
//! server fetches nothing.
//!
//! *Boundary:* name and content are a stranger's. The content is written as it comes, bounded, into a folder of its own; the name
//! becomes one harmless path component; every option is checked before `lava run` sees it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::multipart::{Field, Multipart};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::{Client, Who};
use crate::error::{Answer, ApiError, ErrorBody};
use crate::policies;
use crate::queue::{self, MAX_QUEUED};
use crate::store::Job;

/// Largest task, bytes: what `lava run` takes.
const MAX_TASK: u64 = 256 << 20;
/// What the other parts of the form may have beside it, bytes.
const MAX_REST: usize = 64 << 10;
/// Longest value of an option, bytes.
const MAX_VALUE: usize = 1024;
/// Longest task name, bytes.
const MAX_NAME: usize = 200;
/// For an upload to come in.
const PATIENCE: Duration = Duration::from_secs(600);
/// What must stay free on the file system, bytes.
const KEEP_FREE: u64 = 1 << 30;
/// Longest time for a task, seconds.
const MAX_TIMEOUT: u64 = 86_400;

/// The whole body's limit.
pub fn limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(MAX_TASK as usize + MAX_REST)
}

/// What is uploaded.
#[derive(ToSchema)]
#[allow(dead_code)] // It describes the form; the parts are read one by one.
pub struct TaskForm {
    /// The untrusted file.
    #[schema(value_type = Option<String>, format = Binary)]
    file: Option<Vec<u8>>,
    /// Instead of a file, an address that the guest's browser goes to: `http://` or `https://`, at most 1024 bytes.
    url: Option<String>,
    /// How it is opened; recognised by content if not given.
    profile: Option<String>,
    /// What answers the attack: the name of a policy; `observe` if not given.
    policy: Option<String>,
    /// `none`, `refused`, `simulated`, or `egress`: the real network, for what a rule of the policy allows.
    net: Option<String>,
    /// Seconds the task may take.
    timeout: Option<u64>,
    /// Of a protected archive.
    password: Option<String>,
    /// `true`: restart the guest afterwards.
    reboot: Option<bool>,
    /// `true`: start the task as root.
    root: Option<bool>,
}

/// The session that will be.
#[derive(Serialize, ToSchema)]
pub struct Started {
    /// Its id, from now on.
    id: String,
}

/// Opens an untrusted file or address in a micro-VM, as soon as there is room for one.
#[utoipa::path(post, path = "/api/sessions", request_body(content = TaskForm, content_type = "multipart/form-data"),
    responses((status = 202, body = Started), (status = 400, body = ErrorBody), (status = 413, body = ErrorBody), (status = 429, body = ErrorBody)))]
pub async fn start(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    form: Multipart,
) -> Answer<(StatusCode, Json<Started>)> {
    let id = ulid::Ulid::new().to_string();
    let place = Place(queue::spool(&app, &id), true);
    let wanted = tokio::time::timeout(PATIENCE, receive(&app, form, &place));
    let wanted = wanted.await.map_err(|_| ApiError::too_large("the upload took too long"))??;
    let job = Job::new(id.clone(), who.user.name.clone(), wanted.task, wanted.arguments);
    if !app.store.enqueue(&job, MAX_QUEUED)? {
        return Err(ApiError::too_many(format!("{MAX_QUEUED} tasks wait already")));
    }
    place.keep();
    app.store.note(&who.user.name, "task.start", &format!("{id} {}", job.name), &from.to_string())?;
    app.queue.ring();
    Ok((StatusCode::ACCEPTED, Json(Started { id })))
}

/// The folder of an upload; it goes if nothing comes of it.
struct Place(PathBuf, bool);

impl Place {
    fn keep(mut self) {
        self.1 = false;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.1 {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

struct Wanted {
    /// Name, SHA-256, bytes.
    task: (String, String, u64),
    arguments: Vec<String>,
}

async fn receive(app: &App, mut form: Multipart, place: &Place) -> Answer<Wanted> {
    let mut task = None;
    let mut arguments = Vec::new();
    let mut policy = None;
    while let Some(field) = form.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            only(&task)?;
            task = Some(file(field, place).await?);
            continue;
        }
        let value = value(field).await?;
        if value.is_empty() {
            continue;
        }
        if name == "url" {
            only(&task)?;
            task = Some(address(value, place).await?);
            continue;
        }
        match name.as_str() {
            "policy" => policy = Some(value),
            _ => arguments.extend(option(app, &name, &value)?),
        }
    }
    let task = task.ok_or_else(|| ApiError::bad("the part `file` or `url` is missing: what is to be opened"))?;
    let policy = policies::argument(app, policy.as_deref().unwrap_or("observe"))?;
    arguments.extend(["--policy".to_owned(), policy]);
    Ok(Wanted { task, arguments })
}

fn only(task: &Option<(String, String, u64)>) -> Answer<()> {
    match task {
        None => Ok(()),
        Some(_) => Err(ApiError::bad("one file or address is one task: send each in a request of its own")),
    }
}

/// An address has no content before `lava run` has made the page that leads to it: no hash, no size. Which addresses can be opened,
/// that one says.
async fn address(address: String, place: &Place) -> Answer<(String, String, u64)> {
    if !lava_event::is_address(&address) {
        return Err(ApiError::bad("an address begins with http:// or https://"));
    }
    tokio::fs::create_dir_all(&place.0).await?;
    Ok((address, String::new(), 0))
}

fn broken(error: axum::extract::multipart::MultipartError) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        ApiError::too_large(format!("tasks have at most {} MiB", MAX_TASK >> 20))
    } else {
        ApiError::bad(format!("the form cannot be read: {}", error.body_text()))
    }
}

async fn value(mut field: Field<'_>) -> Answer<String> {
    let mut value = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(broken)? {
        value.extend_from_slice(&piece);
        if value.len() > MAX_VALUE {
            return Err(ApiError::bad(format!("an option has at most {MAX_VALUE} bytes")));
        }
    }
    String::from_utf8(value).map_err(|_| ApiError::bad("an option is no UTF-8 text"))
}

/// Writes the file; its name, hash and size.
async fn file(mut field: Field<'_>, place: &Place) -> Answer<(String, String, u64)> {
    let name = harmless(field.file_name().unwrap_or_default());
    let folder = place.0.join("task");
    tokio::fs::create_dir_all(&folder).await?;
    let mut file =
        tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(&name)).await?;
    let (mut hasher, mut size) = (Sha256::new(), 0u64);
    while let Some(piece) = field.chunk().await.map_err(broken)? {
        if size >> 24 != (size + piece.len() as u64) >> 24 || size == 0 {
            room(&folder)?;
        }
        size += piece.len() as u64;
        if size > MAX_TASK {
            return Err(ApiError::too_large(format!("tasks have at most {} MiB", MAX_TASK >> 20)));
        }
        hasher.update(&piece);
        file.write_all(&piece).await?;
    }
    file.flush().await?;
    if size == 0 {
        return Err(ApiError::bad("the file is empty: there is nothing to open"));
    }
    Ok((name, lava_event::Sha256(hasher.finalize().into()).to_string(), size))
}

/// Looks whether there is room left, every 16 MiB.
fn room(folder: &std::path::Path) -> Answer<()> {
    let facts = rustix::fs::statvfs(folder).map_err(std::io::Error::from)?;
    if facts.f_bavail.saturating_mul(facts.f_frsize) < KEEP_FREE {
        return Err(ApiError::too_large("the server's disk is nearly full").help("remove old sessions"));
    }
    Ok(())
}

/// One path component that names nothing but itself.
fn harmless(name: &str) -> String {
    let base = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut base: String = base.chars().filter(|c| !c.is_control()).collect();
    while base.len() > MAX_NAME {
        base.pop();
    }
    if base.trim_matches(['.', ' ']).is_empty() { "task".to_owned() } else { base }
}

/// The argument of `lava run` for a part of the form.
fn option(app: &App, name: &str, value: &str) -> Answer<Vec<String>> {
    let pair = |option: &str| Ok(vec![option.to_owned(), value.to_owned()]);
    match (name, value) {
        ("profile", _) if app.config.profiles.iter().any(|profile| profile.name == value) => pair("--profile"),
        ("profile", _) => Err(ApiError::bad("there is no such profile").help("GET /api/profiles lists them")),
        ("net", "none" | "refused" | "simulated" | "egress") => pair("--net"),
        ("timeout", _) if value.parse::<u64>().is_ok_and(|seconds| (1..=MAX_TIMEOUT).contains(&seconds)) => {
            pair("--timeout")
        }
        ("reboot" | "root", "true") => Ok(vec![format!("--{name}")]),
        ("reboot" | "root", "false") => Ok(Vec::new()),
        ("net" | "timeout" | "reboot" | "root", _) => Err(ApiError::bad(format!("`{name}` cannot have this value"))),
        ("password", _) => Ok(vec![format!("--password={value}")]),
        _ => Err(ApiError::bad("the form has a part that is not known")
            .help("there is: file, url, profile, policy, net, timeout, password, reboot, root")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_path_component() {
        let check = |name: &str, expect: &str| assert_eq!(harmless(name), expect);
        check("applet.jar", "applet.jar");
        check("../../etc/passwd", "passwd");
        check("..\\..\\boot.ini", "boot.ini");
        check("..", "task");
        check("a\0b\n\x1b[2J", "ab[2J");
        check("", "task");
        check("-rf", "-rf");
        assert!(harmless(&"ü".repeat(300)).len() <= MAX_NAME);
    }
}
