use std::collections::BTreeMap;

use kube::client::Body;
use serde_json::{Value, json};
use tonic::codegen::http;

use super::*;
use crate::apiserver::ApiServer;

/// An API server whose lists answer as a test says, and whose watches never tell of anything.
#[derive(Clone, Default)]
struct Fake {
    /// By the name that is asked for: answers in turn, the last one for good.
    answers: Arc<Mutex<BTreeMap<String, Vec<Answer>>>>,
    lists: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
enum Answer {
    Forbidden,
    Nothing,
    Map { value: &'static str, immutable: bool },
    Silence,
}

impl Fake {
    fn set(&self, name: &str, answers: &[Answer]) {
        self.answers.lock().unwrap().insert(name.to_owned(), answers.to_vec());
    }

    fn lists_of(&self, name: &str) -> usize {
        self.lists.lock().unwrap().iter().filter(|n| *n == name).count()
    }

    fn objects(&self) -> (Arc<ApiObjects>, DropGuard) {
        let fake = self.clone();
        let answer = move |request: http::Request<Body>| {
            let fake = fake.clone();
            async move {
                let uri = request.uri().to_string();
                let (_, name) = uri.split_once("fieldSelector=metadata.name%3D").expect("one by one");
                let name = name.split('&').next().unwrap().to_owned();
                if uri.contains("watch=") {
                    std::future::pending::<()>().await;
                }
                fake.lists.lock().unwrap().push(name.clone());
                let answer = {
                    let mut answers = fake.answers.lock().unwrap();
                    let turns = answers.get_mut(&name).expect("it is asked for what there is an answer for");
                    if turns.len() > 1 { turns.remove(0) } else { turns[0].clone() }
                };
                if matches!(answer, Answer::Silence) {
                    std::future::pending::<()>().await;
                }
                let (code, body) = body(&name, &answer);
                let answer =
                    http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(answer.unwrap())
            }
        };
        let client = kube::Client::new(tower::service_fn(answer), "default");
        let clients = watch::channel(Some(ApiServer(client))).1;
        let cancel = CancellationToken::new();
        (
            ApiObjects::new(clients, ContentStore::default(), TaskTracker::new(), cancel.clone()),
            cancel.drop_guard(),
        )
    }
}

fn body(name: &str, answer: &Answer) -> (u16, Value) {
    let list = |items: Value| {
        (
            200,
            json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": items}),
        )
    };
    match answer {
        Answer::Forbidden => (
            403,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden",
                "message": "no relationship found between node and this object", "code": 403}),
        ),
        Answer::Nothing | Answer::Silence => list(json!([])),
        Answer::Map { value, immutable } => {
            list(json!([{"metadata": {"name": name, "namespace": "ns", "resourceVersion": "5"},
            "data": {"k": value}, "immutable": immutable}]))
        }
    }
}

fn pod(uid: &str, maps: &[&str]) -> Pod {
    let volumes: Vec<Value> =
        maps.iter().map(|name| json!({"name": name, "configMap": {"name": name}})).collect();
    serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "ns", "uid": uid},
        "spec": {"containers": [], "volumes": volumes}}))
    .unwrap()
}

async fn value(objects: &ApiObjects, name: &str) -> Result<String, String> {
    let found = objects.get(&ObjectRef::new(ObjectKind::ConfigMap, "ns", name)).await;
    found.map(|o| String::from_utf8(o.value("k").unwrap().to_vec()).unwrap()).map_err(|e| e.to_string())
}

const ONE: Answer = Answer::Map { value: "one", immutable: false };

#[tokio::test]
async fn each_is_watched_while_a_pod_names_it() {
    let fake = Fake::default();
    fake.set("a", &[ONE]);
    fake.set("none", &[Answer::Nothing]);
    let (objects, _cancel) = fake.objects();
    assert_eq!(
        value(&objects, "a").await,
        Err("failed to sync configmap cache: object \"ns\"/\"a\" not registered".into())
    );
    objects.register_pod(&pod("u", &["a", "none"]));
    objects.register_pod(&pod("v", &["a"]));
    objects.register_pod(&pod("v", &["a"]));
    assert_eq!(value(&objects, "a").await, Ok("one".into()));
    assert_eq!(value(&objects, "none").await, Err("configmap \"none\" not found".into()));
    assert_eq!((fake.lists_of("a"), fake.lists_of("none")), (1, 1), "one list for both pods");
    objects.unregister_pod(&"u".into());
    assert_eq!(objects.watched().len(), 1);
    assert_eq!(value(&objects, "a").await, Ok("one".into()));
    objects.unregister_pod(&"v".into());
    assert!(objects.watched().is_empty());
}

/// The server's authorizer is a moment behind when a pod has just been bound.
#[tokio::test]
async fn a_refusal_is_tried_again_within_the_first_wait() {
    let fake = Fake::default();
    fake.set("a", &[Answer::Forbidden, ONE]);
    let (objects, _cancel) = fake.objects();
    objects.register_pod(&pod("u", &["a"]));
    assert_eq!(value(&objects, "a").await, Ok("one".into()));
}

#[tokio::test]
async fn who_asked_in_vain_is_told() {
    let fake = Fake::default();
    fake.set("silent", &[Answer::Silence]);
    fake.set("refused", &[Answer::Forbidden]);
    let (objects, _cancel) = fake.objects();
    let mut changes = objects.changes();
    objects.register_pod(&pod("u", &["silent", "refused"]));
    let error = |why: &str| Err(format!("failed to sync configmap cache: {why}"));
    assert_eq!(value(&objects, "silent").await, error("timed out waiting for the condition"));
    assert_eq!(value(&objects, "refused").await, error("no relationship found between node and this object"));
    fake.set("refused", &[ONE]);
    let told = tokio::time::timeout(Duration::from_secs(30), changes.recv()).await.unwrap().unwrap();
    assert_eq!(told.name, "refused");
    assert_eq!(value(&objects, "refused").await, Ok("one".into()));
}

#[tokio::test]
async fn an_immutable_one_is_read_anew_for_a_new_pod() {
    let fake = Fake::default();
    fake.set(
        "a",
        &[Answer::Map { value: "first", immutable: true }, Answer::Map { value: "second", immutable: true }],
    );
    let (objects, _cancel) = fake.objects();
    objects.register_pod(&pod("u", &["a"]));
    assert_eq!(value(&objects, "a").await, Ok("first".into()));
    assert_eq!(value(&objects, "a").await, Ok("first".into()));
    assert_eq!(fake.lists_of("a"), 1);
    objects.register_pod(&pod("v", &["a"]));
    assert_eq!(value(&objects, "a").await, Ok("second".into()));
    assert_eq!((fake.lists_of("a"), objects.watched().len()), (2, 1));
}

/// Once seen, it is there while the server is away.
#[tokio::test]
async fn the_last_sight_holds() {
    let fake = Fake::default();
    fake.set("a", &[Answer::Map { value: "first", immutable: true }, Answer::Silence]);
    let (objects, _cancel) = fake.objects();
    objects.register_pod(&pod("u", &["a"]));
    assert_eq!(value(&objects, "a").await, Ok("first".into()));
    objects.register_pod(&pod("v", &["a"]));
    assert_eq!(value(&objects, "a").await, Ok("first".into()));
}
