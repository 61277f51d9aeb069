//! Static pods from a server: gets `staticPodURL` every `httpCheckFrequency` and sends the complete list as
//! [`Event::Pods`] (kubelet: pkg/kubelet/config/http.go). Shell; what an answer means is decided in [`manifest`].
//!
//! The last list that could be used holds while the server does not answer, or answers with something else. Beyond kubelet,
//! that is so for an empty answer, too: kubelet takes it for "no pods" and ends them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Here;
use oomlet_core::manifest::{self, MAX_BYTES, Manifest};
use oomlet_core::node::event::{Event, PodUpdate, RejectedManifest};
use oomlet_core::pod::PodRef;

/// kubelet's, for the whole request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Of failures in a row, so many are told as warnings.
const WARNINGS: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum HttpSourceError {
    #[error("staticPodURLHeader: {name:?} with value {value:?} is not a header of HTTP")]
    Header { name: String, value: String },
    #[error("cannot make an HTTP client for staticPodURL {url}: {}", chain(source))]
    Client { url: String, source: reqwest::Error },
    #[error("cannot get {url}: {}; is the server there (staticPodURL)?", chain(source))]
    Get { url: String, source: reqwest::Error },
    #[error("{url} answers {status}, must be 200; see staticPodURL and staticPodURLHeader")]
    Status { url: String, status: reqwest::StatusCode },
    #[error("{url} answers with more than 10 MiB")]
    TooLarge { url: String },
}

/// reqwest's own text leaves out what happened underneath.
fn chain(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// One URL, as it was last read.
#[derive(Debug)]
pub struct HttpSource {
    url: String,
    client: reqwest::Client,
    /// With each request and not as the client's defaults: of those it sends one value a name.
    headers: HeaderMap,
    here: Here,
    /// The last answer, be it usable or not, and what it came to.
    answer: Option<(Vec<u8>, Result<(), String>)>,
    manifests: Vec<Manifest>,
}

impl HttpSource {
    /// # Errors
    /// When a header is none, or the node's certificates cannot be read for an `https` URL.
    pub fn new(
        url: String,
        headers: &BTreeMap<String, Vec<String>>,
        here: Here,
    ) -> Result<HttpSource, HttpSourceError> {
        let mut all = HeaderMap::new();
        for (name, values) in headers {
            for value in values {
                let wrong = || HttpSourceError::Header { name: name.clone(), value: value.clone() };
                let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
                all.append(key, HeaderValue::from_str(value).map_err(|_| wrong())?);
            }
        }
        // Somebody else in this process may have chosen one before; either will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder().timeout(TIMEOUT);
        if url.starts_with("http://") {
            // A node without certificates of authorities can do without them.
            client = client.tls_certs_only([]);
        }
        let client = client.build().map_err(|source| HttpSourceError::Client { url: url.clone(), source })?;
        Ok(HttpSource { url, client, headers: all, here, answer: None, manifests: Vec::new() })
    }

    /// Ends when `cancel` is cancelled or nobody receives any more. `period`: `httpCheckFrequency`.
    pub async fn watch(mut self, period: Duration, tx: mpsc::Sender<Event>, cancel: CancellationToken) {
        let mut ticker = interval(period.max(Duration::from_millis(1)));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        loop {
            let read = async {
                ticker.tick().await;
                self.read().await
            };
            // Cancel-safe: the task ends, and a request that is dropped asks for nothing.
            let read = tokio::select! {
                () = cancel.cancelled() => return,
                read = read => read,
            };
            match read {
                Ok(body) => {
                    failures = 0;
                    let update = self.update(body);
                    tokio::select! {
                        // Cancel-safe: the agent ends, so does the list.
                        () = cancel.cancelled() => return,
                        sent = tx.send(Event::Pods(update)) => if sent.is_err() { return },
                    }
                }
                Err(error) => {
                    failures += 1;
                    if failures <= WARNINGS {
                        tracing::warn!(%error, "static pods of the server stay as they are");
                    } else {
                        tracing::debug!(%error, failures, "static pods of the server stay as they are");
                    }
                }
            }
        }
    }

    async fn read(&self) -> Result<Vec<u8>, HttpSourceError> {
        let failed = |source: reqwest::Error| HttpSourceError::Get {
            url: self.url.clone(),
            source: source.without_url(),
        };
        let mut response =
            self.client.get(&self.url).headers(self.headers.clone()).send().await.map_err(failed)?;
        let status = response.status();
        if status != reqwest::StatusCode::OK {
            return Err(HttpSourceError::Status { url: self.url.clone(), status });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BYTES {
                return Err(HttpSourceError::TooLarge { url: self.url.clone() });
            }
        }
        Ok(body)
    }

    /// The complete list as of now. An answer that cannot be used is told beside the last that could.
    fn update(&mut self, body: Vec<u8>) -> PodUpdate {
        if self.answer.as_ref().is_none_or(|(before, _)| *before != body) {
            let read = manifest::read_answer(&body, &self.url, &self.here.node_name);
            // As with kubelet one that may not be makes the whole list unusable.
            let read = read.and_then(|all| {
                all.into_iter()
                    .map(|manifest| manifest.checked(self.here.in_cluster))
                    .collect::<Result<Vec<_>, _>>()
            });
            let result = read.map_err(|error| error.to_string()).map(|manifests| {
                for (manifest, key) in
                    manifests.iter().flat_map(|m| m.ignored.iter().map(move |key| (m, key)))
                {
                    tracing::warn!(
                        url = self.url, pod = %PodRef::of(&manifest.pod), key,
                        "the manifest has a key that no Pod has; it has no effect"
                    );
                }
                self.manifests = manifests;
            });
            self.answer = Some((body, result));
        }
        let mut update = manifest::collect_answer(&self.manifests, &self.url);
        if let Some((_, Err(error))) = &self.answer {
            let (path, error) = (PathBuf::from(&self.url), error.clone());
            update.rejected.push(RejectedManifest { path, error, duplicate: false });
        }
        update
    }
}

#[cfg(test)]
mod tests;
