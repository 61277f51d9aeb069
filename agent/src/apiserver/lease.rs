//! The node's heartbeat: a Lease in `kube-node-lease`, renewed four times within its duration
//! (component-helpers, apimachinery/lease/controller.go). When the agent stops nothing is written: the lease runs out.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::{ApiServer, RequestError, chain, request_within, retry_delays};

pub const NAMESPACE: &str = "kube-node-lease";
/// kubelet's `renewIntervalFraction`.
const RENEWALS: u32 = 4;
/// A request that hangs takes no more than a quarter of the lease (kubelet's heartbeat client: `nodeStatusUpdateFrequency`).
const ANSWER: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct LeaseTask {
    pub client: ApiServer,
    pub node_name: String,
    /// `nodeLeaseDurationSeconds`, 40 s.
    pub duration: Duration,
    /// The Node object, which owns the lease.
    pub node: watch::Receiver<Option<Arc<Node>>>,
}

impl LeaseTask {
    /// Never ends by itself.
    pub async fn run(mut self) {
        let api: Api<Lease> = Api::namespaced(self.client.0.clone(), NAMESPACE);
        let mut last = None;
        let mut failure = None;
        let mut delays = retry_delays();
        loop {
            let due = Instant::now() + self.duration / RENEWALS;
            match self.renew(&api, last.take()).await {
                Ok(lease) => {
                    if failure.take().is_some() {
                        tracing::info!("the node's lease is renewed again");
                    }
                    last = Some(lease);
                    delays = retry_delays();
                    sleep_until(due).await;
                }
                Err(error) => {
                    let text = chain(&error);
                    if failure.as_ref() != Some(&text) {
                        tracing::warn!(error = text, "the node's lease is not renewed");
                    }
                    failure = Some(text);
                    sleep(delays.next().unwrap_or(self.duration / RENEWALS)).await;
                }
            }
        }
    }

    /// `last`: as it was written last, to be written over unless somebody else has.
    async fn renew(&mut self, api: &Api<Lease>, last: Option<Lease>) -> Result<Lease, RequestError> {
        if let Some(last) = last {
            let renewed = self.lease(Some(last));
            match request_within(ANSWER, api.replace(&self.node_name, &PostParams::default(), &renewed)).await
            {
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                answer => return answer,
            }
        }
        match request_within(ANSWER, api.get_opt(&self.node_name)).await? {
            Some(there) => {
                let renewed = self.lease(Some(there));
                request_within(ANSWER, api.replace(&self.node_name, &PostParams::default(), &renewed)).await
            }
            None => request_within(ANSWER, api.create(&PostParams::default(), &self.lease(None))).await,
        }
    }

    fn lease(&mut self, last: Option<Lease>) -> Lease {
        let mut lease = last.unwrap_or_default();
        lease.metadata.name = Some(self.node_name.clone());
        lease.metadata.namespace = Some(NAMESPACE.to_owned());
        if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty) {
            let node = self.node.borrow_and_update();
            let uid = node.as_ref().and_then(|node| node.metadata.uid.clone());
            lease.metadata.owner_references = uid.map(|uid| {
                vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: self.node_name.clone(),
                    uid,
                    ..OwnerReference::default()
                }]
            });
        }
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.node_name.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..lease.spec.unwrap_or_default()
        });
        lease
    }
}
