//! A signer of PodCertificateRequests, with an authority of its own: what somebody's controller is in a real cluster.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use xtask::control_plane::ControlPlane;

use super::{rfc3339, unix_s};

const HOUR: u64 = 3600;

/// Whoever trusts it, trusts what it signs.
#[derive(Debug)]
pub struct PodSigner {
    pub name: String,
    /// Its own certificate, PEM.
    pub authority: String,
    issuer: Issuer<'static, KeyPair>,
}

/// An authority's certificate and key.
#[must_use]
pub fn authority(common_name: &str) -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem().replace("\r\n", "\n"), Issuer::new(params, key))
}

impl PodSigner {
    /// `name`: such as `example.com/pods`.
    #[must_use]
    pub fn new(name: &str) -> PodSigner {
        let (authority, issuer) = authority(name);
        PodSigner { name: name.to_owned(), authority, issuer }
    }

    /// Requests of the namespace for this signer.
    #[must_use]
    pub fn requests(&self, plane: &ControlPlane, namespace: &str) -> Vec<Value> {
        let listed =
            plane.kubectl_json(&["get", "podcertificaterequests", "--namespace", namespace]).unwrap();
        let all = listed["items"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|request| request["spec"]["signerName"] == self.name.as_str()).collect()
    }

    /// Signs for a day, to be renewed after half of it.
    pub fn sign(&self, plane: &ControlPlane, request: &Value) {
        let stub = STANDARD.decode(request["spec"]["stubPKCS10Request"].as_str().unwrap()).unwrap();
        let mut asked = CertificateSigningRequestParams::from_der(&stub.into()).unwrap();
        let begin = unix_s() - 60;
        let at = |unix_s: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s);
        asked.params.not_before = at(begin).into();
        asked.params.not_after = at(begin + 24 * HOUR).into();
        let leaf = asked.signed_by(&self.issuer).unwrap();
        let status = json!({
            // What stands between the blocks is no part of it.
            "certificateChain": format!("{}{}", leaf.pem().replace("\r\n", "\n"), self.authority),
            "notBefore": rfc3339(begin), "notAfter": rfc3339(begin + 24 * HOUR),
            "beginRefreshAt": rfc3339(begin + 12 * HOUR),
            "conditions": [condition("Issued", "Signed", "as it should be")],
        });
        decide(plane, request, status);
    }

    pub fn deny(&self, plane: &ControlPlane, request: &Value) {
        decide(plane, request, json!({ "conditions": [condition("Denied", "NotHere", "the test says so")] }));
    }
}

fn condition(kind: &str, reason: &str, message: &str) -> Value {
    json!({ "type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": rfc3339(unix_s()) })
}

fn decide(plane: &ControlPlane, request: &Value, status: Value) {
    let of = |key: &str| request["metadata"][key].as_str().unwrap().to_owned();
    let (name, namespace) = (of("name"), of("namespace"));
    let patch = json!({ "status": status }).to_string();
    let args = ["patch", "podcertificaterequest", &name, "--namespace", &namespace];
    plane
        .kubectl(&[&args[..], &["--subresource=status", "--type=merge", "--patch", &patch]].concat())
        .unwrap();
}
