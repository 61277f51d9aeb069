//! `/healthz` and its single checks. `HEAD` is answered too: it is how upstream's tests ask.

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::any;

use super::{Routes, Shared, query};
use crate::node_api::answer;
use oomlet_core::node_api::health;

pub(super) fn routes() -> Routes {
    Router::new().route("/healthz", any(all)).route("/healthz/{check}", any(one))
}

async fn all(State(api): State<Shared>, RawQuery(raw): RawQuery) -> Response {
    let checks = api.checks();
    for check in &checks {
        api.pages.instruments.health.checked(check.name, "healthz", check.result.is_ok());
    }
    match health::page(&checks, &query(raw.as_deref())) {
        Ok(page) => {
            let mut response = answer::text(StatusCode::OK, page);
            answer::no_sniff(response.headers_mut());
            response
        }
        Err(page) => {
            for check in &checks {
                if let Err(why) = &check.result {
                    tracing::warn!(check = check.name, why, "healthz check failed");
                }
            }
            answer::error(StatusCode::INTERNAL_SERVER_ERROR, page.trim_end())
        }
    }
}

async fn one(State(api): State<Shared>, Path(name): Path<String>) -> Response {
    match api.checks().into_iter().find(|check| check.name == name) {
        None => answer::error(StatusCode::NOT_FOUND, "404 page not found"),
        Some(check) => match check.result {
            Ok(()) => answer::text(StatusCode::OK, "ok"),
            Err(why) => {
                answer::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("internal server error: {why}"))
            }
        },
    }
}
