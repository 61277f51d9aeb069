//! Certificates by PodCertificateRequest (pkg/kubelet/podcertificate): one task for each that a pod shows asks for it, waits
//! for its signer, and asks for the next when that is due. What was issued holds until then, also over a restart of the
//! agent. One that is denied, or that its signer could not sign, is not asked for again.

mod kept;
mod late;
mod requests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1beta1::{PodCertificateRequestSpec, PodCertificateRequestStatus};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::PostParams;
use kube::core::discovery::ApiResource;
use kube::core::{Object, TypeMeta};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{CertificateSource, key};
use crate::apiserver::{Clients, REQUEST_TIMEOUT, current};
use crate::clock;
use crate::content_store::ContentStore;
use crate::object::BoxFuture;
use crate::object::api::{plain, random, with_jitter};
use crate::trace::journal::Journal;
use late::Late;
use oomlet_core::pod::backoff::Exponential;
use oomlet_core::pod::{Pod, PodRef, PodUid};
use oomlet_core::pod_certificate::{
    ASSUME_DELETED, CertificateKey, Credential, MAX_JITTER, NOT_ISSUED, Outcome, keys,
};
use requests::resource;

const CHANGES: usize = 256;
/// How long who asks waits for a first certificate, from when its pod came: a signer that is quick makes no Event.
const FIRST_ANSWER: Duration = Duration::from_secs(1);
const ASK_AGAIN: Exponential = Exponential::new(Duration::from_millis(500), Duration::from_secs(30));
/// Its time is of the wall clock, which may be set: it is looked at anew at least this often.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

const UNSERVED: &str = "the API server serves no PodCertificateRequests (certificates.k8s.io/v1); switch them on there (feature \
                        gate PodCertificateRequest), or take `podCertificate` out of the volume";

type Request = Object<PodCertificateRequestSpec, PodCertificateRequestStatus>;
/// Namespace and name.
type RequestName = (String, String);
/// This node's requests. `None`: it was deleted before it was decided; that is forgotten with the next list.
type Requests = BTreeMap<RequestName, Option<Outcome>>;

#[derive(Debug)]
pub struct ApiCertificates {
    shared: Arc<Shared>,
    tracker: TaskTracker,
    cancel: CancellationToken,
    /// What ends the tasks of a pod.
    pods: Mutex<HashMap<PodUid, DropGuard>>,
    /// What ends the watch of requests, while there are pods.
    watch: Mutex<Option<DropGuard>>,
}

struct Shared {
    clients: Clients,
    node_name: String,
    store: ContentStore,
    journal: Arc<Journal>,
    jitter: Duration,
    changes: broadcast::Sender<PodUid>,
    standings: watch::Sender<BTreeMap<CertificateKey, Standing>>,
    requests: watch::Sender<Requests>,
}

/// A client has no `Debug` form.
impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("standings", &self.standings).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct Standing {
    found: Result<Credential, String>,
    /// Until when who asks waits for a first one.
    patience: Instant,
}

enum Problem {
    /// For good.
    Refused(String),
    Failed(String),
}

impl ApiCertificates {
    /// `clients`: the one to use from now on. `store`: for the next start, and from the last. `journal`: what is not renewed in
    /// time. Its tasks run on `tracker` until
    /// `cancel`.
    #[must_use]
    pub fn new(
        clients: Clients,
        node_name: String,
        (store, journal): (ContentStore, Arc<Journal>),
        (tracker, cancel): (TaskTracker, CancellationToken),
    ) -> Arc<ApiCertificates> {
        let shared = Shared {
            clients,
            node_name,
            store,
            journal,
            jitter: MAX_JITTER,
            changes: broadcast::Sender::new(CHANGES),
            standings: watch::Sender::new(BTreeMap::new()),
            requests: watch::Sender::new(BTreeMap::new()),
        };
        let (pods, watch) = (Mutex::default(), Mutex::default());
        Arc::new(ApiCertificates { shared: Arc::new(shared), tracker, cancel, pods, watch })
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<PodUid, DropGuard>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests are watched exactly while there are pods.
    fn watch_while(&self, needed: bool) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if needed == watch.is_some() {
            return;
        }
        *watch = needed.then(|| {
            let cancel = self.cancel.child_token();
            self.spawn(&cancel, Arc::clone(&self.shared).watch_requests());
            cancel.drop_guard()
        });
    }

    fn spawn(&self, cancel: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        let cancelled = cancel.clone();
        self.tracker.spawn(async move {
            // Cancel-safe: what was not issued by then, nobody needs any more.
            tokio::select! {
                () = cancelled.cancelled() => {}
                () = task => {}
            }
        });
    }
}

impl CertificateSource for ApiCertificates {
    fn register_pod(&self, pod: &Pod) {
        let (uid, keys) = (PodRef::of(pod).uid, keys(pod));
        let mut pods = self.pods();
        if keys.is_empty() || pods.contains_key(&uid) {
            return;
        }
        self.watch_while(true);
        let cancel = self.cancel.child_token();
        for key in keys {
            let current = self.shared.stored(&key);
            let found = current.clone().ok_or_else(|| NOT_ISSUED.to_owned());
            let standing = Standing { found, patience: Instant::now() + FIRST_ANSWER };
            self.shared.standings.send_modify(|all| _ = all.insert(key.clone(), standing));
            self.spawn(&cancel, Arc::clone(&self.shared).keep(key, current));
        }
        pods.insert(uid, cancel.drop_guard());
    }

    fn unregister_pod(&self, uid: &PodUid) {
        let mut pods = self.pods();
        if pods.remove(uid).is_some() {
            self.shared.standings.send_modify(|all| all.retain(|key, _| key.pod_uid != *uid));
            self.watch_while(!pods.is_empty());
        }
    }

    fn get<'a>(&'a self, key: &'a CertificateKey) -> BoxFuture<'a, Result<Credential, String>> {
        Box::pin(async move {
            let mut standings = self.shared.standings.subscribe();
            let patience = standings.borrow().get(key).map(|standing| standing.patience);
            let is_there = |all: &BTreeMap<_, Standing>| all.get(key).is_some_and(|s| s.found.is_ok());
            // In time or not: what is known then counts.
            let patience = patience.unwrap_or_else(|| Instant::now() + FIRST_ANSWER);
            let _ = timeout_at(patience, standings.wait_for(is_there)).await;
            let now = standings.borrow();
            now.get(key).map_or_else(|| Err(NOT_ISSUED.to_owned()), |standing| standing.found.clone())
        })
    }

    fn changes(&self) -> broadcast::Receiver<PodUid> {
        self.shared.changes.subscribe()
    }
}

impl Shared {
    /// Where its pod is still there.
    fn stands(&self, key: &CertificateKey, found: Result<Credential, String>) {
        let mut changed = false;
        self.standings.send_modify(|all| {
            if let Some(known) = all.get_mut(key) {
                changed = known.found != found;
                known.found = found;
            }
        });
        if changed {
            // Nobody listens before the first pod.
            let _ = self.changes.send(key.pod_uid.clone());
        }
    }

    /// The task of one certificate. Ends with a refusal.
    async fn keep(self: Arc<Self>, key: CertificateKey, mut current: Option<Credential>) {
        let (mut back_off, mut late) = (ASK_AGAIN, Late::of(&self.journal, &key));
        loop {
            let issued = match &current {
                None => self.issue(&key).await,
                Some(credential) => {
                    let jitter = self.jitter.mul_f64(random());
                    let renewed = async {
                        until(credential.begin_refresh_unix_s, jitter).await;
                        self.issue(&key).await
                    };
                    // The one that is dropped only waits for a time.
                    tokio::select! {
                        issued = renewed => issued,
                        never = late.tell(credential, jitter) => match never {},
                    }
                }
            };
            match issued {
                Ok(credential) => {
                    back_off.succeeded();
                    late.renewed();
                    self.store(&key, &credential);
                    self.stands(&key, Ok(credential.clone()));
                    current = Some(credential);
                    // One of a signer whose clock is behind is due as it comes: a minute passes before the next.
                    sleep(self.jitter / 5).await;
                }
                Err(Problem::Refused(why)) => {
                    tracing::warn!(
                        pod = key.pod_name,
                        namespace = key.namespace,
                        volume = key.volume,
                        why,
                        "a pod gets no certificate"
                    );
                    return self.stands(&key, Err(why));
                }
                Err(Problem::Failed(why)) => {
                    tracing::debug!(pod = key.pod_name, volume = key.volume, why, "no certificate yet");
                    if current.is_none() {
                        self.stands(&key, Err(why));
                    }
                    sleep(with_jitter(back_off.failed(clock::now()))).await;
                }
            }
        }
    }

    async fn issue(&self, key: &CertificateKey) -> Result<Credential, Problem> {
        let asked = timeout(REQUEST_TIMEOUT, self.ask(key)).await;
        let (private_key, name, created) = match asked {
            Ok(asked) => asked?,
            Err(_) => return Err(Problem::Failed(format!("no answer within {REQUEST_TIMEOUT:?}"))),
        };
        match self.decision(&name, created + ASSUME_DELETED + MAX_JITTER.mul_f64(random())).await {
            Some(Outcome::Issued { chain, begin_refresh_unix_s, expires_unix_s }) => {
                Ok(Credential { key: private_key, chain, begin_refresh_unix_s, expires_unix_s })
            }
            Some(Outcome::Refused(why)) => Err(Problem::Refused(why)),
            Some(Outcome::Pending) | None => Err(Problem::Failed(format!(
                "PodCertificateRequest {:?} appears to have been deleted",
                format!("{}/{}", name.0, name.1)
            ))),
        }
    }

    /// The private key, and the request for a certificate of it.
    async fn ask(&self, key: &CertificateKey) -> Result<(String, RequestName, Instant), Problem> {
        let failed = |what: &'static str| {
            move |error: kube::Error| Problem::Failed(format!("while {what}: {}", plain(&error)))
        };
        let client = current(&self.clients).await;
        let resource = resource(&client).await.map_err(failed("asking what the API server serves"))?;
        let resource = resource.ok_or_else(|| Problem::Failed(UNSERVED.to_owned()))?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &key.namespace);
        let account =
            accounts.get_metadata(&key.service_account).await.map_err(failed("fetching service account"))?;
        let nodes: Api<Node> = Api::all(client.clone());
        let node = nodes.get_metadata(&self.node_name).await.map_err(failed("getting node object"))?;
        let key_type = key.key_type.clone();
        let made = tokio::task::spawn_blocking(move || key::generate(&key_type)).await;
        let made = made.map_err(|e| Problem::Failed(e.to_string()))?;
        let made = made.map_err(|e| Problem::Refused(format!("while generating keypair: {e}")))?;
        let uids = (account.metadata.uid.unwrap_or_default(), node.metadata.uid.unwrap_or_default());
        let request = self.request(key, &resource, uids, made.request);
        let requests: Api<Request> = Api::namespaced_with(client, &key.namespace, &resource);
        let created = requests.create(&PostParams::default(), &request).await;
        let created = created.map_err(failed("creating PodCertificateRequest"))?;
        let name = created.metadata.name.unwrap_or_default();
        tracing::info!(
            pod = key.pod_name,
            namespace = key.namespace,
            request = name,
            signer = key.signer_name,
            "certificate requested"
        );
        Ok((made.key, (key.namespace.clone(), name), Instant::now()))
    }

    fn request(
        &self,
        key: &CertificateKey,
        resource: &ApiResource,
        (account_uid, node_uid): (String, String),
        stub: Vec<u8>,
    ) -> Request {
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: key.pod_name.clone(),
            uid: key.pod_uid.to_string(),
            ..OwnerReference::default()
        };
        Request {
            types: Some(TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() }),
            metadata: ObjectMeta {
                namespace: Some(key.namespace.clone()),
                generate_name: Some("req-".to_owned()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: PodCertificateRequestSpec {
                signer_name: key.signer_name.clone(),
                pod_name: key.pod_name.clone(),
                pod_uid: key.pod_uid.to_string(),
                service_account_name: key.service_account.clone(),
                service_account_uid: account_uid,
                node_name: self.node_name.clone(),
                node_uid,
                max_expiration_seconds: key.max_expiration_seconds,
                stub_pkc_s10_request: ByteString(stub),
                unverified_user_annotations: Some(key.user_annotations.clone()).filter(|all| !all.is_empty()),
                ..PodCertificateRequestSpec::default()
            },
            status: None,
        }
    }

    /// What has become of the request. `None`: it has been deleted, or cannot be seen by `abandon_at`.
    async fn decision(&self, name: &RequestName, abandon_at: Instant) -> Option<Outcome> {
        let mut requests = self.requests.subscribe();
        match timeout_at(abandon_at, requests.wait_for(|all| all.contains_key(name))).await {
            Ok(Ok(_)) => {}
            _ => return None,
        }
        // Or it is gone.
        let decided = requests.wait_for(|all| all.get(name) != Some(&Some(Outcome::Pending))).await;
        decided.ok().and_then(|all| all.get(name).cloned().flatten())
    }
}

/// Until then, and `later`, by the wall clock.
async fn until(unix_s: i64, later: Duration) {
    let at = Duration::from_secs(u64::try_from(unix_s).unwrap_or(0)) + later;
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match at.checked_sub(now) {
            Some(left) if !left.is_zero() => sleep(left.min(LONGEST_WAIT)).await,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests;
