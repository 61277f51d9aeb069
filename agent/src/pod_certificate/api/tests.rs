use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tonic::codegen::http;

use super::*;
use crate::apiserver::ApiServer;
use oomlet_core::reason::Reason;
use oomlet_core::trust_bundle::certificate_pem;

/// What a signer does with a request.
#[derive(Clone, Copy, PartialEq)]
enum Signer {
    /// It is due for the next at once.
    IssuesShort,
    /// It has expired, and no other follows.
    IssuesExpired,
    Issues,
    Denies,
    Deletes,
    Away,
}

/// An API server with this node's requests, whose watches tell what has become of them.
#[derive(Clone)]
struct Fake {
    /// Watch events; an event's resource version is its place, from 1.
    log: Arc<watch::Sender<Vec<Value>>>,
    signer: Arc<Mutex<Signer>>,
    serves: bool,
    journal: Arc<Journal>,
}

impl Fake {
    fn new(signer: Signer, serves: bool) -> Fake {
        let log = Arc::new(watch::Sender::new(Vec::new()));
        let (journal, _) = Journal::open(16, None).unwrap();
        Fake { log, signer: Arc::new(Mutex::new(signer)), serves, journal }
    }

    fn asked(&self) -> usize {
        self.log.borrow().iter().filter(|event| event["type"] == "ADDED").count()
    }

    async fn answer(&self, request: http::Request<Body>) -> (u16, String) {
        let (path, query) =
            (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let is_requests = path.ends_with("/podcertificaterequests");
        let (code, body) = match (request.method().as_str(), path.as_str()) {
            ("GET", "/apis/certificates.k8s.io/v1") if self.serves => {
                let kind = json!({"name": "podcertificaterequests", "singularName": "", "namespaced": true, "kind": "PodCertificateRequest", "verbs": []});
                (200, json!({"groupVersion": "certificates.k8s.io/v1", "resources": [kind]}))
            }
            ("GET", "/api/v1/namespaces/ns/serviceaccounts/robot") => (200, metadata("robot", "sa-uid")),
            ("GET", "/api/v1/nodes/n") => (200, metadata("n", "node-uid")),
            ("POST", _) if is_requests => {
                let body = request.into_body().collect_bytes().await.unwrap();
                (201, self.create(serde_json::from_slice(&body).unwrap()))
            }
            ("GET", _) if is_requests => {
                assert!(query.contains("fieldSelector=spec.nodeName%3Dn"), "a node may not: {query}");
                if query.contains("watch=true") {
                    return (200, self.watched(&query).await);
                }
                (
                    200,
                    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequestList", "metadata": {"resourceVersion": "0"}, "items": []}),
                )
            }
            _ => (
                404,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"}),
            ),
        };
        (code, body.to_string())
    }

    async fn watched(&self, query: &str) -> String {
        let since =
            query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).unwrap().parse().unwrap();
        let mut log = self.log.subscribe();
        let log = log.wait_for(|log| log.len() > since).await.unwrap();
        log[since..].iter().map(|event| format!("{event}\n")).collect()
    }

    fn create(&self, mut request: Value) -> Value {
        assert_eq!(request["spec"]["serviceAccountUID"], "sa-uid");
        assert_eq!(request["spec"]["nodeUID"], "node-uid");
        assert_eq!(request["metadata"]["ownerReferences"][0]["uid"], "u");
        assert!(request["spec"]["stubPKCS10Request"].is_string(), "{request:#}");
        let number = self.asked() + 1;
        request["metadata"]["name"] = format!("req-{number}").into();
        self.tell("ADDED", request.clone());
        let expires = match *self.signer.lock().unwrap() {
            Signer::IssuesExpired => "2001-01-01T01:00:00Z",
            _ => "2100-01-02T00:00:00Z",
        };
        let issued = |refresh: &str| {
            json!({"conditions": condition("Issued"), "notAfter": expires,
            "beginRefreshAt": refresh, "certificateChain": certificate_pem(format!("leaf {number}").into_bytes())})
        };
        let mut signed = request.clone();
        let signer = *self.signer.lock().unwrap();
        signed["status"] = match signer {
            Signer::IssuesShort | Signer::IssuesExpired => issued("2001-01-01T00:00:00Z"),
            Signer::Issues => issued("2100-01-01T00:00:00Z"),
            Signer::Denies => json!({"conditions": condition("Denied")}),
            Signer::Deletes | Signer::Away => Value::Null,
        };
        match signer {
            Signer::Away => {}
            Signer::IssuesExpired => {
                *self.signer.lock().unwrap() = Signer::Away;
                self.tell("MODIFIED", signed);
            }
            Signer::Deletes => {
                *self.signer.lock().unwrap() = Signer::Issues;
                self.tell("DELETED", request.clone());
            }
            _ => self.tell("MODIFIED", signed),
        }
        request
    }

    fn tell(&self, kind: &str, mut request: Value) {
        self.log.send_modify(|log| {
            request["metadata"]["resourceVersion"] = (log.len() + 1).to_string().into();
            log.push(json!({"type": kind, "object": request}));
        });
    }

    fn certificates(&self) -> (Arc<ApiCertificates>, DropGuard) {
        let fake = self.clone();
        let answer = move |request: http::Request<Body>| {
            let fake = fake.clone();
            async move {
                let (code, body) = fake.answer(request).await;
                let answer = http::Response::builder().status(code).body(Body::from(body.into_bytes()));
                Ok::<_, std::convert::Infallible>(answer.unwrap())
            }
        };
        let clients = watch::channel(Some(ApiServer(Client::new(tower::service_fn(answer), "default")))).1;
        let cancel = CancellationToken::new();
        let tasks = (TaskTracker::new(), cancel.clone());
        let kept = (ContentStore::default(), Arc::clone(&self.journal));
        let mut made = ApiCertificates::new(clients, "n".to_owned(), kept, tasks);
        let own = Arc::get_mut(&mut made).unwrap();
        // Each is renewed just when it is due.
        Arc::get_mut(&mut own.shared).unwrap().jitter = Duration::ZERO;
        (made, cancel.drop_guard())
    }
}

fn metadata(name: &str, uid: &str) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name, "uid": uid}})
}

fn condition(kind: &str) -> Value {
    json!([{"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
}

fn pod(key_type: &str) -> Pod {
    let wanted = json!({"signerName": "ex/s", "keyType": key_type, "credentialBundlePath": "b"});
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"serviceAccountName": "robot", "containers": [],
            "volumes": [{"name": "v", "projected": {"sources": [{"podCertificate": wanted}]}}]},
    }))
    .unwrap()
}

/// Asks until it is so, within a bound.
async fn until(
    certificates: &ApiCertificates,
    pod: &Pod,
    fits: impl Fn(&Result<Credential, String>) -> bool,
) -> Result<Credential, String> {
    let key = keys(pod).remove(0);
    let mut changes = certificates.changes();
    let found = async {
        loop {
            let found = certificates.get(&key).await;
            if fits(&found) {
                return found;
            }
            changes.recv().await.unwrap();
        }
    };
    timeout(Duration::from_secs(30), found).await.expect("within 30 s")
}

fn is_of(found: &Result<Credential, String>, number: usize) -> bool {
    let chain = certificate_pem(format!("leaf {number}").into_bytes());
    found.as_ref().is_ok_and(|credential| credential.chain == chain)
}

#[tokio::test]
async fn a_certificate_is_issued_and_another_when_it_is_due() {
    let fake = Fake::new(Signer::IssuesShort, true);
    let (certificates, _cancel) = fake.certificates();
    let pod = pod("ECDSAP256");
    let early = certificates.get(&keys(&pod)[0]).await;
    assert_eq!(early, Err(NOT_ISSUED.to_owned()), "nobody has asked for it");
    certificates.register_pod(&pod);
    certificates.register_pod(&pod);
    let first = until(&certificates, &pod, Result::is_ok).await.unwrap();
    *fake.signer.lock().unwrap() = Signer::Issues;
    let asked = fake.asked();
    let later =
        until(&certificates, &pod, |found| (asked..asked + 2).any(|n| is_of(found, n + 1))).await.unwrap();
    assert_ne!(first.key, later.key, "each has a key of its own");
    certificates.unregister_pod(&"u".into());
    assert_eq!(certificates.get(&keys(&pod)[0]).await, Err(NOT_ISSUED.to_owned()), "it went with the pod");
}

#[tokio::test]
async fn a_refusal_is_for_good_and_a_deleted_request_is_made_anew() {
    let fake = Fake::new(Signer::Denies, true);
    let (certificates, _cancel) = fake.certificates();
    let denied = pod("ED25519");
    certificates.register_pod(&denied);
    let refused = until(&certificates, &denied, |found| found.as_ref().is_err_and(|e| e != NOT_ISSUED)).await;
    let want = "PodCertificateRequest was permanently denied: reason=\"R\" message=\"m\"";
    assert_eq!((refused, fake.asked()), (Err(want.to_owned()), 1));

    let fake = Fake::new(Signer::Deletes, true);
    let (certificates, _cancel) = fake.certificates();
    certificates.register_pod(&denied);
    let issued = until(&certificates, &denied, Result::is_ok).await;
    assert!(is_of(&issued, 2), "{issued:?}");

    let fake = Fake::new(Signer::Away, true);
    let (certificates, _cancel) = fake.certificates();
    certificates.register_pod(&denied);
    let waits = certificates.get(&keys(&denied)[0]).await;
    assert_eq!(waits, Err(NOT_ISSUED.to_owned()));

    let unknown = pod("DSA");
    let (certificates, _cancel) = fake.certificates();
    certificates.register_pod(&unknown);
    let refused =
        until(&certificates, &unknown, |found| found.as_ref().is_err_and(|e| e != NOT_ISSUED)).await;
    assert_eq!(refused, Err("while generating keypair: unknown key type \"DSA\"".to_owned()));
}

#[tokio::test]
async fn one_that_is_not_renewed_in_time_is_told_once() {
    let fake = Fake::new(Signer::IssuesExpired, true);
    let (certificates, _cancel) = fake.certificates();
    let (_, mut told) = fake.journal.follow(0);
    certificates.register_pod(&pod("ED25519"));
    for expected in [Reason::CertificateOverdueForRefresh, Reason::CertificateExpired] {
        let record = timeout(Duration::from_secs(30), told.recv()).await.expect("within 30 s").unwrap();
        assert_eq!((record.reason, record.pod.as_ref().map(|pod| pod.uid.as_str())), (expected, Some("u")));
    }
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_server_without_them_is_told() {
    let fake = Fake::new(Signer::Issues, false);
    let (certificates, _cancel) = fake.certificates();
    let pod = pod("ED25519");
    certificates.register_pod(&pod);
    let told = until(&certificates, &pod, |found| found.as_ref().is_err_and(|e| e != NOT_ISSUED)).await;
    assert_eq!(told, Err(UNSERVED.to_owned()));
}
