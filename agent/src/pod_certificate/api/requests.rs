//! This node's PodCertificateRequests, as the API server has them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use kube::core::discovery::ApiResource;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt as _;

use super::{ASK_AGAIN, Request, RequestName, Shared};
use crate::apiserver::certificates_group::served;
use crate::apiserver::{REQUEST_TIMEOUT, current, retry_delays};
use crate::clock;
use crate::object::api::with_jitter;
use oomlet_core::pod_certificate::{Outcome, outcome};

impl Shared {
    /// The task that follows this node's requests.
    pub(super) async fn watch_requests(self: Arc<Self>) {
        let mut back_off = ASK_AGAIN;
        loop {
            let client = current(&self.clients).await;
            // What cannot be asked for is told by who asks for it.
            if let Ok(Ok(Some(resource))) = timeout(REQUEST_TIMEOUT, resource(&client)).await {
                return self.follow(client, &resource).await;
            }
            sleep(with_jitter(back_off.failed(clock::now()))).await;
        }
    }

    async fn follow(&self, client: Client, resource: &ApiResource) {
        let api: Api<Request> = Api::all_with(client, resource);
        // Only so is a node allowed to.
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node_name));
        // It lists and watches again by itself after an error.
        let mut stream = pin!(watcher(api, mine).backoff(retry_delays()));
        let mut listed = BTreeMap::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(request)) => {
                    listed.insert(name(&request), Some(outcome(request.status.as_ref())));
                }
                Ok(Event::InitDone) => _ = self.requests.send_replace(std::mem::take(&mut listed)),
                Ok(Event::Apply(request)) => self.requests.send_modify(|all| {
                    all.insert(name(&request), Some(outcome(request.status.as_ref())));
                }),
                Ok(Event::Delete(request)) => self.requests.send_modify(|all| {
                    let name = name(&request);
                    if matches!(all.remove(&name), None | Some(None | Some(Outcome::Pending))) {
                        all.insert(name, None);
                    }
                }),
                Err(error) => {
                    let why = crate::object::api::reason(&error);
                    tracing::debug!(why, "PodCertificateRequests are not watched for a moment");
                }
            }
        }
    }
}

/// The version whose request has the one proof that is made here.
pub(super) async fn resource(client: &Client) -> Result<Option<ApiResource>, kube::Error> {
    served(client, "PodCertificateRequest", "podcertificaterequests", &["v1"]).await
}

fn name(request: &Request) -> RequestName {
    let meta = &request.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
