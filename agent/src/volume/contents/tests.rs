//! As root, for a volume in memory is a mount.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::object::BoxFuture;
use crate::token::Answer;
use crate::volume::mounts;
use oomlet_core::object::{Object, ObjectError, ObjectKind};
use oomlet_core::token::{Token, TokenKey};

/// Objects and tokens as a test says.
#[derive(Debug)]
struct Fake {
    objects: Mutex<BTreeMap<ObjectRef, Arc<Object>>>,
    changes: broadcast::Sender<ObjectRef>,
    registered: Mutex<BTreeSet<PodUid>>,
    /// The next token, and when to ask again.
    token: Mutex<(Result<String, String>, Duration)>,
}

impl Fake {
    fn set(&self, name: &str, value: &str) {
        let object = ObjectRef::new(ObjectKind::ConfigMap, "ns", name);
        let content = Object { data: BTreeMap::from([("k".to_owned(), value.into())]), ..Object::default() };
        lock(&self.objects).insert(object.clone(), Arc::new(content));
        let _ = self.changes.send(object);
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
        });
        let volumes = Arc::new(VolumeManager::new(tmp.path()));
        let (_, services) = watch::channel(Some(Arc::default()));
        let (objects, tokens) =
            (Arc::clone(&fake) as Arc<dyn ObjectSource>, Arc::clone(&fake) as Arc<dyn TokenSource>);
        let (journal, _) = Journal::open(16, None).unwrap();
        let (its_volumes, its_journal) = (Arc::clone(&volumes), Arc::clone(&journal));
        let contents =
            Contents::new(objects, tokens, services, its_volumes, its_journal, EnvFacts::default());
        let contents = Arc::new(contents);
        let (tx, events) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        tokio::spawn(Arc::clone(&contents).run(tx, cancel.clone()));
        Rig { tmp, fake, contents, volumes, journal, events, _cancel: cancel.drop_guard() }
    }

    async fn set_up(&self, pod: &Pod) -> Result<(), String> {
        self.contents.follow(pod, false);
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
    rig.contents.follow(&pod(&json!({"a": "2"})), true);
    rig.until(LABELS, "a=\"2\"").await;

    // A token is asked for when it is due, and one that cannot be had leaves the old one where it is.
    *lock(&rig.fake.token) = (Err("failed to fetch token: no".into()), Duration::from_millis(20));
    rig.fake.set("cm", "three");
    rig.until(MAP, "three").await;
    let (told, mut live) = rig.journal.follow(0);
    let record = match told.into_iter().next() {
        Some(record) => record,
        None => tokio::time::timeout(Duration::from_secs(10), live.recv()).await.unwrap().unwrap(),
    };
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
    let objects = Arc::new(crate::object::NoObjects::default());
    let (tell, services) = watch::channel(None);
    let volumes = Arc::new(VolumeManager::new(std::path::Path::new("/nowhere")));
    let (journal, _) = Journal::open(1, None).unwrap();
    let tokens = Arc::new(crate::token::NoTokens);
    let contents = Contents::new(objects, tokens, services, volumes, journal, EnvFacts::default());
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
    rig.contents.follow(&pod(&json!({})), true);
    rig.until(MAP, "while it was away").await;
}
