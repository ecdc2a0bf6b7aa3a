//! The page, embedded: `web/dist` as it was built, or a small one that says that it was not.

use std::borrow::Cow;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Built;

#[derive(RustEmbed)]
#[folder = "page"]
struct Fallback;

/// Sends a file of the page. What is none of its files is a view of it, and gets the page itself.
pub async fn page(uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    if path.starts_with("api/") {
        return crate::error::ApiError::not_found("such thing to ask for").into_response();
    }
    let found = file(path).or_else(|| {
        let last = path.rsplit('/').next().unwrap_or_default();
        (!last.contains('.')).then(|| file("index.html")).flatten()
    });
    let Some((file, named)) = found else { return StatusCode::NOT_FOUND.into_response() };
    let kind = HeaderValue::from_str(file.metadata.mimetype()).unwrap_or(HeaderValue::from_static("text/plain"));
    // Vite puts a hash of the content into the names below assets/.
    let keep = if named.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let mut response = match file.data {
        Cow::Borrowed(bytes) => bytes.into_response(),
        Cow::Owned(bytes) => bytes.into_response(),
    };
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(keep));
    response
}

fn file(path: &str) -> Option<(EmbeddedFile, &str)> {
    let found = if Built::get("index.html").is_some() { Built::get(path) } else { Fallback::get(path) };
    found.map(|file| (file, path))
}
