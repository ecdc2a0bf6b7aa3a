//! What a request is answered that cannot be done: a code for programs, a sentence for people, and what to do.

use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// The body of an answer that is no success.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody {
    error: ErrorFacts,
}

/// What went wrong.
#[derive(Serialize, ToSchema)]
struct ErrorFacts {
    /// Stable, for programs.
    code: &'static str,
    /// What, in a sentence.
    message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

/// Longest refusal of the framework's own that is passed on, bytes.
const MAX_WORDS: usize = 4096;

/// Makes the framework's own refusals (a body that is no JSON, a number that is none, another method) an [`ErrorBody`] too.
pub async fn in_one_form(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !status.is_client_error() || json {
        return response;
    }
    let (parts, body) = response.into_parts();
    let words = to_bytes(body, MAX_WORDS).await.unwrap_or_default();
    let words = String::from_utf8_lossy(&words);
    let (code, words) = match status {
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "this cannot be asked of that path".into()),
        StatusCode::PAYLOAD_TOO_LARGE => ("too_large", words),
        _ => ("bad_request", words),
    };
    let mut response = ApiError::new(status, code, words).into_response();
    if let Some(allowed) = parts.headers.get(ALLOW) {
        response.headers_mut().insert(ALLOW, allowed.clone());
    }
    response
}

/// Why a request was not carried out.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    help: Option<String>,
}

/// What handlers return.
pub type Answer<T> = Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), help: None }
    }

    /// 400
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 401
    pub fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "log in first")
            .help("open the link that `lava serve` printed, or send `Authorization: Bearer TOKEN`")
    }

    /// 401, after a login that failed. It does not say what of it was wrong.
    pub fn wrong_login() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "wrong_login", "that name and password, or that link, let nobody in")
            .help("a link works once; `lava serve link` makes another")
    }

    /// 403
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what}"))
    }

    /// 409
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// 413
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 429
    pub fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many", message).help("try again later")
    }

    /// 500: not the caller's fault. The cause goes to the server's log; it may name paths.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        eprintln!("lava serve: {cause}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server could not do it")
            .help("what happened stands in the output of `lava serve`")
    }

    /// What went wrong, in a sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = ErrorFacts { code: self.code, message: self.message, help: self.help };
        (self.status, Json(ErrorBody { error })).into_response()
    }
}

impl From<lava_evidence::Error> for ApiError {
    fn from(error: lava_evidence::Error) -> Self {
        match error {
            lava_evidence::Error::NotASession(_) => Self::not_found("such session"),
            lava_evidence::Error::Malformed { .. } | lava_evidence::Error::Line { .. } => {
                Self::conflict(format!("the session is damaged: {error}")).help("`lava verify` says what was changed")
            }
            other => Self::internal(other),
        }
    }
}

impl From<rusqlite::Error> for ApiError {
    fn from(error: rusqlite::Error) -> Self {
        Self::internal(format!("the store: {error}"))
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::not_found("such file"),
            _ => Self::internal(error),
        }
    }
}
