//! One connection: TLS, then requests, one after the other. Until a caller has shown who they are they have little time and
//! little room.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::access::Peer;
use super::metered::{Metered, Proof, Unproven};

/// From the connection's begin to the end of its first request's head, TLS included.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Between two requests, and for the head of a later one. kubelet's.
const IDLE: Duration = Duration::from_secs(90);
/// Of a request's line and headers: a path may take 64 KiB (that is all that a URI may have), a token as much as is left.
const HEAD_BYTES: usize = 96 << 10;

/// What a port serves.
#[derive(Clone, Debug)]
pub struct Service {
    /// `None`: plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    pub router: Router,
    pub unproven: Arc<Unproven>,
}

impl Service {
    /// To the connection's end. Errors are the caller's: there is nobody to tell.
    pub async fn serve(self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let deadline = Instant::now() + FIRST_REQUEST;
        let proof = Arc::new(Proof::default());
        let stream = Metered::new(stream, Arc::clone(&self.unproven), Arc::clone(&proof));
        let place = Arc::new(place);
        let Some(tls) = self.tls else {
            let peer = Peer { certificates: Arc::default(), place };
            return requests(stream, self.router, peer, proof, deadline).await;
        };
        let handshake = TlsAcceptor::from(tls).accept(stream);
        let Ok(Ok(stream)) = timeout(FIRST_REQUEST, handshake).await else { return };
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificates: Vec<CertificateDer<'static>> =
            shown.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let peer = Peer { certificates: certificates.into(), place };
        requests(stream, self.router, peer, proof, deadline).await;
    }
}

async fn requests<S>(stream: S, router: Router, peer: Peer, proof: Arc<Proof>, deadline: Instant)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let of_request = Arc::clone(&proof);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        of_request.asking();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        let (router, proof) = (router.clone(), Arc::clone(&of_request));
        async move {
            let answer = router.oneshot(request).await;
            if answer.as_ref().is_ok_and(|response| response.status() != StatusCode::UNAUTHORIZED) {
                proof.give();
            }
            answer
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEAD_BYTES);
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    // Cancel-safe: after the deadline the connection goes on, or is closed for good.
    tokio::select! {
        _ = &mut connection => return,
        () = sleep_until(deadline) => {}
    }
    if proof.is_asking() {
        let _ = connection.await;
    }
}

#[cfg(test)]
mod tests;
