//! One [`Client`] for everybody, whose requests go to the identity that is current.
//!
//! A rotated certificate makes a new inner client; the outer one, and each `Api` made of it, stays. Each request takes the
//! inner client of its moment. A watch that runs goes on with the old certificate until its end, which the server sets at
//! five to ten minutes: long before a certificate that is replaced at 70 to 90 per cent of its life ends.

use std::sync::Arc;

use kube::Client;
use kube::client::Body;
use tokio::sync::watch;
use tower::service_fn;

use super::pace::Pace;
use crate::clock;
use crate::instruments::requests::Requests;

#[derive(Debug, thiserror::Error)]
#[error("the node has no usable identity for the API server yet: {0}")]
pub struct NoIdentity(pub String);

/// What there is of a way to the API server.
#[derive(Clone, Default)]
pub struct Connection {
    pub client: Option<Client>,
    /// Whom it talks to: host and port.
    pub host: Arc<str>,
    /// Why there is none, or why what there is may not do.
    pub problem: Option<String>,
    /// The server has answered this identity.
    pub answered: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("client", &self.client.is_some())
            .field("problem", &self.problem)
            .field("answered", &self.answered)
            .finish()
    }
}

/// Before there is an identity requests fail at once, with the problem in words.
#[must_use]
pub fn client(connection: watch::Receiver<Connection>) -> Client {
    paced_client(connection, 0, 0, Requests::default())
}

/// The same for at most so many requests a second (`kubeAPIQPS`; 0: no bound), and so many at once (`kubeAPIBurst`), which
/// are counted.
#[must_use]
pub fn paced_client(
    connection: watch::Receiver<Connection>,
    per_second: u32,
    burst: u32,
    requests: Requests,
) -> Client {
    let pace = Arc::new(Pace::new(per_second, burst));
    let service = service_fn(move |request: http::Request<Body>| {
        let (connection, pace, requests) = (connection.clone(), Arc::clone(&pace), requests.clone());
        async move {
            let asked = clock::now();
            pace.next().await;
            let current = connection.borrow().clone();
            match current.client {
                Some(client) => {
                    let (method, began) = (request.method().clone(), clock::now());
                    requests.waited(method.as_str(), &current.host, began.since(asked));
                    let answer = client.send(request).await;
                    let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
                    requests.ended(method.as_str(), &current.host, status, clock::now().since(began));
                    answer
                }
                None => {
                    let why = current.problem.unwrap_or_else(|| "it is being asked for".to_owned());
                    Err(kube::Error::Service(Box::new(NoIdentity(why))))
                }
            }
        }
    });
    Client::new(service, "default")
}

/// The first client that there is.
///
/// # Errors
/// When there will be none: the task that makes it has ended.
pub async fn ready(connection: &mut watch::Receiver<Connection>) -> Result<Client, watch::error::RecvError> {
    connection.wait_for(|connection| connection.client.is_some()).await?;
    Ok(client(connection.clone()))
}
