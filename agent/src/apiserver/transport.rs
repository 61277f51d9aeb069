//! The way to the API server: TLS over TCP connections that notice within half a minute that nobody is at the other end.
//! kube's own have no keepalive: a watch through a machine that has gone would wait five minutes, a list as long as TCP
//! itself. kubelet has HTTP/2's pings for that, every 30 seconds.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use kube::{Client, Config};
use tower::ServiceBuilder;

/// Without a byte for so long the other end is asked whether it is there …
const ASKED_AFTER: Duration = Duration::from_secs(15);
/// … as often as this …
const ASKED_EVERY: Duration = Duration::from_secs(5);
/// … and after so many questions without an answer it is not.
const ASKED_TIMES: u32 = 3;
/// What was sent and is not acknowledged for so long ends a connection, too.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(30);

/// # Errors
/// When the configuration names a certificate, key or authority that TLS does not take, or a proxy.
pub fn client(config: Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        // It says which kinds of proxies there are: none.
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(ASKED_AFTER));
    tcp.set_keepalive_interval(Some(ASKED_EVERY));
    tcp.set_keepalive_retries(Some(ASKED_TIMES));
    tcp.set_tcp_user_timeout(Some(ACKNOWLEDGED_WITHIN));
    // The handshake of TLS counts: one that hangs is no connection either.
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_write_timeout(config.write_timeout);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
}
