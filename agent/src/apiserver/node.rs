//! The Node object: registered when it is not there, kept as it should be while it is.
//!
//! Reads: a watch of the object itself, so that what others do to it is seen; the SyncLoop's snapshot; the runtime.
//! Emits: the object (patches of what differs, `nodeStatusReportFrequency` at the latest), [`Event::NodeObject`], and the
//! object as the API server has it on a `watch`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{ExponentialBackoff, watch_object};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::node_info::NodeIdentity;
use super::{ApiServer, RequestError, chain, request, retry_delays};
use crate::clock;
use crate::cri::image::Image;
use crate::cri::status::RuntimeStatus;
use crate::cri::{ImageClient, RuntimeClient};
use crate::instruments::node_startup::NodeStartup;
use crate::pleg::PlegHandle;
use crate::trace::journal::Journal;
use oomlet_core::apiserver::node::{self, NodeDescription, NodeHealth};
use oomlet_core::clock::Mono;
use oomlet_core::node::event::Event;
use oomlet_core::node::published::{NodeSnapshot, PublishedNode};
use oomlet_core::reason::Reason;
use oomlet_core::trace::record::{Kind, Record};

/// How often the images are listed, which changes rarely and is not urgent.
const IMAGES_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct NodeTask {
    pub client: ApiServer,
    pub identity: Arc<NodeIdentity>,
    /// `registerNode`: without it the object is somebody else's to make.
    pub register: bool,
    /// `nodeStatusUpdateFrequency`, 10 s: how often it is looked for changes.
    pub update_every: Duration,
    /// `nodeStatusReportFrequency`, 5 min: how often a status without changes is written.
    pub report_every: Duration,
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pub pleg: PlegHandle,
    pub runtime: RuntimeClient,
    pub images: ImageClient,
    pub events: mpsc::Sender<Event>,
    pub node: watch::Sender<Option<Arc<Node>>>,
    pub journal: Arc<Journal>,
    pub startup: NodeStartup,
}

/// What is known of the object.
#[derive(Debug, Default)]
struct Known {
    /// `None`: the API server has none. Meaningless until `seen`.
    there: Option<Arc<Node>>,
    seen: bool,
    reported_at: Option<Instant>,
    /// As the runtime said last.
    runtime: RuntimeStatus,
    images: Vec<Image>,
    images_at: Option<Instant>,
    failure: Option<String>,
    published: PublishedNode,
    /// As it was told last, by this agent or by an earlier one.
    ready: Option<bool>,
    retry_at: Option<Instant>,
}

impl NodeTask {
    /// Ends when nobody receives any more.
    pub async fn run(mut self) {
        let api: Api<Node> = Api::all(self.client.0.clone());
        let mut stream = pin!(watch_object(api.clone(), &self.identity.name).backoff(retry_delays()));
        let mut tick = interval(self.update_every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = Known::default();
        let mut delays = retry_delays();
        loop {
            let retry = async {
                match known.retry_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // All arms are cancel-safe: a stream's next item, a tick and a change that are not taken now are taken later.
            tokio::select! {
                seen = stream.next() => match seen {
                    Some(Ok(there)) => {
                        known.seen = true;
                        if self.is_now(&mut known, there.map(Arc::new)).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(error)) => {
                        known.tell_failure("the Node object cannot be watched", &chain(&error));
                        continue;
                    }
                    None => return,
                },
                changed = self.snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Pods change often, the node seldom.
                    let node = self.snapshots.borrow_and_update().node.clone();
                    if node == known.published {
                        continue;
                    }
                    known.published = node;
                }
                _ = tick.tick() => {}
                () = retry => known.retry_at = None,
            }
            if known.seen && self.reconcile(&api, &mut known, &mut delays).await.is_err() {
                return;
            }
        }
    }

    /// The API server has this object now.
    async fn is_now(
        &self,
        known: &mut Known,
        there: Option<Arc<Node>>,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let says = |node: &Option<Arc<Node>>| {
            let node = node.as_ref()?;
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
            Some((node.metadata.labels.clone().unwrap_or_default(), taints))
        };
        if known.ready.is_none() {
            known.ready = there.as_deref().and_then(node::ready);
        }
        let before = std::mem::replace(&mut known.there, there);
        self.node.send_replace(known.there.clone());
        match says(&known.there) {
            Some((labels, taints))
                if Some((&labels, &taints)) != says(&before).as_ref().map(|(l, t)| (l, t)) =>
            {
                self.events.send(Event::NodeObject { labels, taints }).await
            }
            _ => Ok(()),
        }
    }

    async fn reconcile(
        &self,
        api: &Api<Node>,
        known: &mut Known,
        delays: &mut ExponentialBackoff,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let health = self.health(known).await;
        let description = self.description(known).await;
        match self.write(api, known, &description, &health).await {
            Ok(None) => {}
            Ok(Some(there)) => {
                self.tell_ready(known, &health);
                *delays = retry_delays();
                if known.failure.take().is_some() {
                    tracing::info!("the Node object is written again");
                }
                return self.is_now(known, Some(Arc::new(there))).await;
            }
            Err(error) => {
                known.tell_failure("the Node object cannot be written", &chain(&error));
                if error.is_not_found() {
                    known.there = None;
                }
                known.retry_at = delays.next().map(|delay| Instant::now() + delay);
            }
        }
        Ok(())
    }

    fn tell_ready(&self, known: &mut Known, health: &NodeHealth) {
        let ready = health.not_ready.is_empty();
        if ready {
            self.startup.ready(since_boot());
        }
        if known.ready.replace(ready) == Some(ready) {
            return;
        }
        let reason = if ready { Reason::NodeReady } else { Reason::NodeNotReady };
        let message = if ready { "the node is ready".to_owned() } else { health.not_ready.join("; ") };
        self.journal.publish(Record::new(clock::now(), Kind::Node, reason, message));
    }

    /// The object as it is then; `None`: nothing was to be written.
    async fn write(
        &self,
        api: &Api<Node>,
        known: &mut Known,
        description: &NodeDescription,
        health: &NodeHealth,
    ) -> Result<Option<Node>, RequestError> {
        let (name, now) = (&description.name, Timestamp::now());
        let Some(there) = known.there.clone() else {
            if !self.register {
                return Ok(None);
            }
            let node = node::to_register(description, health, now);
            tracing::info!(node = name, "registering the node");
            self.startup.registers(since_boot());
            return match request(api.create(&PostParams::default(), &node)).await {
                // The watch has yet to tell of it.
                Err(error) if error.is_conflict() => request(api.get(name)).await.map(Some),
                // Its status follows at once: what the object's type has no field for goes with the patch alone.
                answer => {
                    if answer.is_ok() {
                        self.startup.registered(since_boot());
                    }
                    answer.map(Some)
                }
            };
        };
        let mut written = None;
        if self.register
            && let Some(patch) = node::registration_patch(&there, description)
        {
            let params = PatchParams::default();
            written = Some(request(api.patch(name, &params, &Patch::Strategic(&patch))).await?);
        }
        let there = written.as_ref().unwrap_or(&there).status.clone().unwrap_or_default();
        let status = node::status(Some(&there), description, health, now);
        let since = known.reported_at.map_or(self.report_every, |at| at.elapsed());
        let pace = (since, self.report_every);
        if let Some(patch) = node::status_patch(&there, &status, description.in_user_namespace, pace) {
            let params = PatchParams::default();
            let answer = request(api.patch_status(name, &params, &Patch::Strategic(&patch))).await?;
            known.reported_at = Some(Instant::now());
            written = Some(answer);
        }
        Ok(written)
    }

    async fn description(&self, known: &mut Known) -> NodeDescription {
        if known.images_at.is_none_or(|at| at.elapsed() >= IMAGES_EVERY) {
            match self.images.list_images().await {
                Ok(images) => {
                    known.images = images;
                    known.images_at = Some(Instant::now());
                }
                Err(error) => tracing::debug!(%error, "the images that the Node object tells of are older"),
            }
        }
        let (identity, images) = (Arc::clone(&self.identity), known.images.clone());
        let runtime = known.runtime.clone();
        let described = tokio::task::spawn_blocking(move || identity.describe(&images, &runtime)).await;
        described.unwrap_or_else(|_| self.identity.describe(&[], &known.runtime))
    }

    async fn health(&self, known: &mut Known) -> NodeHealth {
        let published = self.snapshots.borrow().node.clone();
        known.published = published.clone();
        let mut not_ready = Vec::new();
        match self.runtime.status().await {
            Err(error) => not_ready.push(format!("container runtime is down: {error}")),
            Ok(status) => {
                for (name, what) in [
                    ("RuntimeReady", "container runtime status check may not have completed yet"),
                    ("NetworkReady", "container runtime network not ready"),
                ] {
                    if let Some(condition) = status.conditions.iter().find(|c| c.name == name && !c.status) {
                        not_ready.push(format!("{what}: {name}=false {}", condition.message));
                    }
                }
                known.runtime = status;
            }
        }
        not_ready.extend(self.pleg.healthy(clock::now()).err());
        NodeHealth { published, not_ready }
    }
}

fn since_boot() -> Duration {
    clock::now().since(Mono::ZERO)
}

impl Known {
    /// Once, until it is another or over.
    fn tell_failure(&mut self, what: &str, error: &str) {
        if self.failure.as_deref() != Some(error) {
            tracing::warn!(error, "{what}");
            self.failure = Some(error.to_owned());
        }
    }
}
