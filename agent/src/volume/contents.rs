//! What volumes and environments are made from, and a running pod's volumes kept up to date. Shell.
//!
//! Owns: which pods are followed. Reads: ConfigMaps and Secrets of an [`ObjectSource`], tokens of a [`TokenSource`], Services.
//! Emits: [`Event::ObjectsChanged`] for pods that may have waited, a trace record where a volume cannot be brought up to date
//! (it keeps what it shows).
//!
//! A worker gets content here, writes it under the pod's lock and says when the volumes are there; from then on they are
//! rewritten when an object that they show changes, when the pod's labels or annotations do, and when a token is due. Nothing
//! is polled: each of those is an event or has its time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use tokio::sync::{Notify, OwnedMutexGuard, broadcast, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::VolumeManager;
use crate::clock;
use crate::object::{ObjectSource, look_up};
use crate::token::TokenSource;
use crate::trace::journal::Journal;
use oomlet_core::node::event::Event;
use oomlet_core::object::{ObjectRef, Objects};
use oomlet_core::pod::env::EnvFacts;
use oomlet_core::pod::references::{Needed, references, shows_its_metadata};
use oomlet_core::pod::services::service_env;
use oomlet_core::pod::spec::is_static;
use oomlet_core::pod::{Pod, PodRef, PodUid};
use oomlet_core::reason::Reason;
use oomlet_core::token;
use oomlet_core::trace::record::{Kind, Record};
use oomlet_core::volume::Content;

/// How long files that were replaced stay for whoever is on the way to one: far longer than a path's walk takes, also on a
/// throttled CPU.
const SWEEP_AFTER: Duration = Duration::from_secs(1);
/// A token's time is of the wall clock, which may be set: it is looked at anew at least this often.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The Services of the cluster; `None`: not known yet.
pub type Services = watch::Receiver<Option<Arc<Vec<Service>>>>;

#[derive(Debug)]
pub struct Contents {
    pub objects: Arc<dyn ObjectSource>,
    tokens: Arc<dyn TokenSource>,
    services: Services,
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
    token_due: Mutex<Option<Instant>>,
    /// What was last told, so that it is told once.
    told: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Contents {
    #[must_use]
    pub fn new(
        objects: Arc<dyn ObjectSource>,
        tokens: Arc<dyn TokenSource>,
        services: Services,
        volumes: Arc<VolumeManager>,
        journal: Arc<Journal>,
        node: EnvFacts,
    ) -> Contents {
        Contents {
            objects,
            tokens,
            services,
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
    pub fn follow(&self, pod: &Pod, runs: bool) {
        let uid = PodRef::of(pod).uid;
        let known = lock(&self.followed).get(&uid).cloned();
        if let Some(known) = known {
            let mut kept = lock(&known.pod);
            let (old, new) = (&kept.metadata, &pod.metadata);
            let differs = old.labels != new.labels || old.annotations != new.annotations;
            if **kept != *pod {
                *kept = Arc::new(pod.clone());
            }
            drop(kept);
            if differs && shows_its_metadata(pod) && known.set_up.load(Ordering::SeqCst) {
                self.want(&uid);
            }
            return;
        }
        let followed = Followed {
            pod: Mutex::new(Arc::new(pod.clone())),
            needs: references(pod),
            writing: Arc::default(),
            set_up: AtomicBool::new(runs),
            queued: AtomicBool::new(false),
            token_due: Mutex::default(),
            told: Mutex::default(),
        };
        let shows = followed.shows_anything();
        lock(&self.followed).insert(uid.clone(), Arc::new(followed));
        self.objects.register_pod(pod);
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
        self.objects.unregister_pod(uid);
        self.tokens.forget_pod(uid);
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
        look_up(&*self.objects, references(pod).into_keys()).await
    }

    /// # Errors
    /// The Services are not known yet, in kubelet's words. A static pod goes without: it may be the API server.
    pub fn service_env(&self, pod: &Pod) -> Result<BTreeMap<String, String>, &'static str> {
        match self.services.borrow().as_ref() {
            Some(services) => Ok(service_env(services, pod)),
            None if is_static(pod) => Ok(BTreeMap::new()),
            None => Err("services have not yet been read at least once, cannot construct envvars"),
        }
    }

    /// All that the pod's volumes are made from.
    pub async fn content(&self, pod: &Pod) -> Content {
        let mounted = references(pod).into_iter().filter(|(_, needed)| needed.mounted);
        let objects = look_up(&*self.objects, mounted.map(|(object, _)| object)).await;
        let (mut tokens, mut due) = (Vec::new(), None);
        for key in token::keys(pod) {
            let answer = self.tokens.token(&key).await;
            if let Some(at) = Instant::now().checked_add(answer.again_in) {
                due = Some(due.map_or(at, |other: Instant| other.min(at)));
            }
            tokens.push((key, answer.token));
        }
        if let Some(known) = lock(&self.followed).get(&PodRef::of(pod).uid) {
            *lock(&known.token_due) = due;
        }
        Content { node: self.node.clone(), objects, tokens: tokens.into_iter().collect() }
    }

    /// The task. Ends when `cancel` is cancelled. A change after this call is seen, whenever the task begins.
    pub fn run(
        self: Arc<Self>,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) -> impl Future<Output = ()> + Send {
        let changes = self.objects.changes();
        self.follow_changes(changes, events, cancel)
    }

    async fn follow_changes(
        self: Arc<Self>,
        mut changes: broadcast::Receiver<ObjectRef>,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) {
        loop {
            let mut changed = BTreeSet::new();
            let mut all = false;
            // Cancel-safe: `recv` takes nothing when it loses, `notified` keeps its permit, time is looked at anew.
            tokio::select! {
                () = cancel.cancelled() => return,
                change = changes.recv() => match change {
                    Ok(object) => _ = changed.insert(object),
                    Err(broadcast::error::RecvError::Lagged(_)) => all = true,
                    // The source has gone: so will this.
                    Err(broadcast::error::RecvError::Closed) => return cancel.cancelled().await,
                },
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(self.next_due()) => {}
            }
            // What came with it.
            while let Ok(object) = changes.try_recv() {
                changed.insert(object);
            }
            if all || !changed.is_empty() {
                let named = self.changed(&changed, all);
                if !named.is_empty() && events.send(Event::ObjectsChanged(named)).await.is_err() {
                    return;
                }
            }
            self.start_rewrites();
        }
    }

    /// Wants the pods that show one of them, and returns those that name one.
    fn changed(&self, objects: &BTreeSet<ObjectRef>, all: bool) -> Vec<PodUid> {
        let followed = lock(&self.followed).clone();
        let mut named = Vec::new();
        for (uid, pod) in followed {
            let mut needs = pod.needs.iter().filter(|(object, _)| all || objects.contains(object)).peekable();
            if needs.peek().is_none() {
                continue;
            }
            if needs.any(|(_, needed)| needed.mounted) && pod.set_up.load(Ordering::SeqCst) {
                lock(&self.wanted).insert(uid.clone());
            }
            named.push(uid);
        }
        named
    }

    fn want(&self, uid: &PodUid) {
        lock(&self.wanted).insert(uid.clone());
        self.wake.notify_one();
    }

    /// When the next token is due.
    fn next_due(&self) -> Instant {
        let followed = lock(&self.followed);
        let due = followed
            .values()
            .filter(|p| p.set_up.load(Ordering::SeqCst))
            .filter_map(|p| *lock(&p.token_due))
            .min();
        let latest = Instant::now() + LONGEST_WAIT;
        due.map_or_else(|| Instant::now() + Duration::from_secs(86_400), |at| at.min(latest))
    }

    fn start_rewrites(self: &Arc<Self>) {
        let mut wanted = std::mem::take(&mut *lock(&self.wanted));
        let followed = lock(&self.followed).clone();
        let now = Instant::now();
        for (uid, pod) in followed.iter().filter(|(_, p)| p.set_up.load(Ordering::SeqCst)) {
            let mut due = lock(&pod.token_due);
            if due.is_some_and(|at| at <= now) {
                // Set again when it has been asked for.
                *due = None;
                wanted.insert(uid.clone());
            }
        }
        for pod in wanted.iter().filter_map(|uid| followed.get(uid)) {
            // One that has not begun will see this change too.
            if !pod.queued.swap(true, Ordering::SeqCst) {
                tokio::spawn(Arc::clone(self).rewrite(Arc::clone(pod)));
            }
        }
    }

    /// Each pod by itself: a token that is long in coming keeps no other pod's content.
    async fn rewrite(self: Arc<Self>, known: Arc<Followed>) {
        let writing = Arc::clone(&known.writing).lock_owned().await;
        known.queued.store(false, Ordering::SeqCst);
        let pod = Arc::clone(&*lock(&known.pod));
        if !self.still_follows(&pod, &known) {
            return;
        }
        let content = self.content(&pod).await;
        // The time of its tokens has changed.
        self.wake.notify_one();
        let (volumes, its_pod) = (Arc::clone(&self.volumes), Arc::clone(&pod));
        let done = tokio::task::spawn_blocking(move || {
            let _writing = writing;
            volumes.refresh(&its_pod, &content)
        });
        let Ok((leftovers, errors)) = done.await else {
            tracing::error!(pod = %PodRef::of(&pod), "bringing its volumes up to date panicked: report this with the log");
            return;
        };
        let error = errors.first().map(ToString::to_string);
        let news = error.clone().filter(|error| lock(&known.told).as_ref() != Some(error));
        *lock(&known.told) = error;
        if let Some(message) = news {
            tracing::warn!(pod = %PodRef::of(&pod), error = message, "a volume keeps what it shows");
            let record = Record::new(clock::now(), Kind::Warning, Reason::FailedMount, message);
            self.journal.publish(record.pod(&PodRef::of(&pod)));
        }
        if leftovers {
            self.sweep(known).await;
        }
    }

    /// Deletes what was replaced, a moment later.
    async fn sweep(self: Arc<Self>, known: Arc<Followed>) {
        tokio::time::sleep(SWEEP_AFTER).await;
        let writing = Arc::clone(&known.writing).lock_owned().await;
        let pod = Arc::clone(&*lock(&known.pod));
        if !self.still_follows(&pod, &known) {
            return;
        }
        let (volumes, its_pod) = (Arc::clone(&self.volumes), Arc::clone(&pod));
        let swept = tokio::task::spawn_blocking(move || {
            let _writing = writing;
            volumes.sweep(&its_pod)
        });
        if let Ok(Err(error)) = swept.await {
            tracing::warn!(pod = %PodRef::of(&pod), %error, "files that were replaced are left in a volume");
        }
    }

    fn still_follows(&self, pod: &Pod, known: &Arc<Followed>) -> bool {
        lock(&self.followed).get(&PodRef::of(pod).uid).is_some_and(|now| Arc::ptr_eq(now, known))
    }
}

impl Followed {
    /// Volumes of it show something that may have become another.
    fn shows_anything(&self) -> bool {
        let pod = lock(&self.pod);
        self.needs.values().any(|n| n.mounted)
            || shows_its_metadata(&pod)
            || token::keys(&pod).next().is_some()
    }
}

#[cfg(test)]
mod tests;
