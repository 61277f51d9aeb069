//! Who a caller is: by a client certificate, by a token that the API server knows, or nobody in particular where that is
//! allowed. As kubelet (k8s.io/apiserver/pkg/authentication/authenticatorfactory, `DelegatingAuthenticatorConfig`).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::Api;
use kube::api::PostParams;
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::client_ca::Verifier;
use crate::apiserver::{ApiServer, Clients, chain};
use crate::clock;
use oomlet_core::node_api::access_cache::AccessCache;

/// Of a question to the API server.
pub(super) const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions at a time: whoever sends many tokens asks the API server no more than this.
pub(super) const QUESTIONS: usize = 16;
/// Answers that are kept.
pub(super) const ANSWERS: usize = 4096;
/// The subprotocol by which a browser sends a token.
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
const AUTHENTICATED: &str = "system:authenticated";

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// To be answered with 401; why is for the log alone.
#[derive(Debug, thiserror::Error)]
pub enum Unauthenticated {
    #[error("no credentials")]
    Nothing,
    #[error("{0}")]
    Refused(String),
}

#[derive(Debug)]
pub struct Authenticator {
    /// `None`: client certificates do not count.
    pub client_ca: Option<watch::Receiver<Verifier>>,
    /// `None`: tokens do not count.
    pub tokens: Option<TokenReviews>,
    pub anonymous: bool,
}

impl Authenticator {
    /// `certificates`: what the caller has shown, its own first. A token is taken out of the headers, so that nobody behind
    /// gets to see it.
    ///
    /// # Errors
    /// Credentials that are none, or none at all.
    pub async fn authenticate(
        &self,
        certificates: &[CertificateDer<'_>],
        headers: &mut HeaderMap,
    ) -> Result<User, Unauthenticated> {
        let mut refused = None;
        match self.by_certificate(certificates) {
            Ok(Some(user)) => return Ok(user),
            Ok(None) => {}
            Err(why) => refused = Some(why),
        }
        if let Some(tokens) = &self.tokens
            && let Some(token) = take_token(headers)
        {
            match tokens.user(&token).await {
                Ok(user) => return Ok(user),
                Err(why) => refused = Some(why),
            }
        }
        match refused {
            Some(why) => Err(Unauthenticated::Refused(why)),
            None if self.anonymous => Ok(User {
                name: "system:anonymous".to_owned(),
                groups: vec!["system:unauthenticated".to_owned()],
                ..User::default()
            }),
            None => Err(Unauthenticated::Nothing),
        }
    }

    fn by_certificate(&self, certificates: &[CertificateDer<'_>]) -> Result<Option<User>, String> {
        let (Some(client_ca), Some((own, chain))) = (&self.client_ca, certificates.split_first()) else {
            return Ok(None);
        };
        let Some(verifier) = client_ca.borrow().clone() else {
            return Err("there is no client CA yet".to_owned());
        };
        verifier
            .verify_client_cert(own, chain, UnixTime::now())
            .map_err(|error| format!("the client certificate: {error}"))?;
        Ok(user_of_certificate(own))
    }
}

/// The common name is the user, each organization a group. `None`: it names no user.
fn user_of_certificate(der: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?;
    let organizations = subject.iter_organization().filter_map(|group| group.as_str().ok());
    let digest: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    Some(authenticated(User {
        name: name.to_owned(),
        groups: organizations.map(str::to_owned).collect(),
        extra: [(
            "authentication.kubernetes.io/credential-id".to_owned(),
            vec![format!("X509SHA256={digest}")],
        )]
        .into(),
        ..User::default()
    }))
}

fn authenticated(mut user: User) -> User {
    if !user.groups.iter().any(|group| group == AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// From `Authorization: Bearer`, or from a subprotocol of a WebSocket.
fn take_token(headers: &mut HeaderMap) -> Option<String> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|text| {
        let mut words = text.trim().splitn(3, ' ');
        let scheme = words.next()?;
        words.next().filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
    });
    if let Some(token) = bearer.map(str::to_owned) {
        headers.remove(AUTHORIZATION);
        return Some(token);
    }
    let lists: Vec<String> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect();
    let all = lists.iter().flat_map(|list| list.split(',')).map(str::trim);
    let (tokens, others): (Vec<&str>, Vec<&str>) = all.partition(|word| word.starts_with(BEARER_PROTOCOL));
    let [token] = tokens[..] else { return None };
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token.strip_prefix(BEARER_PROTOCOL)?).ok()?;
    let token = String::from_utf8(bytes).ok().filter(|token| !token.is_empty())?;
    // Another one has to be there: the server must choose one, and not this.
    let others = HeaderValue::from_str(&others.join(",")).ok().filter(|others| !others.is_empty())?;
    headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
    Some(token)
}

/// Tokens, by TokenReview.
#[derive(Debug)]
pub struct TokenReviews {
    clients: Clients,
    ttl: Duration,
    questions: Semaphore,
    /// By the digest of the token: the token itself is kept nowhere. `None`: the API server does not know it.
    known: Mutex<AccessCache<[u8; 32], Option<User>>>,
}

impl TokenReviews {
    #[must_use]
    pub fn new(clients: Clients, ttl: Duration) -> TokenReviews {
        let (questions, known) = (Semaphore::new(QUESTIONS), Mutex::new(AccessCache::new(ANSWERS)));
        TokenReviews { clients, ttl, questions, known }
    }

    async fn user(&self, token: &str) -> Result<User, String> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = known().get(&digest, clock::now());
        let user = match kept {
            Some(user) => user,
            None => {
                let user = self.ask(token).await?;
                known().put(digest, user.clone(), self.ttl, clock::now());
                user
            }
        };
        user.ok_or_else(|| "the API server does not know the token".to_owned())
    }

    async fn ask(&self, token: &str) -> Result<Option<User>, String> {
        let client = self.clients.borrow().clone();
        let Some(ApiServer(client)) = client else {
            return Err("there is no way to the API server yet, which knows tokens".to_owned());
        };
        let asked = async {
            let _one = self.questions.acquire().await;
            let review = TokenReview {
                spec: TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() },
                ..TokenReview::default()
            };
            Api::<TokenReview>::all(client).create(&PostParams::default(), &review).await
        };
        let review = tokio::time::timeout(QUESTION_TIMEOUT, asked)
            .await
            .map_err(|_| "the API server does not answer a TokenReview in time".to_owned())?
            .map_err(|error| format!("TokenReview: {}", chain(&error)))?;
        let status = review.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        Ok(user.map(|user| {
            authenticated(User {
                name: user.username.unwrap_or_default(),
                uid: user.uid.unwrap_or_default(),
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.unwrap_or_default(),
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_out() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bearer abc"));
        assert_eq!(take_token(&mut headers).as_deref(), Some("abc"));
        assert!(headers.is_empty());
        for none in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(none));
            assert_eq!(take_token(&mut headers), None, "{none}");
        }
        let encoded = BASE64_URL_SAFE_NO_PAD.encode("abc");
        let list = format!("v4.channel.k8s.io, {BEARER_PROTOCOL}{encoded}");
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&list).unwrap());
        assert_eq!(take_token(&mut headers).as_deref(), Some("abc"));
        assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "v4.channel.k8s.io");
        let alone = format!("{BEARER_PROTOCOL}{encoded}");
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&alone).unwrap());
        assert_eq!(take_token(&mut headers), None);
    }
}
