//! Writes Kubernetes Events: those trace records that are some (`oomlet_core::trace::event_reason`), each about its pod or
//! about the Node.
//!
//! Reads: the trace journal, the SyncLoop's snapshots for whose container it is. Emits: Events, one request at a time and
//! never more than `eventRecordQPS` lets through; while the API server is away they wait in the journal, whose oldest go
//! first when it is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, ObjectReference};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::sleep;

use super::pace::Pace;
use super::{ApiServer, RequestError, chain, request, retry_delays};
use crate::trace::journal::Journal;
use oomlet_core::apiserver::event::{Correlator, Telling, Write};
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::pod::PodUid;
use oomlet_core::trace::event_reason::event_of;
use oomlet_core::trace::record::{Kind, Record, RecordPod};

/// client-go's `maxTriesPerEvent`.
const TRIES: usize = 12;

#[derive(Clone, Debug)]
pub struct EventWriter {
    pub client: ApiServer,
    pub node_name: String,
    pub journal: Arc<Journal>,
    /// `seq` of the last record that was taken, so that a writer that starts anew tells nothing twice.
    pub taken: Arc<AtomicU64>,
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    /// `eventRecordQPS`; 0: no bound.
    pub per_second: u32,
    /// `eventBurst`.
    pub burst: u32,
}

impl EventWriter {
    /// Ends with the journal.
    pub async fn run(self) {
        let mut correlator = Correlator::new(self.node_name.clone());
        let pace = Pace::new(self.per_second, self.burst);
        let (backlog, mut live) = self.journal.follow(self.taken.load(Ordering::SeqCst));
        for record in backlog {
            self.tell(&record, &mut correlator, &pace).await;
        }
        loop {
            match live.recv().await {
                Ok(record) => self.tell(&record, &mut correlator, &pace).await,
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(
                        records = lost,
                        "Events may be missing: the API server takes them too slowly"
                    );
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn tell(&self, record: &Record, correlator: &mut Correlator, pace: &Pace) {
        // First: should its telling panic, it would again.
        if self.taken.fetch_max(record.seq, Ordering::SeqCst) >= record.seq {
            return;
        }
        let Some((type_, reason)) = event_of(record) else { return };
        let (about, message) = match &record.pod {
            Some(pod) => {
                // What the pod's status says, too, in the words that kubelet has there.
                let message = record.message.strip_prefix("Pod was rejected: ").unwrap_or(&record.message);
                (self.pod(pod, record.container.as_deref()), message.to_owned())
            }
            None => (self.node(), node_message(&self.node_name, reason, record)),
        };
        // The next kill has another pid and other numbers, and is one more of the same to people.
        let kill = record.kind == Kind::OomKill;
        let message = match &record.container {
            Some(container) if kill => format!("container {container}: {message}"),
            _ => message,
        };
        let telling = Telling { about, type_, reason, message, same_as: kill.then_some("OOM kill") };
        let Some(write) = correlator.take(telling, Timestamp::now()) else { return };
        pace.next().await;
        let written = match self.write(&write).await {
            Err(error) if error.is_not_found() => match &write {
                Write::Patch { namespace, name, .. } => match correlator.again(namespace, name) {
                    Some(write) => self.write(&write).await,
                    None => Ok(()),
                },
                // The namespace goes, and its Events with it.
                Write::Create(_) => Ok(()),
            },
            written => written,
        };
        if let Err(error) = written {
            tracing::debug!(error = chain(&error), reason, "an Event was not written");
        }
    }

    async fn write(&self, write: &Write) -> Result<(), RequestError> {
        let mut delays = retry_delays();
        let mut tries = 0;
        loop {
            let answer = self.write_once(write).await;
            tries += 1;
            match answer {
                // An answer, whatever it is: another try would get the same.
                Err(RequestError::Refused(kube::Error::Api(status)))
                    if status.code < 500 && status.code != 429 =>
                {
                    return Err(kube::Error::Api(status).into());
                }
                Err(_) if tries < TRIES => sleep(delays.next().unwrap_or(Duration::from_secs(5))).await,
                answer => return answer,
            }
        }
    }

    async fn write_once(&self, write: &Write) -> Result<(), RequestError> {
        let api = |namespace: &str| Api::<Event>::namespaced(self.client.0.clone(), namespace);
        match write {
            Write::Create(event) => {
                let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
                request(api(namespace).create(&PostParams::default(), event)).await.map(drop)
            }
            Write::Patch { namespace, name, patch } => {
                let params = PatchParams::default();
                request(api(namespace).patch(name, &params, &Patch::Strategic(patch))).await.map(drop)
            }
        }
    }

    fn pod(&self, pod: &RecordPod, container: Option<&str>) -> ObjectReference {
        let uid = PodUid::from(pod.uid.as_str());
        let snapshot = self.snapshots.borrow().clone();
        let spec = snapshot.pods.get(&uid).or_else(|| snapshot.ended.get(&uid)).map(|p| Arc::clone(&p.pod));
        let list_of = |name: &str| {
            let spec = spec.as_ref().and_then(|pod| pod.spec.as_ref())?;
            let init = spec.init_containers.iter().flatten().any(|c| c.name == name);
            let ephemeral = spec.ephemeral_containers.iter().flatten().any(|c| c.name == name);
            init.then_some("initContainers").or(ephemeral.then_some("ephemeralContainers"))
        };
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            field_path: container.map(|name| {
                let list = list_of(name).unwrap_or("containers");
                format!("spec.{list}{{{name}}}")
            }),
            resource_version: None,
        }
    }

    /// kubelet has the node's name for its UID, and `kubectl describe node` looks for that.
    fn node(&self) -> ObjectReference {
        ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(self.node_name.clone()),
            uid: Some(self.node_name.clone()),
            ..ObjectReference::default()
        }
    }
}

/// A change of a condition is told in kubelet's words.
fn node_message(node: &str, reason: &str, record: &Record) -> String {
    if reason.starts_with("NodeHas") || matches!(reason, "NodeReady" | "NodeNotReady") {
        return format!("Node {node} status is now: {reason}");
    }
    record.message.clone()
}

#[cfg(test)]
mod tests;
