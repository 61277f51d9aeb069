//! Before any route: who is it, and may they. Nothing of a request's body is read here, and without credentials nothing but
//! a 401 goes out.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use rustls::pki_types::CertificateDer;
use tokio::sync::OwnedSemaphorePermit;

use super::answer;
use super::authn::Authenticator;
use super::authz::Authorizer;
use oomlet_core::node_api::attributes;

/// The other end of a connection; an extension of each of its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Of the client, its own first; empty: it has shown none.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// The connection's place among those that may be open; held by streams that outlive the connection.
    pub place: Arc<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub struct Access {
    pub authenticator: Authenticator,
    pub authorizer: Authorizer,
}

pub async fn check(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let certificates = request.extensions().get::<Peer>().map(|peer| Arc::clone(&peer.certificates));
    let certificates = certificates.unwrap_or_default();
    let user = match access.authenticator.authenticate(&certificates, request.headers_mut()).await {
        Ok(user) => user,
        Err(why) => {
            tracing::debug!(path = request.uri().path(), %why, "401 at the node's API");
            let mut response = answer::text(StatusCode::UNAUTHORIZED, "Unauthorized");
            // What follows on the connection is not read.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return response;
        }
    };
    let verb = attributes::verb(request.method().as_str());
    let subresources = attributes::subresources(request.uri().path());
    for subresource in subresources {
        match access.authorizer.allows(&user, verb, subresource).await {
            Ok(true) => return next.run(request).await,
            Ok(false) => {}
            Err(why) => {
                tracing::error!(
                    user = user.name,
                    verb,
                    subresource,
                    why,
                    "whether a caller may is not known"
                );
                let body = attributes::authorization_error(&user.name, verb, subresource);
                return answer::text(StatusCode::INTERNAL_SERVER_ERROR, body);
            }
        }
    }
    tracing::info!(user = user.name, verb, ?subresources, "403 at the node's API");
    answer::text(StatusCode::FORBIDDEN, attributes::forbidden(&user.name, verb, subresources))
}
