//! The ports of the node's API, and the threads that serve them. Reads: connections. Emits: their tasks, in a bounded
//! number.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::client_ca::ClientCa;
use super::connection::Service;
use super::routes;
use super::state::NodeApi;
use oomlet_core::config::Config;

/// Connections at a time, streams among them; fewer where the process may not have so many open files. More wait in the
/// kernel's queue.
const CONNECTIONS: u64 = 16_384;
/// Before the kernel asks whether the other side is still there. Go's.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// After an error that is not a connection's own, as when there are no more file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Below the agent's other threads (`setpriority(2)`): the decision on an eviction does not wait for a log.
const NICE: i32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "cannot listen on {address} for {what}: {source}. Remedy: `{keys}`, or end who listens there; kubelet does unless it is stopped"
    )]
    Listen { what: &'static str, address: SocketAddr, keys: &'static str, source: io::Error },
    #[error("tlsCipherSuites and tlsMinVersion leave no TLS to speak: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot start the threads of the node's API: {0}; check the limit of processes")]
    Threads(io::Error),
}

/// Bound before anything else is done: a port that is taken keeps the agent from starting.
#[derive(Debug)]
pub struct Sockets {
    api: Option<TcpListener>,
    health: Option<TcpListener>,
    read_only: Option<TcpListener>,
}

impl Sockets {
    /// # Errors
    /// [`ListenError::Listen`].
    pub fn bind(config: &Config) -> Result<Sockets, ListenError> {
        let own = &config.node_api;
        let bind = |what, keys, address: IpAddr, port: u16| {
            let address = SocketAddr::new(address, port);
            listen(address).map_err(|source| ListenError::Listen { what, address, keys, source })
        };
        let api = own.enabled.then(|| bind("the node's API", "address, port", own.address, config.port));
        let health = own
            .healthz_port
            .map(|port| bind("health", "healthzBindAddress, healthzPort", own.healthz_bind_address, port));
        let read_only = own
            .read_only_port
            .map(|port| bind("the read-only API", "address, readOnlyPort", own.address, port));
        Ok(Sockets { api: api.transpose()?, health: health.transpose()?, read_only: read_only.transpose()? })
    }
}

/// 0.0.0.0 is every address, of IPv6 too where the node has that, as Go has it.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = if address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
        let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
        match TcpListener::bind(both) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => TcpListener::bind(address),
            bound => bound,
        }
    } else {
        TcpListener::bind(address)
    }?;
    let socket = SockRef::from(&listener);
    // Connections have it from the socket that they came by.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    socket.listen(4096)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until it is dropped.
#[derive(Debug)]
pub struct NodeApiServer {
    runtime: Option<Runtime>,
    cancel: CancellationToken,
}

impl Drop for NodeApiServer {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whom the secured port answers, and with which TLS.
#[derive(Debug)]
pub struct Secured {
    pub tls: ServerConfig,
    pub access: Access,
    /// Kept up to date as long as the server runs.
    pub client_ca: Option<ClientCa>,
}

impl NodeApiServer {
    /// # Errors
    /// When its threads cannot be made.
    pub fn start(sockets: Sockets, secured: Secured, state: NodeApi) -> Result<NodeApiServer, ListenError> {
        let files = raise_open_files(state.config.max_open_files);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(64)
            .thread_name("node-api")
            .on_thread_start(|| {
                if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                    tracing::debug!(%error, "threads of the node's API are as urgent as others");
                }
            })
            .enable_all()
            .build()
            .map_err(ListenError::Threads)?;
        let cancel = CancellationToken::new();
        let state = Arc::new(state);
        let _inside = runtime.enter();
        let places = usize::try_from(CONNECTIONS.min(files / 2)).unwrap_or(usize::MAX);
        let port = |tls: Option<ServerConfig>, router: Router| Port {
            service: Service { tls: tls.map(Arc::new), router, unproven: Arc::default() },
            places: Arc::new(Semaphore::new(places)),
            cancel: cancel.clone(),
        };
        let Secured { tls, access, client_ca } = secured;
        if let Some(client_ca) = client_ca {
            runtime.spawn(client_ca.run(cancel.clone()));
        }
        runtime.spawn(state.dir_watches.events(cancel.clone()));
        if let Some(listener) = sockets.api {
            let router = routes::secured(&state, Arc::new(access));
            runtime.spawn(port(Some(tls), router).accept(tokio_listener(listener)?));
        }
        if let Some(listener) = sockets.health {
            let router = routes::health_only(&state);
            runtime.spawn(port(None, router).accept(tokio_listener(listener)?));
        }
        if let Some(listener) = sockets.read_only {
            let router = routes::read_only(&state);
            runtime.spawn(port(None, router).accept(tokio_listener(listener)?));
        }
        drop(_inside);
        Ok(NodeApiServer { runtime: Some(runtime), cancel })
    }
}

fn tokio_listener(listener: TcpListener) -> Result<tokio::net::TcpListener, ListenError> {
    tokio::net::TcpListener::from_std(listener).map_err(ListenError::Threads)
}

/// As many as the process may have, up to `wanted`. Returns how many it may have then.
fn raise_open_files(wanted: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let (now, most) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let raised = wanted.min(most).max(now);
    match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }) {
        Ok(()) => raised,
        Err(error) => {
            tracing::warn!(%error, now, wanted, "the limit of open files cannot be raised (maxOpenFiles)");
            now
        }
    }
}

struct Port {
    service: Service,
    places: Arc<Semaphore>,
    cancel: CancellationToken,
}

impl Port {
    async fn accept(self, listener: tokio::net::TcpListener) {
        loop {
            let next = async {
                let place = Arc::clone(&self.places).acquire_owned().await;
                (listener.accept().await, place)
            };
            // Cancel-safe: a connection that is not taken now is closed with the socket.
            let (accepted, place) = tokio::select! {
                () = self.cancel.cancelled() => return,
                next = next => next,
            };
            match (accepted, place) {
                (Ok((stream, _)), Ok(place)) => {
                    let _ = stream.set_nodelay(true);
                    let serve = self.service.clone().serve(stream, place);
                    let cancel = self.cancel.clone();
                    tokio::spawn(async move {
                        // Cancel-safe: what is under way ends with the agent.
                        tokio::select! {
                            () = cancel.cancelled() => {}
                            () = serve => {}
                        }
                    });
                }
                (Err(error), _) => {
                    tracing::warn!(%error, "the node's API cannot take a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
                (_, Err(_)) => return,
            }
        }
    }
}
