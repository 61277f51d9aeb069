//! Tokens by TokenRequest (pkg/kubelet/token): bound to the pod, kept until they are due, also for the agent's next start.
//! When another cannot be had the old one is given for as long as it is valid.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use serde::{Deserialize, Serialize};

use super::{Answer, TokenSource};
use crate::apiserver::{Clients, current};
use crate::content_store::ContentStore;
use crate::object::BoxFuture;
use crate::object::api::{plain, random};
use oomlet_core::pod::PodUid;
use oomlet_core::token::{MAX_JITTER, Token, TokenKey};

/// No answer within this time is none.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failure, 5 s to 15 s: with the timeout less than the 30 s within which a server that is back is asked.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_SPREAD: Duration = Duration::from_secs(10);
/// A token of an API server whose clock is behind is due as it comes. kubelet looks at a pod's tokens about once a minute.
const SOONEST: Duration = Duration::from_secs(60);

pub struct ApiTokens {
    clients: Clients,
    store: ContentStore,
    cache: Mutex<HashMap<TokenKey, Token>>,
}

/// A client has no `Debug` form.
impl std::fmt::Debug for ApiTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiTokens").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl ApiTokens {
    /// `clients`: the one to use from now on. `store`: for the next start, and from the last.
    #[must_use]
    pub fn new(clients: Clients, store: ContentStore) -> Arc<ApiTokens> {
        Arc::new(ApiTokens { clients, store, cache: Mutex::default() })
    }

    fn known(&self, key: &TokenKey) -> Option<Token> {
        let cached = self.cache().get(key).cloned();
        cached.or_else(|| {
            let stored: Stored =
                self.store.of_pod(&key.pod_uid, KIND, &name(key).each_ref().map(String::as_str))?;
            let token = Token {
                value: stored.value,
                expires_unix_s: stored.expires_unix_s,
                lifetime_s: stored.lifetime_s,
            };
            self.cache().insert(key.clone(), token.clone());
            Some(token)
        })
    }

    fn keep(&self, key: &TokenKey, token: &Token) {
        self.cache().insert(key.clone(), token.clone());
        let stored = Stored {
            value: token.value.clone(),
            expires_unix_s: token.expires_unix_s,
            lifetime_s: token.lifetime_s,
        };
        self.store.keep_of_pod(&key.pod_uid, KIND, &name(key).each_ref().map(String::as_str), &stored);
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<TokenKey, Token>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn request(&self, key: &TokenKey) -> Result<Token, String> {
        let (body, params) = (request_body(key), PostParams::default());
        let asked = async {
            let client = current(&self.clients).await;
            let accounts: Api<ServiceAccount> = Api::namespaced(client, &key.namespace);
            accounts.create_subresource("token", &key.service_account, &params, &body).await
        };
        let answer: TokenRequest = match tokio::time::timeout(REQUEST_TIMEOUT, asked).await {
            Ok(answer) => answer.map_err(|error| plain(&error))?,
            Err(_) => return Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
        };
        issued(answer, key).ok_or_else(|| "the API server's answer has no token".to_owned())
    }
}

/// Its kind in the store.
const KIND: &str = "token";

/// A token as it stands there.
#[derive(Serialize, Deserialize)]
struct Stored {
    value: String,
    expires_unix_s: i64,
    lifetime_s: i64,
}

/// All of the key but the pod, which is where it stands.
fn name(key: &TokenKey) -> [String; 3] {
    let audience = key.audience.clone().unwrap_or_default();
    [key.service_account.clone(), audience, key.expiration_seconds.to_string()]
}

fn request_body(key: &TokenKey) -> TokenRequest {
    let pod = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(key.pod_name.clone()),
        uid: Some(key.pod_uid.to_string()),
    };
    let spec = TokenRequestSpec {
        audiences: Some(key.audience.iter().cloned().collect()),
        bound_object_ref: Some(pod),
        expiration_seconds: Some(key.expiration_seconds),
    };
    TokenRequest { spec: Some(spec), ..TokenRequest::default() }
}

fn issued(answer: TokenRequest, key: &TokenKey) -> Option<Token> {
    let status = answer.status?;
    let value = status.token.filter(|t| !t.is_empty())?;
    // The server may give another lifetime than it was asked for.
    let lifetime_s = answer.spec.and_then(|s| s.expiration_seconds).unwrap_or(key.expiration_seconds);
    Some(Token { value, expires_unix_s: status.expiration_timestamp?.0.as_second(), lifetime_s })
}

impl TokenSource for ApiTokens {
    fn token<'a>(&'a self, key: &'a TokenKey) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let known = self.known(key);
            let now = unix_s();
            // Its time has come a little before it is due, see `until_due`.
            if let Some(token) = known.as_ref().filter(|t| !t.is_due(now, MAX_JITTER)) {
                return until_due(token.clone(), now);
            }
            let error = match self.request(key).await {
                Ok(token) => {
                    self.keep(key, &token);
                    return until_due(token, unix_s());
                }
                Err(error) => error,
            };
            let again_in = RETRY + RETRY_SPREAD.mul_f64(random());
            let token = match known {
                None => Err(format!("failed to fetch token: {error}")),
                Some(old) if old.has_expired(unix_s()) => {
                    let account = &key.service_account;
                    Err(format!("token of ServiceAccount {account:?} expired and refresh failed: {error}"))
                }
                Some(old) => {
                    let (account, pod) = (&key.service_account, &key.pod_name);
                    tracing::info!(account, pod, error, "the token stays the old one: there is no other yet");
                    Ok(old)
                }
            };
            Answer { token, again_in }
        })
    }

    fn forget_pod(&self, uid: &PodUid) {
        self.cache().retain(|key, _| key.pod_uid != *uid);
    }
}

fn until_due(token: Token, now_unix_s: i64) -> Answer {
    let due = token.refresh_at_unix_s(MAX_JITTER.mul_f64(random()));
    // A second later than due, for a token is not due at that second yet.
    let left = due.saturating_sub(now_unix_s).saturating_add(1);
    let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
    Answer { token: Ok(token), again_in: left.max(SOONEST) }
}

fn unix_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU16, Ordering};

    use kube::client::Body;
    use serde_json::json;
    use tonic::codegen::http;

    use crate::apiserver::ApiServer;

    fn key() -> TokenKey {
        TokenKey {
            namespace: "ns".into(),
            service_account: "robot".into(),
            audience: Some("vault".into()),
            expiration_seconds: 3607,
            pod_name: "p".into(),
            pod_uid: "u".into(),
        }
    }

    #[test]
    fn the_request_is_bound_to_the_pod() {
        let body = serde_json::to_value(request_body(&key())).unwrap();
        let want = json!({"audiences": ["vault"], "expirationSeconds": 3607,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}});
        assert_eq!(body["spec"], want);
        let of_the_server =
            serde_json::to_value(request_body(&TokenKey { audience: None, ..key() })).unwrap();
        assert_eq!(of_the_server["spec"]["audiences"], json!([]));
    }

    #[test]
    fn what_is_issued() {
        let answer = |status: serde_json::Value| {
            let answer = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
                "spec": {"audiences": [], "expirationSeconds": 600}, "status": status});
            issued(serde_json::from_value(answer).unwrap(), &key())
        };
        let token = answer(json!({"token": "t", "expirationTimestamp": "1970-01-01T01:00:00Z"}));
        assert_eq!(token, Some(Token { value: "t".into(), expires_unix_s: 3600, lifetime_s: 600 }));
        assert_eq!(answer(json!({"token": "", "expirationTimestamp": "1970-01-01T01:00:00Z"})), None);
    }

    /// A server that answers with `status`, and counts how often it was asked.
    fn tokens(status: Arc<AtomicU16>, asked: Arc<AtomicU16>, lifetime_s: i64) -> Arc<ApiTokens> {
        let answer = move |request: http::Request<Body>| {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/ns/serviceaccounts/robot/token");
            let n = asked.fetch_add(1, Ordering::SeqCst) + 1;
            let code = status.load(Ordering::SeqCst);
            let expires = k8s_openapi::jiff::Timestamp::from_second(unix_s() + lifetime_s).unwrap();
            let body = if code == 201 {
                json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
                    "spec": {"audiences": [], "expirationSeconds": 600},
                    "status": {"token": format!("token-{n}"), "expirationTimestamp": expires.to_string()}})
            } else {
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no more",
                    "reason": "Forbidden", "code": code})
            };
            let answer =
                http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            async move { Ok::<_, std::convert::Infallible>(answer.unwrap()) }
        };
        let client = kube::Client::new(tower::service_fn(answer), "default");
        ApiTokens::new(tokio::sync::watch::channel(Some(ApiServer(client))).1, ContentStore::default())
    }

    #[tokio::test]
    async fn a_token_is_kept_until_it_is_due_and_for_as_long_as_there_is_no_other() {
        for (what, left_s, want) in [
            ("fresh: not asked again", 600, [Ok("token-1"), Ok("token-1"), Ok("token-1")]),
            ("due: another, or the old one", 60, [Ok("token-1"), Ok("token-1"), Ok("token-3")]),
            (
                "over: none",
                -5,
                [
                    Ok("token-1"),
                    Err("token of ServiceAccount \"robot\" expired and refresh failed: no more"),
                    Ok("token-3"),
                ],
            ),
        ] {
            let (status, asked) = (Arc::new(AtomicU16::new(201)), Arc::default());
            let tokens = tokens(Arc::clone(&status), Arc::clone(&asked), left_s);
            let mut got = Vec::new();
            for code in [201, 403, 201] {
                status.store(code, Ordering::SeqCst);
                let answer = tokens.token(&key()).await;
                // Back within 30 s of the server's return, its timeout included.
                assert!(code == 201 || answer.again_in < Duration::from_secs(20) || left_s == 600, "{what}");
                got.push(answer.token.map(|t| t.value));
            }
            let want = want.map(|w| w.map(str::to_owned).map_err(str::to_owned));
            assert_eq!(got, want, "{what}");
            tokens.forget_pod(&"u".into());
            let before = asked.load(Ordering::SeqCst);
            tokens.token(&key()).await.token.unwrap();
            assert_eq!(asked.load(Ordering::SeqCst), before + 1, "{what}: a pod's token goes with it");
        }
    }

    #[tokio::test]
    async fn a_first_token_that_cannot_be_had_is_none() {
        let status = Arc::new(AtomicU16::new(403));
        let tokens = tokens(status, Arc::default(), 600);
        let answer = tokens.token(&key()).await;
        assert_eq!(answer.token, Err("failed to fetch token: no more".to_owned()));
        assert!((5..=15).contains(&answer.again_in.as_secs()));
        assert!(!format!("{tokens:?}").contains("token-"));
    }

    #[test]
    fn it_is_asked_again_before_it_is_due() {
        let now = unix_s();
        let token = Token { value: "t".into(), expires_unix_s: now + 600, lifetime_s: 600 };
        for _ in 0..100 {
            let again = i64::try_from(until_due(token.clone(), now).again_in.as_secs()).unwrap();
            assert!((471..=481).contains(&again), "{again}");
            assert!(token.is_due(now + again, MAX_JITTER), "{again}: another is asked for then");
        }
        let old = Token { expires_unix_s: now - 1, ..token };
        assert_eq!(until_due(old, now).again_in, SOONEST, "as that of a server whose clock is behind");
    }
}
