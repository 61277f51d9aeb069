//! Asking the API server for a certificate: a key, a CertificateSigningRequest, and the wait for who approves and signs it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt as _};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};
use sha2::{Digest as _, Sha256};

use crate::apiserver::credentials;
use crate::apiserver::kubeconfig::words;
use oomlet_core::certificate::{
    APPROVAL_TIMEOUT, CLIENT_SIGNER, CLIENT_USAGES, NODES_GROUP, Outcome, SERVING_SIGNER, SERVING_USAGES,
    outcome, user_name,
};

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("cannot make a key or a certificate request: {0}")]
    Make(#[from] rcgen::Error),
    #[error("cannot ask the API server for a certificate of {signer}: {}", words(.cause))]
    Api { signer: &'static str, cause: Box<kube::Error> },
    #[error("the watch of certificate request {name} broke: {source}")]
    Watch { name: String, source: Box<kube::runtime::wait::Error> },
    #[error(
        "certificate request {name} was denied ({told}). Remedy: kubectl describe csr {name}; the next attempt has a new key"
    )]
    Denied { name: String, told: String },
    #[error("certificate request {name} could not be signed ({told}). Remedy: kubectl describe csr {name}")]
    Failed { name: String, told: String },
    #[error("certificate request {name} was neither approved nor denied within {} s. Remedy: kubectl certificate approve {name}, or let the controller manager's approver do it", .after.as_secs())]
    NotApproved { name: String, after: Duration },
    #[error("the certificate that was issued for {name} is of no use: {why}")]
    Unusable { name: String, why: String },
}

impl RequestError {
    /// The key has been refused, or what was made of it cannot be used.
    #[must_use]
    pub fn spoils_the_key(&self) -> bool {
        matches!(
            self,
            RequestError::Denied { .. } | RequestError::Failed { .. } | RequestError::Unusable { .. }
        )
    }
}

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    Client,
    /// With the names by which the node's API is reached.
    Serving {
        addresses: Vec<IpAddr>,
        dns_names: Vec<String>,
    },
}

impl Purpose {
    const fn signer(&self) -> &'static str {
        match self {
            Purpose::Client => CLIENT_SIGNER,
            Purpose::Serving { .. } => SERVING_SIGNER,
        }
    }

    fn usages(&self) -> Vec<String> {
        let usages = match self {
            Purpose::Client => CLIENT_USAGES,
            Purpose::Serving { .. } => SERVING_USAGES,
        };
        usages.map(str::to_owned).into()
    }

    fn names(&self) -> Vec<String> {
        match self {
            Purpose::Client => Vec::new(),
            Purpose::Serving { addresses, dns_names } => {
                addresses.iter().map(ToString::to_string).chain(dns_names.iter().cloned()).collect()
            }
        }
    }
}

/// ECDSA P-256, as kubelet's.
///
/// # Errors
/// [`RequestError::Make`].
pub fn new_key() -> Result<KeyPair, RequestError> {
    Ok(KeyPair::generate()?)
}

/// A key that an earlier attempt has left, so that a restart goes on with its request; else a new one, kept there.
///
/// # Errors
/// [`RequestError::Make`]. That it cannot be kept is a warning.
pub fn kept_key(path: &Path) -> Result<KeyPair, RequestError> {
    if let Some(key) = std::fs::read_to_string(path).ok().and_then(|text| KeyPair::from_pem(&text).ok()) {
        return Ok(key);
    }
    let key = new_key()?;
    if let Err(error) = credentials::write_atomically(path, key.serialize_pem().as_bytes()) {
        tracing::warn!(file = %path.display(), %error, "the key of the certificate request cannot be kept: a restart makes another request");
    }
    Ok(key)
}

/// Asks, and waits for the answer. PEM.
///
/// # Errors
/// [`RequestError`].
pub async fn certificate(
    client: &Client,
    node: &str,
    purpose: &Purpose,
    key: &KeyPair,
) -> Result<Vec<u8>, RequestError> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let name = submit(&api, node, purpose, key).await?;
    tracing::info!(
        request = name,
        signer = purpose.signer(),
        "certificate requested; waiting for its approval"
    );
    let decided = |request: Option<&CertificateSigningRequest>| {
        request.is_none_or(|request| outcome(request) != Outcome::Pending)
    };
    let waited = tokio::time::timeout(APPROVAL_TIMEOUT, await_condition(api, &name, decided)).await;
    let Ok(request) = waited else {
        return Err(RequestError::NotApproved { name, after: APPROVAL_TIMEOUT });
    };
    let request =
        request.map_err(|source| RequestError::Watch { name: name.clone(), source: Box::new(source) })?;
    let gone = || Outcome::Failed("it was deleted".to_owned());
    let pem = match request.as_ref().map_or_else(gone, outcome) {
        Outcome::Issued(pem) => pem,
        Outcome::Denied(told) => return Err(RequestError::Denied { name, told }),
        Outcome::Failed(told) => return Err(RequestError::Failed { name, told }),
        Outcome::Pending => return Err(RequestError::NotApproved { name, after: APPROVAL_TIMEOUT }),
    };
    match credentials::parse(&pem, key.serialize_pem().as_bytes()) {
        Ok(_) => Ok(pem),
        Err(why) => Err(RequestError::Unusable { name, why }),
    }
}

/// Makes the request, or finds the one that was made for this key before. Its name.
async fn submit(
    api: &Api<CertificateSigningRequest>,
    node: &str,
    purpose: &Purpose,
    key: &KeyPair,
) -> Result<String, RequestError> {
    let request = object(node, purpose, key)?;
    let name = request.name_any();
    match api.create(&PostParams::default(), &request).await {
        Ok(_) => Ok(name),
        // The name is made of the key: it is ours.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(name),
        Err(cause) => Err(RequestError::Api { signer: purpose.signer(), cause: Box::new(cause) }),
    }
}

fn object(node: &str, purpose: &Purpose, key: &KeyPair) -> Result<CertificateSigningRequest, RequestError> {
    let mut params = CertificateParams::new(purpose.names())?;
    params.distinguished_name = subject(node);
    let pem = params.serialize_request(key)?.pem()?;
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta { name: Some(name(purpose, key)), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: purpose.signer().to_owned(),
            usages: Some(purpose.usages()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

fn subject(node: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, NODES_GROUP);
    subject.push(DnType::CommonName, user_name(node));
    subject
}

/// `node-csr-…` as kubelet's first request, made of the key and of what is asked for.
fn name(purpose: &Purpose, key: &KeyPair) -> String {
    use std::fmt::Write as _;
    let mut hash = Sha256::new();
    hash.update(key.der_bytes());
    hash.update(purpose.signer());
    for name in purpose.names() {
        hash.update(name);
    }
    hash.finalize().iter().take(20).fold("node-csr-".to_owned(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use k8s_openapi::jiff::{SignedDuration, Timestamp, tz::TimeZone};

    /// A certificate that is good from and to so many seconds from now, rounded to days, and its key.
    pub fn issued(from_s: i64, to_s: i64) -> (String, String) {
        let date = |offset_s: i64| {
            let time = Timestamp::now().checked_add(SignedDuration::from_secs(offset_s)).unwrap();
            let date = time.to_zoned(TimeZone::UTC).date();
            rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8)
        };
        let key = new_key().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        (params.not_before, params.not_after) = (date(from_s), date(to_s));
        params.distinguished_name = subject("n1");
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_request_is_what_the_signers_take() {
        let key = new_key().unwrap();
        let request = object("n1", &Purpose::Client, &key).unwrap();
        assert_eq!(request.spec.signer_name, "kubernetes.io/kube-apiserver-client-kubelet");
        assert_eq!(request.spec.usages.unwrap(), ["digital signature", "client auth"]);
        let text = String::from_utf8(request.spec.request.0).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
        use x509_parser::prelude::FromDer as _;
        let (_, parsed) =
            x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents).unwrap();
        let subject = &parsed.certification_request_info.subject;
        assert_eq!(subject.iter_common_name().next().unwrap().as_str().unwrap(), "system:node:n1");
        assert_eq!(subject.iter_organization().next().unwrap().as_str().unwrap(), "system:nodes");
        let no_names = |parsed: &x509_parser::certification_request::X509CertificationRequest<'_>| {
            parsed.requested_extensions().is_none_or(|mut all| all.next().is_none())
        };
        assert!(no_names(&parsed), "the client signer refuses names");

        let serving = Purpose::Serving {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            dns_names: vec!["n1".to_owned()],
        };
        let request = object("n1", &serving, &key).unwrap();
        assert_eq!(request.spec.usages.unwrap(), ["digital signature", "server auth"]);
        let (_, pem) = x509_parser::pem::parse_x509_pem(&request.spec.request.0).unwrap();
        let (_, parsed) =
            x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents).unwrap();
        assert!(!no_names(&parsed));
    }

    #[test]
    fn the_name_goes_with_the_key() {
        let (one, other) = (new_key().unwrap(), new_key().unwrap());
        let name_of = |key: &KeyPair| name(&Purpose::Client, key);
        assert_eq!(name_of(&one), name_of(&KeyPair::from_pem(&one.serialize_pem()).unwrap()));
        assert_ne!(name_of(&one), name_of(&other));
        let serving = Purpose::Serving { addresses: Vec::new(), dns_names: vec!["n1".to_owned()] };
        assert_ne!(name_of(&one), name(&serving, &one));
    }

    #[test]
    fn a_key_is_kept_and_a_broken_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet-client.key.tmp");
        let first = kept_key(&path).unwrap().serialize_pem();
        assert_eq!(kept_key(&path).unwrap().serialize_pem(), first);
        std::fs::write(&path, &first[..40]).unwrap();
        let second = kept_key(&path).unwrap().serialize_pem();
        assert_ne!(second, first);
        assert_eq!(kept_key(&path).unwrap().serialize_pem(), second);
    }
}
