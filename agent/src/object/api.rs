//! ConfigMaps and Secrets of the API server: each is watched by its name, which is what Node authorization lets a node do,
//! and only while a pod of this node names it. What was seen last holds while the server is away, also what an earlier run
//! of the agent has seen.
//!
//! An immutable one is read once and then no longer watched; it is read anew for a new pod, for it may have been deleted
//! and made again since.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher::watch_object;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{BoxFuture, CHANGES, ObjectSource};
use crate::apiserver::{Clients, chain, current};
use crate::clock;
use crate::content_store::ContentStore;
use oomlet_core::object::{Object, ObjectError, ObjectKind, ObjectRef};
use oomlet_core::pod::backoff::Exponential;
use oomlet_core::pod::references::references;
use oomlet_core::pod::{Pod, PodRef, PodUid};

/// How long who asks waits for an object that has not been seen yet, from when it is watched
/// (`WaitForSync`'s second in watch_based_manager.go).
const FIRST_SIGHT: Duration = Duration::from_secs(1);
/// The same where an earlier run has seen it, unless the first attempt fails: what the server has now is better.
const FRESH_SIGHT: Duration = Duration::from_secs(10);
/// client-go's reflector waits 800 ms at first. A refusal right after a pod was bound passes within milliseconds: the server's
/// authorizer is just behind.
const WATCH_AGAIN: Exponential = Exponential::new(Duration::from_millis(100), Duration::from_secs(30));
/// One that ends sooner is refused: that its list is answered is no success.
pub(crate) const WATCH_HELD: Duration = Duration::from_secs(5);

pub struct ApiObjects {
    clients: Clients,
    store: ContentStore,
    changes: broadcast::Sender<ObjectRef>,
    tracker: TaskTracker,
    cancel: CancellationToken,
    needed: Mutex<Needed>,
}

/// A client has no `Debug` form.
impl std::fmt::Debug for ApiObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiObjects").field("needed", &self.needed).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Needed {
    by_pod: HashMap<PodUid, BTreeSet<ObjectRef>>,
    watched: HashMap<ObjectRef, Watched>,
}

#[derive(Debug)]
struct Watched {
    pods: BTreeSet<PodUid>,
    seen: Arc<Seen>,
    /// Ends the watch when it is dropped.
    _watch: DropGuard,
}

/// What is known of one object.
#[derive(Debug)]
struct Seen {
    sight: watch::Sender<Sight>,
    /// Somebody asked before there was an answer, and is to hear of it.
    missed: AtomicBool,
    /// Until when who asks waits.
    patience: Instant,
    /// An earlier run of the agent has seen it.
    from_store: bool,
}

#[derive(Clone, Debug, Default)]
struct Sight {
    /// `Some(None)`: it is not there.
    content: Option<Option<Arc<Object>>>,
    /// The content has been read by the present watch.
    current: bool,
    /// Why it has not.
    why: Option<String>,
    /// It is not watched any more: it never changes.
    immutable: bool,
}

impl ApiObjects {
    /// `clients`: the one to use from now on, which may become another when the node's certificate does. `store`: for the
    /// next start, and from the last. Its tasks run on `tracker` until `cancel`.
    #[must_use]
    pub fn new(
        clients: Clients,
        store: ContentStore,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) -> Arc<ApiObjects> {
        let changes = broadcast::Sender::new(CHANGES);
        Arc::new(ApiObjects { clients, store, changes, tracker, cancel, needed: Mutex::default() })
    }

    fn needed(&self) -> MutexGuard<'_, Needed> {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Objects that are watched now.
    #[must_use]
    pub fn watched(&self) -> Vec<ObjectRef> {
        self.needed().watched.keys().cloned().collect()
    }

    fn watch(&self, object: &ObjectRef, known: Option<Option<Arc<Object>>>) -> (Arc<Seen>, DropGuard) {
        let stored = if known.is_none() { self.store.object(object) } else { None };
        let from_store = stored.is_some();
        let known = known.or_else(|| stored.map(|content| content.map(Arc::new)));
        let sight = watch::Sender::new(Sight { content: known, ..Sight::default() });
        let patience = Instant::now() + if from_store { FRESH_SIGHT } else { FIRST_SIGHT };
        let seen = Arc::new(Seen { sight, missed: AtomicBool::new(false), patience, from_store });
        let cancel = self.cancel.child_token();
        let watch = Watch {
            object: object.clone(),
            clients: self.clients.clone(),
            seen: Arc::clone(&seen),
            changes: self.changes.clone(),
            store: self.store.clone(),
        };
        let (ended, kind) = (cancel.clone(), object.kind);
        self.tracker.spawn(async move {
            // Cancel-safe: what a lost watch has not told, nobody needs any more.
            tokio::select! {
                () = ended.cancelled() => {}
                () = watch.run(kind) => {}
            }
        });
        (seen, cancel.drop_guard())
    }
}

impl ObjectSource for ApiObjects {
    fn register_pod(&self, pod: &Pod) {
        let uid = PodRef::of(pod).uid;
        let objects: BTreeSet<ObjectRef> = references(pod).into_keys().collect();
        let mut needed = self.needed();
        if needed.by_pod.contains_key(&uid) {
            return;
        }
        self.store.hold(&uid, &objects);
        for object in &objects {
            let known = needed.watched.remove(object);
            let mut watched = match known {
                Some(known) if !known.seen.sight.borrow().immutable => known,
                Some(known) => {
                    let content = known.seen.sight.borrow().content.clone();
                    let (seen, watch) = self.watch(object, content);
                    Watched { pods: known.pods, seen, _watch: watch }
                }
                None => {
                    let (seen, watch) = self.watch(object, None);
                    Watched { pods: BTreeSet::new(), seen, _watch: watch }
                }
            };
            watched.pods.insert(uid.clone());
            needed.watched.insert(object.clone(), watched);
        }
        needed.by_pod.insert(uid, objects);
    }

    fn unregister_pod(&self, uid: &PodUid) {
        let mut needed = self.needed();
        for object in needed.by_pod.remove(uid).into_iter().flatten() {
            if let Some(watched) = needed.watched.get_mut(&object) {
                watched.pods.remove(uid);
                if watched.pods.is_empty() {
                    needed.watched.remove(&object);
                }
            }
        }
    }

    fn get<'a>(&'a self, object: &'a ObjectRef) -> BoxFuture<'a, Result<Arc<Object>, ObjectError>> {
        let seen = self.needed().watched.get(object).map(|w| Arc::clone(&w.seen));
        Box::pin(async move {
            let unavailable =
                |why: &str| ObjectError::Unavailable { object: object.clone(), why: why.to_owned() };
            // kubelet's words.
            let Some(seen) = seen else {
                let name = format!("object {:?}/{:?} not registered", object.namespace, object.name);
                return Err(unavailable(&name));
            };
            let mut sight = seen.sight.subscribe();
            // In time or not: what is known then counts. Before, so that an answer in between is told.
            seen.missed.store(true, Ordering::SeqCst);
            let settled = |s: &Sight| s.current || seen.from_store && s.why.is_some();
            let in_time = match tokio::time::timeout_at(seen.patience, sight.wait_for(settled)).await {
                Ok(Ok(sight)) => sight.current,
                _ => false,
            };
            if in_time {
                seen.missed.store(false, Ordering::SeqCst);
            }
            let now = sight.borrow().clone();
            match now.content {
                Some(Some(content)) => Ok(content),
                Some(None) => Err(ObjectError::NotFound(object.clone())),
                None => Err(unavailable(now.why.as_deref().unwrap_or("timed out waiting for the condition"))),
            }
        })
    }

    fn changes(&self) -> broadcast::Receiver<ObjectRef> {
        self.changes.subscribe()
    }
}

/// The task that watches one object.
struct Watch {
    object: ObjectRef,
    clients: Clients,
    seen: Arc<Seen>,
    changes: broadcast::Sender<ObjectRef>,
    store: ContentStore,
}

impl Watch {
    async fn run(self, kind: ObjectKind) {
        match kind {
            ObjectKind::ConfigMap => self.watch::<ConfigMap>().await,
            ObjectKind::Secret => self.watch::<Secret>().await,
        }
    }

    /// Ends with an immutable object.
    async fn watch<K>(self)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Into<Object>,
        K: Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    {
        let mut back_off = WATCH_AGAIN;
        loop {
            // Anew each time: a client whose certificate has run out is replaced.
            let api: Api<K> = Api::namespaced(current(&self.clients).await, &self.object.namespace);
            let mut stream = pin!(watch_object(api, &self.object.name));
            let began = Instant::now();
            // Its errors are told and waited out here: one watch ends with its first.
            while let Some(found) = stream.next().await {
                match found {
                    Ok(found) => {
                        if self.sees(found.map(Into::into)) {
                            return;
                        }
                    }
                    Err(error) => {
                        self.failed(&error);
                        break;
                    }
                }
            }
            if began.elapsed() >= WATCH_HELD {
                back_off.succeeded();
            }
            tokio::time::sleep(with_jitter(back_off.failed(clock::now()))).await;
        }
    }

    /// Whether that was the last that there is to see.
    fn sees(&self, found: Option<Object>) -> bool {
        let immutable = found.as_ref().is_some_and(|object| object.immutable);
        let content = found.map(Arc::new);
        let mut changed = false;
        self.seen.sight.send_modify(|sight| {
            // The first sight of all is a change to nobody but who has asked in vain.
            changed = sight.content.as_ref().is_some_and(|known| *known != content);
            // Also for the next start of the agent.
            if sight.content.as_ref() != Some(&content) {
                self.store.keep_object(&self.object, content.as_deref());
            }
            *sight = Sight { content: Some(content), current: true, why: None, immutable };
        });
        if changed || self.seen.missed.swap(false, Ordering::SeqCst) {
            // Nobody listens before the first pod.
            let _ = self.changes.send(self.object.clone());
        }
        immutable
    }

    fn failed(&self, error: &kube::runtime::watcher::Error) {
        let why = reason(error);
        tracing::debug!(object = %self.object, namespace = self.object.namespace, why, "not watched for a moment");
        self.seen.sight.send_modify(|sight| {
            sight.current = false;
            sight.why = Some(why);
        });
    }
}

/// Without what an answer that cannot be read has in it.
#[must_use]
pub fn reason(error: &kube::runtime::watcher::Error) -> String {
    use kube::runtime::watcher::Error;
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
            plain(error)
        }
        Error::WatchError(status) => status.message.clone(),
        Error::NoResourceVersion => "the answer has no resourceVersion".to_owned(),
    }
}

/// What a request failed for, in one line and without what an answer has in it: that may be a Secret's.
#[must_use]
pub fn plain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
            "the API server's answer cannot be read".to_owned()
        }
        other => chain(other),
    }
}

/// Up to as much again, so that a node's watches do not come back all at once.
pub(crate) fn with_jitter(delay: Duration) -> Duration {
    delay + delay.mul_f64(random())
}

/// 0 to 1, for spreading alone.
pub(crate) fn random() -> f64 {
    // Each `RandomState` has keys of its own.
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
