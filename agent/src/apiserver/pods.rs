//! The pods that the API server wants on this node: a list, then a watch from there on, with `spec.nodeName`.
//!
//! Reads: the API server. Emits: [`Event::Pods`] with each list, [`Event::PodsChanged`] where a pod has come, gone or changed
//! in what counts, [`Event::SourceSilent`] while it cannot be reached at first, and on a `watch` every pod as the API server
//! has it.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use futures_lite::StreamExt as _;
use futures_lite::future::poll_once;
use imbl::OrdMap;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event as Change};
use tokio::sync::{mpsc, watch};

use super::{ApiPods, ApiServer, chain, retry_delays};
use oomlet_core::node::event::{Event, PodChanges, PodSource, PodUpdate, SourcePod};
use oomlet_core::pod::spec::same_content;
use oomlet_core::pod::{Pod, PodRef, PodUid};

/// Changes that are taken in together, so that a burst makes one event.
const BATCH: usize = 64;

#[derive(Clone, Debug)]
pub struct PodWatch {
    pub client: ApiServer,
    pub node_name: String,
    pub events: mpsc::Sender<Event>,
    pub pods: watch::Sender<ApiPods>,
}

#[derive(Default)]
struct Known {
    /// As the API server has them, without what they are to be.
    pods: OrdMap<PodUid, Arc<Pod>>,
    /// As the SyncLoop was told: the same but for changes that do not count.
    told: OrdMap<PodUid, Arc<Pod>>,
    /// While a list is read anew.
    reading: Option<BTreeMap<PodUid, Pod>>,
    listed: bool,
    untold: Untold,
}

/// What the SyncLoop is to be told.
#[derive(Debug, PartialEq)]
enum Untold {
    /// The list was read anew.
    All,
    /// These have come, gone or changed.
    Pods(BTreeSet<PodUid>),
}

impl Default for Untold {
    fn default() -> Untold {
        Untold::Pods(BTreeSet::new())
    }
}

impl PodWatch {
    /// Ends when nobody receives any more.
    pub async fn run(self) {
        let api: Api<Pod> = Api::all(self.client.0.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node_name));
        let mut stream = pin!(watcher::watcher(api, config).backoff(retry_delays()));
        let mut known = Known::default();
        let mut failing = false;
        while let Some(first) = stream.next().await {
            let mut next = Some(first);
            let mut taken = 0;
            while let Some(change) = next.take() {
                match change {
                    Ok(change) => {
                        known.take(change);
                        if known.listed && std::mem::take(&mut failing) {
                            tracing::info!("pods are watched at the API server again");
                        }
                    }
                    Err(error) => {
                        // Once, however it fails the next times.
                        if !std::mem::replace(&mut failing, true) {
                            let error = chain(&error);
                            tracing::warn!(
                                error,
                                "pods cannot be watched at the API server; those that run go on"
                            );
                        }
                        if !known.listed
                            && self.events.send(Event::SourceSilent(PodSource::Api)).await.is_err()
                        {
                            return;
                        }
                    }
                }
                taken += 1;
                if taken < BATCH {
                    next = poll_once(stream.next()).await.flatten();
                }
            }
            if known.listed && self.tell(&mut known).await.is_err() {
                return;
            }
        }
    }

    async fn tell(&self, known: &mut Known) -> Result<(), mpsc::error::SendError<Event>> {
        self.pods.send_replace(Some(Arc::new(known.pods.clone())));
        match known.news() {
            Some(news) => self.events.send(news).await,
            None => Ok(()),
        }
    }
}

impl Known {
    fn take(&mut self, change: Change<Pod>) {
        match change {
            Change::Init => self.reading = Some(BTreeMap::new()),
            Change::InitApply(pod) => {
                let uid = PodRef::of(&pod).uid;
                self.reading.get_or_insert_default().insert(uid, lean(pod));
            }
            Change::InitDone => {
                let read = self.reading.take().unwrap_or_default();
                self.listed = true;
                let gone: Vec<PodUid> =
                    self.pods.keys().filter(|uid| !read.contains_key(*uid)).cloned().collect();
                gone.iter().for_each(|uid| self.remove(uid));
                read.into_values().for_each(|pod| self.put(pod));
                self.untold = Untold::All;
            }
            Change::Apply(pod) => self.put(lean(pod)),
            Change::Delete(pod) => self.remove(&PodRef::of(&pod).uid),
        }
    }

    fn put(&mut self, pod: Pod) {
        let uid = PodRef::of(&pod).uid;
        let known = self.told.get(&uid).is_some_and(|told| same_content(told, &pod));
        let without_spec = if known {
            Pod { spec: None, ..pod }
        } else {
            let (metadata, status) = (pod.metadata.clone(), pod.status.clone());
            self.told.insert(uid.clone(), Arc::new(pod));
            self.changed(&uid);
            Pod { metadata, status, spec: None }
        };
        self.pods.insert(uid, Arc::new(without_spec));
    }

    fn remove(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
        if self.told.remove(uid).is_some() {
            self.changed(uid);
        }
    }

    fn changed(&mut self, uid: &PodUid) {
        if let Untold::Pods(pods) = &mut self.untold {
            pods.insert(uid.clone());
        }
    }

    /// What the SyncLoop has not been told, if there is any. It counts as told then.
    fn news(&mut self) -> Option<Event> {
        let source = PodSource::Api;
        match std::mem::take(&mut self.untold) {
            Untold::All => {
                let pods = self.told.values().map(named).collect();
                Some(Event::Pods(PodUpdate { source, pods, rejected: Vec::new() }))
            }
            Untold::Pods(pods) if pods.is_empty() => None,
            Untold::Pods(pods) => {
                let named = pods.iter().filter_map(|uid| self.told.get(uid)).map(named).collect();
                let gone = pods.into_iter().filter(|uid| !self.told.contains_key(uid)).collect();
                Some(Event::PodsChanged(PodChanges { source, named, gone }))
            }
        }
    }
}

/// Without who wrote which field, which is half of the object and nothing to a node.
fn lean(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    pod
}

fn named(pod: &Arc<Pod>) -> SourcePod {
    let PodRef { namespace, name, .. } = PodRef::of(pod);
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}").into();
    SourcePod { path, pod: Arc::clone(pod), own_uid: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, version: &str, image: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": uid, "namespace": "d", "uid": uid, "resourceVersion": version, "managedFields": [{}]},
            "spec": {"containers": [{"name": "c", "image": image}]},
        }))
        .unwrap()
    }

    /// `all` and the names of a list; `+` names that have come or changed, `-` those that have gone.
    fn told(known: &mut Known) -> String {
        let names = |pods: Vec<SourcePod>| pods.iter().map(|p| PodRef::of(&p.pod).name).collect::<String>();
        match known.news() {
            None => String::new(),
            Some(Event::Pods(update)) => format!("all {}", names(update.pods)),
            Some(Event::PodsChanged(PodChanges { named, gone, .. })) => {
                let gone: String = gone.iter().map(PodUid::as_str).collect();
                format!("+{} -{gone}", names(named))
            }
            Some(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_loop_is_told_of_what_counts() {
        let mut known = Known::default();
        known.take(Change::Init);
        known.take(Change::InitApply(pod("a", "1", "i")));
        assert_eq!((known.listed, told(&mut known).as_str()), (false, ""), "half a list is none");
        known.take(Change::InitDone);
        assert_eq!((known.listed, told(&mut known).as_str()), (true, "all a"));
        known.take(Change::Apply(pod("a", "2", "i")));
        assert_eq!(told(&mut known), "", "our own status came back");
        let newest = known.pods.values().next().unwrap();
        assert_eq!(newest.metadata.resource_version.as_deref(), Some("2"));
        assert!(newest.metadata.managed_fields.is_none());
        known.take(Change::Apply(pod("a", "3", "other")));
        assert_eq!(told(&mut known), "+a -");
        known.take(Change::Apply(pod("b", "4", "i")));
        assert_eq!(told(&mut known), "+b -", "and not of the one beside it");
        known.take(Change::Delete(pod("a", "5", "other")));
        assert_eq!(told(&mut known), "+ -a");
        assert_eq!(told(&mut known), "", "once");
    }

    #[test]
    fn what_comes_together_is_told_together() {
        let mut known = Known::default();
        for change in [Change::Init, Change::InitApply(pod("a", "1", "i")), Change::InitDone] {
            known.take(change);
        }
        // A list has in it what came before it, and what comes right after.
        known.take(Change::Apply(pod("b", "2", "i")));
        known.take(Change::Delete(pod("a", "3", "i")));
        assert_eq!(told(&mut known), "all b");
        known.take(Change::Apply(pod("c", "4", "i")));
        known.take(Change::Delete(pod("c", "5", "i")));
        known.take(Change::Delete(pod("b", "6", "i")));
        known.take(Change::Apply(pod("d", "7", "i")));
        assert_eq!(told(&mut known), "+d -bc");
    }

    #[test]
    fn a_list_read_anew_replaces_what_was_known() {
        let mut known = Known::default();
        for names in [&["a", "b"][..], &["b", "c"], &["b", "c"], &[]] {
            known.take(Change::Init);
            names.iter().for_each(|name| known.take(Change::InitApply(pod(name, "1", "i"))));
            known.take(Change::InitDone);
            assert_eq!(
                told(&mut known),
                format!("all {}", names.concat()),
                "also one of the same, or of none"
            );
        }
    }
}
