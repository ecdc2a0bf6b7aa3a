//! What every request passes: is it meant for us, who sends it, and may they?

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::needed;
use crate::app::App;
use crate::error::{Answer, ApiError};
use crate::store::{Role, User};

/// The header that changing requests carry beside the cookie.
const CSRF: HeaderName = HeaderName::from_static("x-lava-csrf");

/// What pages may load: nothing but what this server sends, and no script in the page itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; \
     connect-src 'self'; worker-src 'self'; manifest-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Who sends the request.
#[derive(Clone)]
pub struct Who {
    /// The user.
    pub user: User,
    /// The value of the cookie's CSRF header; none for an API token.
    pub csrf: Option<Arc<str>>,
    /// The cookie, if that let them in.
    pub cookie: Option<Arc<str>>,
}

impl Who {
    /// Whether they would be let in again, for what goes on for long: the login lives, and the role is no lesser one.
    ///
    /// # Errors
    /// As the store says.
    pub fn still(&self, app: &App) -> Answer<bool> {
        let user = match &self.cookie {
            Some(cookie) => app.store.login(cookie)?.map(|login| login.user),
            None => app.store.user(&self.user.name)?,
        };
        Ok(user.is_some_and(|user| user.role >= self.user.role))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        parts.extensions.get::<Self>().cloned().ok_or_else(ApiError::unauthenticated)
    }
}

/// The other end of the connection.
#[derive(Clone, Copy)]
pub struct Client(pub IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let address = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
        Ok(Self(address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))))
    }
}

/// Lets a request through, or says why not.
pub async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let checked = meant_for_us(&app, request.uri(), request.headers())
        .and_then(|()| permitted(&app, request.method(), &path, request.headers()));
    match checked {
        Ok(Some(who)) => {
            request.extensions_mut().insert(who);
            next.run(request).await
        }
        Ok(None) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Against names that somebody else's server suddenly resolves to us, and pages of others that send us requests.
fn meant_for_us(app: &App, uri: &Uri, headers: &HeaderMap) -> Answer<()> {
    let host = uri.authority().map(ToString::to_string).or_else(|| text(headers, &HOST).map(str::to_owned));
    let host = host.unwrap_or_default().to_ascii_lowercase();
    if !app.config.is_our_name(&host) {
        return Err(
            ApiError::forbidden("this server does not go by that name").help("name it with `lava serve --host NAME`")
        );
    }
    let scheme = if app.config.tls.is_some() { "https" } else { "http" };
    match text(headers, &ORIGIN) {
        Some(origin) if !origin.eq_ignore_ascii_case(&format!("{scheme}://{host}")) => {
            Err(ApiError::forbidden("requests from the pages of others are not answered"))
        }
        _ => Ok(()),
    }
}

/// Who it is, if it must be somebody.
fn permitted(app: &App, method: &Method, path: &str, headers: &HeaderMap) -> Answer<Option<Who>> {
    let Some(role) = needed(method, path) else { return Ok(None) };
    let who = identify(app, headers)?.ok_or_else(ApiError::unauthenticated)?;
    let changes = method != Method::GET && method != Method::HEAD;
    if let (true, Some(csrf)) = (changes, &who.csrf) {
        let sent = text(headers, &CSRF).unwrap_or_default();
        if !same(sent, csrf) {
            return Err(ApiError::forbidden("the request does not carry the header X-Lava-CSRF")
                .help("its value stands in the answer of GET /api/me as `csrf`"));
        }
    }
    if who.user.role < role {
        return Err(ApiError::forbidden(format!(
            "that needs the role {}; yours is {}",
            role.name(),
            who.user.role.name()
        )));
    }
    Ok(Some(who))
}

fn identify(app: &App, headers: &HeaderMap) -> Answer<Option<Who>> {
    if let Some(token) = text(headers, &AUTHORIZATION) {
        let Some(token) = token.strip_prefix("Bearer ") else { return Ok(None) };
        let user = app.store.token(token.trim())?;
        return Ok(user.map(|user| Who { user, csrf: None, cookie: None }));
    }
    let name = app.config.cookie_name();
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|all| all.split(';'));
    let ours = cookies.filter_map(|cookie| cookie.trim().split_once('=')).find(|(known, _)| *known == name);
    let Some((_, cookie)) = ours else { return Ok(None) };
    let login = app.store.login(cookie)?;
    Ok(login.map(|login| Who { user: login.user, csrf: Some(login.csrf.into()), cookie: Some(cookie.into()) }))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// In a time that does not tell how much of it is right.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// What every answer carries, unless its handler knows better.
pub async fn headers(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let api = request.uri().path().starts_with("/api/");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut put = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    put(CONTENT_SECURITY_POLICY, POLICY);
    put(HeaderName::from_static("x-content-type-options"), "nosniff");
    put(HeaderName::from_static("referrer-policy"), "no-referrer");
    put(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    put(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    put(HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()");
    if api {
        put(CACHE_CONTROL, "no-store");
    }
    if app.config.tls.is_some() {
        put(HeaderName::from_static("strict-transport-security"), "max-age=31536000");
    }
    response
}

/// The role is the admin's.
pub fn is_admin(who: &Who) -> bool {
    who.user.role == Role::Admin
}
