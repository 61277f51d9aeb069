//! Tells the API server of the node's pods: statuses, deletions that the node has carried out, mirror pods. For each pod it
//! compares what is with what should be (`oomlet_core::apiserver::step`), so that nothing waits in a queue while the API
//! server is away, and only the newest is told when it is back.
//!
//! Reads: the SyncLoop's snapshots, the pods as the API server has them. Emits: requests, one at a time a pod.

use std::collections::{BTreeSet, HashMap};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use k8s_openapi::api::core::v1::{Node, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::ExponentialBackoff;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::{ApiPods, ApiServer, RequestError, chain, request, retry_delays};
use crate::instruments::requests::Requests;
use oomlet_core::apiserver::step::{Step, View};
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::pod::{Pod, PodRef, PodUid};

/// Requests at a time; kubelet's status manager has one.
const AT_A_TIME: usize = 8;
/// What the API server refuses for what it is will hardly be taken the next moment.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct StatusManager {
    client: ApiServer,
    node_name: String,
    snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    api_pods: watch::Receiver<ApiPods>,
    node: watch::Receiver<Option<Arc<Node>>>,
    /// As looked at last.
    snapshot: Arc<NodeSnapshot>,
    pods: OrdMap<PodUid, Arc<Pod>>,
    synced: bool,
    node_uid: Option<String>,
    /// Pods to look at.
    dirty: BTreeSet<PodUid>,
    in_flight: JoinSet<Done>,
    busy: BTreeSet<PodUid>,
    failing: HashMap<PodUid, Failing>,
    /// Pods with something to tell that may wait, and until when.
    waiting: HashMap<PodUid, Instant>,
    /// What was written last, and the version of the object that came of it: the API server may have kept something
    /// otherwise than it was written, which writing it again would not change.
    written: HashMap<PodUid, (Arc<PodStatus>, Option<String>)>,
    /// The API server has taken the deletion, and the watch has not told of it yet: it is not asked for twice.
    deleted: BTreeSet<PodUid>,
    /// Since when a pod's status is another than what was told last, or is being told.
    changed_at: HashMap<PodUid, Instant>,
    requests: Requests,
}

struct Failing {
    delays: ExponentialBackoff,
    again_at: Instant,
    told: String,
}

impl std::fmt::Debug for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failing").field("told", &self.told).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Done {
    uid: PodUid,
    /// What was told, for a patch.
    status: Option<Arc<PodStatus>>,
    /// Since when it was to be told.
    changed_at: Option<Instant>,
    /// The object that came of it.
    result: Result<Option<Pod>, RequestError>,
    creation: bool,
    /// The object's UID.
    deletion: Option<PodUid>,
}

impl StatusManager {
    #[must_use]
    pub fn new(
        client: ApiServer,
        node_name: String,
        snapshots: watch::Receiver<Arc<NodeSnapshot>>,
        api_pods: watch::Receiver<ApiPods>,
        node: watch::Receiver<Option<Arc<Node>>>,
        requests: Requests,
    ) -> StatusManager {
        StatusManager {
            client,
            node_name,
            snapshots,
            api_pods,
            node,
            snapshot: Arc::default(),
            pods: OrdMap::new(),
            synced: false,
            node_uid: None,
            dirty: BTreeSet::new(),
            in_flight: JoinSet::new(),
            busy: BTreeSet::new(),
            failing: HashMap::new(),
            waiting: HashMap::new(),
            written: HashMap::new(),
            deleted: BTreeSet::new(),
            changed_at: HashMap::new(),
            requests,
        }
    }

    /// Ends when the SyncLoop or one of the other tasks has gone.
    pub async fn run(mut self) {
        // What they have by now counts, too.
        self.snapshots.mark_changed();
        self.api_pods.mark_changed();
        self.node.mark_changed();
        loop {
            self.start_due();
            let again = self.failing.iter().filter(|(uid, _)| !self.busy.contains(*uid));
            let again = again.map(|(_, f)| f.again_at).chain(self.waiting.values().copied());
            let again = again.filter(|at| *at > Instant::now()).min();
            let retry = async {
                match again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // All arms are cancel-safe: a change or an end that is not seen now is seen in the next turn.
            let alive = tokio::select! {
                changed = self.snapshots.changed() => changed.map(|()| self.look_at_snapshot()).is_ok(),
                changed = self.api_pods.changed() => changed.map(|()| self.look_at_api_pods()).is_ok(),
                changed = self.node.changed() => changed.map(|()| self.look_at_node()).is_ok(),
                Some(done) = self.in_flight.join_next() => {
                    match done.map_err(JoinError::try_into_panic) {
                        Ok(done) => self.done(done),
                        // Its pod would be busy for ever: all starts anew.
                        Err(Ok(panic)) => resume_unwind(panic),
                        // Nobody cancels one.
                        Err(Err(_)) => {}
                    }
                    true
                }
                () = retry => {
                    let now = Instant::now();
                    let due = self.failing.iter().filter(|(_, f)| f.again_at <= now);
                    self.dirty.extend(due.map(|(uid, _)| uid.clone()));
                    true
                }
            };
            if !alive {
                return;
            }
        }
    }

    fn look_at_snapshot(&mut self) {
        let now = Arc::clone(&self.snapshots.borrow_and_update());
        for change in self.snapshot.pods.diff(&now.pods) {
            if let DiffItem::Update { old: (_, old), new: (uid, new) } = change
                && !Arc::ptr_eq(&old.status, &new.status)
            {
                self.changed_at.entry(uid.clone()).or_insert_with(Instant::now);
            }
        }
        for (before, after) in [(&self.snapshot.pods, &now.pods), (&self.snapshot.ended, &now.ended)] {
            self.dirty.extend(before.diff(after).map(|change| match change {
                DiffItem::Add(uid, _) | DiffItem::Remove(uid, _) => uid.clone(),
                DiffItem::Update { new: (uid, _), .. } => uid.clone(),
            }));
        }
        // A static pod that has gone leaves its mirror; and with the last source that speaks, earlier runs' mirrors go.
        let gone = self.snapshot.pods.keys().any(|uid| !now.pods.contains_key(uid));
        if gone || now.node.sources_ready != self.snapshot.node.sources_ready {
            self.dirty.extend(self.pods.keys().cloned());
            self.dirty.extend(now.pods.keys().cloned());
        }
        self.snapshot = now;
    }

    fn look_at_api_pods(&mut self) {
        let Some(now) = self.api_pods.borrow_and_update().clone() else { return };
        if !std::mem::replace(&mut self.synced, true) {
            self.dirty.extend(self.snapshot.pods.keys().chain(self.snapshot.ended.keys()).cloned());
        }
        let before = std::mem::take(&mut self.pods);
        let mut merged = now.as_ref().clone();
        let mut changed: Vec<Arc<Pod>> = Vec::new();
        for change in before.diff(&now) {
            match change {
                // Our own write is ahead of the watch.
                DiffItem::Update { old: (uid, old), new: (_, new) } if is_newer(old, new) => {
                    merged.insert(uid.clone(), Arc::clone(old));
                }
                DiffItem::Add(_, pod) | DiffItem::Update { new: (_, pod), .. } => {
                    changed.push(Arc::clone(pod));
                }
                DiffItem::Remove(uid, pod) => {
                    self.written.remove(uid);
                    self.failing.remove(uid);
                    self.deleted.remove(uid);
                    changed.push(Arc::clone(pod));
                }
            }
        }
        self.pods = merged;
        let view = view(&self.snapshot, &self.pods, &self.node_name, self.node_uid.as_deref());
        for pod in &changed {
            self.dirty.extend(view.concerned(pod));
        }
    }

    fn look_at_node(&mut self) {
        let uid = self.node.borrow_and_update().as_ref().and_then(|node| node.metadata.uid.clone());
        if uid != self.node_uid {
            self.node_uid = uid;
            self.dirty.extend(self.snapshot.pods.keys().cloned());
        }
    }

    fn start_due(&mut self) {
        if !self.synced {
            return;
        }
        let now = Instant::now();
        let waited = self.waiting.iter().filter(|(_, at)| **at <= now);
        self.dirty.extend(waited.map(|(uid, _)| uid.clone()));
        let waits = |uid: &PodUid| {
            self.busy.contains(uid) || self.failing.get(uid).is_some_and(|failing| failing.again_at > now)
        };
        let due: Vec<PodUid> = self.dirty.iter().filter(|uid| !waits(uid)).cloned().collect();
        for uid in due {
            if self.in_flight.len() >= AT_A_TIME {
                return;
            }
            self.dirty.remove(&uid);
            let view = view(&self.snapshot, &self.pods, &self.node_name, self.node_uid.as_deref());
            match view.step(&uid) {
                Some(Step::Patch { may_wait, .. }) if self.waits_until(&uid, now + may_wait) > now => {}
                Some(step) => {
                    self.waiting.remove(&uid);
                    self.start(uid, step);
                }
                None => {
                    self.waiting.remove(&uid);
                    self.failing.remove(&uid);
                    self.changed_at.remove(&uid);
                }
            }
        }
    }

    /// What a pod has to tell waits no longer than its first news could.
    fn waits_until(&mut self, uid: &PodUid, at_the_latest: Instant) -> Instant {
        let until = self.waiting.entry(uid.clone()).or_insert(at_the_latest);
        *until = (*until).min(at_the_latest);
        *until
    }

    fn start(&mut self, uid: PodUid, mut step: Step) {
        let published = self.snapshot.pods.get(&uid).or_else(|| self.snapshot.ended.get(&uid));
        let status =
            published.filter(|_| matches!(step, Step::Patch { .. })).map(|pod| Arc::clone(&pod.status));
        if let (Step::Patch { pod, .. }, Some(status)) = (&step, &status) {
            let version = self.pods.get(&pod.uid).and_then(|there| there.metadata.resource_version.clone());
            let same =
                |(told, at): &(Arc<PodStatus>, Option<String>)| Arc::ptr_eq(told, status) && *at == version;
            if self.written.get(&pod.uid).is_some_and(same) {
                tracing::debug!(%pod, "the API server keeps something of the status otherwise than it was written");
                if !self.snapshot.ended.contains_key(&uid) {
                    return;
                }
                // All of it that can be told has been.
                step = Step::Delete(pod.clone());
            }
        }
        if matches!(&step, Step::Delete(pod) if self.deleted.contains(&pod.uid)) {
            return;
        }
        self.busy.insert(uid.clone());
        let changed_at = status.as_ref().and_then(|_| self.changed_at.remove(&uid));
        let client = self.client.0.clone();
        self.in_flight.spawn(async move {
            let creation = matches!(step, Step::Create(_));
            let deletion = if let Step::Delete(pod) = &step { Some(pod.uid.clone()) } else { None };
            let result = carry_out(client, step).await;
            Done { uid, status, changed_at, result, creation, deletion }
        });
    }

    fn done(&mut self, done: Done) {
        let Done { uid, status, changed_at, result, creation, deletion } = done;
        self.busy.remove(&uid);
        match result {
            Ok(object) => {
                self.failing.remove(&uid);
                // What is deleted is gone once the watch says so, which may have been before the answer.
                let Some(object) = object else {
                    self.deleted.extend(deletion.filter(|uid| self.pods.contains_key(uid)));
                    return;
                };
                if let Some(since) = changed_at {
                    self.requests.status_told(since.elapsed());
                }
                self.dirty.insert(uid);
                let of = PodRef::of(&object).uid;
                if let Some(status) = status {
                    self.written.insert(of.clone(), (status, object.metadata.resource_version.clone()));
                }
                // Until the watch tells the same.
                if self.pods.get(&of).is_none_or(|known| is_newer(&object, known)) {
                    self.pods.insert(of, Arc::new(object));
                }
            }
            // Deleted meanwhile: the watch tells.
            Err(error) if error.is_not_found() && !creation => {}
            Err(error) => {
                // Another by now, which the watch tells; or written by many at once, and nothing else may come of it.
                let quiet = error.is_conflict() && !creation;
                self.failed(uid.clone(), &error, quiet);
                if let Some(since) = changed_at {
                    self.changed_at.insert(uid.clone(), since);
                }
                self.dirty.insert(uid);
            }
        }
    }

    fn failed(&mut self, uid: PodUid, error: &RequestError, quiet: bool) {
        let text = chain(error);
        let failing = self.failing.entry(uid.clone()).or_insert_with(|| Failing {
            delays: retry_delays(),
            again_at: Instant::now(),
            told: String::new(),
        });
        if failing.told != text && !quiet {
            tracing::warn!(pod_uid = %uid, error = text, "the API server has not been told of the pod");
            failing.told = text;
        }
        let delay = failing.delays.next().unwrap_or(REFUSED_AGAIN);
        // A mirror's namespace may be made any time, and perhaps never is.
        let hopeless = error.is_invalid() || error.is_not_found() && delay > Duration::from_secs(3);
        let delay = delay.max(error.retry_after().unwrap_or_default());
        failing.again_at = Instant::now() + if hopeless { REFUSED_AGAIN } else { delay };
    }
}

fn view<'a>(
    snapshot: &'a NodeSnapshot,
    pods: &'a OrdMap<PodUid, Arc<Pod>>,
    node_name: &'a str,
    node_uid: Option<&'a str>,
) -> View<'a> {
    View { snapshot, pods, node_name, node_uid }
}

/// By resource version, which counts up within one kind of object (KEP-5504).
fn is_newer(a: &Pod, b: &Pod) -> bool {
    let version = |pod: &Pod| pod.metadata.resource_version.as_ref().and_then(|v| v.parse::<u64>().ok());
    matches!((version(a), version(b)), (Some(a), Some(b)) if a > b)
}

async fn carry_out(client: Client, step: Step) -> Result<Option<Pod>, RequestError> {
    match step {
        Step::Patch { pod, patch, .. } => {
            let api: Api<Pod> = Api::namespaced(client, &pod.namespace);
            let params = PatchParams::default();
            request(api.patch_status(&pod.name, &params, &Patch::Strategic(&patch))).await.map(lean)
        }
        Step::Delete(pod) => {
            let api: Api<Pod> = Api::namespaced(client, &pod.namespace);
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: Some(pod.uid.to_string()), resource_version: None }),
                ..DeleteParams::default()
            };
            request(api.delete(&pod.name, &params)).await.map(|_| None)
        }
        Step::Create(pod) => {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let api: Api<Pod> = Api::namespaced(client, &namespace);
            request(api.create(&PostParams::default(), &pod)).await.map(lean)
        }
    }
}

/// What is compared with what should be; the rest is the larger part.
fn lean(mut pod: Pod) -> Option<Pod> {
    pod.metadata.managed_fields = None;
    pod.spec = None;
    Some(pod)
}
