//! ClusterTrustBundles of the API server, watched while a pod of this node shows some. Shell; which of them a volume shows
//! is [`oomlet_core::trust_bundle`]'s.
//!
//! What was seen last holds while the server is away, also what an earlier run of the agent has seen.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundleSpec;
use kube::core::discovery::ApiResource;
use kube::core::{NotUsed, Object};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::apiserver::certificates_group::served;
use crate::apiserver::{Clients, REQUEST_TIMEOUT, current};
use crate::clock;
use crate::content_store::ContentStore;
use crate::object::api::{WATCH_HELD, plain, reason, with_jitter};
use oomlet_core::pod::backoff::Exponential;
use oomlet_core::pod::{Pod, PodRef, PodUid};
use oomlet_core::trust_bundle::{TrustBundle, TrustBundles, shows_any};

/// How long who asks waits for the first list (`ensureManagerSet`'s ten seconds).
const FIRST_LIST: Duration = Duration::from_secs(10);
const WATCH_AGAIN: Exponential = Exponential::new(Duration::from_millis(100), Duration::from_secs(30));
/// A server that has none may be one that is being upgraded.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// In the store.
const KIND: &str = "trust-bundles";

const UNSERVED: &str = "the API server serves no ClusterTrustBundles (certificates.k8s.io); switch them on there (feature gate \
                        ClusterTrustBundle and, before v1.37, `--runtime-config`), or take `clusterTrustBundle` out of the volume";
const STANDALONE: &str = "a ClusterTrustBundle needs an API server, and this node is in standalone mode; remove the \
                          `clusterTrustBundle` from the volume";

type Bundle = Object<ClusterTrustBundleSpec, NotUsed>;

/// What is known of them.
#[derive(Clone, Debug, Default)]
pub struct Known {
    bundles: Option<TrustBundles>,
    /// The API server has answered, or has not within one attempt.
    asked: bool,
}

/// Who shows them.
#[derive(Clone, Debug)]
pub struct TrustBundleHandle {
    shown_by: Arc<watch::Sender<BTreeSet<PodUid>>>,
    known: watch::Receiver<Known>,
}

/// The task that watches.
pub struct TrustBundleTask {
    clients: Clients,
    store: ContentStore,
    shown_by: watch::Receiver<BTreeSet<PodUid>>,
    known: watch::Sender<Known>,
}

/// A client has no `Debug` form.
impl std::fmt::Debug for TrustBundleTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustBundleTask").field("shown_by", &self.shown_by).finish_non_exhaustive()
    }
}

/// A bundle as it stands in the store.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    labels: BTreeMap<String, String>,
    signer_name: Option<String>,
    trust_bundle: String,
}

impl TrustBundleHandle {
    /// `clients`: the one to use from now on. `store`: for the next start, and from the last.
    #[must_use]
    pub fn new(clients: Clients, store: ContentStore) -> (TrustBundleHandle, TrustBundleTask) {
        let (shown_by, shown_by_now) = watch::channel(BTreeSet::new());
        let (known, known_now) = watch::channel(Known::default());
        let handle = TrustBundleHandle { shown_by: Arc::new(shown_by), known: known_now };
        (handle, TrustBundleTask { clients, store, shown_by: shown_by_now, known })
    }

    /// There are none, and nobody to ask.
    #[must_use]
    pub fn standalone() -> TrustBundleHandle {
        let known = Known { bundles: Some(Err(STANDALONE.to_owned())), asked: true };
        TrustBundleHandle {
            shown_by: Arc::new(watch::Sender::new(BTreeSet::new())),
            known: watch::channel(known).1,
        }
    }

    pub fn register_pod(&self, pod: &Pod) {
        if shows_any(pod) {
            self.shown_by.send_if_modified(|pods| pods.insert(PodRef::of(pod).uid));
        }
    }

    pub fn unregister_pod(&self, uid: &PodUid) {
        self.shown_by.send_if_modified(|pods| pods.remove(uid));
    }

    /// As they are known now, or as soon as they are.
    pub async fn get(&self) -> TrustBundles {
        let mut known = self.known.clone();
        // In time or not: what is known then counts.
        let _ = timeout(FIRST_LIST, known.wait_for(|known| known.asked)).await;
        let known = known.borrow();
        known
            .bundles
            .clone()
            .unwrap_or_else(|| Err("ClusterTrustBundle informer has not yet synced".to_owned()))
    }

    /// Tells of each change of what is known.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Known> {
        self.known.clone()
    }
}

#[cfg(test)]
impl Known {
    pub fn of_test(bundles: Result<Vec<TrustBundle>, String>) -> Known {
        Known { bundles: Some(bundles.map(Arc::new)), asked: true }
    }
}

#[cfg(test)]
impl TrustBundleHandle {
    /// With what the test says.
    pub fn of_test() -> (watch::Sender<Known>, TrustBundleHandle) {
        let (known, known_now) = watch::channel(Known::default());
        (known, TrustBundleHandle { known: known_now, ..TrustBundleHandle::standalone() })
    }
}

impl TrustBundleTask {
    /// Ends when `cancel` is cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        // Cancel-safe: what is lost is only known for an agent that ends.
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.while_shown() => {}
        }
    }

    async fn while_shown(mut self) {
        loop {
            // An error: nobody holds the handle any more.
            if self.shown_by.wait_for(|pods| !pods.is_empty()).await.is_err() {
                return;
            }
            let mut shown_by = self.shown_by.clone();
            // Cancel-safe: a watch that nobody needs any more is dropped.
            tokio::select! {
                _ = shown_by.wait_for(BTreeSet::is_empty) => {}
                () = self.watch() => {}
            }
            self.known.send_replace(Known::default());
            self.store.keep_shared::<Vec<Stored>>(KIND, None);
        }
    }

    async fn watch(&self) {
        if let Some(stored) = self.store.shared::<Vec<Stored>>(KIND) {
            let bundles = stored.into_iter().map(Stored::into_bundle).collect();
            self.known.send_modify(|known| known.bundles = Some(Ok(Arc::new(bundles))));
        }
        let mut back_off = WATCH_AGAIN;
        loop {
            // Anew each time: a client whose certificate has run out is replaced.
            let client = current(&self.clients).await;
            let versions = ["v1", "v1beta1", "v1alpha1"];
            let asked = served(&client, "ClusterTrustBundle", "clustertrustbundles", &versions);
            match timeout(REQUEST_TIMEOUT, asked).await {
                Ok(Ok(Some(resource))) => {
                    let began = Instant::now();
                    self.follow(client, &resource).await;
                    if began.elapsed() >= WATCH_HELD {
                        back_off.succeeded();
                    }
                }
                Ok(Ok(None)) => {
                    self.known.send_replace(Known { bundles: Some(Err(UNSERVED.to_owned())), asked: true });
                    sleep(LOOK_AGAIN).await;
                    continue;
                }
                Ok(Err(error)) => self.failed(plain(&error)),
                Err(_) => self.failed(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
            }
            sleep(with_jitter(back_off.failed(clock::now()))).await;
        }
    }

    /// Ends with the watch's first error.
    async fn follow(&self, client: Client, resource: &ApiResource) {
        let api: Api<Bundle> = Api::all_with(client, resource);
        let mut stream = pin!(watcher(api, watcher::Config::default()));
        let mut bundles: BTreeMap<String, TrustBundle> = BTreeMap::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => {
                    bundles.clear();
                    continue;
                }
                Ok(Event::InitApply(bundle)) => {
                    let bundle = of_api(bundle);
                    bundles.insert(bundle.name.clone(), bundle);
                    continue;
                }
                Ok(Event::InitDone) => {}
                Ok(Event::Apply(bundle)) => {
                    let bundle = of_api(bundle);
                    bundles.insert(bundle.name.clone(), bundle);
                }
                Ok(Event::Delete(bundle)) => _ = bundles.remove(&of_api(bundle).name),
                Err(error) => return self.failed(reason(&error)),
            }
            let now: Vec<TrustBundle> = bundles.values().cloned().collect();
            self.store.keep_shared(KIND, Some(&now.iter().map(Stored::of).collect::<Vec<_>>()));
            self.known.send_replace(Known { bundles: Some(Ok(Arc::new(now))), asked: true });
        }
    }

    /// What was seen last holds.
    fn failed(&self, why: String) {
        tracing::debug!(why, "ClusterTrustBundles are not watched for a moment");
        self.known.send_modify(|known| {
            known.asked = true;
            if !matches!(known.bundles, Some(Ok(_))) {
                known.bundles = Some(Err(format!("failed to read ClusterTrustBundles: {why}")));
            }
        });
    }
}

fn of_api(bundle: Bundle) -> TrustBundle {
    TrustBundle {
        name: bundle.metadata.name.unwrap_or_default(),
        labels: bundle.metadata.labels.unwrap_or_default(),
        signer_name: bundle.spec.signer_name.filter(|name| !name.is_empty()),
        trust_bundle: bundle.spec.trust_bundle,
    }
}

impl Stored {
    fn of(bundle: &TrustBundle) -> Stored {
        let TrustBundle { name, labels, signer_name, trust_bundle } = bundle.clone();
        Stored { name, labels, signer_name, trust_bundle }
    }

    fn into_bundle(self) -> TrustBundle {
        let Stored { name, labels, signer_name, trust_bundle } = self;
        TrustBundle { name, labels, signer_name, trust_bundle }
    }
}
