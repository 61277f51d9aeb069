//! The paths of the node's API, a file for each family of them. What is read of the agent is in [`NodeApi`].

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{ALLOW, HeaderValue};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::any;

use super::access::{self, Access};
use super::answer;
use super::counted::{self, Counts};
use super::state::NodeApi;
use oomlet_core::node_api::paths::{self, Nowhere};
use oomlet_core::node_api::url_values::UrlValues;

mod checkpoint;
mod configz;
mod container_logs;
mod health;
mod logs;
mod numbers;
mod pods;
mod run;
mod streams;

type Shared = Arc<NodeApi>;
type Routes = Router<Shared>;

/// Of the port that is for those who may.
pub fn secured(state: &Shared, access: Arc<Access>) -> Router {
    let more = if state.config.debugging_handlers {
        debugging(state.config.system_log_handler)
    } else {
        debugging_disabled()
    };
    let services: &[&str] =
        if state.config.debugging_handlers { &paths::SERVICES } else { &paths::OPEN_SERVICES };
    let checked =
        finish(open().merge(more), state, services).layer(from_fn_with_state(access, access::check));
    // Also what is refused.
    checked.layer(from_fn_with_state(counts(state, "readwrite"), counted::count))
}

/// Of the port that everybody may read.
pub fn read_only(state: &Shared) -> Router {
    let router = finish(open().merge(debugging_disabled()), state, &paths::OPEN_SERVICES);
    router.layer(from_fn_with_state(counts(state, "readonly"), counted::count))
}

/// Of the port for the node's own service manager.
pub fn health_only(state: &Shared) -> Router {
    finish(health::routes(), state, &[])
}

fn counts(state: &Shared, server: &'static str) -> Counts {
    Counts { requests: state.pages.instruments.http.clone(), server }
}

/// What both have.
fn open() -> Routes {
    health::routes().merge(pods::routes()).merge(numbers::routes())
}

/// `enableDebuggingHandlers`.
fn debugging(system_logs: bool) -> Routes {
    let logs = if system_logs { logs::routes() } else { logs::disabled_routes() };
    logs.merge(container_logs::routes())
        .merge(streams::routes())
        .merge(run::routes())
        .merge(checkpoint::routes())
        .merge(configz::routes())
        .merge(pods::running_routes())
}

fn debugging_disabled() -> Routes {
    let disabled =
        || async { answer::error(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.") };
    let mut routes = Router::new();
    for path in [
        "/run",
        "/exec",
        "/attach",
        "/portForward",
        "/containerLogs",
        "/runningpods",
        "/debug/pprof",
        "/logs",
    ] {
        routes = routes
            .route(&format!("{path}/"), any(disabled))
            .route(&format!("{path}/{{*rest}}"), any(disabled));
    }
    routes
}

fn finish(routes: Routes, state: &Shared, services: &'static [&'static str]) -> Router {
    let nowhere = move |request: Request| async move { nowhere(&request, services) };
    routes.fallback(nowhere).with_state(Arc::clone(state))
}

fn nowhere(request: &Request, services: &[&str]) -> Response {
    match paths::nowhere(request.uri().path(), services) {
        Nowhere::InService => answer::text(StatusCode::NOT_FOUND, "404: Page Not Found"),
        Nowhere::Elsewhere => answer::error(StatusCode::NOT_FOUND, "404 page not found"),
        Nowhere::Redirect(path) => {
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            answer::redirect(request.method(), &format!("{path}{query}"))
        }
    }
}

/// Families that know these methods, of which `HEAD` is one only if it is named.
fn only(methods: &'static str, routes: Routes) -> Routes {
    routes.route_layer(from_fn(move |request: Request, next: Next| async move {
        if methods.split(", ").any(|method| request.method() == method) {
            return next.run(request).await;
        }
        let mut response = answer::text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        response
    }))
}

/// The query of a request, decoded as Go does it: `+` is a space.
fn query(raw: Option<&str>) -> UrlValues {
    let pairs = form_urlencoded::parse(raw.unwrap_or_default().as_bytes());
    UrlValues(pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
}
