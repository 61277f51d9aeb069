//! Whether a caller may: by SubjectAccessReview, or always.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::authn::{ANSWERS, QUESTION_TIMEOUT, QUESTIONS, User};
use crate::apiserver::{ApiServer, Clients, chain};
use crate::clock;
use oomlet_core::node_api::access_cache::AccessCache;

#[derive(Debug)]
pub enum Authorizer {
    AlwaysAllow,
    /// There is no API server to ask.
    Nobody,
    Webhook(Box<AccessReviews>),
}

impl Authorizer {
    /// # Errors
    /// The API server has not answered.
    pub async fn allows(&self, user: &User, verb: &str, subresource: &str) -> Result<bool, String> {
        match self {
            Authorizer::AlwaysAllow => Ok(true),
            Authorizer::Nobody => Ok(false),
            Authorizer::Webhook(reviews) => reviews.allows(user, verb, subresource).await,
        }
    }
}

#[derive(Debug)]
pub struct AccessReviews {
    clients: Clients,
    node_name: String,
    authorized_ttl: Duration,
    unauthorized_ttl: Duration,
    questions: Semaphore,
    known: Mutex<AccessCache<[u8; 32], bool>>,
}

impl AccessReviews {
    #[must_use]
    pub fn new(
        clients: Clients,
        node_name: String,
        (authorized_ttl, unauthorized_ttl): (Duration, Duration),
    ) -> AccessReviews {
        let (questions, known) = (Semaphore::new(QUESTIONS), Mutex::new(AccessCache::new(ANSWERS)));
        AccessReviews { clients, node_name, authorized_ttl, unauthorized_ttl, questions, known }
    }

    async fn allows(&self, user: &User, verb: &str, subresource: &str) -> Result<bool, String> {
        let spec = self.spec(user, verb, subresource);
        let digest: [u8; 32] = Sha256::digest(serde_json::to_vec(&spec).unwrap_or_default()).into();
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = known().get(&digest, clock::now());
        if let Some(allowed) = kept {
            return Ok(allowed);
        }
        let allowed = self.ask(spec).await?;
        let ttl = if allowed { self.authorized_ttl } else { self.unauthorized_ttl };
        known().put(digest, allowed, ttl, clock::now());
        Ok(allowed)
    }

    fn spec(&self, user: &User, verb: &str, subresource: &str) -> SubjectAccessReviewSpec {
        SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                version: Some("v1".to_owned()),
                resource: Some("nodes".to_owned()),
                subresource: Some(subresource.to_owned()),
                name: Some(self.node_name.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        }
    }

    async fn ask(&self, spec: SubjectAccessReviewSpec) -> Result<bool, String> {
        let client = self.clients.borrow().clone();
        let Some(ApiServer(client)) = client else {
            return Err("there is no way to the API server yet".to_owned());
        };
        let asked = async {
            let _one = self.questions.acquire().await;
            let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
            Api::<SubjectAccessReview>::all(client).create(&PostParams::default(), &review).await
        };
        let review = tokio::time::timeout(QUESTION_TIMEOUT, asked)
            .await
            .map_err(|_| "the API server does not answer a SubjectAccessReview in time".to_owned())?
            .map_err(|error| format!("SubjectAccessReview: {}", chain(&error)))?;
        Ok(review.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}
