//! Certificates of pods' own: what a PodCertificateRequest asks for, what its answer means, and when the next is due
//! (pkg/kubelet/podcertificate/podcertificatemanager.go). Core; times are Unix seconds, for a certificate's are.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::certificates::v1beta1::PodCertificateRequestStatus;
use k8s_openapi::api::core::v1::Pod;

use crate::pod::PodUid;
use crate::trust_bundle::{blocks, certificate_pem};

/// A refresh comes this much later at most, so that pods' requests do not come all at once (`jitterDuration`).
pub const MAX_JITTER: Duration = Duration::from_secs(300);
/// A request that is not to be seen for so long after it was made, and up to [`MAX_JITTER`] more, has been deleted
/// (`assumeDeletedThreshold`).
pub const ASSUME_DELETED: Duration = Duration::from_secs(600);

/// From then on after its time its renewal is overdue (`refreshOverdueDuration`).
pub const REFRESH_OVERDUE: Duration = Duration::from_secs(600);

/// In kubelet's words.
pub const NOT_ISSUED: &str = "credential bundle is not issued yet";

/// One `podCertificate` source of one volume, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateKey {
    pub namespace: String,
    pub pod_name: String,
    pub pod_uid: PodUid,
    pub volume: String,
    /// Its place among the volume's sources.
    pub source: usize,
    pub service_account: String,
    pub signer_name: String,
    /// `RSA3072`, `ECDSAP256`, ….
    pub key_type: String,
    pub max_expiration_seconds: Option<i32>,
    pub user_annotations: BTreeMap<String, String>,
}

/// Every one that the pod's volumes show.
#[must_use]
pub fn keys(pod: &Pod) -> Vec<CertificateKey> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let account = spec.service_account_name.clone().filter(|a| !a.is_empty());
    let mut found = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten()).enumerate();
        for (source, wanted) in sources.filter_map(|(i, s)| Some((i, s.pod_certificate.as_ref()?))) {
            found.push(CertificateKey {
                namespace: text(&pod.metadata.namespace),
                pod_name: text(&pod.metadata.name),
                pod_uid: PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default()),
                volume: volume.name.clone(),
                source,
                service_account: account.clone().unwrap_or_else(|| "default".to_owned()),
                signer_name: wanted.signer_name.clone(),
                key_type: wanted.key_type.clone(),
                max_expiration_seconds: wanted.max_expiration_seconds,
                user_annotations: wanted.user_annotations.clone().unwrap_or_default(),
            });
        }
    }
    found
}

/// A private key with the certificates for it, both in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub key: String,
    pub chain: String,
    /// From then on another is to be asked for.
    pub begin_refresh_unix_s: i64,
    pub expires_unix_s: i64,
}

/// Without the key.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("expires_unix_s", &self.expires_unix_s).finish_non_exhaustive()
    }
}

/// What a request has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pending,
    /// Denied or failed, for good.
    Refused(String),
    Issued {
        chain: String,
        begin_refresh_unix_s: i64,
        expires_unix_s: i64,
    },
}

#[must_use]
pub fn outcome(status: Option<&PodCertificateRequestStatus>) -> Outcome {
    let Some(status) = status else { return Outcome::Pending };
    for condition in status.conditions.iter().flatten() {
        let refused = |what| {
            let (reason, message) = (&condition.reason, &condition.message);
            Outcome::Refused(format!(
                "PodCertificateRequest was permanently {what}: reason={reason:?} message={message:?}"
            ))
        };
        match condition.type_.as_str() {
            "Denied" => return refused("denied"),
            "Failed" => return refused("failed"),
            "Issued" => return issued(status),
            _ => {}
        }
    }
    Outcome::Pending
}

/// The API server has checked all of it.
fn issued(status: &PodCertificateRequestStatus) -> Outcome {
    let chain = blocks(status.certificate_chain.as_deref().unwrap_or_default());
    match (chain, &status.begin_refresh_at, &status.not_after) {
        (Ok(chain), Some(begin), Some(end)) if !chain.is_empty() => Outcome::Issued {
            chain: chain.into_iter().map(certificate_pem).collect(),
            begin_refresh_unix_s: begin.0.as_second(),
            expires_unix_s: end.0.as_second(),
        },
        _ => Outcome::Refused(
            "PodCertificateRequest was issued without a certificate that can be used".to_owned(),
        ),
    }
}

/// What was found of those of one pod, by volume and source.
#[derive(Clone, Debug, Default)]
pub struct Credentials(BTreeMap<(String, usize), Result<Credential, String>>);

impl Credentials {
    /// # Errors
    /// Why there is none.
    pub fn get(&self, volume: &str, source: usize) -> Result<&Credential, String> {
        match self.0.get(&(volume.to_owned(), source)) {
            Some(found) => found.as_ref().map_err(Clone::clone),
            None => Err("no certificate was asked for, which is a defect of the agent".to_owned()),
        }
    }
}

impl FromIterator<(CertificateKey, Result<Credential, String>)> for Credentials {
    fn from_iter<I: IntoIterator<Item = (CertificateKey, Result<Credential, String>)>>(
        found: I,
    ) -> Credentials {
        Credentials(found.into_iter().map(|(key, found)| ((key.volume, key.source), found)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_of_a_pod() {
        let certificate = |signer: &str| {
            json!({"podCertificate": {"signerName": signer, "keyType": "ED25519", "credentialBundlePath": "b",
            "maxExpirationSeconds": 3600, "userAnnotations": {"ex/a": "b"}}})
        };
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"serviceAccountName": "robot", "containers": [], "volumes": [
                {"name": "a", "projected": {"sources": [{"configMap": {"name": "x"}}, certificate("ex/1")]}},
                {"name": "b", "projected": {"sources": [certificate("ex/2")]}},
                {"name": "c", "emptyDir": {}},
            ]},
        }))
        .unwrap();
        let found = keys(&pod);
        let places: Vec<_> =
            found.iter().map(|k| (k.volume.as_str(), k.source, k.signer_name.as_str())).collect();
        assert_eq!(places, [("a", 1, "ex/1"), ("b", 0, "ex/2")]);
        assert!(found.iter().all(|k| k.service_account == "robot" && k.user_annotations["ex/a"] == "b"));
    }

    #[test]
    fn outcomes() {
        let condition = |kind: &str| json!([{"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let pem = certificate_pem(b"leaf".to_vec());
        let whole = json!({"conditions": condition("Issued"), "certificateChain": format!("# leaf\n{pem}trailing"),
            "beginRefreshAt": "1970-01-01T00:10:00Z", "notAfter": "1970-01-01T01:00:00Z"});
        let refused = |text: &str| Outcome::Refused(text.to_owned());
        for (status, want) in [
            (json!({}), Outcome::Pending),
            (json!({"conditions": condition("Noted")}), Outcome::Pending),
            (
                json!({"conditions": condition("Denied")}),
                refused("PodCertificateRequest was permanently denied: reason=\"R\" message=\"m\""),
            ),
            (
                json!({"conditions": condition("Failed")}),
                refused("PodCertificateRequest was permanently failed: reason=\"R\" message=\"m\""),
            ),
            (whole, Outcome::Issued { chain: pem.clone(), begin_refresh_unix_s: 600, expires_unix_s: 3600 }),
            (
                json!({"conditions": condition("Issued")}),
                refused("PodCertificateRequest was issued without a certificate that can be used"),
            ),
        ] {
            assert_eq!(outcome(Some(&serde_json::from_value(status.clone()).unwrap())), want, "{status}");
        }
        assert_eq!(outcome(None), Outcome::Pending);
    }

    #[test]
    fn debug_does_not_show_the_key() {
        let credential = Credential {
            key: "hunter2".into(),
            chain: String::new(),
            begin_refresh_unix_s: 1,
            expires_unix_s: 2,
        };
        assert!(!format!("{credential:?}").contains("hunter2"));
    }
}
