//! Tokens of ServiceAccounts, as pods get them: what one is asked for, and when it is due to be asked for again
//! (pkg/kubelet/token/token_manager.go). Core; times are Unix seconds, for a token's expiry is one.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};

use crate::pod::PodUid;

/// No token is kept for longer, whatever its lifetime (`maxTTL`).
const MAX_AGE_S: i64 = 24 * 3600;
/// A refresh comes this much earlier at most, so that a node's pods do not ask all at once (`maxJitter`).
pub const MAX_JITTER: Duration = Duration::from_secs(10);
/// What the API server sets where a projection says nothing (`ExpirationSeconds` of ServiceAccountTokenProjection).
const DEFAULT_EXPIRATION_S: i64 = 3600;

/// What a token is asked for, and what it is cached by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenKey {
    pub namespace: String,
    pub service_account: String,
    /// `None`: the API server's own.
    pub audience: Option<String>,
    pub expiration_seconds: i64,
    /// The pod that it is bound to: it is void once that is gone.
    pub pod_name: String,
    pub pod_uid: PodUid,
}

impl TokenKey {
    #[must_use]
    pub fn of(pod: &Pod, projection: &ServiceAccountTokenProjection) -> TokenKey {
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone());
        TokenKey {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            service_account: account.filter(|a| !a.is_empty()).unwrap_or_else(|| "default".to_owned()),
            audience: projection.audience.clone().filter(|a| !a.is_empty()),
            expiration_seconds: projection.expiration_seconds.unwrap_or(DEFAULT_EXPIRATION_S),
            pod_name: pod.metadata.name.clone().unwrap_or_default(),
            pod_uid: PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default()),
        }
    }
}

/// Every token that volumes of the pod show.
pub fn keys(pod: &Pod) -> impl Iterator<Item = TokenKey> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let sources = volumes.filter_map(|v| v.projected.as_ref()).flat_map(|p| p.sources.iter().flatten());
    sources.filter_map(|s| s.service_account_token.as_ref()).map(|t| TokenKey::of(pod, t))
}

/// One that was issued.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub value: String,
    pub expires_unix_s: i64,
    /// Its whole lifetime, as the answer to the request has it.
    pub lifetime_s: i64,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires_unix_s", &self.expires_unix_s).finish_non_exhaustive()
    }
}

impl Token {
    #[must_use]
    pub const fn has_expired(&self, now_unix_s: i64) -> bool {
        now_unix_s > self.expires_unix_s
    }

    /// When another is to be asked for: after 80 % of its life, or a day, less `jitter`.
    #[must_use]
    pub fn refresh_at_unix_s(&self, jitter: Duration) -> i64 {
        let jitter = i64::try_from(jitter.as_secs()).unwrap_or(0);
        let issued = self.issued_unix_s();
        let by_life = self.expires_unix_s.saturating_sub(self.lifetime_s.saturating_mul(20) / 100);
        by_life.min(issued.saturating_add(MAX_AGE_S)).saturating_sub(jitter)
    }

    #[must_use]
    pub fn is_due(&self, now_unix_s: i64, jitter: Duration) -> bool {
        // Issued later than now: a clock was set back, and nobody knows how old it is.
        now_unix_s > self.refresh_at_unix_s(jitter) || now_unix_s < self.issued_unix_s()
    }

    const fn issued_unix_s(&self) -> i64 {
        self.expires_unix_s.saturating_sub(self.lifetime_s)
    }
}

/// What was found of the tokens of one pod.
#[derive(Clone, Debug, Default)]
pub struct Tokens(BTreeMap<TokenKey, Result<Token, String>>);

impl Tokens {
    /// # Errors
    /// Why there is none.
    pub fn get(&self, key: &TokenKey) -> Result<&Token, String> {
        match self.0.get(key) {
            Some(found) => found.as_ref().map_err(Clone::clone),
            None => Err("no token was asked for, which is a defect of the agent".to_owned()),
        }
    }
}

impl FromIterator<(TokenKey, Result<Token, String>)> for Tokens {
    fn from_iter<I: IntoIterator<Item = (TokenKey, Result<Token, String>)>>(found: I) -> Tokens {
        Tokens(found.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times() {
        const HOUR: i64 = 3600;
        for (what, lifetime, jitter, at, want) in [
            ("fresh", HOUR, 0, 1, false),
            ("just before 80 %", HOUR, 0, 2880, false),
            ("after 80 %", HOUR, 0, 2881, true),
            ("jitter comes earlier", HOUR, 10, 2871, true),
            ("and not sooner", HOUR, 10, 2870, false),
            ("ten minutes", 600, 0, 481, true),
            ("a year: a day", 365 * 24 * HOUR, 0, 24 * HOUR, false),
            ("a year: after a day", 365 * 24 * HOUR, 0, 24 * HOUR + 1, true),
            ("a clock set back", HOUR, 0, -1, true),
        ] {
            // Issued at 0.
            let token = Token { value: "t".into(), expires_unix_s: lifetime, lifetime_s: lifetime };
            assert_eq!(token.is_due(at, Duration::from_secs(jitter)), want, "{what}");
            assert_eq!(token.has_expired(at), at > lifetime, "{what}");
        }
    }

    #[test]
    fn keys_of_a_pod() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"serviceAccountName": "robot", "containers": [], "volumes": [
                {"name": "a", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                    {"serviceAccountToken": {"path": "vault", "audience": "vault"}},
                    {"configMap": {"name": "x"}},
                ]}},
            ]},
        }))
        .unwrap();
        let found: Vec<_> =
            keys(&pod).map(|k| (k.service_account, k.audience, k.expiration_seconds)).collect();
        assert_eq!(found, [("robot".into(), None, 3607), ("robot".into(), Some("vault".into()), 3600)]);
        assert!(keys(&pod).all(|k| k.pod_uid.as_str() == "u" && k.pod_name == "p" && k.namespace == "ns"));
    }

    #[test]
    fn debug_does_not_show_it() {
        let token = Token { value: "eyJ.secret".into(), expires_unix_s: 1, lifetime_s: 1 };
        assert!(!format!("{token:?}").contains("eyJ"));
    }
}
