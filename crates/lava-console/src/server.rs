//! The server: its routes in one table, and its life.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::{Json, Router, middleware};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use utoipa::OpenApi;
use utoipa::openapi::{ContentBuilder, Ref, ResponseBuilder};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::app::{App, Config};
use crate::auth::{guard, headers};
use crate::error::{ErrorBody, in_one_form};
use crate::store::StoreError;
use crate::{assets, routes as r};

/// Largest body of a request, bytes, but for an upload.
const MAX_BODY: usize = 2 << 20;
/// For a client to send its request's head.
const HEAD: Duration = Duration::from_secs(10);
/// For requests to end when the server does.
const GRACE: Duration = Duration::from_secs(2);

/// Why the server does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address.
    #[error("cannot listen on {address}: {source}; another port is given with --listen")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Certificate or key.
    #[error("cannot use the certificate {} with the key {}: {source}", certificate.display(), key.display())]
    Tls {
        /// The chain's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },
    /// Anything else.
    #[error("the server: {0}")]
    Io(#[from] std::io::Error),
}

#[derive(OpenApi)]
#[openapi(
    info(title = "LAVA", description = "Live Attack Visualization & Analysis: sessions of a host, live and recorded."),
    components(schemas(ErrorBody)),
    modifiers(&Secured)
)]
struct Api;

/// How one proves who one is.
struct Secured;

impl utoipa::Modify for Secured {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{
            ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
        };
        let components = api.components.get_or_insert_default();
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        components.add_security_scheme("token", bearer);
        components.add_security_scheme("cookie", SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new("lava"))));
        let none = Vec::<String>::new();
        api.security = Some(["token", "cookie"].map(|name| SecurityRequirement::new(name, none.clone())).into());
    }
}

/// What any request may be answered beside what its route says.
const REFUSALS: [(&str, &str); 6] = [
    ("400", "it makes no sense"),
    ("401", "nobody is logged in"),
    ("403", "not with this role, or without X-Lava-CSRF"),
    ("413", "it is too large"),
    ("415", "the body is of another type"),
    ("422", "the body is not what is expected"),
];

/// All routes, and their description.
fn routes() -> (Router<Arc<App>>, utoipa::openapi::OpenApi) {
    let (router, mut api) = described();
    for item in api.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            for (status, why) in REFUSALS {
                let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
                let refusal = ResponseBuilder::new().description(why).content("application/json", body).build();
                operation.responses.responses.entry(status.to_owned()).or_insert_with(|| refusal.into());
            }
        }
    }
    (router, api)
}

fn described() -> (Router<Arc<App>>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(r::account::me))
        .routes(routes!(r::account::login))
        .routes(routes!(r::account::logout))
        .routes(routes!(r::account::tokens, r::account::make_token))
        .routes(routes!(r::account::remove_token))
        .routes(routes!(r::sessions::list))
        .routes(routes!(r::start::start).layer(r::start::limit()))
        .routes(routes!(r::sessions::one))
        .routes(routes!(r::sessions::trace))
        .routes(routes!(r::sessions::findings))
        .routes(routes!(r::sessions::processes))
        .routes(routes!(r::respond::decisions))
        .routes(routes!(r::respond::respond))
        .routes(routes!(r::respond::decide))
        .routes(routes!(r::events::events))
        .routes(routes!(r::artifacts::list))
        .routes(routes!(r::artifacts::artifact))
        .routes(routes!(r::artifacts::file))
        .routes(routes!(r::exports::formats))
        .routes(routes!(r::exports::export))
        .routes(routes!(r::stream::stream))
        .routes(routes!(r::screen::watch))
        .routes(routes!(r::screen::control))
        .routes(routes!(r::policies::list))
        .routes(routes!(r::policies::check))
        .routes(routes!(r::policies::keep, r::policies::remove))
        .routes(routes!(r::policies::profiles))
        .routes(routes!(r::admin::overview))
        .routes(routes!(r::admin::search))
        .routes(routes!(r::searches::list))
        .routes(routes!(r::searches::keep, r::searches::remove))
        .routes(routes!(r::retention::get, r::retention::set))
        .routes(routes!(r::retention::preview))
        .routes(routes!(r::retention::hold, r::retention::release))
        .routes(routes!(r::admin::audit))
        .routes(routes!(r::admin::users))
        .routes(routes!(r::admin::put_user, r::admin::remove_user))
        .split_for_parts()
}

/// The description of the API.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().1
}

fn router(app: &Arc<App>) -> Router {
    let (router, api) = routes();
    router
        .route("/api/openapi.json", axum::routing::get(|| async { Json(api) }))
        .layer(middleware::from_fn(in_one_form))
        .fallback(assets::page)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(app), guard))
        .layer(middleware::from_fn_with_state(Arc::clone(app), headers))
        .with_state(Arc::clone(app))
}

/// A server that listens.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    handle: Handle<SocketAddr>,
}

impl Server {
    /// Opens the store and listens; nobody is answered yet.
    ///
    /// # Errors
    /// If the store or the address cannot be had.
    pub fn bind(mut config: Config) -> Result<Self, ServeError> {
        let address = config.listen;
        let failed = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true)?;
        config.listen = listener.local_addr()?;
        Ok(Self { app: Arc::new(App::new(config)?), listener, handle: Handle::new() })
    }

    /// What the server was given; its address has the port that it listens on.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.app.config
    }

    /// Users and the rest.
    #[must_use]
    pub fn store(&self) -> &crate::store::Store {
        &self.app.store
    }

    /// A function that ends the server.
    pub fn stopper(&self) -> impl Fn() + Send + 'static {
        let handle = self.handle.clone();
        move || handle.graceful_shutdown(Some(GRACE))
    }

    /// Answers until it is stopped. Sessions that run go on without it.
    ///
    /// # Errors
    /// If it cannot go on.
    pub fn run(self) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("serve").build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Result<(), ServeError> {
        crate::queue::start(&self.app)?;
        let service = router(&self.app).into_make_service_with_connect_info::<SocketAddr>();
        let Some(tls) = self.app.config.tls.clone() else {
            let mut server = axum_server::from_tcp(self.listener)?.handle(self.handle);
            server.http_builder().http1().header_read_timeout(HEAD);
            return Ok(server.serve(service).await?);
        };
        // Fails if it was chosen before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = RustlsConfig::from_pem_file(&tls.certificate, &tls.key).await;
        let config = config.map_err(|source| ServeError::Tls { certificate: tls.certificate, key: tls.key, source })?;
        let mut server = axum_server::from_tcp_rustls(self.listener, config)?.handle(self.handle);
        server.http_builder().http1().header_read_timeout(HEAD);
        Ok(server.serve(service).await?)
    }
}
