//! As root, for a volume in memory is a mount.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::object::BoxFuture;
use crate::token::Answer;
use crate::trust_bundle::Known;
use crate::volume::mounts;
use oomlet_core::node::event::Event;
use oomlet_core::object::{Object, ObjectError, ObjectKind};
use oomlet_core::pod_certificate::{CertificateKey, Credential};
use oomlet_core::reason::Reason;
use oomlet_core::token::{Token, TokenKey};
use oomlet_core::trace::record::{Kind, Record};
use oomlet_core::trust_bundle::{TrustBundle, certificate_pem};

/// Objects and tokens as a test says.
#[derive(Debug)]
struct Fake {
    objects: Mutex<BTreeMap<ObjectRef, Arc<Object>>>,
    changes: broadcast::Sender<ObjectRef>,
    registered: Mutex<BTreeSet<PodUid>>,
    /// The next token, and when to ask again.
    token: Mutex<(Result<String, String>, Duration)>,
    certificate: Mutex<Result<Credential, String>>,
    certificates: broadcast::Sender<PodUid>,
}

impl Fake {
    fn set(&self, name: &str, value: &str) {
        let object = ObjectRef::new(ObjectKind::ConfigMap, "ns", name);
        let content = Object { data: BTreeMap::from([("k".to_owned(), value.into())]), ..Object::default() };
        lock(&self.objects).insert(object.clone(), Arc::new(content));
        let _ = self.changes.send(object);
    }

    fn issue(&self, found: Result<&str, &str>) {
        let credential = |text: &str| Credential {
            key: format!("key of {text}\n"),
            chain: format!("chain of {text}\n"),
            begin_refresh_unix_s: 0,
            expires_unix_s: 0,
        };
        *lock(&self.certificate) = found.map(credential).map_err(str::to_owned);
        let _ = self.certificates.send("u".into());
    }
}

/// What comes of registering is the objects' test.
impl CertificateSource for Fake {
    fn register_pod(&self, _: &Pod) {}

    fn unregister_pod(&self, _: &PodUid) {}

    fn get<'a>(&'a self, _: &'a CertificateKey) -> BoxFuture<'a, Result<Credential, String>> {
        let found = lock(&self.certificate).clone();
        Box::pin(async move { found })
    }

    fn changes(&self) -> broadcast::Receiver<PodUid> {
        self.certificates.subscribe()
    }
}

impl ObjectSource for Fake {
    fn register_pod(&self, pod: &Pod) {
        lock(&self.registered).insert(PodRef::of(pod).uid);
    }

    fn unregister_pod(&self, uid: &PodUid) {
        lock(&self.registered).remove(uid);
    }

    fn get<'a>(&'a self, object: &'a ObjectRef) -> BoxFuture<'a, Result<Arc<Object>, ObjectError>> {
        let found = lock(&self.objects).get(object).cloned();
        Box::pin(async move { found.ok_or_else(|| ObjectError::NotFound(object.clone())) })
    }

    fn changes(&self) -> broadcast::Receiver<ObjectRef> {
        self.changes.subscribe()
    }
}

impl TokenSource for Fake {
    fn token<'a>(&'a self, _: &'a TokenKey) -> BoxFuture<'a, Answer> {
        let (token, again_in) = lock(&self.token).clone();
        let token = token.map(|value| Token { value, expires_unix_s: i64::MAX, lifetime_s: 600 });
        Box::pin(async move { Answer { token, again_in } })
    }

    fn forget_pod(&self, _: &PodUid) {}
}

struct Rig {
    tmp: tempfile::TempDir,
    fake: Arc<Fake>,
    contents: Arc<Contents>,
    volumes: Arc<VolumeManager>,
    bundles: watch::Sender<Known>,
    journal: Arc<Journal>,
    events: mpsc::Receiver<Event>,
    _cancel: tokio_util::sync::DropGuard,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let here = std::fs::canonicalize(self.tmp.path()).unwrap();
        let unmounted = mounts::unmount_below(&here);
        if !std::thread::panicking() {
            unmounted.unwrap();
        }
    }
}

impl Rig {
    fn new() -> Rig {
        let tmp = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake {
            objects: Mutex::default(),
            changes: broadcast::Sender::new(16),
            registered: Mutex::default(),
            token: Mutex::new((Ok("first".into()), Duration::MAX)),
            certificate: Mutex::new(Err("credential bundle is not issued yet".into())),
            certificates: broadcast::Sender::new(16),
        });
        let volumes = Arc::new(VolumeManager::new(tmp.path()));
        let (_, services) = watch::channel(Some(Arc::default()));
        let (bundles_tx, bundles) = TrustBundleHandle::of_test();
        let sources = Sources {
            objects: Arc::clone(&fake) as Arc<dyn ObjectSource>,
            tokens: Arc::clone(&fake) as Arc<dyn TokenSource>,
            trust_bundles: bundles,
            certificates: Arc::clone(&fake) as Arc<dyn CertificateSource>,
            services,
            store: ContentStore::default(),
        };
        let (journal, _) = Journal::open(16, None).unwrap();
        let (its_volumes, its_journal) = (Arc::clone(&volumes), Arc::clone(&journal));
        let contents = Arc::new(Contents::new(sources, its_volumes, its_journal, EnvFacts::default()));
        let (tx, events) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        tokio::spawn(Arc::clone(&contents).run(tx, cancel.clone()));
        Rig {
            tmp,
            fake,
            contents,
            volumes,
            journal,
            bundles: bundles_tx,
            events,
            _cancel: cancel.drop_guard(),
        }
    }

    async fn first_record(&self) -> Arc<Record> {
        let (told, mut live) = self.journal.follow(0);
        match told.into_iter().next() {
            Some(record) => record,
            None => tokio::time::timeout(Duration::from_secs(10), live.recv()).await.unwrap().unwrap(),
        }
    }

    async fn set_up(&self, pod: &Pod) -> Result<(), String> {
        self.contents.follow(&Arc::new(pod.clone()), false);
        let uid = PodRef::of(pod).uid;
        let writing = self.contents.writing(&uid).await;
        let content = self.contents.content(pod).await;
        let leftovers = self.volumes.set_up(pod, &content).map_err(|e| e.to_string())?;
        drop(writing);
        self.contents.is_set_up(&uid, leftovers);
        Ok(())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.volumes.pod_dir(&"u".into()).join("volumes").join(path)
    }

    /// Waits until the file reads so, at most ten seconds.
    async fn until(&self, path: &str, want: &str) {
        let at = self.at(path);
        let waiting = async {
            while std::fs::read_to_string(&at).unwrap_or_default() != want {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        assert!(waited.is_ok(), "{path} is not {want:?} but {:?}", std::fs::read_to_string(&at));
    }

    async fn event(&mut self) -> Event {
        tokio::time::timeout(Duration::from_secs(10), self.events.recv()).await.unwrap().unwrap()
    }
}

fn pod(labels: &serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": labels},
        "spec": {"containers": [{"name": "c"}], "volumes": [
            {"name": "cfg", "configMap": {"name": "cm"}},
            {"name": "all", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            ]}},
        ]},
    }))
    .unwrap()
}

const MAP: &str = "kubernetes.io~configmap/cfg/k";
const TOKEN: &str = "kubernetes.io~projected/all/token";
const LABELS: &str = "kubernetes.io~projected/all/labels";

#[tokio::test]
async fn a_pod_that_waits_is_told_of() {
    let mut rig = Rig::new();
    let pod = pod(&json!({}));
    let error = rig.set_up(&pod).await.unwrap_err();
    assert_eq!(error, "MountVolume.SetUp failed for volume \"cfg\" : configmap \"cm\" not found");
    rig.fake.set("other", "x");
    rig.fake.set("cm", "one");
    let Event::ObjectsChanged(pods) = rig.event().await else { panic!() };
    assert_eq!(pods, ["u".into()]);
    rig.set_up(&pod).await.unwrap();
    rig.until(MAP, "one").await;
}

#[tokio::test]
async fn whatever_changes_is_written() {
    let rig = Rig::new();
    rig.fake.set("cm", "one");
    rig.set_up(&pod(&json!({"a": "1"}))).await.unwrap();
    assert_eq!(std::fs::read_to_string(rig.at(LABELS)).unwrap(), "a=\"1\"");
    rig.fake.set("cm", "two");
    rig.until(MAP, "two").await;
    rig.contents.follow(&Arc::new(pod(&json!({"a": "2"}))), true);
    rig.until(LABELS, "a=\"2\"").await;

    // A token is asked for when it is due, and one that cannot be had leaves the old one where it is.
    *lock(&rig.fake.token) = (Err("failed to fetch token: no".into()), Duration::from_millis(20));
    rig.fake.set("cm", "three");
    rig.until(MAP, "three").await;
    let record = rig.first_record().await;
    assert_eq!(record.message, "MountVolume.SetUp failed for volume \"all\" : failed to fetch token: no");
    assert_eq!((record.kind, record.reason), (Kind::Warning, Reason::FailedMount));
    assert_eq!(record.pod.as_ref().unwrap().uid, "u");
    assert_eq!(std::fs::read_to_string(rig.at(TOKEN)).unwrap(), "first");
    *lock(&rig.fake.token) = (Ok("second".into()), Duration::MAX);
    rig.until(TOKEN, "second").await;

    // What was replaced goes.
    let generations = || {
        let dir = std::fs::read_dir(rig.at("kubernetes.io~configmap/cfg")).unwrap();
        dir.filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().starts_with("..2")).count()
    };
    let waiting = async {
        while generations() != 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
}

#[test]
fn a_static_pod_waits_for_no_services() {
    let (tell, services) = watch::channel(None);
    let sources = Sources {
        objects: Arc::new(crate::object::NoObjects::default()),
        tokens: Arc::new(crate::token::NoTokens),
        trust_bundles: TrustBundleHandle::standalone(),
        certificates: Arc::new(crate::pod_certificate::NoCertificates::default()),
        services,
        store: ContentStore::default(),
    };
    let volumes = Arc::new(VolumeManager::new(std::path::Path::new("/nowhere")));
    let (journal, _) = Journal::open(1, None).unwrap();
    let contents = Contents::new(sources, volumes, journal, EnvFacts::default());
    let from = |source: &str| {
        let mut pod = pod(&json!({}));
        pod.metadata.annotations =
            Some(BTreeMap::from([("kubernetes.io/config.source".to_owned(), source.to_owned())]));
        pod
    };
    assert!(contents.service_env(&pod(&json!({}))).is_err() && contents.service_env(&from("api")).is_err());
    for source in ["file", "http"] {
        assert_eq!(contents.service_env(&from(source)), Ok(BTreeMap::new()), "{source}");
    }
    tell.send(Some(Arc::default())).unwrap();
    assert!(contents.service_env(&pod(&json!({}))).is_ok());
}

#[tokio::test]
async fn a_pod_that_is_forgotten_is_written_no_more() {
    let rig = Rig::new();
    rig.fake.set("cm", "one");
    rig.set_up(&pod(&json!({}))).await.unwrap();
    assert_eq!(lock(&rig.fake.registered).len(), 1);
    let guard = rig.contents.forget(&"u".into()).await;
    assert!(guard.is_some() && lock(&rig.fake.registered).is_empty());
    rig.volumes.tear_down(&"u".into()).unwrap();
    drop(guard);
    rig.fake.set("cm", "two");
    // One that comes after it shows that it was seen.
    let mut other = pod(&json!({}));
    other.metadata.uid = Some("v".into());
    rig.set_up(&other).await.unwrap();
    rig.fake.set("cm", "three");
    let at = rig.volumes.pod_dir(&"v".into()).join("volumes").join(MAP);
    let waiting = async {
        while std::fs::read_to_string(&at).unwrap() != "three" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
    assert!(!rig.volumes.pod_dir(&"u".into()).exists());
}

#[tokio::test]
async fn a_pod_that_ran_before_the_agent_is_caught_up_with() {
    let rig = Rig::new();
    rig.fake.set("cm", "one");
    rig.set_up(&pod(&json!({}))).await.unwrap();
    let _ = rig.contents.forget(&"u".into()).await;
    lock(&rig.fake.objects).clear();
    rig.fake.set("cm", "while it was away");
    rig.contents.follow(&Arc::new(pod(&json!({}))), true);
    rig.until(MAP, "while it was away").await;
}

#[tokio::test]
async fn a_pod_waits_for_its_certificate_and_what_it_trusts_and_both_are_renewed() {
    let mut rig = Rig::new();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"containers": [{"name": "c"}], "volumes": [{"name": "all", "projected": {"sources": [
            {"clusterTrustBundle": {"name": "ca", "path": "ca.pem"}},
            {"podCertificate": {"signerName": "ex/s", "keyType": "ED25519", "credentialBundlePath": "bundle.pem",
                "keyPath": "key.pem", "certificateChainPath": "chain.pem"}},
        ]}}]},
    }))
    .unwrap();
    let trusted = |text: &str| certificate_pem(text.as_bytes().to_vec());
    let bundle = |text: &str| {
        let bundle = TrustBundle { name: "ca".into(), trust_bundle: trusted(text), ..TrustBundle::default() };
        rig.bundles.send_replace(Known::of_test(Ok(vec![bundle])));
    };
    rig.bundles.send_replace(Known::of_test(Ok(Vec::new())));
    let error = rig.set_up(&pod).await.unwrap_err();
    let want = "MountVolume.SetUp failed for volume \"all\" : [while getting ClusterTrustBundle: \
                clustertrustbundle.certificates.k8s.io \"ca\" not found, credential bundle is not issued yet]";
    assert_eq!(error, want);
    bundle("one");
    rig.fake.issue(Ok("one"));
    let Event::ObjectsChanged(pods) = rig.events.recv().await.unwrap() else { panic!() };
    assert_eq!(pods, ["u".into()]);
    rig.set_up(&pod).await.unwrap();
    let at = |name: &str| format!("kubernetes.io~projected/all/{name}");
    rig.until(&at("ca.pem"), &trusted("one")).await;
    rig.until(&at("bundle.pem"), "key of one\nchain of one\n").await;

    rig.fake.issue(Ok("two"));
    rig.until(&at("bundle.pem"), "key of two\nchain of two\n").await;
    rig.until(&at("key.pem"), "key of two\n").await;
    rig.until(&at("chain.pem"), "chain of two\n").await;
    bundle("two");
    rig.until(&at("ca.pem"), &trusted("two")).await;

    // What cannot be renewed stays, and is told.
    rig.fake.issue(Err("PodCertificateRequest was permanently denied"));
    let told = rig.first_record().await.message.clone();
    assert!(told.ends_with("PodCertificateRequest was permanently denied"), "{told}");
    assert_eq!(std::fs::read_to_string(rig.at(&at("key.pem"))).unwrap(), "key of two\n");
}
