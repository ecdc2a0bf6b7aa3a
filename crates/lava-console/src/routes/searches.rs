//! Searches that one keeps.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::account::checked_name;
use super::admin::checked_text;
use crate::app::App;
use crate::auth::Who;
use crate::error::{Answer, ApiError, ErrorBody};
use crate::store::index::What;
use crate::store::{MAX_SEARCHES, SavedSearch};

/// Searches.
#[derive(Serialize, ToSchema)]
pub struct SearchList {
    /// By name.
    searches: Vec<SavedSearch>,
}

/// One's own searches.
#[utoipa::path(get, path = "/api/searches", operation_id = "searches", responses((status = 200, body = SearchList)))]
pub async fn list(State(app): State<Arc<App>>, who: Who) -> Answer<Json<SearchList>> {
    Ok(Json(SearchList { searches: app.store.searches(&who.user)? }))
}

/// What to look for.
#[derive(Deserialize, ToSchema)]
pub struct SearchForm {
    /// A part of it, three characters or more.
    q: String,
    /// Only of this kind; `text`, or not given: all.
    #[schema(inline)]
    kind: Option<What>,
}

/// Keeps a search of one's own, in the place of one of that name.
#[utoipa::path(put, path = "/api/searches/{name}", operation_id = "keep_search", params(("name" = String, Path)), request_body = SearchForm,
    responses((status = 204), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn keep(
    State(app): State<Arc<App>>,
    who: Who,
    Path(name): Path<String>,
    Json(form): Json<SearchForm>,
) -> Answer<StatusCode> {
    let name = checked_name(&name)?;
    checked_text(&form.q)?;
    if !app.store.keep_search(&who.user, name, &form.q, form.kind.unwrap_or(What::Text))? {
        return Err(ApiError::conflict(format!("you keep {MAX_SEARCHES} searches already: remove one first")));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a search of one's own.
#[utoipa::path(delete, path = "/api/searches/{name}", operation_id = "remove_search", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub async fn remove(State(app): State<Arc<App>>, who: Who, Path(name): Path<String>) -> Answer<StatusCode> {
    match app.store.remove_search(&who.user, name.trim())? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::not_found("such search")),
    }
}
