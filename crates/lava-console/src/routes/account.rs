//! Logging in and out, who one is, and one's API tokens.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::{Client, Who, is_admin, password};
use crate::error::{Answer, ApiError, ErrorBody};
use crate::store::{NewToken, Role, TokenFacts, User};

/// Longest name of a user or a token, characters.
pub const MAX_NAME: usize = 64;

/// Who one is.
#[derive(Serialize, ToSchema)]
pub struct Me {
    /// Name.
    user: String,
    /// What one may do.
    role: Role,
    /// What changing requests carry in `X-Lava-CSRF` beside the cookie; null for an API token, which needs none.
    csrf: Option<String>,
}

/// Says who one is.
#[utoipa::path(get, path = "/api/me", responses((status = 200, body = Me), (status = 401, body = ErrorBody)))]
pub async fn me(who: Who) -> Json<Me> {
    Json(Me { user: who.user.name, role: who.user.role, csrf: who.csrf.map(|csrf| csrf.to_string()) })
}

/// Name and password, or the token of a one-time link.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginForm {
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
}

/// Logs in: sets the cookie.
#[utoipa::path(post, path = "/api/login", request_body = LoginForm, responses((status = 200, body = Me), (status = 401, body = ErrorBody), (status = 429, body = ErrorBody)), security(()))]
pub async fn login(State(app): State<Arc<App>>, Client(from): Client, Json(form): Json<LoginForm>) -> Answer<Response> {
    let name = form.user.as_deref().filter(|name| name.len() <= 4 * MAX_NAME);
    if !app.tries.may_try(from, name, Instant::now()) {
        return Err(ApiError::too_many("too many tries to log in"));
    }
    let user = Arc::clone(&app).heavy(move |app| check(app, form)).await?;
    let Some(user) = user else {
        app.store.note("-", "login.failed", "", &from.to_string())?;
        return Err(ApiError::wrong_login());
    };
    app.store.note(&user.name, "login", "", &from.to_string())?;
    let cookie = app.store.log_in(&user)?;
    let login = app.store.login(&cookie)?.ok_or_else(ApiError::wrong_login)?;
    let me = Me { user: user.name, role: user.role, csrf: Some(login.csrf) };
    with_cookie(&app, &cookie, Json(me).into_response())
}

fn check(app: &App, form: LoginForm) -> Answer<Option<User>> {
    match form {
        LoginForm { token: Some(link), user: None, password: None } => Ok(app.store.take_link(&link)?),
        LoginForm { user: Some(name), password: Some(password), token: None } => {
            let user = app.store.user(&name)?;
            let right = password::verify(&password, user.as_ref().and_then(User::password));
            Ok(user.filter(|_| right))
        }
        _ => Err(ApiError::bad("a login has `user` and `password`, or `token`")),
    }
}

/// Ends the login.
#[utoipa::path(post, path = "/api/logout", responses((status = 204), (status = 401, body = ErrorBody)))]
pub async fn logout(State(app): State<Arc<App>>, who: Who, Client(from): Client) -> Answer<Response> {
    if let Some(cookie) = &who.cookie {
        app.store.log_out(cookie)?;
    }
    app.store.note(&who.user.name, "logout", "", &from.to_string())?;
    with_cookie(&app, "", StatusCode::NO_CONTENT.into_response())
}

/// Sets the cookie; an empty one takes it away.
fn with_cookie(app: &App, value: &str, mut response: Response) -> Answer<Response> {
    let (name, secure) = (app.config.cookie_name(), if app.config.tls.is_some() { "; Secure" } else { "" });
    let age = if value.is_empty() { "; Max-Age=0" } else { "" };
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{age}");
    response.headers_mut().insert(SET_COOKIE, HeaderValue::from_str(&cookie).map_err(ApiError::internal)?);
    Ok(response)
}

/// API tokens.
#[derive(Serialize, ToSchema)]
pub struct TokenList {
    /// They, without themselves.
    tokens: Vec<TokenFacts>,
}

/// One's API tokens; an admin sees all.
#[utoipa::path(get, path = "/api/tokens", responses((status = 200, body = TokenList)))]
pub async fn tokens(State(app): State<Arc<App>>, who: Who) -> Answer<Json<TokenList>> {
    let of = (!is_admin(&who)).then_some(&who.user);
    Ok(Json(TokenList { tokens: app.store.tokens(of)? }))
}

/// What a new API token is for.
#[derive(Deserialize, ToSchema)]
pub struct TokenForm {
    /// In words.
    name: String,
}

/// Makes an API token with one's own role. It is shown this once.
#[utoipa::path(post, path = "/api/tokens", request_body = TokenForm, responses((status = 201, body = NewToken), (status = 400, body = ErrorBody)))]
pub async fn make_token(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Json(form): Json<TokenForm>,
) -> Answer<(StatusCode, Json<NewToken>)> {
    let name = checked_name(&form.name)?;
    let token = app.store.make_token(&who.user, name)?;
    app.store.note(&who.user.name, "token.make", name, &from.to_string())?;
    Ok((StatusCode::CREATED, Json(token)))
}

/// Removes an API token of one's own; an admin any.
#[utoipa::path(delete, path = "/api/tokens/{number}", params(("number" = i64, Path)), responses((status = 204), (status = 404, body = ErrorBody)))]
pub async fn remove_token(
    State(app): State<Arc<App>>,
    who: Who,
    Client(from): Client,
    Path(number): Path<i64>,
) -> Answer<StatusCode> {
    let of = (!is_admin(&who)).then_some(&who.user);
    if !app.store.remove_token(number, of)? {
        return Err(ApiError::not_found("such token"));
    }
    app.store.note(&who.user.name, "token.remove", &number.to_string(), &from.to_string())?;
    Ok(StatusCode::NO_CONTENT)
}

/// A name that can be shown anywhere.
///
/// # Errors
/// If it is empty, too long, or has other than letters, digits, spaces and `-_.@`.
pub fn checked_name(name: &str) -> Answer<&str> {
    let plain = |c: char| c.is_alphanumeric() || " -_.@".contains(c);
    if name.trim().is_empty() || name.chars().count() > MAX_NAME || !name.chars().all(plain) {
        return Err(ApiError::bad(format!("a name has 1 to {MAX_NAME} letters, digits, spaces or -_.@")));
    }
    Ok(name.trim())
}
