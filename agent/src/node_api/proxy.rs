//! A stream between a caller and the runtime's streaming server. Both sides' HTTP upgrades are ours; what is spoken after
//! them, SPDY or WebSocket, goes through byte for byte and is nothing that the agent reads.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::access::Peer;
use super::answer;
use super::counted::UnderWay;

/// Until the runtime's streaming server takes the connection and answers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Each way.
const BUFFER: usize = 32 << 10;
/// Once one side has ended, for what is still under way to it.
const DRAIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum ProxyError {
    #[error("Upgrade request required")]
    NoUpgrade,
    #[error("the runtime's stream is at {0}, which is not http")]
    Url(String),
    #[error("error dialing the runtime's streaming server at {0}: {1}")]
    Connect(String, std::io::Error),
    #[error("the runtime's streaming server does not take the request: {0}")]
    Request(#[from] hyper::Error),
    #[error("the request for the runtime's streaming server cannot be made: {0}")]
    Make(#[from] http::Error),
    #[error("the runtime's streaming server does not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
}

/// Answers with what the runtime's streaming server at `url` answers; after a 101 the two go on for themselves.
pub async fn upgrade(request: Request, url: &str) -> Response {
    match timeout(CONNECT_TIMEOUT, connect(request, url)).await.unwrap_or(Err(ProxyError::Timeout)) {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(%error, "a stream to the runtime");
            answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
        }
    }
}

async fn connect(mut request: Request, url: &str) -> Result<Response, ProxyError> {
    if !is_upgrade(request.headers()) {
        return Err(ProxyError::NoUpgrade);
    }
    let place = request.extensions().get::<Peer>().map(|peer| Arc::clone(&peer.place));
    let under_way = request.extensions_mut().remove::<UnderWay>();
    let caller = hyper::upgrade::on(&mut request);
    let bad_url = || ProxyError::Url(url.to_owned());
    let target: Uri = url.parse().map_err(|_| bad_url())?;
    let authority = target.authority().filter(|_| target.scheme_str() == Some("http")).ok_or_else(bad_url)?;
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(&address).await;
    let stream = stream.map_err(|error| ProxyError::Connect(address.clone(), error))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());

    let path = target.path_and_query().map_or("/", |path| path.as_str());
    let mut onward = hyper::Request::builder().method(request.method()).uri(path).body(Body::empty())?;
    *onward.headers_mut() = std::mem::take(request.headers_mut());
    let host = HeaderValue::from_str(authority.as_str()).map_err(http::Error::from)?;
    for not_for_it in [AUTHORIZATION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        onward.headers_mut().remove(not_for_it);
    }
    onward.headers_mut().insert(HOST, host);
    let mut answered = sender.send_request(onward).await?;
    if answered.status() == StatusCode::SWITCHING_PROTOCOLS {
        let runtime = hyper::upgrade::on(&mut answered);
        tokio::spawn(async move {
            join(caller, runtime).await;
            drop((place, under_way));
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = std::mem::take(answered.headers_mut());
        return Ok(response);
    }
    let mut response = answered.map(Body::new);
    for of_connection in [CONNECTION, TRANSFER_ENCODING] {
        response.headers_mut().remove(of_connection);
    }
    Ok(response)
}

/// `Connection: Upgrade`, as Go's proxy asks for it.
fn is_upgrade(headers: &HeaderMap) -> bool {
    let words = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut words = words.flat_map(|value| value.split(','));
    headers.contains_key(UPGRADE) && words.any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

async fn join(caller: OnUpgrade, runtime: OnUpgrade) {
    let (Ok(caller), Ok(runtime)) = tokio::join!(caller, runtime) else { return };
    let (from_caller, to_caller) = tokio::io::split(TokioIo::new(caller));
    let (from_runtime, to_runtime) = tokio::io::split(TokioIo::new(runtime));
    let mut up = std::pin::pin!(copy(from_caller, to_runtime));
    let mut down = std::pin::pin!(copy(from_runtime, to_caller));
    // Cancel-safe: the other direction is awaited further, for as long as something may be under way in it.
    tokio::select! {
        () = &mut up => drop(timeout(DRAIN, down).await),
        () = &mut down => drop(timeout(DRAIN, up).await),
    }
}

/// To the end of one direction, of which the other side is told.
async fn copy(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut from = BufReader::with_capacity(BUFFER, from);
    let _ = tokio::io::copy_buf(&mut from, &mut to).await;
    let _ = timeout(DRAIN, to.shutdown()).await;
}
