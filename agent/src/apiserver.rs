//! The API server's side of the node: which pods it wants here, and what it is told of them and of the node. Shell; what is
//! to be written is decided in `oomlet_core::apiserver`.
//!
//! | task | in | out |
//! |---|---|---|
//! | [`session`] | kubeconfig | a client; starts the others, and each anew that fails |
//! | [`pods`] | watch of this node's pods | `Event::Pods`, `Event::PodsChanged`, the pods as the API server has them |
//! | [`node`] | watch of the Node object, the node's facts and health | the Node object |
//! | [`lease`] | time | the Lease of the node |
//! | [`pod_status`] | the SyncLoop's snapshots, the pods as the API server has them | statuses, mirror pods, deletions |
//! | [`events`] | the trace | Events |
//! | [`services`] | watch of all Services | the Services, for environments |
//!
//! None of them is waited for by the SyncLoop. What the API server does not take now is made good when it does: each task
//! compares what is with what should be, so nothing is queued while it is away.

pub mod certificates_group;
pub mod credentials;
pub mod events;
pub mod following;
pub mod kubeconfig;
pub mod lease;
pub mod node;
pub mod node_info;
mod pace;
pub mod pod_status;
pub mod pods;
pub mod services;
pub mod session;
mod supervise;
pub mod transport;

use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBuilder;
use imbl::OrdMap;
use kube::Client;
use kube::runtime::watcher::ExponentialBackoff;
use tokio::sync::watch;

use oomlet_core::pod::{Pod, PodUid};

/// Cheap to clone.
#[derive(Clone)]
pub struct ApiServer(pub Client);

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiServer")
    }
}

/// The client to use from now on, for whoever is not one of the tasks here. `None`: there is none yet.
pub type Clients = watch::Receiver<Option<ApiServer>>;

/// The client of now, as soon as there is one.
pub async fn current(clients: &Clients) -> Client {
    let mut clients = clients.clone();
    if let Ok(client) = clients.wait_for(Option::is_some).await
        && let Some(ApiServer(client)) = client.as_ref()
    {
        return client.clone();
    }
    // Nobody makes one any more: the agent ends.
    std::future::pending().await
}

/// This node's pods as the API server has them, mirror pods among them, without their `spec`. `None`: not known yet.
pub type ApiPods = Option<Arc<OrdMap<PodUid, Arc<Pod>>>>;

/// No request takes longer; a watch is none.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Between attempts that fail. Kept short at the top: all final states are to be told within 10 s of the server's return.
#[must_use]
pub fn retry_delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .into()
}

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("{0}")]
    Refused(#[from] kube::Error),
    #[error("the API server has not answered within {} s", .0.as_secs())]
    TimedOut(Duration),
}

impl RequestError {
    fn code(&self) -> Option<u16> {
        match self {
            RequestError::Refused(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// There is no such object (any more).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// How long the server asks to be left alone, of 429 and 503.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let RequestError::Refused(kube::Error::Api(status)) = self else { return None };
        let seconds = status.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// It is there already, or is another by now.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The object as asked for is wrong, and will be the next time, too.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self.code(), Some(400 | 422))
    }
}

/// # Errors
/// When the API server refuses, cannot be reached, or does not answer in time.
pub async fn request<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, RequestError> {
    request_within(REQUEST_TIMEOUT, call).await
}

/// # Errors
/// As [`request`].
pub async fn request_within<T>(
    time: Duration,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, RequestError> {
    match tokio::time::timeout(time, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(RequestError::TimedOut(time)),
    }
}

/// A source's own text often leaves out what happened underneath.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}
