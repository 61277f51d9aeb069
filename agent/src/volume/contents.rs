//! What volumes and environments are made from, and a running pod's volumes kept up to date. Shell.
//!
//! Owns: which pods are followed. Reads: ConfigMaps and Secrets of an [`ObjectSource`], tokens of a [`TokenSource`],
//! ClusterTrustBundles, pods' certificates, Services. What `rewrite` emits: `Event::ObjectsChanged` for pods that may have
//! waited, a trace record where a volume cannot be brought up to date (it keeps what it shows).
//!
//! A worker gets content here, writes it under the pod's lock and says when the volumes are there; from then on `rewrite`
//! does so when an object, a bundle or a certificate that they show changes, when the pod's labels or annotations do, and
//! when a token is due. Nothing is polled: each of those is an event or has its time.

mod rewrite;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Service;
use tokio::sync::{Notify, OwnedMutexGuard, watch};
use tokio::time::Instant;

use super::VolumeManager;
use crate::content_store::ContentStore;
use crate::object::{ObjectSource, look_up};
use crate::pod_certificate::CertificateSource;
use crate::token::TokenSource;
use crate::trace::journal::Journal;
use crate::trust_bundle::TrustBundleHandle;
use oomlet_core::object::{ObjectRef, Objects};
use oomlet_core::pod::env::EnvFacts;
use oomlet_core::pod::references::{Needed, references, shows_its_metadata};
use oomlet_core::pod::services::service_env;
use oomlet_core::pod::spec::is_static;
use oomlet_core::pod::{Pod, PodRef, PodUid};
use oomlet_core::volume::Content;
use oomlet_core::{pod_certificate, token, trust_bundle};

/// The Services of the cluster; `None`: not known yet.
pub type Services = watch::Receiver<Option<Arc<Vec<Service>>>>;

/// Where everything comes from.
#[derive(Debug)]
pub struct Sources {
    pub objects: Arc<dyn ObjectSource>,
    pub tokens: Arc<dyn TokenSource>,
    pub trust_bundles: TrustBundleHandle,
    pub certificates: Arc<dyn CertificateSource>,
    pub services: Services,
    /// What they keep of a pod, which goes with it.
    pub store: ContentStore,
}

#[derive(Debug)]
pub struct Contents {
    sources: Sources,
    volumes: Arc<VolumeManager>,
    journal: Arc<Journal>,
    node: EnvFacts,
    followed: Mutex<HashMap<PodUid, Arc<Followed>>>,
    /// Pods whose volumes are to be rewritten.
    wanted: Mutex<BTreeSet<PodUid>>,
    wake: Notify,
}

/// A pod that a worker is at, or has brought up.
#[derive(Debug)]
struct Followed {
    pod: Mutex<Arc<Pod>>,
    needs: BTreeMap<ObjectRef, Needed>,
    /// Who holds it writes the volumes, or removes them.
    writing: Arc<tokio::sync::Mutex<()>>,
    set_up: AtomicBool,
    /// A rewrite is on its way and has not begun.
    queued: AtomicBool,
    /// When what it shows is to be looked at again though nobody has told of a change: a token is due, or a write failed.
    due: Mutex<Option<Instant>>,
    /// What was last told, so that it is told once.
    told: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Contents {
    #[must_use]
    pub fn new(
        sources: Sources,
        volumes: Arc<VolumeManager>,
        journal: Arc<Journal>,
        node: EnvFacts,
    ) -> Contents {
        Contents {
            sources,
            volumes,
            journal,
            node,
            followed: Mutex::default(),
            wanted: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// The pod is to run, and is as given now. `runs`: it was running before it was known here, as after a restart of the
    /// agent: its volumes are there, and may be behind.
    pub fn follow(&self, pod: &Arc<Pod>, runs: bool) {
        let uid = PodRef::of(pod).uid;
        let known = lock(&self.followed).get(&uid).cloned();
        if let Some(known) = known {
            let mut kept = lock(&known.pod);
            let kept_before = std::mem::replace(&mut *kept, Arc::clone(pod));
            drop(kept);
            let (old, new) = (&kept_before.metadata, &pod.metadata);
            let differs = old.labels != new.labels || old.annotations != new.annotations;
            if differs && shows_its_metadata(pod) && known.set_up.load(Ordering::SeqCst) {
                self.want(&uid);
            }
            return;
        }
        let followed = Followed {
            pod: Mutex::new(Arc::clone(pod)),
            needs: references(pod),
            writing: Arc::default(),
            set_up: AtomicBool::new(runs),
            queued: AtomicBool::new(false),
            due: Mutex::default(),
            told: Mutex::default(),
        };
        let shows = followed.shows_anything();
        lock(&self.followed).insert(uid.clone(), Arc::new(followed));
        self.sources.objects.register_pod(pod);
        self.sources.trust_bundles.register_pod(pod);
        self.sources.certificates.register_pod(pod);
        if runs && shows {
            self.want(&uid);
        }
    }

    /// The pod's volumes are to be removed: nobody writes them any more, and nobody begins to while the guard is held.
    pub async fn forget(&self, uid: &PodUid) -> Option<OwnedMutexGuard<()>> {
        let known = lock(&self.followed).get(uid).cloned();
        let guard = match &known {
            Some(known) => Some(Arc::clone(&known.writing).lock_owned().await),
            None => None,
        };
        lock(&self.followed).remove(uid);
        self.sources.objects.unregister_pod(uid);
        self.sources.tokens.forget_pod(uid);
        self.sources.trust_bundles.unregister_pod(uid);
        self.sources.certificates.unregister_pod(uid);
        self.sources.store.forget_pod(uid);
        guard
    }

    /// Held by whoever writes the pod's volumes.
    pub async fn writing(&self, uid: &PodUid) -> Option<OwnedMutexGuard<()>> {
        let known = lock(&self.followed).get(uid).cloned()?;
        Some(Arc::clone(&known.writing).lock_owned().await)
    }

    /// The pod's volumes are there; they are kept up to date from now on. `leftovers`: there is something to be swept.
    pub fn is_set_up(self: &Arc<Self>, uid: &PodUid, leftovers: bool) {
        if let Some(known) = lock(&self.followed).get(uid).cloned() {
            known.set_up.store(true, Ordering::SeqCst);
            if leftovers {
                tokio::spawn(Arc::clone(self).sweep(known));
            }
        }
        // For the time of its tokens.
        self.wake.notify_one();
    }

    /// ConfigMaps and Secrets that the pod names.
    pub async fn objects(&self, pod: &Pod) -> Objects {
        look_up(&*self.sources.objects, references(pod).into_keys()).await
    }

    /// # Errors
    /// The Services are not known yet, in kubelet's words. A static pod goes without: it may be the API server.
    pub fn service_env(&self, pod: &Pod) -> Result<BTreeMap<String, String>, &'static str> {
        match self.sources.services.borrow().as_ref() {
            Some(services) => Ok(service_env(services, pod)),
            None if is_static(pod) => Ok(BTreeMap::new()),
            None => Err("services have not yet been read at least once, cannot construct envvars"),
        }
    }

    /// All that the pod's volumes are made from.
    pub async fn content(&self, pod: &Pod) -> Content {
        let mounted = references(pod).into_iter().filter(|(_, needed)| needed.mounted);
        let objects = look_up(&*self.sources.objects, mounted.map(|(object, _)| object)).await;
        let (mut tokens, mut due) = (Vec::new(), None);
        for key in token::keys(pod) {
            let answer = self.sources.tokens.token(&key).await;
            let at = Instant::now() + answer.again_in.min(rewrite::LONGEST_WAIT);
            due = Some(due.map_or(at, |other: Instant| other.min(at)));
            tokens.push((key, answer.token));
        }
        if let Some(known) = lock(&self.followed).get(&PodRef::of(pod).uid) {
            *lock(&known.due) = due;
        }
        let trust_bundles = match trust_bundle::shows_any(pod) {
            true => self.sources.trust_bundles.get().await,
            false => Ok(Arc::default()),
        };
        let mut credentials = Vec::new();
        for key in pod_certificate::keys(pod) {
            let found = self.sources.certificates.get(&key).await;
            credentials.push((key, found));
        }
        Content {
            node: self.node.clone(),
            objects,
            tokens: tokens.into_iter().collect(),
            trust_bundles,
            credentials: credentials.into_iter().collect(),
        }
    }

    fn want(&self, uid: &PodUid) {
        lock(&self.wanted).insert(uid.clone());
        self.wake.notify_one();
    }
}

impl Followed {
    /// Volumes of it show something that may have become another.
    fn shows_anything(&self) -> bool {
        let pod = lock(&self.pod);
        self.needs.values().any(|n| n.mounted)
            || shows_its_metadata(&pod)
            || token::keys(&pod).next().is_some()
            || trust_bundle::shows_any(&pod)
            || !pod_certificate::keys(&pod).is_empty()
    }
}

#[cfg(test)]
mod tests;
